namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// The devices that their IOMMU can not tell apart: they have one owner, and are behind one page table or behind none,
/// whether or not anybody uses each of them.
/// </summary>
internal sealed class IommuGroup
{
    private readonly Lock _gate = new();
    private readonly List<DevicePort> _ports = [];
    private object? _owner;
    private int _claims;

    /// <summary>The devices' ways to memory. None is added once the host is built.</summary>
    public IReadOnlyList<DevicePort> Ports => _ports;

    /// <summary>That of the IOMMU that all of the devices sit behind.</summary>
    public IommuDriver Driver => _ports[0].Driver;

    /// <summary>Somebody owns the group.</summary>
    public bool IsClaimed
    {
        get
        {
            lock (_gate)
                return _claims != 0;
        }
    }

    /// <summary>While the host is built.</summary>
    public void Add(DevicePort port) => _ports.Add(port);

    /// <summary>
    /// One more claim of an owner, which may have several: one for each device that it binds. False: somebody else owns
    /// the group.
    /// </summary>
    public bool TryClaim(object owner)
    {
        lock (_gate)
        {
            if (_claims != 0 && !ReferenceEquals(_owner, owner))
                return false;
            _owner = owner;
            _claims++;
            return true;
        }
    }

    /// <summary>Ends one of the claims that <see cref="TryClaim"/> made; the last one leaves the group without
    /// owner.</summary>
    public void Disclaim()
    {
        lock (_gate)
        {
            if (--_claims == 0)
                _owner = null;
        }
    }

    /// <summary>Puts every device behind a table, or behind none: DMA is then blocked.</summary>
    public void SetTable(IoPageTable? table)
    {
        foreach (DevicePort port in _ports)
            port.SetTable(table);
    }

    /// <summary>As <see cref="DevicePort.InvalidateAndDrain"/>, for every device.</summary>
    public void InvalidateAndDrain(ulong first, ulong last)
    {
        foreach (DevicePort port in _ports)
            port.InvalidateAndDrain(first, last);
    }
}
