using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>A mapping of a type1 container: IOVAs and the caller's memory that they show.</summary>
/// <param name="process">Who mapped it, and is charged for its pages while they are pinned.</param>
internal sealed class Type1Mapping(
    UserMemory user, SoftProcess process, ulong first, ulong address, ulong byteLength, VfioDmaMapFlags access)
{
    private SoftProcess _process = process;
    private PageSet _pages = PageSet.OfUser(user, address, (access & VfioDmaMapFlags.Write) != 0, charge: null);
    private PageSet? _pinnedPages;
    private ulong _charged;
    private PinnedPages? _pins;

    public ulong First => first;

    public ulong Last => first + (byteLength - 1);

    public ulong ByteLength => byteLength;

    public bool IsReadable => (access & VfioDmaMapFlags.Read) != 0;

    public bool IsWritable => (access & VfioDmaMapFlags.Write) != 0;

    /// <summary>Its pages are pinned and in every domain.</summary>
    public bool IsMapped => _pins is not null;

    /// <summary>The caller said that the address does not hold any more; the pages stay what they were.</summary>
    public bool AddressIsInvalid { get; set; }

    /// <summary>Present exactly while the container tracks dirty pages.</summary>
    public Type1Bitmap? Bitmap { get; set; }

    /// <summary>
    /// A new address, for pages that are pinned from here on, and a new owner. ENOMEM: what is pinned would pass the
    /// owner's limit of locked memory; nothing is changed then.
    /// </summary>
    public Errno TrySetAddress(ulong newAddress, SoftProcess owner)
    {
        if (!ReferenceEquals(owner, _process))
        {
            // ORDER: the new owner is charged before the old one is given anything back.
            Errno errno = TryCharge(owner, _charged);
            if (errno != Errno.Success)
                return errno;
            _process.Locked.Remove(_charged);
            _process = owner;
        }

        _pages = PageSet.OfUser(user, newAddress, IsWritable, charge: null);
        return Errno.Success;
    }

    /// <summary>
    /// Pins the pages and charges them. EFAULT: not the caller's memory; ENOMEM: the limit of locked memory. Whichever
    /// comes first in order of address answers.
    /// </summary>
    /// <param name="caller">Whose limit holds; it need not be the one who is charged.</param>
    public Errno TryPin(SoftProcess caller)
    {
        if (_pins is not null)
            return Errno.Success;
        ulong pages = byteLength / GuestPage.Size;
        ulong used = _process.Locked.Count;
        ulong room = caller.LimitPages > used ? caller.LimitPages - used : 0;
        if (!_process.IsPrivileged && pages > room && user.CountPinnablePages(_pages.Start, room + 1, IsWritable) > room)
            return Errno.ENOMEM;
        Errno errno = _pages.TryPin(0, byteLength, out _pins);
        if (errno != Errno.Success)
            return errno;
        _pinnedPages = _pages;
        errno = TryCharge(_process, pages);
        if (errno == Errno.Success)
            _charged = pages;
        else
            Unpin();
        return errno;
    }

    /// <summary>Also gives back what was charged.</summary>
    public void Unpin()
    {
        _process.Locked.Remove(_charged);
        _charged = 0;
        _pins?.Unpin();
        _pins = null;
        _pinnedPages = null;
    }

    /// <summary>Who is privileged is charged too, without a limit.</summary>
    private static Errno TryCharge(SoftProcess process, ulong pages) =>
        process.Locked.TryAdd(pages, process.IsPrivileged ? ulong.MaxValue : process.LimitPages);

    /// <summary>The physically contiguous run at a byte of the mapping, which is pinned.</summary>
    public (ulong Physical, ulong ByteLength) RunAt(ulong offset) => _pins!.RunAt(_pinnedPages!.Start + offset);
}
