using Tidemark.Abi;

namespace Tidemark.Vfio;

/// <summary>Who sees a device's writes to guest memory.</summary>
public enum TrackerKind
{
    /// <summary>The device's own log (DMA_LOGGING_*).</summary>
    DeviceLog,

    /// <summary>The dirty bits of its page table.</summary>
    Iommu,

    /// <summary>
    /// The bitmaps of a type1 container: what mediated devices pinned, or, with any other device beside them, everything
    /// mapped.
    /// </summary>
    Type1,

    /// <summary>Nobody: everything it can write counts as written, at each harvest.</summary>
    Assumed,
}

/// <summary>A user's wish about a device's own log (<c>device-dirty-tracking</c>).</summary>
public enum DeviceLogUse
{
    /// <summary>Use it if there is one.</summary>
    Auto,

    /// <summary>Use it; a device without one can not migrate.</summary>
    On,

    /// <summary>Do not use it.</summary>
    Off,
}

/// <summary>
/// The tracker of one device and why. Chosen for each device by itself: a neighbour in the same container never changes
/// it.
/// </summary>
/// <param name="Reason">One sentence for users.</param>
public sealed record TrackerChoice(TrackerKind Kind, string Reason)
{
    /// <summary>Whether the device can log its own writes. Harmless at any time after binding.</summary>
    public static bool HasDeviceLog(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.HasFeature(VfioDeviceFeatureIndex.DmaLoggingStart, VfioDeviceFeatureFlags.Set)
            && device.HasFeature(VfioDeviceFeatureIndex.DmaLoggingReport, VfioDeviceFeatureFlags.Get);
    }

    /// <summary>Chooses for an attached device.</summary>
    public static TrackerChoice Choose(Attachment attachment, DeviceLogUse wish = DeviceLogUse.Auto)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        string name = attachment.Device.Name;
        bool hasLog = HasDeviceLog(attachment.Device);
        if (hasLog && wish != DeviceLogUse.Off)
            return new TrackerChoice(TrackerKind.DeviceLog, $"{name} logs its own DMA.");
        string noLog = hasLog
            ? "its own log is switched off (device-dirty-tracking=off)"
            : "it has no DMA log of its own";
        if (attachment.HasIommuTracking)
            return new TrackerChoice(TrackerKind.Iommu, $"The IOMMU before {name} sets dirty bits; {noLog}.");
        if (attachment.Type1 is not null)
        {
            return new TrackerChoice(TrackerKind.Type1, attachment.Device.IsMdev
                ? $"type1 knows which pages the driver of {name} has pinned; {noLog}."
                : $"type1 reports all that is mapped for {name}; {noLog}; {attachment.NoTrackingReason}.");
        }

        return new TrackerChoice(TrackerKind.Assumed,
            $"Nobody records what {name} writes: {noLog}; {attachment.NoTrackingReason}.");
    }

    public override string ToString() => $"{Kind}: {Reason}";
}
