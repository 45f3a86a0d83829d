namespace Tidemark.Memory;

/// <summary>
/// A guest's physical memory as it lies in this process: slots that somebody else obtained (and will unmap), and the
/// only ways to read and write them.
/// </summary>
/// <remarks>
/// A device may write any of this at any time. So reads copy out before anything is parsed, and no span of guest memory
/// is handed to code that looks twice. All processor writes go through <c>Write…</c> members, which tell the
/// <see cref="WriteBarrier"/> when there is one.
/// The dereferencing half is in GuestMemory.Unsafe.cs.
/// </remarks>
public sealed partial class GuestMemory
{
    private readonly MemorySlot[] _slots;

    /// <param name="slots">Ascending and disjoint; page-aligned.</param>
    public GuestMemory(IReadOnlyList<MemorySlot> slots)
    {
        ArgumentNullException.ThrowIfNull(slots);
        _slots = [.. slots];
        ulong floor = 0;
        foreach (MemorySlot slot in _slots)
        {
            if (slot.Start.Value % GuestPage.Size != 0 || slot.ByteLength % GuestPage.Size != 0 || slot.ByteLength == 0)
                throw new ArgumentException($"Memory slot at {slot.Start} is not a whole number of pages.", nameof(slots));
            if (slot.Start.Value < floor)
                throw new ArgumentException($"Memory slot at {slot.Start} overlaps or is out of order.", nameof(slots));
            floor = slot.End.Value;
            ByteLength += slot.ByteLength;
        }

        SpanPages = floor >> GuestPage.Shift;
    }

    public IReadOnlyList<MemorySlot> Slots => _slots;

    /// <summary>Memory the guest has, in bytes; holes not counted.</summary>
    public ulong ByteLength { get; }

    /// <summary>
    /// Pages from guest-physical 0 to the end of the last slot, holes counted: the length of page bitmaps.
    /// </summary>
    public ulong SpanPages { get; }

    /// <summary>
    /// Told of each processor write when it is made, or null when the kernel observes processor writes.
    /// </summary>
    public IWriteBarrier? WriteBarrier { get; set; }

    /// <summary>Every page of every slot, as a bitmap: pass 0.</summary>
    public PageBitmap AllPages()
    {
        var pages = new PageBitmap(SpanPages);
        foreach (MemorySlot slot in _slots)
            pages.SetRange(slot.FirstPage, slot.PageCount);
        return pages;
    }

    /// <summary>The slot that holds the whole range, or null when any byte of it is outside guest memory.</summary>
    public MemorySlot? FindSlot(GuestPhysicalAddress address, ulong byteLength)
    {
        foreach (MemorySlot slot in _slots)
        {
            if (address.Value >= slot.Start.Value && address.Value < slot.End.Value)
                return byteLength <= slot.End.Value - address.Value ? slot : null;
        }

        return null;
    }

    /// <summary>A part of one slot, as a slot.</summary>
    /// <param name="start">Page-aligned.</param>
    /// <param name="byteLength">A multiple of the page size, not 0.</param>
    /// <exception cref="ArgumentException">It is not whole pages, or any of it is outside guest memory.</exception>
    public MemorySlot Cut(GuestPhysicalAddress start, ulong byteLength)
    {
        ArgumentOutOfRangeException.ThrowIfZero(byteLength);
        if (start.Value % GuestPage.Size != 0 || byteLength % GuestPage.Size != 0)
        {
            throw new ArgumentException(
                $"The window of 0x{byteLength:x} bytes at {start} is not whole pages.", nameof(start));
        }

        MemorySlot slot = FindSlot(start, byteLength) ?? throw new ArgumentOutOfRangeException(
            nameof(start), $"Guest memory has no 0x{byteLength:x} bytes at {start}.");
        ulong skipped = start.Value - slot.Start.Value;
        return new MemorySlot(
            start, byteLength, new HostAddress(slot.Host.Value + skipped), slot.FileOffset + skipped);
    }

    private ulong Locate(GuestPhysicalAddress address, ulong byteLength)
    {
        MemorySlot slot = FindSlot(address, byteLength)
            ?? throw new ArgumentOutOfRangeException(
                nameof(address), $"Guest memory has no {byteLength} bytes at {address}.");
        return slot.Host.Value + (address.Value - slot.Start.Value);
    }
}

/// <summary>Observes processor writes where the running kernel can not.</summary>
public interface IWriteBarrier
{
    /// <summary>
    /// The bytes have been written. Any thread.
    /// ORDER: called after the store. A harvest between the store and the mark misses the page, and the next one has
    /// it; a mark before the store could be harvested, the page sent, and the store lost. The last harvest comes after
    /// the last writer is quiet, so "the next one" exists.
    /// </summary>
    void Mark(GuestPhysicalAddress address, ulong byteLength);
}
