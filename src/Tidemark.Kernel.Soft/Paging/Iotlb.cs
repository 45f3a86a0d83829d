using System.Runtime.CompilerServices;

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

/// <summary>A cached translation of one page. The tag is the page's number plus one; 0 is empty.</summary>
internal record struct IotlbEntry(ulong Tag, ulong HostAddress, IotlbFlags Flags);

/// <summary>
/// A device's cache of translations: 256 sets of 4 ways, least recently used first out. Used under the port's lock.
/// </summary>
/// <remarks>
/// It keeps what it holds until told otherwise, stale or not: that is what software has to deal with. A set is kept in
/// the order of use, so a page in steady use (a completion queue) stays for ever, and software that forgets to
/// invalidate is found out for certain. FIDELITY: large leaves are cached in
/// pages of 4 KiB.
/// </remarks>
internal sealed class Iotlb
{
    private const int Sets = 256;
    private const int Ways = 4;

    private readonly IotlbEntry[] _entries = new IotlbEntry[Sets * Ways];
    /// <summary>
    /// The entry of a page, which becomes its set's most recently used; one whose tag is 0 when there is none.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public IotlbEntry Find(ulong page)
    {
        Span<IotlbEntry> set = _entries.AsSpan((int)(page % Sets) * Ways, Ways);
        if (set[0].Tag == page + 1)
            return set[0];
        for (int way = 1; way < Ways; way++)
        {
            if (set[way].Tag == page + 1)
            {
                IotlbEntry found = set[way];
                PutFirst(set, way, found);
                return found;
            }
        }

        return default;
    }

    /// <summary>Adds a page's translation, or replaces the one it has.</summary>
    public void Fill(ulong page, ulong hostAddress, IotlbFlags flags)
    {
        Span<IotlbEntry> set = _entries.AsSpan((int)(page % Sets) * Ways, Ways);
        int way = 0;
        while (way < Ways - 1 && set[way].Tag != page + 1)
            way++;
        PutFirst(set, way, new IotlbEntry(page + 1, hostAddress, flags));
    }

    /// <summary>Drops pages, given by their numbers.</summary>
    public void Invalidate(ulong firstPage, ulong lastPage)
    {
        ulong firstTag = firstPage + 1;
        ulong lastTag = lastPage == ulong.MaxValue ? lastPage : lastPage + 1;
        foreach (ref IotlbEntry entry in _entries.AsSpan())
        {
            if (entry.Tag >= firstTag && entry.Tag <= lastTag)
                entry.Tag = 0;
        }
    }

    private static void PutFirst(Span<IotlbEntry> set, int from, IotlbEntry entry)
    {
        for (int way = from; way > 0; way--)
            set[way] = set[way - 1];
        set[0] = entry;
    }
}
