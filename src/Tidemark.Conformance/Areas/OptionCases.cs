using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>The two options, and moving an iommufd to another process.</summary>
internal static class OptionCases
{
    private const string Area = "options";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, Area, "iommufd.option", "iommufd.h, iommu_option"));
        AddRlimit(new CaseTable(cases, Area, "iommufd.option.rlimit-mode", "iommufd.h, IOMMU_OPTION_RLIMIT_MODE"));
        AddHugePages(new CaseTable(cases, Area, "iommufd.option.huge-pages", "iommufd.h, IOMMU_OPTION_HUGE_PAGES"));
        AddChangeProcess(new CaseTable(cases, Area, "iommufd.ioas.change-process",
            "iommufd.h, iommu_ioas_change_process"));
    }

    private static void AddErrors(CaseTable table) => table.Errors<IommuOption>(
        run => IommuOption.Create(IommuOptionId.HugePages, IommuOptionOp.Get, run.Ioas), Calls.Iommufd,
        new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
        new("unknown-option", "option", Errno.EOPNOTSUPP, (_, ref argument) => argument.OptionId = (IommuOptionId)2),
        new("unknown-ioas", "object", Errno.ENOENT, (_, ref argument) => argument.ObjectId = 999),
        new("object-0", "object", Errno.ENOENT, (_, ref argument) => argument.ObjectId = 0),
        new("unknown-operation", "op object", Errno.EOPNOTSUPP, (_, ref argument) => argument.Op = (IommuOptionOp)2),
        new("value-2", "op", Errno.EINVAL, (_, ref argument) =>
        {
            argument.Op = IommuOptionOp.Set;
            argument.Val64 = 2;
        }));

    private static void AddRlimit(CaseTable table)
    {
        table.Add("default", "a context opened as /dev/iommu counts pages per user", run =>
            run.Equal(0ul, Get(run, IommuOptionId.RlimitMode, 0), "the mode"));
        table.Add("object-id", "an object id is EOPNOTSUPP", run =>
        {
            IommuOption option = IommuOption.Create(IommuOptionId.RlimitMode, IommuOptionOp.Get, 1);
            run.Answers(ref option, Errno.EOPNOTSUPP);
        });
        table.Add("set", "the mode can be set while the context is empty, and is read back", run =>
        {
            RequirePrivilege(run);
            run.Equal(1ul, Get(run, IommuOptionId.RlimitMode, 0), "the mode");
        });
        table.Add("set-back", "the mode can be set back", run =>
        {
            RequirePrivilege(run);
            run.Answers(SetMode(run, 0), Errno.Success, "IOMMU_OPTION");
            run.Equal(0ul, Get(run, IommuOptionId.RlimitMode, 0), "the mode");
        });
        table.Add("value-2", "a value that is neither 0 nor 1 is EINVAL", run =>
        {
            RequirePrivilege(run);
            run.Answers(SetMode(run, 2), Errno.EINVAL, "IOMMU_OPTION");
        });
        table.Add("not-empty", "with any object in the context, setting is EBUSY", run =>
        {
            RequirePrivilege(run);
            run.CreateIoas();
            run.Answers(SetMode(run, 0), Errno.EBUSY, "IOMMU_OPTION");
        });
        table.Add("not-empty-before-value", "objects are seen before the value", run =>
        {
            RequirePrivilege(run);
            run.CreateIoas();
            run.Answers(SetMode(run, 2), Errno.EBUSY, "IOMMU_OPTION");
        });
        table.Add("empty-again", "with the last object gone it can be set", run =>
        {
            RequirePrivilege(run);
            run.Answers(run.Destroy(run.CreateIoas()), Errno.Success, "IOMMU_DESTROY");
            run.Answers(SetMode(run, 0), Errno.Success, "IOMMU_OPTION");
        });
    }

    private static void AddHugePages(CaseTable table)
    {
        table.Add("default", "large leaves are allowed at first", run =>
            run.Equal(1ul, Get(run, IommuOptionId.HugePages, run.Ioas), "the option"));
        table.Add("off", "switched off, it reads 0", run =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.Equal(0ul, Get(run, IommuOptionId.HugePages, run.Ioas), "the option");
        });
        table.Add("off-aligns", "switched off, the alignment is that of a page", run =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(Page, alignment, "the alignment");
        });
        table.Add("on-again-aligns-back", "switched on again, the alignment is that of a byte", run =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.Answers(run.SetHugePages(run.Ioas, 1), Errno.Success, "IOMMU_OPTION");
            run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(1ul, alignment, "the alignment");
        });
        table.Add("per-ioas", "another IOAS is not concerned", run =>
        {
            uint other = run.CreateIoas();
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.Equal(1ul, Get(run, IommuOptionId.HugePages, other), "the other's option");
        });
        table.Add("off-with-aligned-mappings", "page-aligned mappings do not hinder", run =>
        {
            run.Map(Iova, 2 * Page);
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
        });
        (string Name, ulong Iova, ulong Length, ulong Offset)[] unaligned =
        [
            ("iova", Iova + 0x800, Page, 0), ("length", Iova, Page - 1, 0), ("address", Iova, Page, 0x800),
        ];
        foreach ((string name, ulong iova, ulong length, ulong offset) in unaligned)
        {
            table.Add($"off-with-unaligned-{name}", "a mapping that is not page aligned is EADDRINUSE", run =>
            {
                run.Map(iova, length, offset);
                run.Answers(run.SetHugePages(run.Ioas, 0), Errno.EADDRINUSE, "IOMMU_OPTION");
                run.Equal(1ul, Get(run, IommuOptionId.HugePages, run.Ioas), "the option");
            });
        }

        table.Add("off-with-page-table-and-mapping", "with a page table and a mapping, switching off is EINVAL", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Map(Iova, Page);
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.EINVAL, "IOMMU_OPTION");
        });
        table.Add("off-with-page-table", "with a page table and no mapping it can be switched off", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
        });
        table.Add("off-when-off", "switching off what is off is accepted at any time", run =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.AllocateHwpt(run.Device);
            run.Map(Iova, Page);
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
        });
        table.Add("on-at-any-time", "switching on is accepted at any time", run =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.AllocateHwpt(run.Device);
            run.Map(Iova, Page);
            run.Answers(run.SetHugePages(run.Ioas, 1), Errno.Success, "IOMMU_OPTION");
        });
    }

    private static void AddChangeProcess(CaseTable table)
    {
        table.Errors<IommuIoasChangeProcess>(
            _ => IommuIoasChangeProcess.Create(), Calls.Iommufd,
            new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("memory-mapped", "mappings", Errno.EINVAL, (run, ref _) => run.Map(Iova, Page)));
        table.Add("file-mapped", "mappings of files can change hands", run =>
        {
            KernelFd file = run.CreateMemoryFile(Page);
            IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, 0, Page, Fixed);
            run.Answers(ref map, Errno.Success);
            IommuIoasChangeProcess change = IommuIoasChangeProcess.Create();
            run.Answers(ref change, Errno.Success);
        });
        table.Add("file-and-memory-mapped", "one mapping of memory among files is EINVAL", run =>
        {
            KernelFd file = run.CreateMemoryFile(Page);
            IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, 0, Page, Fixed);
            run.Answers(ref map, Errno.Success);
            run.Map(Iova, Page, ioas: run.CreateIoas());
            IommuIoasChangeProcess change = IommuIoasChangeProcess.Create();
            run.Answers(ref change, Errno.EINVAL);
        });
    }

    private static ulong Get(CaseRun run, IommuOptionId id, uint objectId)
    {
        IommuOption option = IommuOption.Create(id, IommuOptionOp.Get, objectId, 77);
        run.Answers(ref option, Errno.Success);
        return option.Val64;
    }

    private static Errno SetMode(CaseRun run, ulong value)
    {
        IommuOption option = IommuOption.Create(IommuOptionId.RlimitMode, IommuOptionOp.Set, 0, value);
        return run.Kernel.Ioctl(run.Iommufd, ref option).Errno;
    }

    /// <summary>Sets the mode to 1 in the still empty context.</summary>
    private static void RequirePrivilege(CaseRun run)
    {
        Errno errno = SetMode(run, 1);
        if (errno == Errno.EPERM)
            throw NotApplicable("Setting the mode needs CAP_SYS_RESOURCE.");
        run.Answers(errno, Errno.Success, "IOMMU_OPTION");
    }
}
