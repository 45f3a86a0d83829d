namespace Tidemark.Abi;

/// <summary>The requests of linux/iommufd.h, for a descriptor of <c>/dev/iommu</c>.</summary>
/// <remarks>They encode neither size nor direction: the argument's first field carries its size.</remarks>
public static class IommufdRequests
{
    public static IoctlRequest Destroy => new(0x3B80, "IOMMU_DESTROY");
    public static IoctlRequest IoasAlloc => new(0x3B81, "IOMMU_IOAS_ALLOC");
    public static IoctlRequest IoasAllowIovas => new(0x3B82, "IOMMU_IOAS_ALLOW_IOVAS");
    public static IoctlRequest IoasCopy => new(0x3B83, "IOMMU_IOAS_COPY");
    public static IoctlRequest IoasIovaRanges => new(0x3B84, "IOMMU_IOAS_IOVA_RANGES");
    public static IoctlRequest IoasMap => new(0x3B85, "IOMMU_IOAS_MAP");
    public static IoctlRequest IoasUnmap => new(0x3B86, "IOMMU_IOAS_UNMAP");
    public static IoctlRequest Option => new(0x3B87, "IOMMU_OPTION");
    public static IoctlRequest VfioIoas => new(0x3B88, "IOMMU_VFIO_IOAS");
    public static IoctlRequest HwptAlloc => new(0x3B89, "IOMMU_HWPT_ALLOC");
    public static IoctlRequest GetHwInfo => new(0x3B8A, "IOMMU_GET_HW_INFO");
    public static IoctlRequest HwptSetDirtyTracking => new(0x3B8B, "IOMMU_HWPT_SET_DIRTY_TRACKING");
    public static IoctlRequest HwptGetDirtyBitmap => new(0x3B8C, "IOMMU_HWPT_GET_DIRTY_BITMAP");
    public static IoctlRequest HwptInvalidate => new(0x3B8D, "IOMMU_HWPT_INVALIDATE");
    public static IoctlRequest FaultQueueAlloc => new(0x3B8E, "IOMMU_FAULT_QUEUE_ALLOC");
    public static IoctlRequest IoasMapFile => new(0x3B8F, "IOMMU_IOAS_MAP_FILE");
    public static IoctlRequest ViommuAlloc => new(0x3B90, "IOMMU_VIOMMU_ALLOC");
    public static IoctlRequest VdeviceAlloc => new(0x3B91, "IOMMU_VDEVICE_ALLOC");
    public static IoctlRequest IoasChangeProcess => new(0x3B92, "IOMMU_IOAS_CHANGE_PROCESS");
    public static IoctlRequest VeventqAlloc => new(0x3B93, "IOMMU_VEVENTQ_ALLOC");
    public static IoctlRequest HwQueueAlloc => new(0x3B94, "IOMMU_HW_QUEUE_ALLOC");
    public static IoctlRequest IoasNoiommuGetPa => new(0x3B95, "IOMMU_IOAS_NOIOMMU_GET_PA");
}
