using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>MAP_DMA and UNMAP_DMA on an iommufd.</summary>
internal static class CompatMapCases
{
    private const string Area = "legacy-compat";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddMapErrors(new CaseTable(cases, Area, "compat.map", "vfio.h, vfio_iommu_type1_dma_map"));
        AddUnmapErrors(new CaseTable(cases, Area, "compat.unmap", "vfio.h, vfio_iommu_type1_dma_unmap"));
        AddUnmap(new CaseTable(cases, Area, "compat.unmap", "kernel behaviour, unmapping on an iommufd"));
        AddCuts(new CaseTable(cases, Area, "compat.cut", "kernel behaviour, version 1 on an iommufd"));
    }

    public static Errno Map(
        CaseRun run, ulong iova, ulong byteLength, ulong offset = 0,
        VfioDmaMapFlags flags = VfioDmaMapFlags.Read | VfioDmaMapFlags.Write)
    {
        VfioIommuType1DmaMap map = VfioIommuType1DmaMap.Create(flags, iova, run.MemoryAddress + offset, byteLength);
        return run.Kernel.Ioctl(run.Iommufd, ref map).Errno;
    }

    private static Errno Unmap(
        CaseRun run, ulong iova, ulong byteLength, out ulong unmapped, VfioDmaUnmapFlags flags = VfioDmaUnmapFlags.None)
    {
        VfioIommuType1DmaUnmap unmap = VfioIommuType1DmaUnmap.Create(flags, iova, byteLength);
        Errno errno = run.Kernel.Ioctl(run.Iommufd, ref unmap).Errno;
        unmapped = unmap.Size;
        return errno;
    }

    private static void Unmap(CaseRun run, ulong iova, ulong byteLength, Errno errno, ulong expected)
    {
        run.Answers(Unmap(run, iova, byteLength, out ulong unmapped), errno, "VFIO_IOMMU_UNMAP_DMA");
        run.Equal(expected, unmapped, "the size");
    }

    private static void AddMapErrors(CaseTable table)
    {
        table.Errors<VfioIommuType1DmaMap>(
            run =>
            {
                CompatCases.SetIoas(run, run.Ioas);
                run.Use(DeviceNeed.InGroup).Attach(run.Ioas);
                return VfioIommuType1DmaMap.Create(
                    VfioDmaMapFlags.Read | VfioDmaMapFlags.Write, Iova, run.MemoryAddress, Page);
            },
            Calls.Iommufd,
            new("argsz-31", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 31),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags |= (VfioDmaMapFlags)8),
            new("vaddr-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = VfioDmaMapFlags.Vaddr),
            new("no-ioas", "ioas iova", Errno.ENODEV, (run, ref _) => CompatCases.ClearIoas(run)),
            new("vaddr-wraps", "vaddr size", Errno.EOVERFLOW, (_, ref argument) =>
                (argument.Vaddr, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
            new("size-0", "size", Errno.EINVAL, (_, ref argument) => argument.Size = 0),
            new("unaligned-size", "size", Errno.EINVAL, (_, ref argument) => argument.Size = Page - 1),
            new("unaligned-iova", "iova", Errno.EINVAL, (_, ref argument) => argument.Iova += 1),
            new("iova-wraps", "iova size", Errno.EOVERFLOW, (_, ref argument) =>
                (argument.Iova, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
            new("reserved", "iova", Errno.EINVAL, (run, ref argument) => argument.Iova = FirstBeyond(run)),
            new("overlap", "iova", Errno.EEXIST, (run, ref _) =>
                run.Answers(Map(run, Iova, Page), Errno.Success, "mapping")),
            new("unaligned-vaddr", "vaddr", Errno.EINVAL, (_, ref argument) => argument.Vaddr += 512),
            new("bad-address", "vaddr", Errno.EFAULT, (_, ref argument) => argument.Vaddr = BadAddress));
        table.Add("no-access", "a mapping that may be neither read nor written is accepted", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Map(run, Iova, Page, flags: VfioDmaMapFlags.None), Errno.Success, "mapping");
            Unmap(run, Iova, Page, Errno.Success, Page);
        });
        table.Add("bad-address-without-table", "without a page table a bad address is not seen", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            VfioIommuType1DmaMap map = VfioIommuType1DmaMap.Create(VfioDmaMapFlags.Read, Iova, BadAddress, Page);
            run.Answers(ref map, Errno.Success);
        });
        table.Add("bytes-without-table", "without a page table any length is accepted", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Map(run, Iova, 100, offset: 7), Errno.Success, "mapping");
            Unmap(run, Iova, 100, Errno.Success, 100);
        });
    }

    private static void AddUnmapErrors(CaseTable table) => table.Errors<VfioIommuType1DmaUnmap>(
        run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Map(run, Iova, 2 * Page), Errno.Success, "mapping");
            return VfioIommuType1DmaUnmap.Create(VfioDmaUnmapFlags.None, Iova, 2 * Page);
        },
        Calls.Iommufd,
        new("argsz-23", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 23),
        new("bitmap-flag", "flags", Errno.EINVAL, (_, ref argument) =>
            argument.Flags = VfioDmaUnmapFlags.GetDirtyBitmap),
        new("vaddr-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = VfioDmaUnmapFlags.Vaddr),
        new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = (VfioDmaUnmapFlags)(1u << 31)),
        new("no-ioas", "ioas", Errno.ENODEV, (run, ref _) => CompatCases.ClearIoas(run)),
        new("all-with-size", "flags iova size", Errno.EINVAL, (_, ref argument) =>
            (argument.Flags, argument.Iova) = (VfioDmaUnmapFlags.All, 0)),
        new("all-with-iova", "flags iova size", Errno.EINVAL, (_, ref argument) =>
            (argument.Flags, argument.Size) = (VfioDmaUnmapFlags.All, 0)),
        new("size-0", "size", Errno.EINVAL, (_, ref argument) => argument.Size = 0),
        new("wraps", "iova size", Errno.EOVERFLOW, (_, ref argument) =>
            (argument.Iova, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
        new("cuts-the-end", "size", Errno.ENOENT, (_, ref argument) => argument.Size = Page),
        new("cuts-the-beginning", "iova", Errno.ENOENT, (_, ref argument) => argument.Iova += Page));

    private static void AddUnmap(CaseTable table)
    {
        table.Add("nothing-there", "nothing there is a success of 0 bytes", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            Unmap(run, Iova, Page, Errno.Success, 0);
        });
        table.Add("size-tells", "the size that comes back is what was unmapped", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Map(run, Iova, Page), Errno.Success, "mapping");
            run.Answers(Map(run, Iova + (4 * Page), 2 * Page), Errno.Success, "mapping");
            Unmap(run, Iova, 16 * Page, Errno.Success, 3 * Page);
        });
        table.Add("everything", "ALL unmaps everything", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Map(run, 0, Page), Errno.Success, "mapping");
            run.Answers(Map(run, Iova, 2 * Page), Errno.Success, "mapping");
            run.Answers(Unmap(run, 0, 0, out ulong unmapped, VfioDmaUnmapFlags.All), Errno.Success, "unmapping all");
            run.Equal(3 * Page, unmapped, "what was unmapped");
        });
        table.Add("everything-of-nothing", "ALL is accepted when there is nothing", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Unmap(run, 0, 0, out ulong unmapped, VfioDmaUnmapFlags.All), Errno.Success, "unmapping all");
            run.Equal(0ul, unmapped, "what was unmapped");
        });
        table.Add("everything-refused-leaves-size", "ALL with a size leaves the size as it was", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Unmap(run, 0, Page, out ulong size, VfioDmaUnmapFlags.All), Errno.EINVAL, "unmapping all");
            run.Equal(Page, size, "the size");
        });
        table.Add("size-after-failure", "after a failure the size is what was unmapped before it", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Map(run, Iova, Page), Errno.Success, "mapping");
            run.Answers(Map(run, Iova + Page, 2 * Page), Errno.Success, "mapping");
            Unmap(run, Iova, 2 * Page, Errno.ENOENT, Page);
            Unmap(run, Iova, 3 * Page, Errno.Success, 2 * Page);
        });
        table.Add("size-after-wrapping", "a range that wraps is told as 0 bytes", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            Unmap(run, ulong.MaxValue - Page + 1, 2 * Page, Errno.EOVERFLOW, 0);
        });
        table.Add("unaligned-range", "neither end needs to be aligned", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(Map(run, Iova, Page), Errno.Success, "mapping");
            Unmap(run, Iova - 7, Page + 16, Errno.Success, Page);
        });
        table.Add("maps-of-ioas-too", "what IOAS_MAP mapped is unmapped as well", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Map(Iova, Page);
            Unmap(run, Iova, Page, Errno.Success, Page);
        });
    }

    private static void AddCuts(CaseTable table)
    {
        table.Add("middle", "the middle of a mapping can be unmapped, and both ends stay", run =>
        {
            UseVersion1(run);
            Unmap(run, Iova + (4 * Page), 4 * Page, Errno.Success, 4 * Page);
            Unmap(run, Iova, 16 * Page, Errno.Success, 12 * Page);
        });
        table.Add("beginning", "the beginning of a mapping can be unmapped", run =>
        {
            UseVersion1(run);
            Unmap(run, Iova - Page, 2 * Page, Errno.Success, Page);
            Unmap(run, Iova, 16 * Page, Errno.Success, 15 * Page);
        });
        table.Add("end", "the end of a mapping can be unmapped", run =>
        {
            UseVersion1(run);
            Unmap(run, Iova + (15 * Page), 4 * Page, Errno.Success, Page);
            Unmap(run, Iova, 16 * Page, Errno.Success, 15 * Page);
        });
        table.Add("whole", "a range around a mapping cuts nothing", run =>
        {
            UseVersion1(run);
            Unmap(run, Iova - Page, 32 * Page, Errno.Success, 16 * Page);
        });
        table.Add("page-by-page", "a mapping can be unmapped page by page, in any order", run =>
        {
            UseVersion1(run);
            for (ulong step = 0; step < 16; step++)
                Unmap(run, Iova + (step * 7 % 16 * Page), Page, Errno.Success, Page);
        });
        table.Add("gap-can-be-mapped", "what was cut out can be mapped again", run =>
        {
            UseVersion1(run);
            Unmap(run, Iova + Page, Page, Errno.Success, Page);
            run.Answers(Map(run, Iova + Page, Page), Errno.Success, "mapping the gap");
            run.Answers(Map(run, Iova, Page), Errno.EEXIST, "mapping over the beginning");
            run.Answers(Map(run, Iova + (2 * Page), Page), Errno.EEXIST, "mapping over the end");
        });
        table.Add("unaligned-end", "a cut is between pages: EINVAL", run =>
        {
            UseVersion1(run);
            run.Answers(Unmap(run, Iova, 512, out ulong size), Errno.EINVAL, "unmapping part of a page");
            run.Equal(512ul, size, "the size, which stays as it was");
            Unmap(run, Iova, 16 * Page, Errno.Success, 16 * Page);
        });
        table.Add("unaligned-beginning", "the end is cut before the beginning is refused", run =>
        {
            UseVersion1(run);
            run.Answers(
                Unmap(run, Iova + 512, (8 * Page) - 512, out _), Errno.EINVAL, "unmapping from inside a page");
            // The cut at the end stays: huge pages on again, and the second half goes as a mapping of its own.
            run.Answers(run.SetHugePages(run.Ioas, 1), Errno.Success, "IOMMU_OPTION");
            Unmap(run, Iova + (8 * Page), 8 * Page, Errno.Success, 8 * Page);
        });
        table.Add("size-0-cuts", "a size of 0 is EINVAL, and cuts before the range all the same", run =>
        {
            UseVersion1(run);
            Unmap(run, Iova + (8 * Page), 0, Errno.EINVAL, 0);
            run.Answers(run.SetHugePages(run.Ioas, 1), Errno.Success, "IOMMU_OPTION");
            Unmap(run, Iova + (8 * Page), 8 * Page, Errno.Success, 8 * Page);
        });
        table.Add("all-does-not-cut", "ALL takes everything that is left", run =>
        {
            UseVersion1(run);
            Unmap(run, Iova + (3 * Page), Page, Errno.Success, Page);
            run.Answers(Unmap(run, 0, 0, out ulong unmapped, VfioDmaUnmapFlags.All), Errno.Success, "unmapping all");
            run.Equal(15 * Page, unmapped, "what was unmapped");
        });
        table.Add("under-a-device", "a mapping that a device sees can be cut", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(CompatCases.SetIommu(run, (ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
            run.Use(DeviceNeed.InGroup).Attach(run.Ioas);
            run.Answers(Map(run, Iova, 16 * Page), Errno.Success, "mapping");
            Unmap(run, Iova + (5 * Page), 3 * Page, Errno.Success, 3 * Page);
            Unmap(run, Iova, 16 * Page, Errno.Success, 13 * Page);
        });
        table.Add("ioas-unmap-does-not-cut", "IOAS_UNMAP does not cut: ENOENT", run =>
        {
            UseVersion1(run);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.ENOENT, "IOMMU_IOAS_UNMAP");
        });
        table.Add("version-2", "version 2 does not cut: ENOENT", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            run.Answers(CompatCases.SetIommu(run, (ulong)VfioExtension.Type1V2), Errno.Success, "VFIO_SET_IOMMU");
            run.Answers(Map(run, Iova, 16 * Page), Errno.Success, "mapping");
            for (ulong page = 0; page < 16; page++)
                Unmap(run, Iova + (page * Page), Page, Errno.ENOENT, 0);
        });
    }

    /// <summary>Version 1, with 16 pages mapped at <see cref="Iova"/>.</summary>
    private static void UseVersion1(CaseRun run)
    {
        CompatCases.SetIoas(run, run.Ioas);
        run.Answers(CompatCases.SetIommu(run, (ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
        run.Answers(Map(run, Iova, 16 * Page), Errno.Success, "mapping");
    }

    private static ulong FirstBeyond(CaseRun run)
    {
        ulong last = run.Ranges(run.Ioas, out _)[^1].Last;
        return last == ulong.MaxValue ? throw NotApplicable("Every IOVA of this host can be mapped.") : last + 1;
    }
}
