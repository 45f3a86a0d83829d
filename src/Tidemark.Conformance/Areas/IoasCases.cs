using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Making an IOAS; its usable and its allowed IOVAs; the compatibility IOAS.</summary>
internal static class IoasCases
{
    private const string Area = "ioas";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddAllocate(new CaseTable(cases, Area, "iommufd.ioas.alloc", "iommufd.h, iommu_ioas_alloc"));
        AddRanges(new CaseTable(cases, Area, "iommufd.ioas.iova-ranges", "iommufd.h, iommu_ioas_iova_ranges"));
        AddNarrowing(new CaseTable(cases, Area, "iommufd.ioas.iova-ranges", "kernel behaviour, usable IOVAs"));
        AddAllow(new CaseTable(cases, Area, "iommufd.ioas.allow-iovas", "iommufd.h, iommu_ioas_allow_iovas"));
        AddAllowEffects(new CaseTable(cases, Area, "iommufd.ioas.allow-iovas", "kernel behaviour, allowed IOVAs"));
        AddCompatibility(new CaseTable(cases, Area, "iommufd.vfio-ioas", "iommufd.h, iommu_vfio_ioas"));
    }

    private static void AddAllocate(CaseTable table)
    {
        table.Errors<IommuIoasAlloc>(
            _ => IommuIoasAlloc.Create(), Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags = 1),
            new("unknown-high-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags = 1u << 31));
        table.Add("first-id-is-1",
            "ids of a new context begin at 1", run => run.Equal(1u, run.CreateIoas(), "the first id"));
        table.Add("ids-differ", "each IOAS has an id of its own", run =>
            run.Holds(run.CreateIoas() != run.CreateIoas(), "two IOAS to have different ids"));
        table.Add("id-is-reused", "the id of a destroyed object is given out again", run =>
        {
            uint first = run.CreateIoas();
            run.CreateIoas();
            run.Answers(run.Destroy(first), Errno.Success, "IOMMU_DESTROY");
            run.Equal(first, run.CreateIoas(), "the id after the first was destroyed");
        });
    }

    private static void AddRanges(CaseTable table)
    {
        table.Errors<IommuIoasIovaRanges>(
            run => IommuIoasIovaRanges.Create(run.Ioas, run.ScratchAddress, 16), Calls.Iommufd,
            new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("unknown-ioas", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 999),
            new("ioas-id-0", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 0),
            new("unwritable-list", "list room", Errno.EFAULT, (_, ref argument) => argument.AllowedIovas = BadAddress),
            new("no-room", "room", Errno.EMSGSIZE, (_, ref argument) => argument.NumIovas = 0));
        table.Add("no-room-tells-the-count", "with too little room the number needed is written all the same", run =>
        {
            IommuIoasIovaRanges ranges = IommuIoasIovaRanges.Create(run.Ioas, 0, 0);
            run.Answers(ref ranges, Errno.EMSGSIZE);
            run.Equal(1u, ranges.NumIovas, "the number of ranges");
        });
        table.Add("no-room-tells-the-alignment", "with too little room the alignment is written all the same", run =>
        {
            IommuIoasIovaRanges ranges = IommuIoasIovaRanges.Create(run.Ioas, 0, 0);
            run.Answers(ref ranges, Errno.EMSGSIZE);
            run.Equal(1ul, ranges.OutIovaAlignment, "the alignment");
        });
        table.Add("all-usable-at-first", "without a page table all IOVAs are usable, byte by byte", run =>
        {
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(1, ranges.Count, "the number of ranges");
            run.Equal(0ul, ranges[0].Start, "the first usable IOVA");
            run.Equal(ulong.MaxValue, ranges[0].Last, "the last usable IOVA");
            run.Equal(1ul, alignment, "the alignment");
        });
        table.Add("only-what-fits-is-written", "no element beyond the room given is written", run =>
        {
            run.Scratch.Words(4).Fill(0x5555);
            run.Ranges(run.Ioas, out _);
            run.Equal(0x5555ul, run.Scratch.Words(4)[2], "the word after the only range");
        });
        table.Add("mappings-do-not-narrow", "mappings are not taken out of the list", run =>
        {
            run.Map(Iova, Page);
            run.Equal(1, run.Ranges(run.Ioas, out _).Count, "the number of ranges");
        });
        table.Add("allowed-list-does-not-narrow", "the allowed list is not taken out of the list", run =>
        {
            run.Answers(run.Allow(run.Ioas, (Iova, Iova + Page - 1)), Errno.Success, "ALLOW_IOVAS");
            run.Equal(1, run.Ranges(run.Ioas, out _).Count, "the number of ranges");
        });
    }

    private static void AddNarrowing(CaseTable table)
    {
        table.Add("page-table-narrows",
            "a page table without a device already takes away what it can not address", run =>
        {
            run.RequireUnreachableIovas();
            run.AllocateHwpt(run.Device);
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out ulong alignment);
            run.Holds(ranges.Count > 0 && ranges[^1].Last < ulong.MaxValue, "the last IOVA to be taken away");
            run.Holds(alignment > 1, "the alignment to be the IOMMU's smallest page");
        });
        table.Add("page-table-gone-widens", "destroying the page table gives its IOVAs back", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Answers(run.Destroy(hwpt), Errno.Success, "IOMMU_DESTROY");
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(ulong.MaxValue, ranges[^1].Last, "the last usable IOVA");
            run.Equal(1ul, alignment, "the alignment");
        });
        table.Add("ascending-and-disjoint", "ranges are ascending and do not touch", run =>
        {
            run.Device.Attach(run.Ioas);
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out _);
            for (int index = 0; index < ranges.Count; index++)
            {
                run.Holds(ranges[index].Start <= ranges[index].Last, $"range {index} not to be empty");
                run.Holds(index == 0 || ranges[index].Start > ranges[index - 1].Last + 1,
                    $"range {index} to lie apart");
            }
        });
        table.Add("partial-fill", "with room for one of several ranges, one is written and the count is told", run =>
        {
            run.Device.Attach(run.Ioas);
            int all = run.Ranges(run.Ioas, out _).Count;
            if (all < 2)
                throw NotApplicable("The device reserves nothing between usable IOVAs.");
            run.Scratch.Words(4).Fill(0x5555);
            IommuIoasIovaRanges ranges = IommuIoasIovaRanges.Create(run.Ioas, run.ScratchAddress, 1);
            run.Answers(ref ranges, Errno.EMSGSIZE);
            run.Equal((uint)all, ranges.NumIovas, "the number of ranges");
            run.Holds(run.Scratch.Words(4)[1] != 0x5555, "the first range to be written");
            run.Equal(0x5555ul, run.Scratch.Words(4)[2], "the second element");
        });
        table.Add("detach-widens", "detaching the only device gives its reserved IOVAs back", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Answers(run.Device.Detach(), Errno.Success, "VFIO_DEVICE_DETACH_IOMMUFD_PT");
            run.Equal(1, run.Ranges(run.Ioas, out ulong alignment).Count, "the number of ranges");
            run.Equal(1ul, alignment, "the alignment");
        });
    }

    private static void AddAllow(CaseTable table)
    {
        table.Errors<IommuIoasAllowIovas>(
            run =>
            {
                run.WriteRanges((0x10000, 0x1FFFF), (0x30000, 0x3FFFF));
                return IommuIoasAllowIovas.Create(run.Ioas, run.ScratchAddress, 2);
            },
            Calls.Iommufd,
            new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("unknown-ioas", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 999),
            new("unreadable-list", "list", Errno.EFAULT, (_, ref argument) => argument.AllowedIovas = BadAddress),
            new("start-after-last", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((0x10000, 0xFFFF), (1, 2))),
            new("one-address", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((0x10000, 0x10000), (1, 2))),
            new("same-range-twice", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((1, 9), (1, 9))),
            new("overlap-at-one-address", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((1, 9), (9, 20))),
            new("overlap-out-of-order", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((9, 20), (1, 9))));
        table.Add("no-order-needed", "ranges need not be sorted", run =>
            run.Answers(run.Allow(run.Ioas, (0x30000, 0x3FFFF), (0x10000, 0x1FFFF)), Errno.Success, "the call"));
        table.Add("no-alignment-needed", "ranges need not be aligned", run =>
            run.Answers(run.Allow(run.Ioas, (0x1001, 0x1FF3)), Errno.Success, "the call"));
        table.Add("two-addresses", "a range of two addresses is long enough", run =>
            run.Answers(run.Allow(run.Ioas, (0x1000, 0x1001)), Errno.Success, "the call"));
        table.Add("touching", "ranges may touch", run =>
            run.Answers(run.Allow(run.Ioas, (0x1000, 0x1FFF), (0x2000, 0x2FFF)), Errno.Success, "the call"));
        table.Add("empty-list", "an empty list is accepted whatever its address", run =>
        {
            IommuIoasAllowIovas allow = IommuIoasAllowIovas.Create(run.Ioas, BadAddress, 0);
            run.Answers(ref allow, Errno.Success);
        });
    }

    private static void AddAllowEffects(CaseTable table)
    {
        table.Add("fixed-mappings-are-free", "fixed mappings outside the list are accepted", run =>
        {
            run.Answers(run.Allow(run.Ioas, (0x10000, 0x1FFFF)), Errno.Success, "ALLOW_IOVAS");
            run.Map(Iova, Page);
        });
        table.Add("automatic-mappings-stay-inside", "the kernel chooses IOVAs of the list", run =>
        {
            run.Answers(run.Allow(run.Ioas, (0x7000_0000, 0x7000_FFFF)), Errno.Success, "ALLOW_IOVAS");
            IommuIoasMap map = IommuIoasMap.Create(run.Ioas, 0, run.MemoryAddress, Page, Anywhere);
            run.Answers(ref map, Errno.Success);
            run.Equal(0x7000_0000ul, map.Iova, "the IOVA");
        });
        table.Add("full-list", "no room in the list is ENOSPC", run =>
        {
            run.Answers(run.Allow(run.Ioas, (Iova, Iova + Page - 1)), Errno.Success, "ALLOW_IOVAS");
            run.Map(Iova, Page);
            run.Answers(run.TryMap(0, run.MemoryAddress, Page, Anywhere), Errno.ENOSPC, "an automatic mapping");
        });
        table.Add("empty-list-allows-all", "an empty list ends the restriction", run =>
        {
            run.Answers(run.Allow(run.Ioas, (Iova, Iova + 1)), Errno.Success, "ALLOW_IOVAS");
            run.Answers(run.TryMap(0, run.MemoryAddress, Page, Anywhere), Errno.ENOSPC, "an automatic mapping");
            run.Answers(run.Allow(run.Ioas), Errno.Success, "ALLOW_IOVAS with no range");
            run.Answers(run.TryMap(0, run.MemoryAddress, Page, Anywhere), Errno.Success, "an automatic mapping");
        });
        table.Add("new-list-replaces", "a new list replaces the old one", run =>
        {
            run.Answers(run.Allow(run.Ioas, (0x7000_0000, 0x7000_FFFF)), Errno.Success, "ALLOW_IOVAS");
            run.Answers(run.Allow(run.Ioas, (0x6000_0000, 0x6000_FFFF)), Errno.Success, "ALLOW_IOVAS");
            IommuIoasMap map = IommuIoasMap.Create(run.Ioas, 0, run.MemoryAddress, Page, Anywhere);
            run.Answers(ref map, Errno.Success);
            run.Equal(0x6000_0000ul, map.Iova, "the IOVA");
        });
        table.Add("bad-list-keeps-the-old", "a refused list leaves the old one in force", run =>
        {
            run.Answers(run.Allow(run.Ioas, (0x7000_0000, 0x7000_FFFF)), Errno.Success, "ALLOW_IOVAS");
            run.Answers(run.Allow(run.Ioas, (0x6000_0000, 0x6000_FFFF), (5, 4)), Errno.EINVAL, "ALLOW_IOVAS");
            IommuIoasMap map = IommuIoasMap.Create(run.Ioas, 0, run.MemoryAddress, Page, Anywhere);
            run.Answers(ref map, Errno.Success);
            run.Equal(0x7000_0000ul, map.Iova, "the IOVA");
        });
        table.Add("reserved-range", "a range that touches something reserved is EADDRINUSE", run =>
        {
            run.RequireUnreachableIovas();
            run.AllocateHwpt(run.Device);
            run.Answers(
                run.Allow(run.Ioas, (ulong.MaxValue - Page, ulong.MaxValue - 1)), Errno.EADDRINUSE, "ALLOW_IOVAS");
        });
        table.Add("page-table-outside", "a page table that can not address an allowed range is EADDRINUSE", run =>
        {
            run.RequireUnreachableIovas();
            run.Answers(run.Allow(run.Ioas, (ulong.MaxValue - Page, ulong.MaxValue - 1)), Errno.Success, "ALLOW_IOVAS");
            run.Answers(
                run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.None, out _), Errno.EADDRINUSE, "IOMMU_HWPT_ALLOC");
        });
    }

    private static void AddCompatibility(CaseTable table)
    {
        table.Errors<IommuVfioIoas>(
            run => IommuVfioIoas.Create(IommuVfioIoasOp.Set, run.Ioas), Calls.Iommufd,
            new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("unknown-operation", "op", Errno.EOPNOTSUPP, (_, ref argument) => argument.Op = (IommuVfioIoasOp)3),
            new("get-without", "op", Errno.ENODEV, (_, ref argument) => argument.Op = IommuVfioIoasOp.Get),
            new("set-unknown-ioas", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 999));
        table.Add("get-tells-what-was-set", "GET answers the IOAS of the last SET", run =>
        {
            IommuVfioIoas call = IommuVfioIoas.Create(IommuVfioIoasOp.Set, run.Ioas);
            run.Answers(ref call, Errno.Success);
            call = IommuVfioIoas.Create(IommuVfioIoasOp.Get);
            run.Answers(ref call, Errno.Success);
            run.Equal(run.Ioas, call.IoasId, "the compatibility IOAS");
        });
        table.Add("clear", "after CLEAR there is none", run =>
        {
            IommuVfioIoas call = IommuVfioIoas.Create(IommuVfioIoasOp.Set, run.Ioas);
            run.Answers(ref call, Errno.Success);
            call = IommuVfioIoas.Create(IommuVfioIoasOp.Clear);
            run.Answers(ref call, Errno.Success);
            call = IommuVfioIoas.Create(IommuVfioIoasOp.Get);
            run.Answers(ref call, Errno.ENODEV);
        });
        table.Add("clear-without", "CLEAR without one is accepted", run =>
        {
            IommuVfioIoas call = IommuVfioIoas.Create(IommuVfioIoasOp.Clear);
            run.Answers(ref call, Errno.Success);
        });
        table.Add("does-not-keep-alive", "being the compatibility IOAS does not keep it from being destroyed", run =>
        {
            IommuVfioIoas call = IommuVfioIoas.Create(IommuVfioIoasOp.Set, run.Ioas);
            run.Answers(ref call, Errno.Success);
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "IOMMU_DESTROY");
            call = IommuVfioIoas.Create(IommuVfioIoasOp.Get);
            run.Answers(ref call, Errno.ENODEV);
        });
    }
}
