using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>Told before memory goes away that an access has pinned, or may have pinned.</summary>
internal interface IIoasAccessOwner
{
    /// <summary>
    /// Everything pinned that touches these IOVAs must be unpinned before this returns; whoever keeps a pin makes the
    /// unmapping fail with EDEADLK after some reminders. Called under the context's lock, once per mapping that is
    /// unmapped, and for all addresses when the access leaves its IOAS.
    /// </summary>
    /// <remarks>
    /// ORDER: may call <see cref="IoasAccess.Unpin"/>, and takes no lock under which it calls the access elsewhere.
    /// </remarks>
    void OnUnmap(ulong first, ulong last);
}

/// <summary>What an access pinned with one call. The pages are whole, in order of IOVA.</summary>
internal sealed class AccessPin(ulong iova, ulong byteLength)
{
    private readonly List<(IoasArea Area, PinnedPages Pages)> _parts = [];
    private readonly List<PinnedExtent> _extents = [];

    public ulong Iova { get; } = iova;

    public ulong ByteLength { get; } = byteLength;

    /// <summary>The memory, from the page of the first address to the page of the last.</summary>
    public IReadOnlyList<PinnedExtent> Extents => _extents;

    /// <summary>Each page lies behind the one before it.</summary>
    public bool IsContiguous
    {
        get
        {
            ulong? next = null;
            foreach (PinnedExtent extent in _extents)
            {
                for (ulong done = 0; done < extent.ByteLength; done += GuestPage.Size)
                {
                    ulong physical = extent.Object.PhysicalAddress(extent.Offset + done);
                    if (next is not null && physical != next)
                        return false;
                    next = physical + GuestPage.Size;
                }
            }

            return true;
        }
    }

    /// <summary>Adds a part whose pages are pinned.</summary>
    /// <param name="firstPage">First page in the page set's own terms.</param>
    public void Add(IoasArea area, PinnedPages pages, ulong firstPage, ulong byteLength, bool locks)
    {
        _parts.Add((area, pages));
        area.Accesses++;
        if (locks)
            area.Locks++;
        ulong start = pages.From;
        foreach (PinnedExtent extent in pages.Extents)
        {
            ulong from = Math.Max(firstPage, start);
            ulong to = Math.Min(firstPage + byteLength, start + extent.ByteLength);
            if (from < to)
                _extents.Add(new PinnedExtent(extent.Object, extent.Offset + (from - start), to - from));
            start += extent.ByteLength;
        }
    }

    public void Release(bool locks)
    {
        foreach ((IoasArea area, PinnedPages pages) in _parts)
        {
            area.Accesses--;
            if (locks)
                area.Locks--;
            pages.Unpin();
        }

        _parts.Clear();
        _extents.Clear();
    }
}
