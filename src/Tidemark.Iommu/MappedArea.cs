using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>What a device may do with a mapping.</summary>
[Flags]
public enum DmaAccess
{
    None = 0,
    Read = 1,
    Write = 2,
    ReadWrite = Read | Write,
}

/// <summary>
/// One mapping of an address space, exactly as it was made. The kernel answers questions about dirty bits only for what
/// was mapped and stops silently at the first hole, so every mapping is remembered.
/// </summary>
/// <param name="Guest">The guest-physical address of the first byte, or null when it is not guest memory.</param>
public sealed record MappedArea(IovaRange Range, DmaAccess Access, GuestPhysicalAddress? Guest)
{
    /// <summary>Whether a device's write through this mapping dirties guest memory.</summary>
    public bool CanDirtyGuest => Guest is not null && (Access & DmaAccess.Write) != 0;

    public override string ToString() => Guest is { } guest ? $"{Range} (guest {guest})" : $"{Range}";
}

/// <summary>The IOVAs an address space can use now.</summary>
/// <param name="Ranges">Ascending and disjoint; empty when everything is reserved.</param>
/// <param name="Alignment">Every mapping's start and length are multiples of this, in bytes.</param>
public sealed record UsableIovas(IReadOnlyList<IovaRange> Ranges, ulong Alignment)
{
    /// <summary>Whether one usable range holds all of <paramref name="wanted"/>.</summary>
    public bool Contains(IovaRange wanted) => Ranges.Any(range => range.Contains(wanted));

    public override string ToString() => Ranges.Count == 0 ? "none" : string.Join(", ", Ranges);
}
