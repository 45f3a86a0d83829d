using System.Buffers.Binary;
using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>What each driver of an IOMMU accepts, reserves and tells of itself.</summary>
internal static class IommuKindCases
{
    private const string Area = "iommu-kinds";
    private const IommuHwptAllocFlags Dirty = IommuHwptAllocFlags.DirtyTracking;
    private const IommuHwptAllocFlags Nest = IommuHwptAllocFlags.NestParent;
    private const IommuHwptAllocFlags Pasid = IommuHwptAllocFlags.Pasid;

    public static void AddTo(List<ConformanceCase> cases)
    {
        foreach (IommuFamily family in IommuFamily.All)
        {
            AddFlags(
                new CaseTable(cases, Area, $"iommufd.hwpt.alloc.{family.Name}", "kernel behaviour, flags of a driver"),
                family);
            AddReserved(
                new CaseTable(
                    cases, Area, $"iommufd.reserved-region.{family.Name}", "kernel behaviour, reserved regions"),
                family);
            AddAperture(
                new CaseTable(cases, Area, $"iommufd.aperture.{family.Name}", "kernel behaviour, the aperture"), family);
            AddInfo(
                new CaseTable(cases, Area, $"iommufd.hw-info.{family.Name}", "iommufd.h, iommu_hw_info"), family);
        }

        AddInfoOfVtd(new CaseTable(cases, Area, "iommufd.hw-info.vtd", "iommufd.h, iommu_hw_info_vtd"));
        AddInfoOfAmd(new CaseTable(cases, Area, "iommufd.hw-info.amd", "iommufd.h, iommu_hw_info_amd"));
        AddInfoOfSmmu(new CaseTable(cases, Area, "iommufd.hw-info.smmuv3", "iommufd.h, iommu_hw_info_arm_smmuv3"));
        AddFiveLevels(new CaseTable(cases, Area, "iommufd.five-levels", "kernel behaviour, tables of five levels"));
    }

    private static void AddFlags(CaseTable table, IommuFamily family)
    {
        table.Add("none", "without flags there is a page table", run =>
            run.AllocateHwpt(run.Use(family.Device)));
        table.Add("dirty-as-told", "DIRTY_TRACKING is accepted exactly with the capability", run =>
        {
            BoundDevice device = run.Use(family.Device);
            run.Answers(
                run.TryAllocateHwpt(device, Dirty, out _),
                device.Profile.IommuTracks ? Errno.Success : Errno.EOPNOTSUPP, "IOMMU_HWPT_ALLOC");
        });
        table.Add("data-for-a-paging-table", "no driver takes data for a paging table: EOPNOTSUPP", run =>
        {
            IommuHwptAlloc allocate = IommuHwptAlloc.Create(
                run.Use(family.Device).Id, IommuHwptAllocFlags.None, run.Ioas);
            allocate.DataType = IommuHwptDataType.VtdS1;
            allocate.DataLen = 24;
            allocate.DataUptr = run.ScratchAddress;
            run.Answers(ref allocate, Errno.EOPNOTSUPP);
        });
        if (family == IommuFamily.Vtd)
        {
            table.Add("pasid", "PASID is accepted", run => run.AllocateHwpt(run.Use(family.Device), Pasid));
            table.Add("dirty-and-pasid", "PASID goes with DIRTY_TRACKING", run =>
            {
                BoundDevice device = run.Use(family.Device);
                run.Answers(
                    run.TryAllocateHwpt(device, Dirty | Pasid, out _),
                    device.Profile.IommuTracks ? Errno.Success : Errno.EOPNOTSUPP, "IOMMU_HWPT_ALLOC");
            });
        }

        if (family == IommuFamily.SmmuV3)
        {
            table.Add("pasid", "PASID is accepted", run => run.AllocateHwpt(run.Use(family.Device), Pasid));
            AddRefused(table, family, "dirty-and-nest-parent", Dirty | Nest);
            AddRefused(table, family, "pasid-and-nest-parent", Pasid | Nest);
        }

        if (family == IommuFamily.Amd)
        {
            AddRefused(table, family, "dirty-and-pasid", Dirty | Pasid);
            AddRefused(table, family, "pasid-and-nest-parent", Pasid | Nest);
        }

        AddRefused(table, family, "all", Dirty | Nest | Pasid | IommuHwptAllocFlags.FaultIdValid);
    }

    private static void AddRefused(CaseTable table, IommuFamily family, string name, IommuHwptAllocFlags flags) =>
        table.Add(name, $"{flags} is EOPNOTSUPP", run => run.Answers(
            run.TryAllocateHwpt(run.Use(family.Device), flags, out _), Errno.EOPNOTSUPP, "IOMMU_HWPT_ALLOC"));

    private static void AddReserved(CaseTable table, IommuFamily family)
    {
        (ulong first, ulong last) = family.Reserved;
        table.Add("is-a-hole", "while a device is attached its regions are no usable IOVAs", run =>
        {
            run.Use(family.Device).Attach(run.Ioas);
            run.Holds(
                run.Ranges(run.Ioas, out _).TrueForAll(range => range.Last < first || range.Start > last),
                $"no usable range to touch 0x{first:x} to 0x{last:x}");
        });
        table.Add("inside", "a mapping inside is EINVAL", run =>
        {
            run.Use(family.Device).Attach(run.Ioas);
            run.Answers(run.TryMap(first, run.MemoryAddress, Page), Errno.EINVAL, "mapping the first page");
            run.Answers(run.TryMap(last + 1 - Page, run.MemoryAddress, Page), Errno.EINVAL, "mapping the last page");
        });
        table.Add("across", "a mapping that reaches in is EINVAL", run =>
        {
            run.Use(family.Device).Attach(run.Ioas);
            run.Answers(run.TryMap(first - Page, run.MemoryAddress, 2 * Page), Errno.EINVAL, "mapping across its start");
            run.Answers(run.TryMap(last + 1 - Page, run.MemoryAddress, 2 * Page), Errno.EINVAL, "mapping across its end");
        });
        table.Add("beside", "mappings up to it and right behind it are accepted", run =>
        {
            run.Use(family.Device).Attach(run.Ioas);
            run.Map(first - Page, Page);
            run.Map(last + 1, Page);
        });
        table.Add("not-by-a-page-table", "a page table alone reserves none of a device's regions", run =>
        {
            run.AllocateHwpt(run.Use(family.Device));
            run.Map(first, Page);
        });
        table.Add("in-the-way-of-attaching", "a mapping there keeps the device from being attached: EADDRINUSE", run =>
        {
            BoundDevice device = run.Use(family.Device);
            run.Map(first, Page);
            run.Answers(device.TryAttach(run.Ioas, out _), Errno.EADDRINUSE, "attaching");
            run.Answers(run.Unmap(first, Page, out _), Errno.Success, "unmapping");
            device.Attach(run.Ioas);
        });
        table.Add("allowed-list-in-the-way", "an allowed range there keeps the device from being attached", run =>
        {
            BoundDevice device = run.Use(family.Device);
            run.Answers(run.Allow(run.Ioas, (first, last)), Errno.Success, "IOMMU_IOAS_ALLOW_IOVAS");
            run.Answers(device.TryAttach(run.Ioas, out _), Errno.EADDRINUSE, "attaching");
        });
        table.Add("can-not-be-allowed", "while a device is attached its regions can not be allowed: EADDRINUSE", run =>
        {
            run.Use(family.Device).Attach(run.Ioas);
            run.Answers(run.Allow(run.Ioas, (last, last + Page)), Errno.EADDRINUSE, "IOMMU_IOAS_ALLOW_IOVAS");
        });
        table.Add("free-after-detaching", "when the device is gone its regions can be mapped", run =>
        {
            BoundDevice device = run.Use(family.Device);
            uint hwpt = run.AllocateHwpt(device);
            device.Attach(hwpt);
            run.Answers(run.TryMap(first, run.MemoryAddress, Page), Errno.EINVAL, "mapping while attached");
            run.Answers(device.Detach(), Errno.Success, "detaching");
            run.Map(first, Page);
        });
    }

    private static void AddAperture(CaseTable table, IommuFamily family)
    {
        table.Add("ends-at-a-power-of-two", "the last usable IOVA is one less than a power of two", run =>
        {
            ulong last = Last(run, family);
            run.Holds(
                (last & unchecked(last + 1)) == 0 && last >= uint.MaxValue,
                $"0x{last:x} to be such an address");
        });
        table.Add("last-page", "the last page can be mapped", run =>
        {
            ulong last = Last(run, family);
            run.Map(last - (Page - 1), Page);
            run.Answers(run.Unmap(last - (Page - 1), Page, out _), Errno.Success, "unmapping");
        });
        table.Add("beyond", "nothing can be mapped beyond: EINVAL", run =>
        {
            run.Use(family.Device);
            run.RequireUnreachableIovas();
            run.AllocateHwpt(run.Device);
            ulong last = run.Ranges(run.Ioas, out _)[^1].Last;
            run.Answers(run.TryMap(last + 1, run.MemoryAddress, Page), Errno.EINVAL, "mapping beyond");
            run.Answers(run.TryMap(last + 1 - Page, run.MemoryAddress, 2 * Page), Errno.EINVAL, "mapping across");
        });
        table.Add("alignment", "the smallest page is 4 KiB", run =>
        {
            run.AllocateHwpt(run.Use(family.Device));
            run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(Page, alignment, "the alignment");
        });
        table.Add("gone-with-the-page-table", "without a page table every IOVA is usable again", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Use(family.Device));
            run.Answers(run.Destroy(hwpt), Errno.Success, "IOMMU_DESTROY");
            run.Equal(ulong.MaxValue, run.Ranges(run.Ioas, out ulong alignment)[^1].Last, "the last usable IOVA");
            run.Equal(1ul, alignment, "the alignment");
        });
        table.Add("far-apart", "mappings at both ends of the aperture are independent", run =>
        {
            ulong last = Last(run, family);
            run.Map(0, Page);
            run.Map(last - (Page - 1), Page, Page);
            run.Answers(run.Unmap(0, Page, out _), Errno.Success, "unmapping the first page");
            run.Answers(run.Unmap(last - (Page - 1), Page, out _), Errno.Success, "unmapping the last page");
        });
    }

    private static void AddInfo(CaseTable table, IommuFamily family)
    {
        table.Add("length", "the type has its length", run =>
            run.Equal(
                family.Type switch { IommuHwInfoType.IntelVtd => 24u, IommuHwInfoType.Amd => 16u, _ => 40u },
                Info(run, family).DataLen, "the length"));
        foreach (IommuFamily other in IommuFamily.All)
        {
            if (other == family)
                continue;
            table.Add($"asked-for-{other.Name}", "another driver's type is EOPNOTSUPP", run =>
            {
                IommuHwInfo info = IommuHwInfo.Create(run.Use(family.Device).Id, run.ScratchAddress, 64);
                info.Flags = IommuHwInfoFlags.InputType;
                info.OutDataType = other.Type;
                run.Answers(ref info, Errno.EOPNOTSUPP);
            });
        }
    }

    private static void AddInfoOfVtd(CaseTable table)
    {
        table.Add("reserved-field", "the reserved field is 0", run =>
        {
            Info(run, IommuFamily.Vtd);
            run.Equal(0u, Word(run, 4), "the reserved field");
        });
        table.Add("widths", "the capability register has a width of tables that IOVAs fit into", run =>
        {
            Info(run, IommuFamily.Vtd);
            ulong capability = Quad(run, 8);
            run.Holds((capability >> 8 & 0x1F) != 0, "a supported width");
            int width = (int)(capability >> 16 & 0x3F) + 1;
            run.Holds(LastOfAll(run) <= (1ul << width) - 1, $"the last usable IOVA within {width} bits");
        });
        table.Add("dirty-tracking-bits", "with the capability, ECAP has SMTS, SLADS and SMPWC", run =>
        {
            IommuHwInfo info = Info(run, IommuFamily.Vtd);
            const ulong Needed = 1ul << 43 | 1ul << 45 | 1ul << 48;
            run.Holds(
                (info.OutCapabilities & IommuHwCapabilities.DirtyTracking) == 0 || (Quad(run, 16) & Needed) == Needed,
                "bits 43, 45 and 48 of ECAP");
        });
    }

    private static void AddInfoOfAmd(CaseTable table) =>
        table.Add("dirty-tracking-bits", "the capability is bit 52 of EFR (HDSup)", run =>
        {
            IommuHwInfo info = Info(run, IommuFamily.Amd);
            run.Equal(
                (Quad(run, 0) >> 52 & 1) != 0, (info.OutCapabilities & IommuHwCapabilities.DirtyTracking) != 0,
                "the capability");
        });

    private static void AddInfoOfSmmu(CaseTable table)
    {
        table.Add("reserved-field", "the reserved field is 0", run =>
        {
            Info(run, IommuFamily.SmmuV3);
            run.Equal(0u, Word(run, 4), "the reserved field");
        });
        table.Add("stages", "IDR0 has a stage of translation", run =>
        {
            Info(run, IommuFamily.SmmuV3);
            run.Holds((Word(run, 8) & 3) != 0, "S1P or S2P");
        });
    }

    private static void AddFiveLevels(CaseTable table)
    {
        const ulong Beyond = 1ul << 48;
        table.Add("maps-above-48-bits", "with five levels IOVAs above 48 bits can be mapped", run =>
        {
            WithFiveLevels(run, DeviceNeed.Behind(IommuHwInfoType.IntelVtd), IommuHwptAllocFlags.None);
            run.Map(Beyond, 4 * Page);
            run.Answers(run.Unmap(Beyond, 4 * Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(4 * Page, unmapped, "what was unmapped");
        });
        table.Add("dirty-above-48-bits", "dirty pages above 48 bits are reported", run =>
        {
            BoundDevice device = WithFiveLevels(
                run, DeviceNeed.TrackedWriterBehind(IommuHwInfoType.IntelVtd), IommuHwptAllocFlags.DirtyTracking,
                out uint hwpt);
            run.Map(Beyond, MemoryPages * Page);
            device.Attach(hwpt);
            NvmeWriter writer = NvmeWriter.Start(run, device, run.Ioas);
            IommuHwptSetDirtyTracking enable = IommuHwptSetDirtyTracking.Create(
                hwpt, IommuHwptSetDirtyTrackingFlags.Enable);
            run.Answers(ref enable, Errno.Success);
            writer.Write(Beyond + (3 * Page));
            IommuHwptGetDirtyBitmap call = IommuHwptGetDirtyBitmap.Create(
                hwpt, Beyond, MemoryPages * Page, Page, run.ScratchAddress, 0);
            run.Scratch.Words(1)[0] = 0;
            run.Answers(ref call, Errno.Success);
            run.Holds((run.Scratch.Words(1)[0] & 8) != 0, "the written page to be dirty");
        });
    }

    private static void WithFiveLevels(CaseRun run, DeviceNeed need, IommuHwptAllocFlags flags) =>
        WithFiveLevels(run, need, flags, out _);

    /// <summary>The first such device whose page tables go beyond 48 bits.</summary>
    private static BoundDevice WithFiveLevels(
        CaseRun run, DeviceNeed need, IommuHwptAllocFlags flags, out uint hwpt)
    {
        while (true)
        {
            BoundDevice device = run.Use(need);
            hwpt = run.AllocateHwpt(device, flags);
            if (run.Ranges(run.Ioas, out _)[^1].Last >= 1ul << 49)
                return device;
            run.Answers(run.Destroy(hwpt), Errno.Success, "IOMMU_DESTROY");
        }
    }

    private static ulong Last(CaseRun run, IommuFamily family)
    {
        run.AllocateHwpt(run.Use(family.Device));
        return run.Ranges(run.Ioas, out _)[^1].Last;
    }

    private static ulong LastOfAll(CaseRun run)
    {
        run.AllocateHwpt(run.Device);
        return run.Ranges(run.Ioas, out _)[^1].Last;
    }

    private static IommuHwInfo Info(CaseRun run, IommuFamily family)
    {
        IommuHwInfo info = IommuHwInfo.Create(run.Use(family.Device).Id, run.ScratchAddress, 64);
        run.Answers(ref info, Errno.Success);
        return info;
    }

    private static uint Word(CaseRun run, ulong offset) =>
        BinaryPrimitives.ReadUInt32LittleEndian(run.Scratch.Bytes(offset, 4));

    private static ulong Quad(CaseRun run, ulong offset) =>
        BinaryPrimitives.ReadUInt64LittleEndian(run.Scratch.Bytes(offset, 8));
}
