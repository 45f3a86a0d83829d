using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Mapping and unmapping in a type1 container, in both versions.</summary>
internal static class LegacyMapCases
{
    private const string Area = "legacy-map";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddMapErrors(new CaseTable(cases, Area, "legacy.type1.map", "vfio.h, vfio_iommu_type1_dma_map"));
        AddUnmapErrors(new CaseTable(cases, Area, "legacy.type1.unmap", "vfio.h, vfio_iommu_type1_dma_unmap"));
        AddVersion2(new CaseTable(cases, Area, "legacy.type1.v2", "kernel behaviour, unmapping in version 2"));
        AddVersion1(new CaseTable(cases, Area, "legacy.type1.v1", "kernel behaviour, unmapping in version 1"));
        AddAddresses(new CaseTable(cases, Area, "legacy.type1.vaddr", "vfio.h, VFIO_DMA_MAP_FLAG_VADDR"));
    }

    private static void AddMapErrors(CaseTable table)
    {
        table.Errors<VfioIommuType1DmaMap>(
            run => VfioIommuType1DmaMap.Create(
                VfioDmaMapFlags.Read | VfioDmaMapFlags.Write, Iova, run.MemoryAddress, Page),
            (run, ref argument) => run.Kernel.Ioctl(run.Group.Container, ref argument).Errno,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-31", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 31),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags |= (VfioDmaMapFlags)8),
            new("unknown-high-flag", "flags", Errno.EINVAL,
                (_, ref argument) => argument.Flags |= (VfioDmaMapFlags)(1u << 31)),
            new("size-0", "size", Errno.EINVAL, (_, ref argument) => argument.Size = 0),
            new("iova-wraps", "iova size", Errno.EOVERFLOW, (_, ref argument) =>
                (argument.Iova, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
            new("vaddr-wraps", "vaddr size", Errno.EOVERFLOW, (_, ref argument) =>
                (argument.Vaddr, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
            new("no-access", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = VfioDmaMapFlags.None),
            new("vaddr-flag-with-access", "flags", Errno.EINVAL,
                (_, ref argument) => argument.Flags |= VfioDmaMapFlags.Vaddr),
            new("unaligned-size", "size", Errno.EINVAL, (_, ref argument) => argument.Size = Page - 1),
            new("unaligned-iova", "iova", Errno.EINVAL, (_, ref argument) => argument.Iova += 1),
            new("unaligned-vaddr", "vaddr", Errno.EINVAL, (_, ref argument) => argument.Vaddr += 512),
            new("vaddr-flag-where-nothing-is", "flags iova", Errno.ENOENT, (_, ref argument) =>
                argument.Flags = VfioDmaMapFlags.Vaddr),
            new("overlap", "iova flags", Errno.EEXIST, (run, ref _) => run.Group.Map(Iova, Page)),
            new("iova-out-of-range", "iova flags", Errno.EINVAL, (run, ref argument) =>
                argument.Iova = run.Group.FirstBeyond()),
            new("bad-address", "vaddr flags", Errno.EFAULT, (_, ref argument) => argument.Vaddr = BadAddress));
        table.Add("read-only", "memory can be mapped for reading only", run => run.Answers(
            run.Group.TryMap(Iova, run.MemoryAddress, Page, VfioDmaMapFlags.Read), Errno.Success, "mapping"));
        table.Add("argsz-larger", "a larger argsz is accepted, whatever follows", run =>
        {
            VfioIommuType1DmaMap map = VfioIommuType1DmaMap.Create(
                VfioDmaMapFlags.Read, Iova, run.MemoryAddress, Page);
            map.Argsz = 4096;
            run.Answers(run.Kernel.Ioctl(run.Group.Container, ref map).Errno, Errno.Success, "mapping");
        });
        table.Add("iova-0", "IOVA 0 can be mapped", run => run.Group.Map(0, Page));
        table.Add("same-memory-twice", "memory can be mapped at two places", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (8 * Page), Page);
        });
        table.Add("overlap-at-the-end", "a mapping that only ends in another is EEXIST", run =>
        {
            run.Group.Map(Iova + Page, Page);
            run.Answers(run.Group.TryMap(Iova, run.MemoryAddress, 2 * Page), Errno.EEXIST, "mapping");
        });
        table.Add("overlap-around", "a mapping around another is EEXIST", run =>
        {
            run.Group.Map(Iova + Page, Page);
            run.Answers(run.Group.TryMap(Iova, run.MemoryAddress, 3 * Page), Errno.EEXIST, "mapping");
        });
        table.Add("second-half-bad", "memory of which a part is not mapped is EFAULT, and nothing stays", run =>
        {
            ulong address = run.CreateHalfMapping(8).Address.Value;
            run.Answers(run.Group.TryMap(Iova, address, 16 * Page), Errno.EFAULT, "mapping");
            run.Group.Unmap(Iova, 16 * Page, 0);
            run.Answers(run.Group.TryMap(Iova, address, 8 * Page), Errno.Success, "mapping the first half");
        });
        table.Add("adjacent", "adjacent mappings are accepted", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + Page, Page);
            run.Group.Map(Iova - Page, Page);
        });
    }

    private static void AddUnmapErrors(CaseTable table)
    {
        table.Errors<VfioIommuType1DmaUnmap>(
            run =>
            {
                run.Group.Map(Iova, 2 * Page);
                return VfioIommuType1DmaUnmap.Create(VfioDmaUnmapFlags.None, Iova, 2 * Page);
            },
            (run, ref argument) => run.Kernel.Ioctl(run.Group.Container, ref argument).Errno,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-23", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 23),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = (VfioDmaUnmapFlags)8),
            new("bitmap-with-all", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = VfioDmaUnmapFlags.GetDirtyBitmap | VfioDmaUnmapFlags.All),
            new("bitmap-with-vaddr", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = VfioDmaUnmapFlags.GetDirtyBitmap | VfioDmaUnmapFlags.Vaddr),
            new("bitmap-without-room", "flags argsz", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = VfioDmaUnmapFlags.GetDirtyBitmap),
            new("unaligned-iova", "iova", Errno.EINVAL, (_, ref argument) => argument.Iova += 1),
            new("all-with-size", "flags iova size", Errno.EINVAL, (_, ref argument) =>
                (argument.Flags, argument.Iova) = (VfioDmaUnmapFlags.All, 0)),
            new("all-with-iova", "flags iova size", Errno.EINVAL, (_, ref argument) =>
                (argument.Flags, argument.Size) = (VfioDmaUnmapFlags.All, 0)),
            new("size-0", "size", Errno.EINVAL, (_, ref argument) => argument.Size = 0),
            new("unaligned-size", "size", Errno.EINVAL, (_, ref argument) => argument.Size -= 1),
            new("wraps", "iova size", Errno.EOVERFLOW, (_, ref argument) =>
                (argument.Iova, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
            new("cuts-the-end", "size", Errno.EINVAL, (_, ref argument) => argument.Size = Page),
            new("cuts-the-beginning", "iova", Errno.EINVAL, (_, ref argument) => argument.Iova += Page));
    }

    private static void AddVersion2(CaseTable table)
    {
        table.Add("size-tells", "the size that comes back is what was unmapped", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (4 * Page), 2 * Page);
            run.Group.Unmap(Iova - Page, 16 * Page, 3 * Page);
        });
        table.Add("nothing-there", "nothing there is a success of 0 bytes", run => run.Group.Unmap(Iova, Page, 0));
        table.Add("twice", "a second time there is nothing", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Unmap(Iova, Page, Page);
            run.Group.Unmap(Iova, Page, 0);
        });
        table.Add("everything", "ALL unmaps everything", run =>
        {
            run.Group.Map(0, Page);
            run.Group.Map(Iova, 2 * Page);
            run.Answers(
                run.Group.Unmap(0, 0, out ulong unmapped, VfioDmaUnmapFlags.All), Errno.Success, "unmapping all");
            run.Equal(3 * Page, unmapped, "what was unmapped");
        });
        table.Add("everything-of-nothing", "ALL is accepted when there is nothing", run =>
        {
            run.Answers(
                run.Group.Unmap(0, 0, out ulong unmapped, VfioDmaUnmapFlags.All), Errno.Success, "unmapping all");
            run.Equal(0ul, unmapped, "what was unmapped");
        });
        table.Add("cut-changes-nothing", "a range that cuts a mapping unmaps nothing, not even what it covers", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + Page, 2 * Page);
            run.Answers(run.Group.Unmap(Iova, 2 * Page, out _), Errno.EINVAL, "unmapping into a mapping");
            run.Group.Unmap(Iova, 3 * Page, 3 * Page);
        });
        table.Add("size-stays-on-failure", "a refusal leaves the size as it was", run =>
        {
            run.Group.Map(Iova, 2 * Page);
            run.Answers(run.Group.Unmap(Iova, Page, out ulong size), Errno.EINVAL, "unmapping part");
            run.Equal(Page, size, "the size");
        });
        table.Add("middle-is-not-cut", "a range inside a mapping is refused", run =>
        {
            run.Group.Map(Iova, 4 * Page);
            run.Answers(run.Group.Unmap(Iova + Page, Page, out _), Errno.EINVAL, "unmapping the middle");
            run.Group.Unmap(Iova, 4 * Page, 4 * Page);
        });
        table.Add("one-of-neighbours", "one of three neighbours can be unmapped", run =>
        {
            for (ulong index = 0; index < 3; index++)
                run.Group.Map(Iova + (index * Page), Page);
            run.Group.Unmap(Iova + Page, Page, Page);
            run.Group.Unmap(Iova, 3 * Page, 2 * Page);
        });
    }

    private static void AddVersion1(CaseTable table)
    {
        table.Add("from-inside", "a range that begins inside a mapping unmaps nothing: 0 bytes", run =>
        {
            Mapped(run, (Iova, 4 * Page));
            run.Group.Unmap(Iova + Page, 3 * Page, 0);
            run.Group.Unmap(Iova, 4 * Page, 4 * Page);
        });
        table.Add("first-page", "a range that has a mapping's first page unmaps all of it", run =>
        {
            Mapped(run, (Iova, 4 * Page));
            run.Group.Unmap(Iova, Page, 4 * Page);
            run.Group.Unmap(Iova, 4 * Page, 0);
        });
        table.Add("from-inside-stops", "a range that begins inside a mapping does not reach the next one", run =>
        {
            Mapped(run, (Iova, 2 * Page), (Iova + (2 * Page), Page));
            run.Group.Unmap(Iova + Page, 2 * Page, 0);
            run.Group.Unmap(Iova, 3 * Page, 3 * Page);
        });
        table.Add("into-the-last", "a range that ends inside a mapping unmaps all of it", run =>
        {
            Mapped(run, (Iova, Page), (Iova + Page, 4 * Page));
            run.Group.Unmap(Iova, 2 * Page, 5 * Page);
        });
        table.Add("from-before", "a range that begins before a mapping unmaps it", run =>
        {
            Mapped(run, (Iova, 4 * Page));
            run.Group.Unmap(Iova - (2 * Page), 3 * Page, 4 * Page);
        });
        table.Add("nothing-there", "nothing there is a success of 0 bytes", run =>
        {
            Mapped(run);
            run.Group.Unmap(Iova, Page, 0);
        });
        table.Add("everything", "ALL works in version 1 too", run =>
        {
            Mapped(run, (Iova, 2 * Page), (Iova + (4 * Page), Page));
            run.Answers(
                run.Group.Unmap(0, 0, out ulong unmapped, VfioDmaUnmapFlags.All), Errno.Success, "unmapping all");
            run.Equal(3 * Page, unmapped, "what was unmapped");
        });
        table.Add("size-0", "a size of 0 is EINVAL", run =>
        {
            Mapped(run, (Iova, Page));
            run.Answers(run.Group.Unmap(Iova, 0, out _), Errno.EINVAL, "unmapping nothing");
        });
        table.Add("overlap", "an overlap is EEXIST in version 1 too", run =>
        {
            Mapped(run, (Iova, 2 * Page));
            run.Answers(run.Group.TryMap(Iova + Page, run.MemoryAddress, Page), Errno.EEXIST, "mapping");
        });
    }

    private static void AddAddresses(CaseTable table)
    {
        table.Add("round-trip", "an address is invalidated and given anew; the mapping stays", run =>
        {
            run.Group.Map(Iova, 2 * Page);
            Invalidate(run, Iova, 2 * Page, Errno.Success, 2 * Page);
            run.Answers(Revive(run, Iova, 2 * Page), Errno.Success, "giving a new address");
            run.Group.Unmap(Iova, 2 * Page, 2 * Page);
        });
        table.Add("all", "ALL invalidates every address", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (4 * Page), 2 * Page);
            run.Answers(
                run.Group.Unmap(0, 0, out ulong size, VfioDmaUnmapFlags.All | VfioDmaUnmapFlags.Vaddr),
                Errno.Success, "invalidating all");
            run.Equal(3 * Page, size, "the size");
            run.Answers(Revive(run, Iova + (4 * Page), 2 * Page), Errno.Success, "giving a new address");
        });
        table.Add("nothing-there", "invalidating nothing is a success of 0 bytes", run =>
            Invalidate(run, Iova, Page, Errno.Success, 0));
        table.Add("twice", "an address is invalidated once: EINVAL", run =>
        {
            run.Group.Map(Iova, Page);
            Invalidate(run, Iova, Page, Errno.Success, Page);
            run.Answers(
                run.Group.Unmap(Iova, Page, out _, VfioDmaUnmapFlags.Vaddr), Errno.EINVAL, "invalidating again");
        });
        table.Add("refusal-takes-back", "a refusal takes back what the same call invalidated", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + Page, Page);
            Invalidate(run, Iova + Page, Page, Errno.Success, Page);
            run.Answers(
                run.Group.Unmap(Iova, 2 * Page, out _, VfioDmaUnmapFlags.Vaddr), Errno.EINVAL, "invalidating both");
            run.Answers(Revive(run, Iova, Page), Errno.EINVAL, "giving the first a new address");
            run.Answers(Revive(run, Iova + Page, Page), Errno.Success, "giving the second a new address");
        });
        table.Add("valid-address", "a valid address is not given anew: EINVAL", run =>
        {
            run.Group.Map(Iova, Page);
            run.Answers(Revive(run, Iova, Page), Errno.EINVAL, "giving a new address");
        });
        table.Add("part", "a new address is for the whole mapping: EINVAL", run =>
        {
            run.Group.Map(Iova, 2 * Page);
            Invalidate(run, Iova, 2 * Page, Errno.Success, 2 * Page);
            run.Answers(Revive(run, Iova, Page), Errno.EINVAL, "the first half");
            run.Answers(Revive(run, Iova + Page, Page), Errno.EINVAL, "the second half");
            run.Answers(Revive(run, Iova - Page, 3 * Page), Errno.EINVAL, "more than the mapping");
        });
        table.Add("cut", "a range that cuts a mapping invalidates nothing: EINVAL", run =>
        {
            run.Group.Map(Iova, 2 * Page);
            run.Answers(
                run.Group.Unmap(Iova, Page, out _, VfioDmaUnmapFlags.Vaddr), Errno.EINVAL, "invalidating half");
            run.Answers(Revive(run, Iova, 2 * Page), Errno.EINVAL, "giving a new address");
        });
        table.Add("unmapped", "a mapping without a valid address can be unmapped", run =>
        {
            run.Group.Map(Iova, Page);
            Invalidate(run, Iova, Page, Errno.Success, Page);
            run.Group.Unmap(Iova, Page, Page);
            run.Answers(Revive(run, Iova, Page), Errno.ENOENT, "giving a new address");
        });
        table.Add("others-can-be-mapped", "other memory can be mapped meanwhile", run =>
        {
            run.Group.Map(Iova, Page);
            Invalidate(run, Iova, Page, Errno.Success, Page);
            run.Group.Map(Iova + Page, Page);
        });
    }

    /// <summary>A container of version 1 with mappings.</summary>
    private static void Mapped(CaseRun run, params (ulong Iova, ulong Length)[] mappings)
    {
        run.UseGroup(GroupSession.InType1(run, VfioExtension.Type1));
        foreach ((ulong iova, ulong length) in mappings)
            run.Group.Map(iova, length);
    }

    private static void Invalidate(CaseRun run, ulong iova, ulong length, Errno errno, ulong expected)
    {
        run.Answers(
            run.Group.Unmap(iova, length, out ulong size, VfioDmaUnmapFlags.Vaddr), errno, "invalidating an address");
        run.Equal(expected, size, "the size");
    }

    private static Errno Revive(CaseRun run, ulong iova, ulong length) =>
        run.Group.TryMap(iova, run.MemoryAddress, length, VfioDmaMapFlags.Vaddr);
}
