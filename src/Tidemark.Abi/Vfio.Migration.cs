using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Which optional states a device has (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_MIGRATION_*", Since = "5.18")]
public enum VfioMigrationFlags : ulong
{
    None = 0,

    /// <summary>Every migratable device.</summary>
    StopCopy = 1,
    P2P = 2,
    PreCopy = 4,
}

/// <summary>Says which migration states a device has (C: vfio_device_feature_migration, linux/vfio.h).</summary>
[Uapi("vfio_device_feature_migration", Since = "5.18")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureMigration : IVfioDeviceFeature<VfioDeviceFeatureMigration>
{
    public VfioMigrationFlags Flags;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.Migration;
}

/// <summary>Migration states (C: vfio_device_mig_state, linux/vfio.h).</summary>
[Uapi("VFIO_DEVICE_STATE_*", Since = "5.18")]
public enum VfioDeviceMigState : uint
{
    /// <summary>Left only by a reset; can not be asked for.</summary>
    Error = 0,
    Stop = 1,
    Running = 2,
    StopCopy = 3,
    Resuming = 4,
    RunningP2P = 5,
    PreCopy = 6,
    PreCopyP2P = 7,
}

/// <summary>
/// Reads or changes the migration state (C: vfio_device_feature_mig_state, linux/vfio.h). The descriptor is -1 unless
/// the last step of the change opened a data session.
/// </summary>
[Uapi("vfio_device_feature_mig_state", Since = "5.18")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureMigState : IVfioDeviceFeature<VfioDeviceFeatureMigState>
{
    public VfioDeviceMigState DeviceState;
    public int DataFd;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.MigDeviceState;

    public static VfioDeviceFeatureMigState Create(VfioDeviceMigState deviceState) => new()
    {
        DeviceState = deviceState,
        DataFd = -1,
    };
}

/// <summary>An estimate of the STOP_COPY data (C: vfio_device_feature_mig_data_size, linux/vfio.h).</summary>
[Uapi("vfio_device_feature_mig_data_size", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureMigDataSize : IVfioDeviceFeature<VfioDeviceFeatureMigDataSize>
{
    public ulong StopCopyLength;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.MigDataSize;
}

/// <summary>
/// Flags of <see cref="VfioPrecopyInfo"/> (linux/vfio.h). An output only after MigPrecopyInfoV2 was set; otherwise what
/// went in comes back.
/// </summary>
[Flags]
[Uapi("VFIO_PRECOPY_INFO_*")]
public enum VfioPrecopyInfoFlags : uint
{
    None = 0,

    /// <summary>There are new initial bytes.</summary>
    Reinit = 1,
}

/// <summary>
/// Estimates what is left, on the data descriptor while in PRE_COPY (C: vfio_precopy_info, linux/vfio.h).
/// </summary>
[Uapi("vfio_precopy_info", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioPrecopyInfo : IIoctlArgument<VfioPrecopyInfo>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Argsz;
    public VfioPrecopyInfoFlags Flags;

    /// <summary>Falls to 0; should be drained before STOP_COPY.</summary>
    public ulong InitialBytes;

    /// <summary>May grow.</summary>
    public ulong DirtyBytes;

    public static IoctlRequest Request => VfioRequests.MigGetPrecopyInfo;

    public static VfioPrecopyInfo Create() => new()
    {
        Argsz = StructSize,
    };
}
