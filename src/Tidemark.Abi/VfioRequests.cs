namespace Tidemark.Abi;

/// <summary>The requests of linux/vfio.h, except those of other architectures (spapr, EEH).</summary>
/// <remarks>
/// One number means different things on different descriptors (container, group, device, migration data); the name
/// tells which is meant.
/// </remarks>
public static class VfioRequests
{
    public static IoctlRequest GetApiVersion => new(0x3B64, "VFIO_GET_API_VERSION");
    public static IoctlRequest CheckExtension => new(0x3B65, "VFIO_CHECK_EXTENSION");
    public static IoctlRequest SetIommu => new(0x3B66, "VFIO_SET_IOMMU");
    public static IoctlRequest GroupGetStatus => new(0x3B67, "VFIO_GROUP_GET_STATUS");
    public static IoctlRequest GroupSetContainer => new(0x3B68, "VFIO_GROUP_SET_CONTAINER");
    public static IoctlRequest GroupUnsetContainer => new(0x3B69, "VFIO_GROUP_UNSET_CONTAINER");
    public static IoctlRequest GroupGetDeviceFd => new(0x3B6A, "VFIO_GROUP_GET_DEVICE_FD");
    public static IoctlRequest DeviceGetInfo => new(0x3B6B, "VFIO_DEVICE_GET_INFO");
    public static IoctlRequest DeviceGetRegionInfo => new(0x3B6C, "VFIO_DEVICE_GET_REGION_INFO");
    public static IoctlRequest DeviceGetIrqInfo => new(0x3B6D, "VFIO_DEVICE_GET_IRQ_INFO");
    public static IoctlRequest DeviceSetIrqs => new(0x3B6E, "VFIO_DEVICE_SET_IRQS");
    public static IoctlRequest DeviceReset => new(0x3B6F, "VFIO_DEVICE_RESET");
    public static IoctlRequest DeviceGetPciHotResetInfo => new(0x3B70, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO");
    public static IoctlRequest DevicePciHotReset => new(0x3B71, "VFIO_DEVICE_PCI_HOT_RESET");
    public static IoctlRequest DeviceQueryGfxPlane => new(0x3B72, "VFIO_DEVICE_QUERY_GFX_PLANE");
    public static IoctlRequest DeviceGetGfxDmabuf => new(0x3B73, "VFIO_DEVICE_GET_GFX_DMABUF");
    public static IoctlRequest DeviceIoeventfd => new(0x3B74, "VFIO_DEVICE_IOEVENTFD");
    public static IoctlRequest DeviceFeature => new(0x3B75, "VFIO_DEVICE_FEATURE");
    public static IoctlRequest DeviceBindIommufd => new(0x3B76, "VFIO_DEVICE_BIND_IOMMUFD");
    public static IoctlRequest DeviceAttachIommufdPt => new(0x3B77, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
    public static IoctlRequest DeviceDetachIommufdPt => new(0x3B78, "VFIO_DEVICE_DETACH_IOMMUFD_PT");
    public static IoctlRequest MigGetPrecopyInfo => new(0x3B79, "VFIO_MIG_GET_PRECOPY_INFO");
    public static IoctlRequest IommuGetInfo => new(0x3B70, "VFIO_IOMMU_GET_INFO");
    public static IoctlRequest IommuMapDma => new(0x3B71, "VFIO_IOMMU_MAP_DMA");
    public static IoctlRequest IommuUnmapDma => new(0x3B72, "VFIO_IOMMU_UNMAP_DMA");
    public static IoctlRequest IommuDirtyPages => new(0x3B75, "VFIO_IOMMU_DIRTY_PAGES");
}
