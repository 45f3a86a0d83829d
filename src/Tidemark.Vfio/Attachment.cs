using Tidemark.Iommu;

namespace Tidemark.Vfio;

/// <summary>A page table of a container and the devices on it.</summary>
public sealed class ContainerHwpt
{
    private VfioDevice[] _devices = [];

    internal ContainerHwpt(Hwpt hwpt)
    {
        Hwpt = hwpt;
    }

    public Hwpt Hwpt { get; }

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

    /// <summary>The page table it shares, or null when it is attached to the address space itself.</summary>
    public ContainerHwpt? Entry { get; internal set; }

    /// <summary>The host's IOMMU before the device; null for a mediated device.</summary>
    public HostIommuDevice? HostIommu { get; }

    /// <summary>Whether the IOMMU records the device's writes.</summary>
    public bool HasIommuTracking => NoTrackingReason is null;

    /// <summary>Why the IOMMU does not record the device's writes, for users; null when it does.</summary>
    public string? NoTrackingReason { get; }
}
