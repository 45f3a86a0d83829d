using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// Which leaves a mapping gets, told by what one write makes dirty. Each case lets a real device write into contiguous
/// memory.
/// </summary>
internal static class LeafSizeCases
{
    private const string Area = "page-formats";
    private const ulong K = 1024;

    public static void AddTo(List<ConformanceCase> cases)
    {
        foreach (IommuFamily family in IommuFamily.All)
        {
            var table = new CaseTable(
                cases, Area, $"iommufd.leaf-size.{family.Name}", "kernel behaviour, the size of leaves");
            AddSizes(table, family);
            AddBoundaries(table, family);
        }
    }

    private static void AddSizes(CaseTable table, IommuFamily family)
    {
        foreach (ulong size in (ulong[])[4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K, 256 * K, 512 * K, 1024 * K])
        {
            table.Add($"run-of-{size / K}-kib",
                "a contiguous aligned run becomes leaves of the largest size of the format", run =>
                    Check(run, family, Iova, 0, size, size / Page / 2));
        }

        table.Add("run-of-2-mib", "2 MiB become one leaf", run => Check(run, family, Iova, 0, 2048 * K, 300));
        (string Name, ulong Iova, ulong Offset, ulong Length, ulong Written)[] shapes =
        [
            ("96-kib-first-part", Iova, 0, 96 * K, 9),
            ("96-kib-rest", Iova, 0, 96 * K, 18),
            ("96-kib-begun-half-way-first-part", Iova + (32 * K), 32 * K, 96 * K, 3),
            ("96-kib-begun-half-way-rest", Iova + (32 * K), 32 * K, 96 * K, 15),
            ("one-page-more", Iova, 0, 68 * K, 16),
            ("one-page-less", Iova, 0, 60 * K, 14),
            ("begun-one-page-late", Iova + (4 * K), 4 * K, 60 * K, 13),
            ("iova-less-aligned", Iova + (8 * K), 0, 64 * K, 5),
            ("memory-less-aligned", Iova, 4 * K, 64 * K, 7),
            ("both-less-aligned", Iova + (16 * K), 16 * K, 128 * K, 10),
        ];
        foreach ((string name, ulong iova, ulong offset, ulong length, ulong written) in shapes)
        {
            table.Add(name, "a leaf is no larger than the alignment of both addresses and what is left", run =>
                Check(run, family, iova, offset, length, written));
        }
    }

    private static void AddBoundaries(CaseTable table, IommuFamily family)
    {
        table.Add("not-across-mappings", "a leaf never spans two mappings", run =>
        {
            ContiguousMemory memory = ContiguousMemory.Create(run, family.TrackedWriter);
            memory.Map(Iova, 0, 32 * K);
            memory.Map(Iova + (32 * K), 32 * K, 32 * K);
            memory.ReadBits(Iova, 64 * K);
            memory.Tracked.Write(3);
            memory.ReadBits(Iova, 64 * K);
            ulong leaf = family.LeafAt(Iova, 32 * K) / Page;
            memory.AreSet(3 / leaf * leaf, leaf, "the dirty pages");
        });
        table.Add("copy-chooses-its-own", "a copy's leaves follow its own addresses", run =>
        {
            ContiguousMemory memory = ContiguousMemory.Create(run, family.TrackedWriter);
            memory.Map(Iova, 0, 64 * K);
            const ulong Other = Iova + (1 << 20) + (8 * K);
            IommuIoasCopy copy = IommuIoasCopy.Create(run.Ioas, Other, run.Ioas, Iova, 64 * K, Fixed);
            run.Answers(ref copy, Errno.Success);
            memory.ReadBits(Iova, 64 * K);
            memory.ReadBits(Other, 64 * K);
            memory.Tracked.Writer.Write(Other + (5 * Page));
            run.Equal(0, memory.ReadBits(Iova, 64 * K), "the dirty pages of the mapping that was copied");
            memory.ReadBits(Other, 64 * K);
            ulong leaf = family.LeafAt(Other, 8 * K) / Page;
            memory.AreSet(5 / leaf * leaf, leaf, "the dirty pages of the copy");
        });
        table.Add("without-large-pages", "with large pages off every leaf is 4 KiB", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, need: family.TrackedWriter);
            memory.Write(6);
            run.Equal(1ul << 6, memory.Read(), "the bitmap");
        });
        table.Add("every-page-of-a-leaf", "whichever page of a leaf is written, the leaf is dirty once", run =>
        {
            ContiguousMemory memory = ContiguousMemory.Create(run, family.TrackedWriter);
            memory.Map(Iova, 0, 64 * K);
            memory.ReadBits(Iova, 64 * K);
            for (ulong page = 0; page < 16; page++)
            {
                memory.Tracked.Write(page);
                memory.ReadBits(Iova, 64 * K);
                ulong leaf = family.LeafAt(Iova, 64 * K) / Page;
                memory.AreSet(page / leaf * leaf, leaf, $"the dirty pages after writing page {page}");
                run.Equal(0, memory.ReadBits(Iova, 64 * K), "the dirty pages read again");
            }
        });
        table.Add("two-pages-of-a-leaf", "a leaf written at two places is clean after one read", run =>
        {
            ContiguousMemory memory = ContiguousMemory.Create(run, family.TrackedWriter);
            memory.Map(Iova, 0, 64 * K);
            memory.ReadBits(Iova, 64 * K);
            memory.Tracked.Write(2, 13);
            ulong leaf = family.LeafAt(Iova, 64 * K) / Page;
            int expected = leaf == 1 ? 2 : 16;
            run.Equal(expected, memory.ReadBits(Iova, 64 * K, clear: false), "the dirty pages");
            run.Equal(expected, memory.ReadBits(Iova, 64 * K), "the dirty pages read again");
            run.Equal(0, memory.ReadBits(Iova, 64 * K), "the dirty pages after clearing");
        });
    }

    /// <summary>Maps a part of the memory, writes one page, and looks for the leaf around it.</summary>
    private static void Check(
        CaseRun run, IommuFamily family, ulong iova, ulong offset, ulong byteLength, ulong writtenPage)
    {
        ContiguousMemory memory = ContiguousMemory.Create(run, family.TrackedWriter);
        memory.Map(iova, offset, byteLength);
        memory.ReadBits(iova, byteLength);
        memory.Tracked.Writer.Write(iova + (writtenPage * Page));
        memory.ReadBits(iova, byteLength);
        ulong at = 0;
        while (true)
        {
            ulong leaf = family.LeafAt((iova + at) | (offset + at), byteLength - at);
            if (writtenPage * Page < at + leaf)
            {
                memory.AreSet(at / Page, leaf / Page, "the dirty pages");
                return;
            }

            at += leaf;
        }
    }
}
