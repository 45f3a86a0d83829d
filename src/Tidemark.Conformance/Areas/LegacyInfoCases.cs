using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>What a type1 container tells of itself.</summary>
internal static class LegacyInfoCases
{
    public static void AddTo(List<ConformanceCase> cases)
    {
        var table = new CaseTable(cases, "legacy-info", "legacy.type1.info", "vfio.h, vfio_iommu_type1_info");
        table.Errors<VfioIommuType1Info>(
            _ => VfioIommuType1Info.Create(),
            (run, ref argument) => run.Kernel.Ioctl(run.Group.Container, ref argument).Errno,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-15", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15));
        AddHeader(table);
        AddChain(table);
    }

    private static void AddHeader(CaseTable table)
    {
        table.Add("flags", "both flags are set: page sizes and capabilities", run =>
            run.Equal((uint)(VfioIommuInfoFlags.Pgsizes | VfioIommuInfoFlags.Caps), run.Group.Info().Flags, "flags"));
        table.Add("smallest-page", "the smallest page is a page of the processor", run =>
        {
            ulong sizes = run.Group.Info().PageSizes;
            run.Equal(Page, sizes & (~sizes + 1), "the lowest bit of iova_pgsizes");
        });
        table.Add("argsz-16", "with argsz 16 nothing behind the page sizes is written", run =>
        {
            ContainerInfo info = run.Group.Info(16);
            run.Holds(info.Argsz > 24, "argsz to tell how much room it takes");
            run.Holds(!info.Bytes.AsSpan(16).ContainsAnyExcept((byte)0xA5), "the rest as it was");
        });
        table.Add("argsz-23", "with argsz 23 the pad is written up to there", run =>
        {
            ContainerInfo info = run.Group.Info(23);
            run.Equal(0u, info.CapOffset, "cap_offset");
            run.Holds(!info.Bytes.AsSpan(23).ContainsAnyExcept((byte)0xA5), "the rest as it was");
        });
        table.Add("argsz-24", "without room for capabilities argsz grows, cap_offset is 0 and none is written", run =>
        {
            ContainerInfo info = run.Group.Info(24);
            run.Equal(0u, info.CapOffset, "cap_offset");
            run.Holds(info.Argsz > 24, "argsz to tell how much room it takes");
            run.Holds(!info.Bytes.AsSpan(24).ContainsAnyExcept((byte)0xA5), "the rest as it was");
        });
        table.Add("one-byte-short", "with a byte too little no capability is written", run =>
        {
            uint needed = run.Group.Info(24).Argsz;
            ContainerInfo info = run.Group.Info(needed - 1);
            run.Equal(0u, info.CapOffset, "cap_offset");
            run.Equal(needed, info.Argsz, "argsz");
            run.Holds(!info.Bytes.AsSpan(24).ContainsAnyExcept((byte)0xA5), "the rest as it was");
        });
        table.Add("exact", "with just enough room all is written, and argsz stays", run =>
        {
            uint needed = run.Group.Info(24).Argsz;
            ContainerInfo info = run.Group.Info(needed);
            run.Equal(24u, info.CapOffset, "cap_offset");
            run.Equal(needed, info.Argsz, "argsz");
            run.Holds(!info.Bytes.AsSpan((int)needed).ContainsAnyExcept((byte)0xA5), "the rest as it was");
        });
        table.Add("more-room", "with more room argsz stays as it was given", run =>
            run.Equal(4096u, run.Group.Info(4096).Argsz, "argsz"));
        table.Add("version-1", "version 1 tells the same", run =>
        {
            GroupSession session = GroupSession.InType1(run, VfioExtension.Type1);
            run.Equal(3, session.Info().Chain().Count, "the number of capabilities");
        });
    }

    private static void AddChain(CaseTable table)
    {
        table.Add("order", "the capabilities are MIGRATION, DMA_AVAIL and IOVA_RANGE, in this order", run =>
        {
            var ids = run.Group.Info().Chain().ConvertAll(capability => capability.Id);
            run.Equal(3, ids.Count, "the number of capabilities");
            run.Equal(VfioIommuType1InfoCapId.Migration, ids[0], "the first");
            run.Equal(VfioIommuType1InfoCapId.DmaAvail, ids[1], "the second");
            run.Equal(VfioIommuType1InfoCapId.IovaRange, ids[2], "the third");
        });
        table.Add("places", "they lie one behind the other, each at a multiple of 8", run =>
        {
            var chain = run.Group.Info().Chain();
            run.Equal(24, chain[0].Offset, "where the first lies");
            run.Equal(56, chain[1].Offset, "where the second lies");
            run.Equal(72, chain[2].Offset, "where the third lies");
        });
        table.Add("versions", "all are of version 1", run =>
            run.Holds(run.Group.Info().Chain().TrueForAll(capability => capability.Version == 1), "version 1"));
        table.Add("migration", "MIGRATION: no flags, the smallest page, 256 MiB of bitmap", run =>
        {
            ContainerInfo info = run.Group.Info();
            int at = info.Find(VfioIommuType1InfoCapId.Migration);
            run.Equal(0u, info.Word(at + 8), "the flags");
            run.Equal(Page, info.Long(at + 16), "pgsize_bitmap");
            run.Equal(0x1000_0000ul, info.Long(at + 24), "max_dirty_bitmap_size");
        });
        table.Add("available", "DMA_AVAIL counts down with each mapping and up with each unmapping", run =>
        {
            uint before = Available(run);
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (4 * Page), 2 * Page);
            run.Equal(before - 2, Available(run), "what is available with two mappings");
            run.Group.Unmap(Iova, 8 * Page, 3 * Page);
            run.Equal(before, Available(run), "what is available afterwards");
        });
        table.Add("available-after-failure", "a mapping that fails takes nothing", run =>
        {
            uint before = Available(run);
            run.Answers(run.Group.TryMap(Iova, BadAddress, Page), Errno.EFAULT, "mapping a bad address");
            run.Equal(before, Available(run), "what is available");
        });
        table.Add("limit", "one mapping more than available is ENOSPC", run =>
        {
            const uint MostMappings = 70_000;
            uint available = Available(run);
            if (available > MostMappings)
                throw NotApplicable($"This kernel's dma_entry_limit is {available}: too many mappings for a case.");
            for (uint index = 0; index < available; index++)
            {
                Errno errno = run.Group.TryMap(Iova + (index * 2 * Page), run.MemoryAddress, Page);
                if (errno != Errno.Success)
                    throw Broken($"Expected mapping {index} of {available} to succeed; the kernel answered {errno}.");
            }

            run.Equal(0u, Available(run), "what is available");
            run.Answers(
                run.Group.TryMap(Iova - Page, run.MemoryAddress, Page), Errno.ENOSPC, "mapping one more");
            run.Answers(
                run.Group.TryMap(Iova, run.MemoryAddress, Page), Errno.EEXIST, "mapping over another");
            run.Answers(
                run.Group.TryMap(run.Group.FirstBeyond(), run.MemoryAddress, Page), Errno.ENOSPC,
                "mapping where nothing can be");
        });
        table.Add("ranges", "IOVA_RANGE lists disjoint ranges, ascending", run =>
        {
            ulong next = 0;
            bool first = true;
            foreach ((ulong from, ulong last) in run.Group.Info().Ranges())
            {
                run.Holds(from <= last && (first || from > next), $"0x{from:x}-0x{last:x} to come after 0x{next:x}");
                (next, first) = (last, false);
            }
        });
        table.Add("ranges-can-be-mapped", "the first and the last page of each range can be mapped", run =>
        {
            foreach ((ulong from, ulong last) in run.Group.Info().Ranges())
            {
                if (last - from < 2 * Page)
                    continue;
                run.Group.Map(from, Page);
                run.Group.Map(last - Page + 1, Page);
            }
        });
        table.Add("between-ranges", "what lies between two ranges can not be mapped: EINVAL", run =>
        {
            var ranges = run.Group.Info().Ranges();
            if (ranges.Count < 2)
                throw NotApplicable("This host has one range of IOVAs.");
            ulong hole = ranges[0].Last + 1;
            run.Answers(run.Group.TryMap(hole, run.MemoryAddress, Page), Errno.EINVAL, "mapping in the hole");
            run.Answers(
                run.Group.TryMap(hole - Page, run.MemoryAddress, 2 * Page), Errno.EINVAL, "mapping into the hole");
        });
        table.Add("mappings-do-not-matter", "mappings do not change the ranges", run =>
        {
            var before = run.Group.Info().Ranges();
            run.Group.Map(Iova, Page);
            run.Holds(before.SequenceEqual(run.Group.Info().Ranges()), "the same ranges");
        });
    }

    private static uint Available(CaseRun run)
    {
        ContainerInfo info = run.Group.Info();
        return info.Word(info.Find(VfioIommuType1InfoCapId.DmaAvail) + 8);
    }
}
