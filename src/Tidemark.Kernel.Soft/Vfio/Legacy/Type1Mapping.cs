using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>A mapping of a type1 container: IOVAs and the caller's memory that they show.</summary>
internal sealed class Type1Mapping(UserMemory user, ulong first, ulong address, ulong byteLength, VfioDmaMapFlags access)
{
    private PageSet _pages = PageSet.OfUser(user, address, (access & VfioDmaMapFlags.Write) != 0);
    private PageSet? _pinnedPages;
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

    /// <summary>A new address, for pages that are pinned from here on.</summary>
    public void SetAddress(ulong newAddress) => _pages = PageSet.OfUser(user, newAddress, IsWritable);

    /// <summary>EFAULT: not the caller's memory; ENOMEM.</summary>
    public Errno TryPin()
    {
        if (_pins is not null)
            return Errno.Success;
        Errno errno = _pages.TryPin(0, byteLength, out _pins);
        if (errno == Errno.Success)
            _pinnedPages = _pages;
        return errno;
    }

    public void Unpin()
    {
        _pins?.Unpin();
        _pins = null;
        _pinnedPages = null;
    }

    /// <summary>The physically contiguous run at a byte of the mapping, which is pinned.</summary>
    public (ulong Physical, ulong ByteLength) RunAt(ulong offset) => _pins!.RunAt(_pinnedPages!.Start + offset);
}
