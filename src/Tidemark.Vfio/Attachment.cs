using Tidemark.Iommu;

namespace Tidemark.Vfio;

/// <summary>
/// A page table of a container and the devices on it. It stays the same entry when its devices are moved to another
/// page table.
/// </summary>
public sealed class ContainerHwpt
{
    private VfioDevice[] _devices = [];
    private Hwpt _hwpt;

    internal ContainerHwpt(Hwpt hwpt)
    {
        _hwpt = hwpt;
    }

    /// <summary>The page table its devices are on now.</summary>
    public Hwpt Hwpt
    {
        get => Volatile.Read(ref _hwpt);
        internal set => Volatile.Write(ref _hwpt, value);
    }

    /// <summary>In the order of attaching. A list that was handed out does not change.</summary>
    public IReadOnlyList<VfioDevice> Devices => Volatile.Read(ref _devices);

    internal void Add(VfioDevice device) => Volatile.Write(ref _devices, [.. _devices, device]);

    internal void Remove(VfioDevice device) =>
        Volatile.Write(ref _devices, [.. _devices.Where(other => other != device)]);
}

/// <summary>How one device is attached to its container.</summary>
public sealed class Attachment
{
    internal Attachment(VfioDevice device, ContainerHwpt? entry, HostIommuDevice? hostIommu, string? noTrackingReason)
    {
        Device = device;
        Entry = entry;
        HostIommu = hostIommu;
        NoTrackingReason = noTrackingReason;
    }

    public VfioDevice Device { get; }

    /// <summary>The page table it shares, or null when it has none of its container's own: a mediated device, one
    /// attached to the address space itself, or one in a legacy container.</summary>
    public ContainerHwpt? Entry { get; }

    /// <summary>The bitmaps of a type1 container that cover its writes, or null.</summary>
    public Type1Table? Type1 { get; internal init; }

    /// <summary>The host's IOMMU before the device; null for a mediated device.</summary>
    public HostIommuDevice? HostIommu { get; }

    /// <summary>Whether the IOMMU records the device's writes.</summary>
    public bool HasIommuTracking => NoTrackingReason is null;

    /// <summary>Why the IOMMU does not record the device's writes, for users; null when it does.</summary>
    public string? NoTrackingReason { get; }
}
