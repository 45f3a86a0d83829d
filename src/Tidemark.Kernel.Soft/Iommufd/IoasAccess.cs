using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// Use of an IOAS without an IOMMU: an emulated device (mdev) that reaches memory through its mappings. An object of
/// the context, which it keeps alive until <see cref="Close"/>.
/// </summary>
/// <remarks>
/// <code>
/// Create -> unattached --Attach--> attached --Replace--> attached --Detach--> unattached -> Close
///                                   | TryPin .. Unpin, TryRead, TryWrite: by IOVA
///                                   | unmapping: the owner is told, and lets go
/// </code>
/// Members take the context's lock themselves. The alignment of the IOAS is at least the access's while it is attached.
/// </remarks>
internal sealed class IoasAccess : IommuObject
{
    /// <summary>LIMIT: reminders before an unmapping gives up on an owner that keeps its pins (Linux's number).</summary>
    public const int Reminders = 100;

    private readonly IommufdContext _context;
    private readonly bool _holdsContext;
    private readonly List<AccessPin> _pins = [];
    private Ioas? _ioas;
    private bool _moving;
    private bool _closed;

    /// <param name="owner">Null: an access of the context itself, whose pins lock what they pin: EBUSY to unmap.</param>
    /// <param name="pinsPages">It may pin, and so works in whole pages.</param>
    /// <param name="holdsContext">The context lives until the access is closed, and has one reference for it.</param>
    public IoasAccess(IommufdContext context, IIoasAccessOwner? owner, bool pinsPages, bool holdsContext = true)
    {
        _context = context;
        _holdsContext = holdsContext;
        Owner = owner;
        Alignment = pinsPages ? GuestPage.Size : 1UL;
        // Its maker holds it: DESTROY of its id is EBUSY.
        Users = 1;
    }

    public IIoasAccessOwner? Owner { get; }

    public ulong Alignment { get; }

    public bool PinsPages => Alignment == GuestPage.Size;

    public bool IsAttached => _ioas is not null;

    /// <summary>EINVAL: attached already; ENOENT: no such IOAS; EADDRINUSE: a mapping is not aligned for it.</summary>
    public Errno Attach(uint ioasId)
    {
        lock (_context.Gate)
            return _ioas is not null ? Errno.EINVAL : MoveTo(ioasId);
    }

    /// <summary>ENOENT: not attached, or no such IOAS; EADDRINUSE: as above. The old attachment is then intact.</summary>
    public Errno Replace(uint ioasId)
    {
        lock (_context.Gate)
            return _ioas is null ? Errno.ENOENT : MoveTo(ioasId);
    }

    /// <summary>The owner lets go of everything. Nothing when not attached.</summary>
    public void Detach()
    {
        lock (_context.Gate)
            MoveTo((Ioas?)null);
    }

    /// <summary>Detaches and destroys the object.</summary>
    public void Close()
    {
        lock (_context.Gate)
        {
            if (_closed)
                return;
            _closed = true;
            MoveTo((Ioas?)null);
            _context.Objects.Remove(this);
            Users = 0;
        }

        if (_holdsContext)
            _context.Drop();
    }

    public override void Destroy() => MoveTo((Ioas?)null);

    /// <summary>
    /// Pins the pages of a range. EINVAL: length 0, or pages and IOVAs not aligned to each other; EOVERFLOW; ENOENT:
    /// not attached, or a gap; EPERM: not mapped for this; EFAULT, ENOMEM and EINVAL as pinning has it. On failure
    /// nothing is pinned.
    /// </summary>
    public Errno TryPin(ulong iova, ulong byteLength, bool write, out AccessPin? pin)
    {
        pin = null;
        if (!PinsPages || byteLength == 0)
            return Errno.EINVAL;
        if (iova > ulong.MaxValue - (byteLength - 1))
            return Errno.EOVERFLOW;
        lock (_context.Gate)
        {
            if (_ioas is null || _moving)
                return Errno.ENOENT;
            var made = new AccessPin(iova, byteLength);
            Errno errno = Pin(_ioas, made, write);
            if (errno != Errno.Success)
            {
                made.Release(Owner is null);
                return errno;
            }

            _pins.Add(made);
            pin = made;
            return Errno.Success;
        }
    }

    /// <summary>Ends one pin of exactly this range. False: there is none.</summary>
    public bool Unpin(ulong iova, ulong byteLength)
    {
        lock (_context.Gate)
        {
            int index = _pins.FindIndex(pin => pin.Iova == iova && pin.ByteLength == byteLength);
            if (index < 0)
                return false;
            AccessPin pin = _pins[index];
            _pins.RemoveAt(index);
            pin.Release(Owner is null);
            return true;
        }
    }

    /// <summary>Reads memory by IOVA; errors as <see cref="TryPin"/>, without its alignment. What comes before a gap is
    /// read.</summary>
    public Errno TryRead(ulong iova, Span<byte> into)
    {
        if (into.IsEmpty)
            return Errno.EINVAL;
        if (iova > ulong.MaxValue - ((ulong)into.Length - 1))
            return Errno.EOVERFLOW;
        lock (_context.Gate)
        {
            if (_ioas is null || _moving)
                return Errno.ENOENT;
            while (!into.IsEmpty)
            {
                Errno errno = TryFindPart(iova, (ulong)into.Length, write: false, out IoasArea? area, out ulong part);
                if (errno == Errno.Success)
                    errno = area!.Pages.TryRead(area.FirstByte + (iova - area.First), into[..(int)part]);
                if (errno != Errno.Success)
                    return errno;
                into = into[(int)part..];
                iova = unchecked(iova + part);
            }

            return Errno.Success;
        }
    }

    /// <summary>Writes memory by IOVA; errors as <see cref="TryRead"/>. What comes before a gap is written.</summary>
    public Errno TryWrite(ulong iova, ReadOnlySpan<byte> from)
    {
        if (from.IsEmpty)
            return Errno.EINVAL;
        if (iova > ulong.MaxValue - ((ulong)from.Length - 1))
            return Errno.EOVERFLOW;
        lock (_context.Gate)
        {
            if (_ioas is null || _moving)
                return Errno.ENOENT;
            while (!from.IsEmpty)
            {
                Errno errno = TryFindPart(iova, (ulong)from.Length, write: true, out IoasArea? area, out ulong part);
                if (errno == Errno.Success)
                    errno = area!.Pages.TryWrite(area.FirstByte + (iova - area.First), from[..(int)part]);
                if (errno != Errno.Success)
                    return errno;
                from = from[(int)part..];
                iova = unchecked(iova + part);
            }

            return Errno.Success;
        }
    }

    private Errno MoveTo(uint ioasId) =>
        _context.Objects.Find<Ioas>(ioasId) is Ioas ioas ? MoveTo(ioas) : Errno.ENOENT;

    private Errno MoveTo(Ioas? target)
    {
        // The owner's answer to being told to let go is no reason to move again.
        if (_moving)
            return Errno.EBUSY;
        Ioas? previous = _ioas;
        if (ReferenceEquals(previous, target))
            return Errno.Success;
        Errno errno = target?.TryAddAccess(this) ?? Errno.Success;
        if (errno != Errno.Success)
            return errno;
        if (previous is not null)
        {
            _moving = true;
            Owner?.OnUnmap(0, ulong.MaxValue);
            _moving = false;
            // FIDELITY: Linux warns about an owner that keeps a pin here, and leaks it; here the pin ends.
            foreach (AccessPin pin in _pins)
                pin.Release(Owner is null);
            _pins.Clear();
            previous.RemoveAccess(this);
        }

        _ioas = target;
        return Errno.Success;
    }

    private Errno Pin(Ioas ioas, AccessPin pin, bool write)
    {
        ulong last = pin.Iova + (pin.ByteLength - 1);
        ulong next = pin.Iova;
        while (true)
        {
            Errno errno = TryFindPart(next, last - next + 1, write, out IoasArea? area, out ulong part,
                alignedTo: GuestPage.Size, last);
            if (errno != Errno.Success)
                return errno;
            if (area!.Pages.IsDeviceMemory)
                return Errno.EINVAL;
            ulong firstByte = area.FirstByte + (next - area.First);
            errno = area.Pages.TryPin(firstByte, part, out PinnedPages? pages);
            if (errno != Errno.Success)
                return errno;
            errno = area.Pages.TryCharge();
            if (errno != Errno.Success)
            {
                pages!.Unpin();
                return errno;
            }

            ulong firstPage = unchecked(area.Pages.Start + firstByte);
            ulong pagesLength = (part + (GuestPage.Size - 1)) & ~((ulong)GuestPage.Size - 1);
            pin.Add(area, pages!, firstPage, pagesLength, locks: Owner is null);
            if (part == last - next + 1)
                return Errno.Success;
            next += part;
        }
    }

    /// <summary>The area at an address and how much of the range lies in it.</summary>
    private Errno TryFindPart(
        ulong iova, ulong byteLength, bool write, out IoasArea? area, out ulong part, ulong alignedTo = 1,
        ulong last = 0)
    {
        part = 0;
        area = _ioas!.FindArea(iova);
        if (area is null)
            return Errno.ENOENT;
        part = Math.Min(byteLength - 1, area.Last - iova) + 1;
        ulong source = unchecked(area.SourceAddress + (iova - area.First));
        bool goesOn = alignedTo != 1 && area.Last < last;
        if (area.PreventAccess || source % alignedTo != 0
            || (goesOn && unchecked(area.SourceAddress + (area.Last - area.First) + 1) % alignedTo != 0))
        {
            return Errno.EINVAL;
        }

        IommuIoasMapFlags needed = write ? IommuIoasMapFlags.Writeable : IommuIoasMapFlags.Readable;
        if ((area.Permissions & needed) == 0 || (write && !area.Pages.Writable))
            return Errno.EPERM;
        return Errno.Success;
    }
}
