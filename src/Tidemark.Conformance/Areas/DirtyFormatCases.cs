using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Dirty bits where the formats of page tables differ. Each case lets a real device write.</summary>
internal static class DirtyFormatCases
{
    private const string Area = "page-formats";
    private const ulong K = 1024;
    private const ulong Large = 2048 * K;

    public static void AddTo(List<ConformanceCase> cases)
    {
        foreach (IommuFamily family in IommuFamily.All)
        {
            AddFresh(
                new CaseTable(cases, Area, $"iommufd.fresh-leaf.{family.Name}", "kernel behaviour, new mappings"),
                family);
            AddSwitch(
                new CaseTable(
                    cases, Area, $"iommufd.tracking-switch.{family.Name}", "kernel behaviour, tracking off and on"),
                family);
            AddEdges(
                new CaseTable(
                    cases, Area, $"iommufd.leaf-edge.{family.Name}", "kernel behaviour, queries that cut leaves"),
                family);
        }
    }

    private static void AddFresh(CaseTable table, IommuFamily family)
    {
        string dirty = family.StartsDirty ? "dirty" : "clean";
        ulong all = family.StartsDirty ? 0xFFFFul : 0;
        table.Add("mapped-while-tracking", $"what is mapped while tracking is on begins {dirty}", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, map: () => { }, need: family.TrackedWriter);
            run.Map(Iova, MemoryPages * Page);
            run.Equal(all, memory.Read(), "the bitmap of a new mapping");
            run.Equal(0ul, memory.Read(), "the bitmap read again");
        });
        table.Add("mapped-before-tracking", $"without enabling, what is mapped is {dirty}", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, enable: false, need: family.TrackedWriter);
            run.Equal(all, memory.Read(), "the bitmap of a new mapping");
        });
        table.Add("read-only", "what a device can not write begins clean", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, map: () => { }, need: family.TrackedWriter);
            run.Answers(
                run.TryMap(
                    Iova, run.MemoryAddress, MemoryPages * Page,
                    IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable),
                Errno.Success, "mapping");
            run.Equal(0ul, memory.Read(), "the bitmap of a new mapping");
        });
        table.Add("mapped-again", $"what is unmapped and mapped again begins {dirty}", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, need: family.TrackedWriter);
            memory.Write(5);
            run.Answers(run.Unmap(Iova, MemoryPages * Page, out _), Errno.Success, "unmapping");
            run.Map(Iova, MemoryPages * Page);
            run.Equal(all, memory.Read(), "the bitmap");
        });
        table.Add("copied", $"a copy begins {dirty}, whatever its source is", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, need: family.TrackedWriter);
            memory.Write(5);
            const ulong Other = Iova + (1 << 20);
            IommuIoasCopy copy = IommuIoasCopy.Create(
                run.Ioas, Other, run.Ioas, Iova, MemoryPages * Page, Fixed);
            run.Answers(ref copy, Errno.Success);
            run.Scratch.Words(1)[0] = 0;
            memory.Read(Other, MemoryPages * Page, Page, run.ScratchAddress);
            run.Equal(all, run.Scratch.Words(1)[0], "the bitmap of the copy");
            run.Equal(0x20ul, memory.Read(), "the bitmap of the source");
        });
        table.Add("enabling-cleans", "enabling makes clean what is mapped", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, enable: false, need: family.TrackedWriter);
            memory.Enable();
            run.Equal(0ul, memory.Read(), "the bitmap");
        });
        table.Add("second-page-table", $"a page table made later begins {dirty}", run =>
        {
            TrackedMemory first = TrackedMemory.Create(run, need: family.TrackedWriter);
            first.Write(5);
            uint second = run.AllocateHwpt(run.Device, IommuHwptAllocFlags.DirtyTracking);
            IommuHwptGetDirtyBitmap call = IommuHwptGetDirtyBitmap.Create(
                second, Iova, MemoryPages * Page, Page, run.ScratchAddress, 0);
            run.Scratch.Words(1)[0] = 0;
            run.Answers(ref call, Errno.Success);
            run.Equal(all, run.Scratch.Words(1)[0], "the bitmap of the second page table");
            run.Equal(0x20ul, first.Read(), "the bitmap of the first page table");
        });
    }

    private static void AddSwitch(CaseTable table, IommuFamily family)
    {
        ulong seen = family.StartsDirty ? 0x40ul : 0;
        string told = family.StartsDirty ? "reported all the same" : "not reported";
        table.Add("written-while-off", $"after disabling, a write is {told}", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, need: family.TrackedWriter);
            memory.Disable();
            memory.Write(6);
            run.Equal(seen, memory.Read(), "the bitmap");
        });
        table.Add("written-before-and-while-off", $"what was dirty stays so; a write after disabling is {told}", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, need: family.TrackedWriter);
            memory.Write(5);
            memory.Disable();
            memory.Write(6);
            run.Equal(seen | 0x20, memory.Read(), "the bitmap");
        });
        table.Add("written-after-enabling-again", "after enabling again writes are reported", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, need: family.TrackedWriter);
            memory.Disable();
            memory.Write(6);
            memory.Enable();
            memory.Write(7);
            run.Equal(0x80ul, memory.Read(), "the bitmap");
        });
        table.Add("disabled-twice", "disabling what is disabled changes nothing", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, need: family.TrackedWriter);
            memory.Write(5);
            memory.Disable();
            memory.Disable();
            run.Equal(0x20ul, memory.Read(), "the bitmap");
        });
        table.Add("never-enabled", $"before enabling, a write is {told}", run =>
        {
            TrackedMemory memory = TrackedMemory.Create(run, enable: false, need: family.TrackedWriter);
            memory.Read();
            memory.Write(6);
            run.Equal(seen, memory.Read(), "the bitmap");
        });
    }

    private static void AddEdges(CaseTable table, IommuFamily family)
    {
        table.Add("64-kib-begins-inside", BeginsInside(family), run =>
        {
            ContiguousMemory memory = With64(run, family);
            memory.Tracked.Write(12);
            memory.ReadBits(Iova + (32 * K), 32 * K);
            if (family.LeafAt(Iova, 64 * K) == Page)
                memory.AreSet(4, 1, "the dirty pages, counted from page 8");
            else
                memory.AreSet(0, 0, "the dirty pages");
            run.Equal(0, memory.ReadBits(Iova, 64 * K), "the dirty pages afterwards");
        });
        table.Add("64-kib-ends-inside", "a leaf that ends beyond the query sets its bits beyond it", run =>
        {
            ContiguousMemory memory = With64(run, family);
            memory.Tracked.Write(3);
            memory.ReadBits(Iova, 32 * K);
            ulong leaf = family.LeafAt(Iova, 64 * K) / Page;
            memory.AreSet(3 / leaf * leaf, leaf, "the dirty pages");
        });
        table.Add("64-kib-written-behind-the-query", "a leaf is dirty wherever it was written", run =>
        {
            ContiguousMemory memory = With64(run, family);
            memory.Tracked.Write(12);
            memory.ReadBits(Iova, 32 * K);
            if (family.LeafAt(Iova, 64 * K) == Page)
                memory.AreSet(0, 0, "the dirty pages");
            else
                memory.AreSet(0, 16, "the dirty pages");
        });
        table.Add("64-kib-no-clear-begins-inside", "without clearing the leaf stays dirty", run =>
        {
            ContiguousMemory memory = With64(run, family);
            memory.Tracked.Write(12);
            memory.ReadBits(Iova + (32 * K), 32 * K, clear: false);
            ulong leaf = family.LeafAt(Iova, 64 * K) / Page;
            memory.ReadBits(Iova, 64 * K);
            memory.AreSet(12 / leaf * leaf, leaf, "the dirty pages");
        });
        table.Add("2-mib-begins-inside", BeginsInside(family), run =>
        {
            ContiguousMemory memory = WithLarge(run, family);
            memory.Tracked.Write(300);
            memory.ReadBits(Iova + (Large / 2), Large / 2);
            memory.AreSet(0, family.StartsDirty ? 512ul : 0, "the dirty pages, counted from page 256");
            run.Equal(0, memory.ReadBits(Iova, Large), "the dirty pages afterwards");
        });
        table.Add("2-mib-ends-inside", "a leaf that ends beyond the query sets its bits beyond it", run =>
        {
            ContiguousMemory memory = WithLarge(run, family);
            memory.Tracked.Write(300);
            memory.ReadBits(Iova, Large / 2);
            memory.AreSet(0, 512, "the dirty pages");
        });
        table.Add("beyond-the-page-of-an-unaligned-bitmap",
            "a bitmap that begins inside a page may be overrun into the next one", run =>
        {
            const ulong Offset = Page - 8;
            ContiguousMemory memory = WithLarge(run, family);
            memory.Tracked.Write(300);
            run.Scratch.Bytes(0, 4 * (int)Page).Clear();
            memory.Tracked.Read(Iova, 64 * Page, Page, run.ScratchAddress + Offset);
            Span<byte> bytes = run.Scratch.Bytes(Offset, 65);
            run.Holds(!bytes[..64].ContainsAnyExcept((byte)0xFF), "all bits of the leaf to be set");
            run.Equal((byte)0, bytes[64], "the byte after the leaf's bits");
        });
        table.Add("large-bits", "a bit that stands for more than a leaf is set by any of its leaves", run =>
        {
            ContiguousMemory memory = With64(run, family);
            memory.Tracked.Write(12);
            run.Scratch.Words(1)[0] = 0;
            memory.Tracked.Read(Iova, 64 * K, 32 * K, run.ScratchAddress);
            run.Equal(family.LeafAt(Iova, 64 * K) == Page ? 2ul : 3, run.Scratch.Words(1)[0], "the bitmap");
        });
    }

    private static string BeginsInside(IommuFamily family) => family.StartsDirty
        ? "a query that begins inside a leaf counts the leaf on from its own start"
        : "a query that begins inside a leaf reports nothing of it and clears it";

    private static ContiguousMemory With64(CaseRun run, IommuFamily family) => With(run, family, 64 * K);

    private static ContiguousMemory WithLarge(CaseRun run, IommuFamily family) => With(run, family, Large);

    private static ContiguousMemory With(CaseRun run, IommuFamily family, ulong byteLength)
    {
        ContiguousMemory memory = ContiguousMemory.Create(run, family.TrackedWriter);
        memory.Map(Iova, 0, byteLength);
        memory.ReadBits(Iova, byteLength);
        return memory;
    }
}
