using System.Runtime.CompilerServices;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>What a translation allows, and what the hardware need not do again.</summary>
[Flags]
internal enum IotlbFlags : uint
{
    None = 0,
    Read = 1,
    Write = 2,

    /// <summary>The leaf's dirty bit is set, or nobody tracks: a write through this entry leaves the leaf
    /// alone.</summary>
    DirtyKnown = 4,
}

/// <summary>A cached translation of one 4 KiB page. The tag is the page's number plus one; 0 is empty.</summary>
internal record struct IotlbEntry(ulong Tag, ulong HostAddress, IotlbFlags Flags);

/// <summary>
/// A device's cache of translations: 256 sets of 4 ways, replaced in turn. Used under the port's lock.
/// </summary>
/// <remarks>
/// It keeps what it holds until told otherwise, stale or not: that is what software has to deal with. FIDELITY: large
/// leaves are cached in pages of 4 KiB.
/// </remarks>
internal sealed class Iotlb
{
    private const int Sets = 256;
    private const int Ways = 4;

    private readonly IotlbEntry[] _entries = new IotlbEntry[Sets * Ways];
    private readonly byte[] _next = new byte[Sets];

    /// <summary>The entry of a page; one whose tag is 0 when there is none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public IotlbEntry Find(ulong page)
    {
        int first = (int)(page % Sets) * Ways;
        ReadOnlySpan<IotlbEntry> set = _entries.AsSpan(first, Ways);
        for (int way = 0; way < Ways; way++)
        {
            if (set[way].Tag == page + 1)
                return set[way];
        }

        return default;
    }

    /// <summary>Adds a page's translation, or replaces the one it has.</summary>
    public void Fill(ulong page, ulong hostAddress, IotlbFlags flags)
    {
        int setIndex = (int)(page % Sets);
        Span<IotlbEntry> set = _entries.AsSpan(setIndex * Ways, Ways);
        int victim = -1;
        for (int way = 0; way < Ways; way++)
        {
            if (set[way].Tag == page + 1)
                victim = way;
        }

        if (victim < 0)
        {
            victim = _next[setIndex];
            _next[setIndex] = (byte)((victim + 1) % Ways);
        }

        set[victim] = new IotlbEntry(page + 1, hostAddress, flags);
    }

    /// <summary>Drops every page that the range touches.</summary>
    public void Invalidate(ulong first, ulong last)
    {
        ulong firstTag = (first >> GuestPage.Shift) + 1;
        ulong lastTag = (last >> GuestPage.Shift) + 1;
        foreach (ref IotlbEntry entry in _entries.AsSpan())
        {
            if (entry.Tag >= firstTag && entry.Tag <= lastTag)
                entry.Tag = 0;
        }
    }
}
