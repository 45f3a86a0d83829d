using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>
/// Which feature a <see cref="VfioDeviceFeature"/> names (linux/vfio.h). Open: unknown numbers survive.
/// </summary>
[Uapi("VFIO_DEVICE_FEATURE_*", Since = "5.7")]
public enum VfioDeviceFeatureIndex : uint
{
    PciVfToken = 0,
    Migration = 1,
    MigDeviceState = 2,

    /// <summary>No payload.</summary>
    LowPowerEntry = 3,
    LowPowerEntryWithWakeup = 4,

    /// <summary>No payload.</summary>
    LowPowerExit = 5,
    DmaLoggingStart = 6,

    /// <summary>No payload.</summary>
    DmaLoggingStop = 7,
    DmaLoggingReport = 8,
    MigDataSize = 9,
    BusMaster = 10,
    DmaBuf = 11,

    /// <summary>No payload. A device without PRE_COPY answers EINVAL, even to a probe.</summary>
    [Uapi("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2")]
    MigPrecopyInfoV2 = 12,
    ZpciError = 13,
}

/// <summary>
/// The operation; the low 16 bits hold the index (linux/vfio.h). Without Probe exactly one of Get and Set.
/// </summary>
[Flags]
[Uapi("VFIO_DEVICE_FEATURE_*", Since = "5.7")]
public enum VfioDeviceFeatureFlags : uint
{
    None = 0,

    /// <summary>Where the index is.</summary>
    Mask = 0xFFFF,
    Get = 0x10000,
    Set = 0x20000,

    /// <summary>Only ask whether it exists (with Get or Set: whether that works).</summary>
    Probe = 0x40000,
}

/// <summary>
/// Heads a feature call; the payload follows (C: vfio_device_feature, linux/vfio.h). ENOTTY means the device has no
/// such feature.
/// </summary>
[Uapi("vfio_device_feature", Since = "5.7")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeature : IIoctlArgument<VfioDeviceFeature>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 8;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 8;

    public uint Argsz;
    public VfioDeviceFeatureFlags Flags;

    public static IoctlRequest Request => VfioRequests.DeviceFeature;

    public static VfioDeviceFeature Create(
        VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags operation, uint payloadLength = 0) => new()
    {
        Argsz = StructSize + payloadLength,
        Flags = operation | (VfioDeviceFeatureFlags)index,
    };
}

/// <summary>
/// The 16 bytes of a VF token; the header has no struct for it (linux/vfio.h: VFIO_DEVICE_FEATURE_PCI_VF_TOKEN).
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeaturePciVfToken : IVfioDeviceFeature<VfioDeviceFeaturePciVfToken>
{
    public UInt64x2 Uuid;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.PciVfToken;
}

/// <summary>
/// Allows low power, with an eventfd for the wake-up (C: vfio_device_low_power_entry_with_wakeup, linux/vfio.h).
/// </summary>
[Uapi("vfio_device_low_power_entry_with_wakeup", Since = "6.1")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceLowPowerEntryWithWakeup : IVfioDeviceFeature<VfioDeviceLowPowerEntryWithWakeup>
{
    public int WakeupEventfd;
    public uint Reserved;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.LowPowerEntryWithWakeup;

    public static VfioDeviceLowPowerEntryWithWakeup Create(int wakeupEventfd) => new()
    {
        WakeupEventfd = wakeupEventfd,
    };
}

/// <summary>Operations of <see cref="VfioDeviceFeatureBusMaster"/> (linux/vfio.h).</summary>
[Uapi("VFIO_DEVICE_FEATURE_*_MASTER", Since = "6.7")]
public enum VfioBusMasterOp : uint
{
    Clear = 0,
    Set = 1,
}

/// <summary>
/// Turns bus mastering on or off (C: vfio_device_feature_bus_master, linux/vfio.h). CDX only; PCI devices use
/// configuration space.
/// </summary>
[Uapi("vfio_device_feature_bus_master", Since = "6.7")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureBusMaster : IVfioDeviceFeature<VfioDeviceFeatureBusMaster>
{
    public VfioBusMasterOp Op;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.BusMaster;

    public static VfioDeviceFeatureBusMaster Create(VfioBusMasterOp op) => new()
    {
        Op = op,
    };
}

/// <summary>One part of a region to export (C: vfio_region_dma_range, linux/vfio.h).</summary>
[Uapi("vfio_region_dma_range", Since = "6.19")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioRegionDmaRange
{
    public ulong Offset;
    public ulong Length;
}

/// <summary>
/// Exports parts of a region as a dma-buf; the ranges follow (C: vfio_device_feature_dma_buf, linux/vfio.h). The
/// descriptor is the call's result.
/// </summary>
[Uapi("vfio_device_feature_dma_buf", Since = "6.19")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureDmaBuf : IVfioDeviceFeature<VfioDeviceFeatureDmaBuf>
{
    public uint RegionIndex;
    public uint OpenFlags;
    public uint Flags;
    public uint NrRanges;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.DmaBuf;

    public static VfioDeviceFeatureDmaBuf Create(uint regionIndex, uint openFlags, uint nrRanges) => new()
    {
        RegionIndex = regionIndex,
        OpenFlags = openFlags,
        NrRanges = nrRanges,
    };
}

/// <summary>A pending error of an s390 PCI function (C: vfio_device_feature_zpci_err, linux/vfio.h).</summary>
[Uapi("vfio_device_feature_zpci_err", Since = "7.3")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureZpciErr : IVfioDeviceFeature<VfioDeviceFeatureZpciErr>
{
    public ulong Data;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.ZpciError;
}
