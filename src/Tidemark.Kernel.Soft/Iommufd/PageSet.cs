using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// The memory that one MAP named: a range of the caller's addresses, of a memory file or of a dma-buf. Copies share it.
/// Nothing but a dma-buf is looked at until pages are pinned, so a bad address surfaces then.
/// </summary>
internal sealed class PageSet : IDmaBufImporter
{
    private readonly UserMemory _user;
    private readonly MemoryObject? _file;
    private readonly DmaBuf? _lent;
    private readonly IommufdContext? _context;
    private readonly Dictionary<(ulong From, ulong To), PinnedPages> _pins = [];
    private readonly PageCoverage _pinned = new();
    private int _areas;

    private PageSet(
        UserMemory user, MemoryObject? file, bool isFile, ulong start, bool writable, PageCharge? charge)
    {
        _user = user;
        _file = file;
        Charge = charge;
        IsFile = isFile;
        Start = start;
        Writable = writable;
    }

    private PageSet(IommufdContext context, UserMemory user, DmaBuf lent, ulong start, bool writable)
        : this(user, null, isFile: false, start, writable, charge: null)
    {
        _context = context;
        _lent = lent;
    }

    /// <summary>User address, or offset in the file.</summary>
    public ulong Start { get; }

    /// <summary>Whether copies may be writable; also how pages are pinned.</summary>
    public bool Writable { get; }

    public bool IsFile { get; }

    /// <summary>A dma-buf: the memory of a device, which only devices reach.</summary>
    public bool IsDeviceMemory => _lent is not null;

    /// <summary>The dma-buf was revoked: no page table shows it, ever again. Under the context's lock.</summary>
    public bool IsHidden { get; private set; }

    /// <summary>Whom its pinned pages are charged to; null: somebody else looks after that.</summary>
    public PageCharge? Charge { get; }

    public static PageSet OfUser(UserMemory user, ulong address, bool writable, PageCharge? charge) =>
        new(user, null, isFile: false, address, writable, charge);

    /// <param name="file">With a reference for the page set; null: a file that can not be pinned.</param>
    public static PageSet OfFile(
        UserMemory user, MemoryObject? file, ulong offset, bool writable, PageCharge? charge) =>
        new(user, file, isFile: true, offset, writable, charge);

    /// <summary>
    /// Part of a dma-buf; on success the page set takes over the caller's reference. EINVAL: beyond its end; ENODEV,
    /// EOPNOTSUPP: as <see cref="DmaBuf.TryImport"/>. Under the context's lock, also until it is mapped or abandoned.
    /// </summary>
    public static Errno TryOfDmaBuf(
        IommufdContext context, UserMemory user, DmaBuf buffer, ulong start, ulong byteLength, bool writable,
        out PageSet? pages)
    {
        pages = null;
        if (start + (byteLength - 1) >= buffer.ByteLength)
            return Errno.EINVAL;
        var made = new PageSet(context, user, buffer, start, writable);
        Errno errno = buffer.TryImport(made);
        if (errno == Errno.Success)
            pages = made;
        return errno;
    }

    /// <summary>It was never mapped.</summary>
    public void Abandon()
    {
        _lent?.Forget(this);
        _lent?.Release();
        _file?.Release();
    }

    /// <summary>Under the context's lock, which then empties the page tables.</summary>
    public void Hide() => IsHidden = true;

    public void OnRevoked() => _context!.Hide(this);

    public void AddArea() => _areas++;

    public void RemoveArea()
    {
        if (--_areas == 0)
            Abandon();
    }

    /// <summary>
    /// Pins the pages of a part, those that are pinned already without looking again where they are. They are charged
    /// by <see cref="TryCharge"/>. EFAULT: not the caller's memory; EINVAL: not a memory file, or beyond its end.
    /// </summary>
    public Errno TryPin(ulong firstByte, ulong byteLength, out PinnedPages? pinned)
    {
        ulong from = (Start + firstByte) & ~((ulong)GuestPage.Size - 1);
        ulong to = unchecked(Start + firstByte + byteLength + GuestPage.Size - 1) & ~((ulong)GuestPage.Size - 1);
        if (!_pins.TryGetValue((from, to), out pinned))
        {
            var extents = new List<PinnedExtent>();
            PinnedPages? whole = _pins.Values.FirstOrDefault(pin => pin.From <= from && pin.To >= to);
            // The last page of the address space belongs to no mapping and no file reaches it: a wrapped end is just a
            // bad address, or beyond the file.
            Errno errno = whole is not null ? whole.PinAgain(from, to, extents)
                : to > from ? Resolve(from, to, firstByte, byteLength, extents)
                : IsFile ? Errno.EINVAL : Errno.EFAULT;
            if (errno != Errno.Success)
                return errno;
            pinned = new PinnedPages(this, from, to, extents);
            _pins.Add((from, to), pinned);
            _pinned.Add(from, to);
        }

        pinned.Users++;
        return Errno.Success;
    }

    /// <summary>Charges what was pinned since, each page once. ENOMEM: the limit of locked memory; unpin then.</summary>
    public Errno TryCharge() => Charge?.TrySet(_pinned.Pages) ?? Errno.Success;

    public void Unpin(PinnedPages pinned)
    {
        if (--pinned.Users != 0)
            return;
        _pins.Remove((pinned.From, pinned.To));
        _pinned.Remove(pinned.From, pinned.To);
        foreach (PinnedExtent extent in pinned.Extents)
            extent.Object.Unpin(extent.ByteLength);
        // What was never charged is not given back either.
        if (Charge is not null && _pinned.Pages < Charge.Pages)
            Charge.TrySet(_pinned.Pages);
    }

    /// <summary>Whether a page of a memory object is among the pinned ones.</summary>
    public bool Pins(MemoryObject memory, ulong offset) => _pins.Values.Any(pin => pin.Extents.Exists(
        extent => ReferenceEquals(extent.Object, memory) && offset >= extent.Offset
            && offset - extent.Offset < extent.ByteLength));

    /// <summary>Reads without a lasting pin. EFAULT, or EINVAL for what is beyond a file.</summary>
    public Errno TryRead(ulong firstByte, Span<byte> into)
    {
        if (IsDeviceMemory)
            return Errno.EINVAL;
        ulong at = unchecked(Start + firstByte);
        if (!IsFile)
            return _user.TryCopyIn(at, into) ? Errno.Success : Errno.EFAULT;
        return _file is not null && _file.TryRead(at, into) ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>Writes without a lasting pin. EPERM: not writable; otherwise as <see cref="TryRead"/>.</summary>
    public Errno TryWrite(ulong firstByte, ReadOnlySpan<byte> from)
    {
        if (!Writable)
            return Errno.EPERM;
        if (IsDeviceMemory)
            return Errno.EINVAL;
        ulong at = unchecked(Start + firstByte);
        if (!IsFile)
            return _user.TryCopyOut(at, from) ? Errno.Success : Errno.EFAULT;
        return _file is not null && _file.TryWrite(at, from) ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>Where a dma-buf's memory lies; null: it is ordinary memory.</summary>
    public ulong? DevicePhysical => _lent?.Physical;

    private Errno Resolve(ulong from, ulong to, ulong firstByte, ulong byteLength, List<PinnedExtent> extents)
    {
        if (IsDeviceMemory)
            return Errno.Success;
        if (!IsFile)
            return _user.TryPin(from, to - from, Writable, extents);
        if (_file is null || !_file.Holds(Start + firstByte + (byteLength - 1)))
            return Errno.EINVAL;
        Errno errno = _file.TryPin(from, to - from);
        if (errno != Errno.Success)
            return errno == Errno.EFAULT ? Errno.EINVAL : errno;
        extents.Add(new PinnedExtent(_file, from, to - from));
        return Errno.Success;
    }
}

/// <summary>Pinned pages of a page set. Bounds are in the page set's own addresses, whole pages, the end
/// excluded.</summary>
internal sealed class PinnedPages(PageSet owner, ulong from, ulong to, List<PinnedExtent> extents)
{
    public ulong From { get; } = from;

    public ulong To { get; } = to;

    public List<PinnedExtent> Extents { get; } = extents;

    /// <summary>Areas that use it.</summary>
    public int Users { get; set; }

    /// <summary>
    /// The physically contiguous run at an address of the page set: not beyond an extent or the object's granule.
    /// </summary>
    public (ulong Physical, ulong ByteLength) RunAt(ulong address)
    {
        if (owner.DevicePhysical is { } device)
            return (device + address, To - address);
        ulong start = From;
        foreach (PinnedExtent extent in Extents)
        {
            if (address - start < extent.ByteLength)
            {
                ulong offset = extent.Offset + (address - start);
                ulong granuleEnd = (offset | (Paging.PhysicalMemory.GranuleSize - 1)) + 1;
                ulong end = Math.Min(extent.Offset + extent.ByteLength, granuleEnd);
                return (extent.Object.PhysicalAddress(offset), end - offset);
            }

            start += extent.ByteLength;
        }

        throw new InvalidOperationException($"Address 0x{address:x} is not in the pinned range 0x{From:x}-0x{To:x}.");
    }

    /// <summary>Pins part of what is pinned once more, which can not fail.</summary>
    public Errno PinAgain(ulong from, ulong to, List<PinnedExtent> extents)
    {
        ulong start = From;
        foreach (PinnedExtent extent in Extents)
        {
            ulong first = Math.Max(from, start);
            ulong end = Math.Min(to, start + extent.ByteLength);
            if (first < end)
            {
                var part = new PinnedExtent(extent.Object, extent.Offset + (first - start), end - first);
                part.Object.PinAgain(part.ByteLength);
                extents.Add(part);
            }

            start += extent.ByteLength;
        }

        return Errno.Success;
    }

    public void Unpin() => owner.Unpin(this);
}
