using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Which IOVA the kernel chooses when it may: the lowest that fits the rules.</summary>
internal static class AutomaticIovaCases
{
    private const ulong Large = 2 << 20;

    public static void AddTo(List<ConformanceCase> cases)
    {
        var table = new CaseTable(
            cases, "ioas-map", "iommufd.ioas.map.automatic", "kernel behaviour, automatic choice of an IOVA");
        AddChoice(table);
        AddAlignment(table);
        AddRefusals(table);
    }

    private static void AddChoice(CaseTable table)
    {
        table.Add("lowest-page", "the first choice is the second page; 0 is never chosen", run =>
            run.Equal(Page, Map(run, 0, Page), "the IOVA"));
        table.Add("next-page", "the second choice follows the first", run =>
        {
            Map(run, 0, Page);
            run.Equal(2 * Page, Map(run, 0, Page), "the second IOVA");
        });
        table.Add("in-iova-is-ignored", "an IOVA given without FIXED_IOVA has no effect", run =>
        {
            IommuIoasMap map = IommuIoasMap.Create(run.Ioas, Iova, run.MemoryAddress, Page, Anywhere);
            run.Answers(ref map, Errno.Success);
            run.Equal(Page, map.Iova, "the IOVA");
        });
        table.Add("lowest-hole", "a hole between mappings is filled first", run =>
        {
            run.Map(Page, Page);
            run.Map(3 * Page, Page);
            run.Equal(2 * Page, Map(run, 0, Page), "the IOVA");
        });
        table.Add("hole-too-small", "a hole that is too small is skipped", run =>
        {
            run.Map(Page, Page);
            run.Map(3 * Page, Page);
            run.Equal(4 * Page, Map(run, 0, 2 * Page), "the IOVA");
        });
        table.Add("freed-is-found-again", "what was unmapped is chosen again", run =>
        {
            Map(run, 0, Page);
            Map(run, 0, Page);
            run.Answers(run.Unmap(Page, Page, out _), Errno.Success, "IOMMU_IOAS_UNMAP");
            run.Equal(Page, Map(run, 0, Page), "the IOVA");
        });
        table.Add("allowed-in-order-of-address", "of several allowed ranges the lowest is used first", run =>
        {
            run.Answers(run.Allow(run.Ioas, (0x900000, 0x9FFFFF), (0x500000, 0x5FFFFF)), Errno.Success, "ALLOW_IOVAS");
            run.Equal(0x500000ul, Map(run, 0, Page), "the IOVA");
        });
        table.Add("usable-with-page-table", "with a device attached the choice lies in a usable range", run =>
        {
            run.Device.Attach(run.Ioas);
            ulong iova = Map(run, 0, Page);
            run.Holds(
                run.Ranges(run.Ioas, out _).Exists(range => iova >= range.Start && iova + Page - 1 <= range.Last),
                $"0x{iova:x} to be usable");
        });
    }

    private static void AddAlignment(CaseTable table)
    {
        for (ulong pages = 2; pages <= 8; pages *= 2)
        {
            ulong length = pages * Page;
            table.Add($"aligned-to-{pages}-pages", "the choice is aligned to the length", run =>
                run.Equal(length, MapFile(run, 0, length), "the IOVA"));
        }

        table.Add("aligned-to-rounded-length", "a length of three pages is aligned as one of four", run =>
            run.Equal(4 * Page, MapFile(run, 0, 3 * Page), "the IOVA"));
        table.Add("aligned-as-the-source", "the choice is not aligned further than the source's address", run =>
            run.Equal(2 * Page, MapFile(run, 2 * Page, 4 * Page), "the IOVA"));
        table.Add("aligned-to-2-mib", "2 MiB are aligned to 2 MiB, so that large leaves fit", run =>
            run.Equal(Large, MapFile(run, 0, Large), "the IOVA"));
        table.Add("aligned-at-most-to-2-mib", "more than 2 MiB are aligned to 2 MiB", run =>
            run.Equal(Large, MapFile(run, 0, 4 * Large), "the IOVA"));
        table.Add("keeps-the-offset-in-the-page", "the choice has the source's offset in its page", run =>
        {
            IommuIoasMap map = IommuIoasMap.Create(run.Ioas, 0, run.MemoryAddress + 0x123, 1, Anywhere);
            run.Answers(ref map, Errno.Success);
            run.Equal(0x123ul, map.Iova % Page, "the offset in the page");
        });
    }

    private static void AddRefusals(CaseTable table)
    {
        table.Add("half-of-the-space", "a length of half the space or more is EOVERFLOW", run =>
            run.Answers(run.TryMap(0, 0x1000, 1ul << 63, Anywhere), Errno.EOVERFLOW, "mapping"));
        table.Add("source-less-aligned-than-needed", "a source that is less aligned than the IOAS is EINVAL", run =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.Answers(run.TryMap(0, run.MemoryAddress + 0x800, Page, Anywhere), Errno.EINVAL, "mapping");
        });
        table.Add("allowed-too-small", "no allowed range that is long enough is ENOSPC", run =>
        {
            run.Answers(run.Allow(run.Ioas, (0x10000, 0x11FFF)), Errno.Success, "ALLOW_IOVAS");
            run.Answers(run.TryMap(0, run.MemoryAddress, 4 * Page, Anywhere), Errno.ENOSPC, "mapping");
        });
        table.Add("space-full", "no room anywhere is ENOSPC", run =>
        {
            ulong most = ulong.MaxValue - (2 * Page) + 1;
            run.Answers(run.TryMap(Page, 0, most), Errno.Success, "mapping nearly everything");
            run.Answers(run.TryMap(0, run.MemoryAddress, Page, Anywhere), Errno.ENOSPC, "mapping");
        });
        table.Add("highest-iova-is-seen", "an IOVA of the highest address is EOVERFLOW although it is not used", run =>
            run.Answers(run.TryMap(ulong.MaxValue, run.MemoryAddress, Page, Anywhere), Errno.EOVERFLOW, "mapping"));
    }

    private static ulong Map(CaseRun run, ulong offset, ulong byteLength)
    {
        IommuIoasMap map = IommuIoasMap.Create(run.Ioas, 0, run.MemoryAddress + offset, byteLength, Anywhere);
        run.Answers(ref map, Errno.Success);
        return map.Iova;
    }

    /// <summary>A file's offset takes the place of the address, and can be as aligned as a case needs.</summary>
    private static ulong MapFile(CaseRun run, ulong start, ulong byteLength)
    {
        IommuIoasMapFile map = IommuIoasMapFile.Create(
            run.Ioas, 0, run.CreateMemoryFile(start + byteLength).Number, start, byteLength, Anywhere);
        run.Answers(ref map, Errno.Success);
        return map.Iova;
    }
}
