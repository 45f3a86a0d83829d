namespace Tidemark.Memory;

/// <summary>
/// A piece of guest memory: a page-aligned range of guest-physical addresses and where it lies in this process.
/// </summary>
/// <param name="Start">First guest-physical address, a multiple of <see cref="GuestPage.Size"/>.</param>
/// <param name="ByteLength">Length in bytes, a multiple of <see cref="GuestPage.Size"/>, not 0.</param>
/// <param name="Host">Where the first byte lies in this process.</param>
/// <param name="FileOffset">Offset of the first byte in the memory file (memfd) that backs the guest's memory.</param>
public sealed record MemorySlot(GuestPhysicalAddress Start, ulong ByteLength, HostAddress Host, ulong FileOffset)
{
    /// <summary>First guest page of the slot.</summary>
    public ulong FirstPage => Start.Page;

    /// <summary>Number of guest pages in the slot.</summary>
    public ulong PageCount => ByteLength >> GuestPage.Shift;

    /// <summary>The first address after the slot.</summary>
    public GuestPhysicalAddress End => new(Start.Value + ByteLength);
}
