using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// A device bound to an iommufd context, and its attachments: one of the device itself (PASID 0), and one of each PASID
/// in use. Devices of one group are attached to the same table: the first one decides, and whoever moves takes the
/// others along.
/// </summary>
/// <remarks>
/// <code>
/// Bind -> unattached (DMA blocked) --attach--> attached --replace--> attached --Detach--> unattached -> Unbind
/// </code>
/// Each PASID goes this way by itself. Tables of PASIDs are allocated for it, and so must be the device's own then.
/// </remarks>
internal sealed class BoundDevice : IommuObject, IBoundDevice
{
    private readonly IommufdContext _context;
    private readonly bool _holdsContext;
    private bool _unbound;

    /// <param name="group">Claimed for the context, if it can have other owners.</param>
    /// <param name="holdsContext">The context lives until the device is unbound, and has one reference for it; the claim
    /// ends then. False for a device that the context made itself.</param>
    public BoundDevice(IommufdContext context, DevicePort port, BoundGroup group, bool holdsContext = true)
    {
        _context = context;
        Group = group;
        _holdsContext = holdsContext;
        Port = port;
        // Its driver holds it: DESTROY of a device's id is always EBUSY.
        Users = 1;
    }

    public DevicePort Port { get; }

    /// <summary>The bound devices that this one shares its attachments with.</summary>
    public BoundGroup Group { get; }

    public uint DeviceId => Id;

    public uint DeviceIdOf(IDmaPort port)
    {
        uint id = VfioPciDependentDevice.DevidNotOwned;
        lock (_context.Gate)
        {
            foreach (BoundDevice other in _context.Objects.All.OfType<BoundDevice>())
            {
                if (ReferenceEquals(other.Port, port))
                    return other.Id;
                if (ReferenceEquals(other.Port.Group, (port as DevicePort)?.Group))
                    id = VfioPciDependentDevice.DevidOwned;
            }
        }

        return id;
    }

    /// <summary>The kernel's own test device; null: a real one.</summary>
    public TestDomainDevice? TestDevice { get; init; }

    /// <summary>What it is behind a vIOMMU; null: nothing.</summary>
    public Vdevice? Vdevice { get; set; }

    /// <summary>log2 of the number of PASIDs, as GET_HW_INFO tells it.</summary>
    public byte PasidBits => TestDevice?.PasidBits ?? 0;

    /// <summary>What a PASID, or with 0 the device itself, is attached to.</summary>
    public AttachableTable? TableOf(uint pasid) =>
        Group.Find(pasid) is { } attachment && attachment.Devices.Contains(this) ? attachment.Table : null;

    public Errno Attach(ref uint pageTableId)
    {
        lock (_context.Gate)
            return Change(0, ref pageTableId, replace: TableOf(0) is not null);
    }

    /// <summary>Attaches what is unattached. EBUSY: it is attached already.</summary>
    public Errno TryAttach(uint pasid, ref uint pageTableId)
    {
        lock (_context.Gate)
            return Change(pasid, ref pageTableId, replace: false);
    }

    /// <summary>Moves what is attached. EINVAL: it is unattached. On failure nothing is changed.</summary>
    public Errno TryReplace(uint pasid, ref uint pageTableId)
    {
        lock (_context.Gate)
            return Change(pasid, ref pageTableId, replace: true);
    }

    public void Detach() => Detach(0);

    /// <summary>Nothing when the PASID is not attached.</summary>
    public void Detach(uint pasid)
    {
        lock (_context.Gate)
            DetachLocked(pasid);
    }

    public bool HasPasids => true;

    public Errno TryAttachPasid(uint pasid, ref uint pageTableId, bool replace) =>
        replace ? TryReplace(pasid, ref pageTableId) : TryAttach(pasid, ref pageTableId);

    public void DetachPasid(uint pasid) => Detach(pasid);

    public void Unbind()
    {
        lock (_context.Gate)
        {
            if (_unbound)
                return;
            _unbound = true;
            DetachAll();
            if (Vdevice is Vdevice vdevice)
            {
                _context.Objects.Bury(vdevice);
                vdevice.Destroy();
            }

            _context.Objects.Remove(this);
            Users = 0;
            if (_holdsContext)
                Port.Group.Disclaim();
        }

        if (_holdsContext)
            _context.Drop();
    }

    public override void Destroy() => DetachAll();

    private void DetachAll()
    {
        foreach (uint pasid in Group.Pasids)
            DetachLocked(pasid);
    }

    private Errno Change(uint pasid, ref uint pageTableId, bool replace)
    {
        if (_unbound)
            return Errno.ENODEV;
        Errno errno = _context.Objects.Find(pageTableId) switch
        {
            null => Errno.ENOENT,
            Ioas ioas => ChangeToAutomatic(pasid, ioas, replace),
            AttachableTable table => ChangeTo(pasid, table, replace),
            _ => Errno.EINVAL,
        };
        if (errno == Errno.Success)
            pageTableId = TableOf(pasid)!.Id;
        return errno;
    }

    /// <summary>The first automatic table that suits, in order of creation, or a new one without dirty
    /// tracking.</summary>
    private Errno ChangeToAutomatic(uint pasid, Ioas ioas, bool replace)
    {
        foreach (Hwpt existing in ioas.Tables.ToArray())
        {
            if (!existing.IsAutomatic)
                continue;
            Errno errno = ChangeTo(pasid, existing, replace);
            if (errno != Errno.EINVAL)
                return errno;
        }

        return replace ? ReplaceByNew(pasid, ioas) : AttachToNew(pasid, ioas);
    }

    private Errno AttachToNew(uint pasid, Ioas ioas)
    {
        if (TableOf(pasid) is not null)
            return Errno.EBUSY;
        // Others of the group are behind another table.
        if (Group.Find(pasid) is not null)
            return Errno.EINVAL;
        // ORDER: the reserved regions are taken before the new table is filled, as in Linux.
        Errno errno = pasid == 0 ? Reserve(ioas) : Errno.Success;
        if (errno != Errno.Success)
            return errno;
        Hwpt? hwpt = null;
        errno = CheckPasids(pasid, compatible: false);
        // FIDELITY: Linux attaches before it fills the table; here a failure to fill leaves the device where it was.
        if (errno == Errno.Success)
            errno = CreateTable(ioas, out hwpt);
        if (errno == Errno.Success)
            MoveTo(pasid, hwpt!);
        else if (pasid == 0)
            Unreserve(ioas);
        return errno;
    }

    private Errno ReplaceByNew(uint pasid, Ioas ioas)
    {
        Errno errno = CreateTable(ioas, out Hwpt? hwpt);
        if (errno != Errno.Success)
            return errno;
        errno = ChangeTo(pasid, hwpt!, replace: true);
        if (errno != Errno.Success)
            _context.Objects.TryDestroy(hwpt!.Id);
        return errno;
    }

    private Errno CreateTable(Ioas ioas, out Hwpt? hwpt) =>
        _context.TryCreateHwpt(ioas, Port.Driver, IommuHwptAllocFlags.None, automatic: true, out hwpt);

    private Errno ChangeTo(uint pasid, AttachableTable table, bool replace)
    {
        GroupAttachment? present = Group.Find(pasid);
        bool isAttached = TableOf(pasid) is not null;
        if (isAttached != replace)
            return replace ? Errno.EINVAL : Errno.EBUSY;
        bool isThere = ReferenceEquals(present?.Table, table);
        if (isAttached && isThere)
            return Errno.Success;
        // Others of the group are elsewhere, and attaching moves nobody.
        if (!isAttached && present is not null && !isThere)
            return Errno.EINVAL;
        Ioas ioas = table.Paging.Ioas;
        Errno errno = pasid == 0 ? Reserve(ioas) : Errno.Success;
        if (errno != Errno.Success)
            return errno;
        // What the group is behind already, its IOMMU is not asked about again.
        if (!isThere)
            errno = CheckPasids(pasid, table.PasidCompatible);
        if (!isThere && errno == Errno.Success)
            errno = pasid == 0 ? CheckDevice(table) : CheckPasid(pasid, table);
        if (errno == Errno.Success)
            MoveTo(pasid, table);
        else if (pasid == 0)
            Unreserve(ioas);
        return errno;
    }

    /// <summary>The group's table and those of its PASIDs must all be made for PASIDs once there is one.</summary>
    private Errno CheckPasids(uint pasid, bool compatible)
    {
        bool together = pasid == 0
            ? compatible || Array.TrueForAll(Group.Pasids, other => other == 0)
            : compatible && Group.Find(0)?.Table is null or { PasidCompatible: true };
        return together ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>The IOMMU's driver, asked about the device itself.</summary>
    private Errno CheckDevice(AttachableTable table) => table switch
    {
        Hwpt hwpt when hwpt.Suits(Port.Driver) => Errno.Success,
        NestedHwpt { Viommu: Viommu viommu } when TestDevice is not null && !viommu.TryFindNumber(this, out _) =>
            Errno.ENOENT,
        NestedHwpt when TestDevice is not null => Errno.Success,
        _ => Errno.EINVAL,
    };

    /// <summary>The IOMMU's driver, asked about a PASID.</summary>
    private Errno CheckPasid(uint pasid, AttachableTable table)
    {
        if (table.Paging.Driver.GetType() != Port.Driver.GetType())
            return Errno.EINVAL;
        // Of a device without PASIDs nothing is asked: it can not use what it is given.
        return TestDevice?.CheckPasid(pasid) ?? Errno.Success;
    }

    private bool IsIn(Ioas ioas) => ReferenceEquals(TableOf(0)?.Paging.Ioas, ioas);

    /// <summary>Who gets to a table when this device is attached to it or moved.</summary>
    private List<BoundDevice> Movers => TableOf(0) is null ? [this] : Group.Find(0)!.Devices;

    /// <summary>
    /// Keeps the reserved regions of this device, and of those that move with it, free in a space, which they may be in
    /// already.
    /// </summary>
    private Errno Reserve(Ioas ioas)
    {
        if (IsIn(ioas))
            return Errno.Success;
        foreach (BoundDevice device in Movers)
        {
            foreach ((ulong first, ulong last) in device.Port.Driver.ReservedRegions)
            {
                Errno errno = ioas.TryReserve(first, last, device);
                if (errno == Errno.Success)
                    continue;
                Unreserve(ioas);
                return errno;
            }
        }

        return Errno.Success;
    }

    /// <summary>Takes <see cref="Reserve"/> back.</summary>
    private void Unreserve(Ioas ioas)
    {
        if (!IsIn(ioas))
            Movers.ForEach(ioas.Unreserve);
    }

    /// <summary>From the present table, if any, to one that suits, in whose space the regions are reserved.</summary>
    private void MoveTo(uint pasid, AttachableTable table)
    {
        GroupAttachment? present = Group.Find(pasid);
        if (present is not null && !ReferenceEquals(present.Table, table))
        {
            MoveGroup(pasid, present, table);
            return;
        }

        present ??= Group.Begin(pasid, table);
        present.Devices.Add(this);
        table.Users++;
        if (pasid == 0)
            TestDevice?.OnMoved((table as NestedHwpt)?.Viommu);
    }

    /// <summary>All that are attached move, and their references with them.</summary>
    private void MoveGroup(uint pasid, GroupAttachment attachment, AttachableTable table)
    {
        AttachableTable previous = attachment.Table;
        bool sameSpace = ReferenceEquals(previous.Paging.Ioas, table.Paging.Ioas);
        Group.Move(pasid, attachment, table);
        foreach (BoundDevice device in attachment.Devices)
        {
            table.Users++;
            if (pasid == 0)
                device.TestDevice?.OnMoved((table as NestedHwpt)?.Viommu);
            device.Leave(pasid, previous, sameSpace);
        }
    }

    private void DetachLocked(uint pasid)
    {
        if (Group.Find(pasid) is not { } attachment || !attachment.Devices.Remove(this))
            return;
        if (attachment.Devices.Count == 0)
            Group.End(pasid);
        if (pasid == 0)
            TestDevice?.OnMoved(null);
        else
            TestDevice?.OnPasidBlocked(pasid);
        Leave(pasid, attachment.Table, sameSpace: false);
    }

    /// <summary>The device, or the PASID, no longer uses the table.</summary>
    private void Leave(uint pasid, AttachableTable table, bool sameSpace)
    {
        table.Faults?.Forget(this, pasid);
        if (pasid == 0 && !sameSpace)
            table.Paging.Ioas.Unreserve(this);
        table.Users--;
        if (table is Hwpt { IsAutomatic: true, Users: 0 })
            _context.Objects.TryDestroy(table.Id);
    }
}
