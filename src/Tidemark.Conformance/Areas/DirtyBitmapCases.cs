using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>What the dirty bitmap holds after a device wrote. Each case lets a real device write.</summary>
internal static class DirtyBitmapCases
{
    private const string Area = "dirty-tracking";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddReading(new CaseTable(cases, Area, "iommufd.dirty.bitmap", "iommufd.h, iommu_hwpt_get_dirty_bitmap"));
        AddLayout(new CaseTable(cases, Area, "iommufd.dirty.bitmap", "kernel behaviour, layout of a dirty bitmap"));
        AddHoles(new CaseTable(cases, Area, "iommufd.dirty.bitmap",
            "kernel behaviour, holes in a dirty bitmap's range"));
        AddSwitching(new CaseTable(cases, Area, "iommufd.dirty.bitmap", "kernel behaviour, switching dirty tracking"));
        AddLargeLeaves(new CaseTable(cases, Area, "iommufd.dirty.large-leaf", "kernel behaviour, large leaves"));
    }

    private static void AddReading(CaseTable table)
    {
        foreach (ulong page in (ulong[])[0, 1, 7, 8, 15])
        {
            table.Add($"page-{page}", "a page that the device wrote has its bit set, and no other has", run =>
            {
                TrackedMemory memory = TrackedMemory.Create(run);
                memory.Write(page);
                run.Equal(1ul << (int)page, memory.Read(), "the bitmap");
            });
        }

        table.Add("several-pages", "each page that was written is reported", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(1, 4, 11);
            run.Equal(0x812ul, memory.Read(), "the bitmap");
        });
        table.Add("written-twice", "a page written twice is reported once", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(3, 3);
            run.Equal(8ul, memory.Read(), "the bitmap");
            run.Equal(0ul, memory.Read(), "the bitmap read again");
        });
        table.Add("reading-clears", "what was read is not reported again", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Read();
            run.Equal(0ul, memory.Read(), "the bitmap read again");
        });
        table.Add("written-after-reading", "a write after reading is in the next bitmap", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Read();
            memory.Write(5);
            run.Equal(0x20ul, memory.Read(), "the bitmap read again");
        });
        table.Add("written-after-reading-many-times", "no write is lost between readings", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            for (int round = 0; round < 32; round++)
            {
                ulong page = (ulong)(round * 5 % 16);
                memory.Write(page, (page + 3) % 16);
                run.Equal((1ul << (int)page) | (1ul << (int)((page + 3) % 16)), memory.Read(),
                    $"the bitmap of round {round}");
            }
        });
        table.Add("no-clear-keeps", "read without clearing, it is reported again", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            run.Equal(0x20ul, memory.Read(clear: false), "the bitmap");
            run.Equal(0x20ul, memory.Read(clear: false), "the bitmap read again");
            run.Equal(0x20ul, memory.Read(), "the bitmap read and cleared");
            run.Equal(0ul, memory.Read(), "the bitmap after clearing");
        });
        table.Add("only-the-range-is-cleared", "pages outside the range stay dirty", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(2, 9);
            run.Equal(4ul, memory.Read(0, 8), "the first half");
            run.Equal(2ul, memory.Read(8, 8), "the second half");
        });
    }

    private static void AddLayout(CaseTable table)
    {
        table.Add("bit-0-is-the-start", "bits count from the range's start, whatever its address", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            run.Equal(4ul, memory.Read(3, 8), "the bitmap of a range that begins at page 3");
        });
        table.Add("bits-are-only-set", "bits that were set stay set", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            run.Scratch.Words(1)[0] = 0x8001;
            memory.Read(Iova, MemoryPages * Page, Page, run.ScratchAddress);
            run.Equal(0x8021ul, run.Scratch.Words(1)[0], "the bitmap");
        });
        table.Add("rest-is-untouched", "bytes beyond the bitmap's are not written", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(0, 15);
            run.Scratch.Words(2).Fill(0x5A5A_5A5A_5A5A_0000);
            memory.Read(Iova, MemoryPages * Page, Page, run.ScratchAddress);
            run.Equal(0x5A5A_5A5A_5A5A_8001ul, run.Scratch.Words(1)[0], "the bitmap and what follows it");
        });
        foreach (ulong offset in (ulong[])[1, 3, 7, 0xFF1, 0xFFF])
        {
            table.Add($"at-byte-0x{offset:x}", "the bitmap may lie at any byte", run =>
            {
                TrackedMemory memory = TrackedMemory.Create(run);
                memory.Write(0, 9);
                run.Scratch.Bytes(0, 0x2000).Clear();
                memory.Read(Iova, MemoryPages * Page, Page, run.ScratchAddress + offset);
                run.Equal((byte)1, run.Scratch.Bytes(offset, 1)[0], "the first byte");
                run.Equal((byte)2, run.Scratch.Bytes(offset + 1, 1)[0], "the second byte");
                run.Equal((byte)0, run.Scratch.Bytes(offset + 2, 1)[0], "the byte after");
            });
        }

        (string Name, ulong PageSize, ulong Expected)[] sizes =
        [
            ("two-pages", 2 * Page, 1 << 2), ("four-pages", 4 * Page, 1 << 1), ("sixteen-pages", 16 * Page, 1),
            ("half-a-page", Page / 2, 3ul << 10), ("quarter-of-a-page", Page / 4, 0xFul << 20),
        ];
        foreach ((string name, ulong pageSize, ulong expected) in sizes)
        {
            table.Add($"bit-of-{name}", "a bit stands for the page size asked for", run =>
            {
                TrackedMemory memory = TrackedMemory.Create(run);
                memory.Write(5);
                run.Equal(expected, memory.Read(pageSize: pageSize), "the bitmap");
            });
        }

        table.Add("large-bits-are-joined", "pages that share a bit set it together", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(4, 5, 12);
            run.Equal(0xAul, memory.Read(pageSize: 4 * Page), "the bitmap");
        });
        table.Add("page-size-of-two-bits", "of a page size that is no power of two, the lowest bit counts", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            run.Equal(0x20ul, memory.Read(pageSize: 3 * Page), "the bitmap");
        });
        table.Add("bad-address", "a bitmap that can not be written is no error", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Read(Iova, MemoryPages * Page, Page, BadAddress);
        });
        table.Add("bad-address-loses", "what could not be written is lost", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Read(Iova, MemoryPages * Page, Page, BadAddress);
            run.Equal(0ul, memory.Read(), "the next bitmap");
        });
    }

    private static void AddHoles(CaseTable table)
    {
        table.Add("hole-ends-the-walk", "what lies behind a hole is not reported", run =>
        {
            TrackedMemory memory = WithHole(run);
            memory.Write(1, 9);
            run.Equal(2ul, memory.Read(), "the bitmap");
        });
        table.Add("behind-a-hole-stays", "what lies behind a hole is not cleared", run =>
        {
            TrackedMemory memory = WithHole(run);
            memory.Write(1, 9);
            memory.Read();
            run.Equal(2ul, memory.Read(8, 8), "the bitmap behind the hole");
        });
        table.Add("begins-in-a-hole", "of a range that begins in a hole nothing is reported", run =>
        {
            TrackedMemory memory = WithHole(run);
            memory.Write(9);
            run.Equal(0ul, memory.Read(6, 8), "the bitmap");
            run.Equal(2ul, memory.Read(8, 8), "the bitmap behind the hole");
        });
        table.Add("adjacent-mappings", "a range may go over several adjacent mappings", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, map: () =>
            {
                run.Map(Iova, 4 * Page);
                run.Map(Iova + (4 * Page), 12 * Page, 4 * Page);
            });
            memory.Write(3, 4);
            run.Equal(0x18ul, memory.Read(), "the bitmap");
        });
        table.Add("beyond-the-mapping", "a range may end beyond what is mapped", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(15);
            run.Equal(0x8000ul, memory.Read(pages: 32), "the bitmap");
        });
        table.Add("unmapping-loses", "what is unmapped takes its dirty bits along", run =>
        {
            // SMMUv3 maps what can be written as dirty.
            TrackedMemory memory = TrackedMemory.Create(run, need: DeviceNeed.TrackedWriterOfGenericTables);
            memory.Write(5);
            run.Answers(run.Unmap(Iova, MemoryPages * Page, out _), Errno.Success, "unmapping");
            run.Map(Iova, MemoryPages * Page);
            run.Equal(0ul, memory.Read(), "the bitmap after mapping again");
        });
        table.Add("mapped-while-tracking", "what is mapped while tracking is on is tracked", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, map: () => { });
            run.Map(Iova, MemoryPages * Page);
            memory.Read();
            memory.Write(6);
            run.Equal(0x40ul, memory.Read(), "the bitmap");
        });
    }

    private static void AddSwitching(CaseTable table)
    {
        table.Add("enabling-again-discards", "enabling what is enabled discards what was dirty", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Enable();
            run.Equal(0ul, memory.Read(), "the bitmap");
        });
        table.Add("enabling-again-tracks", "after enabling again writes are seen", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Enable();
            memory.Write(5);
            run.Equal(0x20ul, memory.Read(), "the bitmap");
        });
        table.Add("disabling-keeps", "what was dirty can be read after disabling", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Disable();
            run.Equal(0x20ul, memory.Read(), "the bitmap");
        });
        table.Add("off-and-on-starts-clean", "switching off and on discards what was dirty", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run);
            memory.Write(5);
            memory.Disable();
            memory.Enable();
            run.Equal(0ul, memory.Read(), "the bitmap");
        });
        table.Add("written-before-enabling", "what was written before enabling is not reported", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, enable: false);
            memory.Write(5);
            memory.Enable();
            run.Equal(0ul, memory.Read(), "the bitmap");
        });
        table.Add("cached-before-enabling", "a write after enabling is seen though the address was used before", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, enable: false);
            memory.Write(5);
            memory.Enable();
            memory.Write(5);
            run.Equal(0x20ul, memory.Read(), "the bitmap");
        });
        table.Add("attached-while-tracking", "a device that is attached while tracking is on is tracked", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.TrackedWriter);
            TrackedMemory memory = TrackedMemory.Create(run);
            device.Attach(memory.Hwpt);
            NvmeWriter second = NvmeWriter.Start(run, device, run.Ioas, slot: 1);
            memory.Read();
            second.Write(Iova + (7 * Page));
            run.Equal(0x80ul, memory.Read(), "the bitmap");
        });
    }

    private static void AddLargeLeaves(CaseTable table)
    {
        const ulong Large = 2 << 20;
        table.Add("all-bits", "a write anywhere in a leaf reports all of it", run =>
        {
            TrackedMemory memory = WithLargeLeaf(run);
            memory.Write(100);
            memory.Read(Iova, Large, Page, run.ScratchAddress);
            for (int word = 0; word < 8; word++)
                run.Equal(ulong.MaxValue, run.Scratch.Words(8)[word], $"word {word} of the bitmap");
            run.Equal(0ul, run.Scratch.Words(9)[8], "the word after the bitmap");
        });
        table.Add("ends-inside", "a range that ends inside a leaf sets bits beyond its bitmap", run =>
        {
            TrackedMemory memory = WithLargeLeaf(run);
            memory.Write(1);
            memory.Read(Iova, Large, Page, run.ScratchAddress);
            run.Scratch.Words(512).Clear();
            memory.Write(1);
            memory.Read(Iova, Large / 2, Page, run.ScratchAddress);
            run.Equal(ulong.MaxValue, run.Scratch.Words(4)[3], "the last word of the bitmap");
            run.Equal(ulong.MaxValue, run.Scratch.Words(5)[4], "the word after the bitmap");
            run.Equal(0ul, run.Scratch.Words(9)[8], "the word after the leaf's bits");
        });
        table.Add("begins-inside", "a range that begins inside a leaf reports nothing of it and clears it", run =>
        {
            TrackedMemory memory = WithLargeLeaf(run, DeviceNeed.TrackedWriterOfGenericTables);
            memory.Write(300);
            memory.Read(Iova, Large, Page, run.ScratchAddress);
            run.Scratch.Words(64).Clear();
            memory.Write(300);
            memory.Read(Iova + (Large / 2), Large / 2, Page, run.ScratchAddress);
            run.Equal(0ul, run.Scratch.Words(1)[0], "the bitmap of the second half");
            memory.Read(Iova, Large, Page, run.ScratchAddress);
            run.Equal(0ul, run.Scratch.Words(1)[0], "the bitmap of the whole afterwards");
        });
        table.Add("coarse-bit", "with a bit for 2 MiB, a leaf of 2 MiB is one bit", run =>
        {
            TrackedMemory memory = WithLargeLeaf(run);
            memory.Write(1);
            run.Scratch.Words(1).Clear();
            memory.Read(Iova, Large, Large, run.ScratchAddress);
            run.Equal(1ul, run.Scratch.Words(1)[0], "the bitmap");
        });
    }

    /// <summary>Pages 0 to 3 and 8 to 15.</summary>
    private static TrackedMemory WithHole(CaseRun run) => TrackedMemory.Create(run, map: () =>
    {
        run.Map(Iova, 4 * Page);
        run.Map(Iova + (8 * Page), 8 * Page, 8 * Page);
    });

    private static TrackedMemory WithLargeLeaf(CaseRun run, DeviceNeed? need = null)
    {
        ContiguousMemory memory = ContiguousMemory.Create(run, need ?? DeviceNeed.TrackedWriter);
        memory.Map(Iova, 0, ContiguousMemory.ByteLength);
        memory.ReadBits(Iova, ContiguousMemory.ByteLength);
        run.Scratch.Words(4 * 512).Clear();
        return memory.Tracked;
    }
}
