using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Copying mappings within an IOAS and to another.</summary>
internal static class IoasCopyCases
{
    private const string Area = "ioas-copy";
    private const ulong Target = Iova + 0x100_0000;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, Area, "iommufd.ioas.copy", "iommufd.h, iommu_ioas_copy"));
        AddFacts(new CaseTable(cases, Area, "iommufd.ioas.copy", "kernel behaviour, shared pages of copies"));
    }

    private static void AddErrors(CaseTable table) => table.Errors<IommuIoasCopy>(
        run =>
        {
            run.Map(Iova, 4 * Page);
            return IommuIoasCopy.Create(run.CreateIoas(), Target, run.Ioas, Iova, 4 * Page, Fixed);
        },
        Calls.Iommufd,
        new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags |= (IommuIoasMapFlags)8),
        new("highest-length", "length", Errno.EOVERFLOW, (_, ref argument) => argument.Length = ulong.MaxValue),
        new("highest-source", "source", Errno.EOVERFLOW, (_, ref argument) => argument.SrcIova = ulong.MaxValue),
        new("highest-target", "target", Errno.EOVERFLOW, (_, ref argument) => argument.DstIova = ulong.MaxValue),
        new("no-permission", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = IommuIoasMapFlags.FixedIova),
        new("unknown-source-ioas", "source-ioas", Errno.ENOENT, (_, ref argument) => argument.SrcIoasId = 999),
        new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
        new("source-wraps", "source length", Errno.EOVERFLOW,
            (_, ref argument) => argument.SrcIova = ulong.MaxValue - Page + 1),
        new("source-not-mapped", "source", Errno.ENOENT, (_, ref argument) => argument.SrcIova = Iova + 0x8000_0000),
        new("unknown-target-ioas", "target-ioas", Errno.ENOENT, (_, ref argument) => argument.DstIoasId = 999),
        new("length-unaligned", "length", Errno.EINVAL, (run, ref argument) =>
        {
            run.Answers(run.SetHugePages(argument.DstIoasId, 0), Errno.Success, "IOMMU_OPTION");
            argument.Length = Page - 1;
        }),
        new("target-unaligned", "target target-ioas", Errno.EINVAL, (run, ref argument) =>
        {
            run.Answers(run.SetHugePages(argument.DstIoasId, 0), Errno.Success, "IOMMU_OPTION");
            argument.DstIova = Target + 1;
        }),
        new("target-wraps", "target length", Errno.EOVERFLOW,
            (_, ref argument) => argument.DstIova = ulong.MaxValue - Page + 1),
        new("target-overlaps", "target target-ioas", Errno.EEXIST, (run, ref argument) =>
            run.Map(Target + Page, Page, ioas: argument.DstIoasId)),
        new("source-not-writeable", "source permission", Errno.EPERM, (run, ref argument) =>
        {
            const ulong Other = Iova + 0x4000_0000;
            run.Answers(
                run.TryMap(Other, run.MemoryAddress, 4 * Page,
                IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable),
                Errno.Success, "mapping");
            argument.SrcIova = Other;
        }),
        new("source-unaligned", "source length target-ioas", Errno.EINVAL, (run, ref argument) =>
        {
            run.Answers(run.SetHugePages(argument.DstIoasId, 0), Errno.Success, "IOMMU_OPTION");
            argument.SrcIova = Iova + 0x100;
            argument.Length = Page;
        }));

    private static void AddFacts(CaseTable table)
    {
        table.Add("within-one-ioas", "source and target may be one IOAS", run =>
        {
            run.Map(Iova, 2 * Page);
            run.Answers(TryCopy(run, run.Ioas, Target, Iova, 2 * Page), Errno.Success, "IOMMU_IOAS_COPY");
        });
        table.Add("part-of-a-mapping", "part of a mapping can be copied", run =>
        {
            run.Map(Iova, 4 * Page);
            run.Answers(
                TryCopy(run, run.CreateIoas(), Target, Iova + Page, 2 * Page), Errno.Success, "IOMMU_IOAS_COPY");
        });
        table.Add("single-byte", "without a page table, one byte can be copied", run =>
        {
            run.Map(Iova, Page);
            run.Answers(TryCopy(run, run.CreateIoas(), Target, Iova + 511, 1), Errno.Success, "IOMMU_IOAS_COPY");
        });
        table.Add("several-mappings", "adjacent mappings can be copied together, and stay several", run =>
        {
            run.Map(Iova, 2 * Page);
            run.Map(Iova + (2 * Page), 2 * Page, 8 * Page);
            uint other = run.CreateIoas();
            run.Answers(TryCopy(run, other, Target, Iova, 4 * Page), Errno.Success, "IOMMU_IOAS_COPY");
            run.Answers(run.Unmap(Target, 2 * Page, out _, other), Errno.Success, "unmapping the first piece");
            run.Answers(run.Unmap(Target + (2 * Page), 2 * Page, out _, other), Errno.Success, "unmapping the second");
        });
        table.Add("gap", "a source range with a gap is ENOENT", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova + (2 * Page), Page);
            run.Answers(TryCopy(run, run.CreateIoas(), Target, Iova, 3 * Page), Errno.ENOENT, "IOMMU_IOAS_COPY");
        });
        table.Add("starts-before", "a source range that begins before the mapping is ENOENT", run =>
        {
            run.Map(Iova, 2 * Page);
            run.Answers(TryCopy(run, run.CreateIoas(), Target, Iova - Page, 2 * Page), Errno.ENOENT, "IOMMU_IOAS_COPY");
        });
        table.Add("ends-after", "a source range that ends after the mapping is ENOENT", run =>
        {
            run.Map(Iova, 2 * Page);
            run.Answers(TryCopy(run, run.CreateIoas(), Target, Iova + Page, 2 * Page), Errno.ENOENT, "IOMMU_IOAS_COPY");
        });
        table.Add("over-its-own-source", "a copy onto its own source is EEXIST", run =>
        {
            run.Map(Iova, 2 * Page);
            run.Answers(TryCopy(run, run.Ioas, Iova + Page, Iova, Page), Errno.EEXIST, "IOMMU_IOAS_COPY");
        });
        table.Add("outlives-its-source", "the copy stays when its source is unmapped", run =>
        {
            run.Map(Iova, Page);
            uint other = run.CreateIoas();
            run.Answers(TryCopy(run, other, Target, Iova, Page), Errno.Success, "IOMMU_IOAS_COPY");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping the source");
            run.Answers(run.Unmap(Target, Page, out ulong unmapped, other), Errno.Success, "unmapping the copy");
            run.Equal(Page, unmapped, "what was unmapped");
        });
        table.Add("of-a-copy", "a copy can be copied", run =>
        {
            run.Map(Iova, Page);
            run.Answers(TryCopy(run, run.Ioas, Target, Iova, Page), Errno.Success, "IOMMU_IOAS_COPY");
            run.Answers(TryCopy(run, run.CreateIoas(), Iova, Target, Page), Errno.Success, "copying the copy");
        });
        table.Add("permissions-of-the-memory", "what limits a copy is how the memory was mapped, not its source", run =>
        {
            run.Map(Iova, Page);
            IommuIoasCopy copy = IommuIoasCopy.Create(
                run.Ioas, Target, run.Ioas, Iova, Page, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable);
            run.Answers(ref copy, Errno.Success);
            run.Answers(
                TryCopy(run, run.CreateIoas(), Iova, Target, Page), Errno.Success,
                "a writeable copy of a readable one");
        });
        table.Add("automatic-iova", "without FIXED_IOVA the kernel chooses and tells the IOVA", run =>
        {
            run.Map(Iova, Page);
            IommuIoasCopy copy = IommuIoasCopy.Create(run.CreateIoas(), 0, run.Ioas, Iova, Page, Anywhere);
            run.Answers(ref copy, Errno.Success);
            run.Equal(Page, copy.DstIova, "the IOVA");
        });
        table.Add("refusal-changes-nothing", "a refused copy leaves its target free", run =>
        {
            run.Map(Iova, Page);
            uint other = run.CreateIoas();
            run.Answers(TryCopy(run, other, Target, Iova, 2 * Page), Errno.ENOENT, "IOMMU_IOAS_COPY");
            run.Map(Target, 2 * Page, ioas: other);
        });
        table.Add("bad-address-with-page-table", "copying what can not be pinned to where it must be is EFAULT", run =>
        {
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is");
            uint other = run.CreateIoas();
            run.AllocateHwpt(run.Device, ioas: other);
            run.Answers(TryCopy(run, other, Target, Iova, Page), Errno.EFAULT, "IOMMU_IOAS_COPY");
        });
    }

    private static Errno TryCopy(CaseRun run, uint toIoas, ulong to, ulong from, ulong byteLength)
    {
        IommuIoasCopy copy = IommuIoasCopy.Create(toIoas, to, run.Ioas, from, byteLength, Fixed);
        return run.Kernel.Ioctl(run.Iommufd, ref copy).Errno;
    }
}
