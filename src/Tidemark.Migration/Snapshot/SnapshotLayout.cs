using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Snapshot;

/// <summary>
/// Where everything is in a snapshot file. It follows from three figures (bytes of the description, of the table of
/// parts, and the slots), so a page has one place from the first pass on. To the byte:
/// docs/reference/snapshot-format.md.
/// </summary>
/// <remarks>
/// <code>
/// 0       header                one page, written last
/// 4096    description           machine description, slots, parts; whole pages
///         present               one bit for each file page; whole pages
///         checksums             XXH3 of each file page, 0 for one that is not present; whole pages
///         memory                from the next MiB on: slot after slot, each from a whole MiB on; the only sparse part
///         state                 what the parts said, in chunks, in the order in which it came
///         trailer               64 bytes, written with the header
/// </code>
/// A file page is a page of the memory section; slots begin at multiples of <see cref="WindowPages"/>, so a window
/// belongs to one slot and its bits are whole words.
/// </remarks>
internal sealed class SnapshotLayout
{
    /// <summary>File pages in a window: what one thread reads or writes at a time.</summary>
    public const int WindowPages = 256;

    public const int PageBytes = (int)GuestPage.Size;

    public const int HeaderBytes = PageBytes;

    public const int TrailerBytes = 64;

    public const int SlotBytes = 16;

    private const ulong MemoryAlignment = WindowPages * (ulong)PageBytes;

    /// <summary>
    /// LIMIT: 4 TiB of guest memory; its checksums take 8 GiB of this process while a snapshot is saved.
    /// </summary>
    public const ulong MaximumPages = 1UL << 30;

    /// <summary>LIMIT: as for a migration.</summary>
    public const int MaximumDescriptionBytes = FrameLimits.DescriptionBytes;

    /// <summary>LIMIT: as for a migration.</summary>
    public const int MaximumSlots = FrameLimits.Slots;

    /// <summary>LIMIT: as for a migration.</summary>
    public const int MaximumParts = FrameLimits.Parts;

    /// <summary>LIMIT: parts with names as long as they may be.</summary>
    public const int MaximumPartsBytes = MaximumParts * (10 + PartTable.MaximumNameBytes);

    private readonly ulong[] _bases;

    /// <param name="slots">Ascending and disjoint, checked by the caller.</param>
    public SnapshotLayout(int descriptionBytes, IReadOnlyList<PageRun> slots, int partsBytes)
    {
        DescriptionBytes = descriptionBytes;
        PartsBytes = partsBytes;
        Slots = slots;
        _bases = new ulong[slots.Count];
        for (int index = 0; index < slots.Count; index++)
        {
            _bases[index] = Pages;
            Pages += AlignUp(slots[index].Count, WindowPages);
        }
    }

    public int DescriptionBytes { get; }

    public int PartsBytes { get; }

    /// <summary>Guest pages of each slot.</summary>
    public IReadOnlyList<PageRun> Slots { get; }

    /// <summary>File pages; those between two slots stand for no guest page and are never present.</summary>
    public ulong Pages { get; }

    public ulong Windows => Pages / WindowPages;

    public static ulong DescriptionOffset => HeaderBytes;

    /// <summary>Where the table of slots begins in its section.</summary>
    public int SlotsAt => (int)AlignUp((ulong)DescriptionBytes, 8);

    public int PartsAt => SlotsAt + Slots.Count * SlotBytes;

    public ulong DescriptionSectionBytes => AlignUp((ulong)(PartsAt + PartsBytes), PageBytes);

    public ulong PresentOffset => DescriptionOffset + DescriptionSectionBytes;

    public ulong PresentBytes => AlignUp(Pages / 8, PageBytes);

    public ulong ChecksumsOffset => PresentOffset + PresentBytes;

    public ulong ChecksumsBytes => AlignUp(Pages * 8, PageBytes);

    public ulong MemoryOffset => AlignUp(ChecksumsOffset + ChecksumsBytes, MemoryAlignment);

    public ulong StateOffset => MemoryOffset + Pages * PageBytes;

    /// <summary>
    /// The guest pages that a window holds: consecutive, in one slot; where its first is in the file.
    /// </summary>
    public PageRun FindWindow(ulong window)
    {
        ulong filePage = window * WindowPages;
        int slot = Array.BinarySearch(_bases, filePage);
        // The last slot that begins at or before the window. One without pages can not be: they are refused.
        if (slot < 0)
            slot = ~slot - 1;
        ulong skipped = filePage - _bases[slot];
        PageRun pages = Slots[slot];
        return new PageRun(pages.FirstPage + skipped, Math.Min(WindowPages, pages.Count - skipped));
    }

    public ulong OffsetOf(ulong filePage) => MemoryOffset + filePage * PageBytes;

    public static ulong AlignUp(ulong value, ulong alignment) => (value + (alignment - 1)) & ~(alignment - 1);
}
