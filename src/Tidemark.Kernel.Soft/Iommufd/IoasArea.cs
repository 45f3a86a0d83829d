using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>A mapping in an IOAS: IOVAs, and the part of a page set that they show.</summary>
internal sealed class IoasArea(ulong first, ulong last, PageSet pages, ulong firstByte, IommuIoasMapFlags permissions)
{
    public ulong First { get; } = first;

    public ulong Last { get; } = last;

    public PageSet Pages { get; } = pages;

    /// <summary>Where the area starts in the page set.</summary>
    public ulong FirstByte { get; } = firstByte;

    public IommuIoasMapFlags Permissions { get; } = permissions;

    /// <summary>Present exactly while the IOAS has a page table.</summary>
    public PinnedPages? Pins { get; private set; }

    /// <summary>Pins by accesses; and those of them that forbid unmapping.</summary>
    public int Accesses { get; set; }

    public int Locks { get; set; }

    /// <summary>Being unmapped: accesses are told to let go, and get nothing more of it.</summary>
    public bool PreventAccess { get; set; }

    /// <summary>The address in the page set's own terms: a user address, or an offset in the file.</summary>
    public ulong SourceAddress => Pages.Start + FirstByte;

    /// <summary>Pins the pages, uncharged; nothing when they are pinned already.</summary>
    public Errno TryPin()
    {
        if (Pins is not null)
            return Errno.Success;
        Errno errno = Pages.TryPin(FirstByte, Last - First + 1, out PinnedPages? pins);
        Pins = pins;
        return errno;
    }

    public void Unpin()
    {
        Pins?.Unpin();
        Pins = null;
    }
}

/// <summary>IOVAs that can not be used, both ends included, and on whose account.</summary>
internal readonly record struct ReservedIovas(ulong First, ulong Last, object Owner);
