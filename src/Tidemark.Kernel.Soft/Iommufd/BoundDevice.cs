using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// A device bound to an iommufd context, and its attachment. Alone in its group, so there are no other devices to agree
/// with.
/// </summary>
/// <remarks>
/// <code>
/// Bind -> unattached (DMA blocked) --Attach--> attached --Attach: replace--> attached --Detach--> unattached -> Unbind
/// </code>
/// </remarks>
internal sealed class BoundDevice : IommuObject, IBoundDevice
{
    private readonly IommufdContext _context;
    private Hwpt? _hwpt;
    private bool _unbound;

    public BoundDevice(IommufdContext context, DevicePort port)
    {
        _context = context;
        Port = port;
        // Its driver holds it: DESTROY of a device's id is always EBUSY.
        Users = 1;
    }

    public DevicePort Port { get; }

    public uint DeviceId => Id;

    public Errno Attach(ref uint pageTableId)
    {
        lock (_context.Gate)
        {
            if (_unbound)
                return Errno.ENODEV;
            IommuObject? target = _context.Objects.Find(pageTableId);
            Errno errno = target switch
            {
                null => Errno.ENOENT,
                Ioas ioas => AttachAutomatic(ioas),
                Hwpt hwpt => AttachTo(hwpt),
                _ => Errno.EINVAL,
            };
            if (errno == Errno.Success)
                pageTableId = _hwpt!.Id;
            return errno;
        }
    }

    public void Detach()
    {
        lock (_context.Gate)
            DetachLocked();
    }

    public void Unbind()
    {
        lock (_context.Gate)
        {
            if (_unbound)
                return;
            _unbound = true;
            DetachLocked();
            _context.Objects.Remove(this);
            Users = 0;
            Port.Disclaim();
        }

        _context.Drop();
    }

    public override void Destroy() => DetachLocked();

    /// <summary>The first automatic table that suits, in order of creation, or a new one without dirty
    /// tracking.</summary>
    private Errno AttachAutomatic(Ioas ioas)
    {
        foreach (Hwpt existing in ioas.Tables.ToArray())
        {
            if (!existing.IsAutomatic)
                continue;
            Errno errno = AttachTo(existing);
            if (errno != Errno.EINVAL)
                return errno;
        }

        // ORDER: the reserved regions are taken before the new table is filled, as in Linux.
        Errno reserved = Reserve(ioas);
        if (reserved != Errno.Success)
            return reserved;
        // FIDELITY: Linux attaches before it fills the table; here a failure to fill leaves the device where it was.
        Errno created = _context.TryCreateHwpt(
            ioas, Port.Driver, IommuHwptAllocFlags.None, automatic: true, out Hwpt? hwpt);
        if (created == Errno.Success)
            MoveTo(hwpt!);
        else
            Unreserve(ioas);
        return created;
    }

    private Errno AttachTo(Hwpt hwpt)
    {
        if (ReferenceEquals(_hwpt, hwpt))
            return Errno.Success;
        Errno reserved = Reserve(hwpt.Ioas);
        if (reserved != Errno.Success)
            return reserved;
        if (!hwpt.Suits(Port.Driver))
        {
            Unreserve(hwpt.Ioas);
            return Errno.EINVAL;
        }

        MoveTo(hwpt);
        return Errno.Success;
    }

    private bool IsIn(Ioas ioas) => ReferenceEquals(_hwpt?.Ioas, ioas);

    /// <summary>Keeps the device's reserved regions of a space free, which may be there already.</summary>
    private Errno Reserve(Ioas ioas)
    {
        if (IsIn(ioas))
            return Errno.Success;
        foreach ((ulong first, ulong last) in Port.Driver.ReservedRegions)
        {
            Errno errno = ioas.TryReserve(first, last, this);
            if (errno == Errno.Success)
                continue;
            ioas.Unreserve(this);
            return errno;
        }

        return Errno.Success;
    }

    /// <summary>Takes <see cref="Reserve"/> back.</summary>
    private void Unreserve(Ioas ioas)
    {
        if (!IsIn(ioas))
            ioas.Unreserve(this);
    }

    /// <summary>From the present table, if any, to one that suits, in whose space the regions are reserved.</summary>
    private void MoveTo(Hwpt hwpt)
    {
        Hwpt? previous = _hwpt;
        bool sameSpace = IsIn(hwpt.Ioas);
        hwpt.AddPort(Port);
        _hwpt = hwpt;
        if (previous is not null)
            Leave(previous, sameSpace);
    }

    private void DetachLocked()
    {
        if (_hwpt is not Hwpt previous)
            return;
        _hwpt = null;
        Port.SetTable(null);
        Leave(previous, sameSpace: false);
    }

    /// <summary>The port no longer uses the table.</summary>
    private void Leave(Hwpt hwpt, bool sameSpace)
    {
        hwpt.RemovePort(Port);
        if (!sameSpace)
            hwpt.Ioas.Unreserve(this);
        if (hwpt.IsAutomatic && hwpt.Users == 0)
            _context.Objects.TryDestroy(hwpt.Id);
    }
}
