using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>
/// Starts logging a device's DMA writes (C: vfio_device_feature_dma_logging_control, linux/vfio.h). The page size that
/// comes back is the device's choice; the bits' start state is undefined.
/// </summary>
[Uapi("vfio_device_feature_dma_logging_control", Since = "6.1")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureDmaLoggingControl : IVfioDeviceFeature<VfioDeviceFeatureDmaLoggingControl>
{
    public ulong PageSize;
    public uint NumRanges;
    public uint Reserved;

    /// <summary>Address of an array of <see cref="VfioDeviceFeatureDmaLoggingRange"/>, at most 256.</summary>
    public ulong Ranges;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.DmaLoggingStart;

    public static VfioDeviceFeatureDmaLoggingControl Create(ulong pageSize, uint numRanges, ulong ranges) => new()
    {
        PageSize = pageSize,
        NumRanges = numRanges,
        Ranges = ranges,
    };
}

/// <summary>
/// One range to log (C: vfio_device_feature_dma_logging_range, linux/vfio.h). A range that ends at 2^64 is refused.
/// </summary>
[Uapi("vfio_device_feature_dma_logging_range", Since = "6.1")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureDmaLoggingRange
{
    public ulong Iova;
    public ulong Length;
}

/// <summary>
/// Reads and clears the device's log (C: vfio_device_feature_dma_logging_report, linux/vfio.h). Bit 0 is the range's
/// start and the kernel only sets bits.
/// </summary>
[Uapi("vfio_device_feature_dma_logging_report", Since = "6.1")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceFeatureDmaLoggingReport : IVfioDeviceFeature<VfioDeviceFeatureDmaLoggingReport>
{
    public ulong Iova;
    public ulong Length;

    /// <summary>Bytes per bit.</summary>
    public ulong PageSize;

    /// <summary>Address of the bitmap.</summary>
    public ulong Bitmap;

    public static VfioDeviceFeatureIndex Feature => VfioDeviceFeatureIndex.DmaLoggingReport;

    public static VfioDeviceFeatureDmaLoggingReport Create(
        ulong iova, ulong length, ulong pageSize, ulong bitmap) => new()
    {
        Iova = iova,
        Length = length,
        PageSize = pageSize,
        Bitmap = bitmap,
    };
}
