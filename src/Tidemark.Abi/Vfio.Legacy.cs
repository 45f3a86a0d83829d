using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>What CHECK_EXTENSION asks and SET_IOMMU takes, by value (linux/vfio.h).</summary>
[Uapi("VFIO_*_IOMMU", Since = "3.6")]
public enum VfioExtension : uint
{
    Type1 = 1,
    SpaprTce = 2,
    [Uapi("VFIO_TYPE1v2_IOMMU")]
    Type1V2 = 3,
    DmaCc = 4,
    [Uapi("VFIO_EEH")]
    Eeh = 5,
    [Uapi("__VFIO_RESERVED_TYPE1_NESTING_IOMMU")]
    ReservedType1Nesting = 6,
    [Uapi("VFIO_SPAPR_TCE_v2_IOMMU")]
    SpaprTceV2 = 7,
    Noiommu = 8,
    [Uapi("VFIO_UNMAP_ALL")]
    UnmapAll = 9,
    [Uapi("VFIO_UPDATE_VADDR")]
    UpdateVaddr = 10,
}

/// <summary>The state of a group (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_GROUP_FLAGS_*", Since = "3.6")]
public enum VfioGroupFlags : uint
{
    None = 0,
    Viable = 1,
    ContainerSet = 2,
}

/// <summary>Asks whether a group can be used (C: vfio_group_status, linux/vfio.h).</summary>
[Uapi("vfio_group_status", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioGroupStatus : IIoctlArgument<VfioGroupStatus>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 8;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 8;

    public uint Argsz;
    public VfioGroupFlags Flags;

    public static IoctlRequest Request => VfioRequests.GroupGetStatus;

    public static VfioGroupStatus Create() => new()
    {
        Argsz = StructSize,
    };
}

/// <summary>Which parts of <see cref="VfioIommuType1Info"/> are valid (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_IOMMU_INFO_*", Since = "3.6")]
public enum VfioIommuInfoFlags : uint
{
    None = 0,
    Pgsizes = 1,
    Caps = 2,
}

/// <summary>Describes a type1 container (C: vfio_iommu_type1_info, linux/vfio.h).</summary>
[Uapi("vfio_iommu_type1_info", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1Info : IIoctlArgument<VfioIommuType1Info>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 16;

    public uint Argsz;
    public VfioIommuInfoFlags Flags;
    public ulong IovaPgsizes;
    public uint CapOffset;
    public uint Pad;

    public static IoctlRequest Request => VfioRequests.IommuGetInfo;

    public static VfioIommuType1Info Create(uint capabilityLength = 0) => new()
    {
        Argsz = StructSize + capabilityLength,
    };
}

/// <summary>Capabilities of <see cref="VfioIommuType1Info"/> (linux/vfio.h).</summary>
[Uapi("VFIO_IOMMU_TYPE1_INFO_CAP_*", Since = "5.4")]
public enum VfioIommuType1InfoCapId : ushort
{
    IovaRange = 1,
    Migration = 2,
    [Uapi("VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL")]
    DmaAvail = 3,
}

/// <summary>A range of IOVA, both ends inclusive (C: vfio_iova_range, linux/vfio.h).</summary>
[Uapi("vfio_iova_range", Since = "5.4")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIovaRange
{
    public ulong Start;
    public ulong End;
}

/// <summary>Lists the usable IOVA; the ranges follow (C: vfio_iommu_type1_info_cap_iova_range, linux/vfio.h).</summary>
[Uapi("vfio_iommu_type1_info_cap_iova_range", Since = "5.4")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1InfoCapIovaRange
{
    public VfioInfoCapHeader Header;
    public uint NrIovas;
    public uint Reserved;
}

/// <summary>
/// Says that, and how, a container tracks dirty pages (C: vfio_iommu_type1_info_cap_migration, linux/vfio.h).
/// </summary>
[Uapi("vfio_iommu_type1_info_cap_migration", Since = "5.8")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1InfoCapMigration
{
    public VfioInfoCapHeader Header;
    public uint Flags;

    /// <summary>The compiler's, in C.</summary>
    public uint Padding;
    public ulong PgsizeBitmap;

    /// <summary>In bytes.</summary>
    public ulong MaxDirtyBitmapSize;
}

/// <summary>How many more mappings a container takes (C: vfio_iommu_type1_info_dma_avail, linux/vfio.h).</summary>
[Uapi("vfio_iommu_type1_info_dma_avail", Since = "5.10")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1InfoDmaAvail
{
    public VfioInfoCapHeader Header;
    public uint Avail;
}

/// <summary>Flags of <see cref="VfioIommuType1DmaMap"/> (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_DMA_MAP_FLAG_*", Since = "3.6")]
public enum VfioDmaMapFlags : uint
{
    None = 0,
    Read = 1,
    Write = 2,

    /// <summary>Only gives an existing mapping its new address.</summary>
    Vaddr = 4,
}

/// <summary>Maps memory of this process, pinning it (C: vfio_iommu_type1_dma_map, linux/vfio.h).</summary>
[Uapi("vfio_iommu_type1_dma_map", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1DmaMap : IIoctlArgument<VfioIommuType1DmaMap>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 32;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 32;

    public uint Argsz;
    public VfioDmaMapFlags Flags;
    public ulong Vaddr;
    public ulong Iova;
    public ulong Size;

    public static IoctlRequest Request => VfioRequests.IommuMapDma;

    public static VfioIommuType1DmaMap Create(VfioDmaMapFlags flags, ulong iova, ulong vaddr, ulong size) => new()
    {
        Argsz = StructSize,
        Flags = flags,
        Iova = iova,
        Vaddr = vaddr,
        Size = size,
    };
}

/// <summary>
/// A bitmap and its page size (C: vfio_bitmap, linux/vfio.h). It is written in 64-bit words and holes are left
/// untouched.
/// </summary>
[Uapi("vfio_bitmap", Since = "5.8")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioBitmap
{
    public ulong Pgsize;

    /// <summary>In bytes.</summary>
    public ulong Size;

    /// <summary>Its address.</summary>
    public ulong Data;
}

/// <summary>Flags of <see cref="VfioIommuType1DmaUnmap"/> (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_DMA_UNMAP_FLAG_*", Since = "5.8")]
public enum VfioDmaUnmapFlags : uint
{
    None = 0,

    /// <summary>A <see cref="VfioBitmap"/> follows.</summary>
    GetDirtyBitmap = 1,
    All = 2,
    Vaddr = 4,
}

/// <summary>
/// Unmaps (C: vfio_iommu_type1_dma_unmap, linux/vfio.h). The size that comes back is what was unmapped, and only on
/// success; nothing there is a success of 0.
/// </summary>
[Uapi("vfio_iommu_type1_dma_unmap", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1DmaUnmap : IIoctlArgument<VfioIommuType1DmaUnmap>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Argsz;
    public VfioDmaUnmapFlags Flags;
    public ulong Iova;
    public ulong Size;

    public static IoctlRequest Request => VfioRequests.IommuUnmapDma;

    public static VfioIommuType1DmaUnmap Create(
        VfioDmaUnmapFlags flags, ulong iova, ulong size, uint dataLength = 0) => new()
    {
        Argsz = StructSize + dataLength,
        Flags = flags,
        Iova = iova,
        Size = size,
    };
}

/// <summary>The operation of <see cref="VfioIommuType1DirtyBitmap"/>; exactly one (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_IOMMU_DIRTY_PAGES_FLAG_*", Since = "5.8")]
public enum VfioIommuDirtyPagesFlags : uint
{
    None = 0,
    Start = 1,
    Stop = 2,
    GetBitmap = 4,
}

/// <summary>
/// Heads a dirty tracking call of a container; for GetBitmap a <see cref="VfioIommuType1DirtyBitmapGet"/> follows (C:
/// vfio_iommu_type1_dirty_bitmap, linux/vfio.h). With ordinary PCI devices every mapped page is reported, always.
/// </summary>
[Uapi("vfio_iommu_type1_dirty_bitmap", Since = "5.8")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1DirtyBitmap : IIoctlArgument<VfioIommuType1DirtyBitmap>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 8;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 8;

    public uint Argsz;
    public VfioIommuDirtyPagesFlags Flags;

    public static IoctlRequest Request => VfioRequests.IommuDirtyPages;

    public static VfioIommuType1DirtyBitmap Create(VfioIommuDirtyPagesFlags flags, uint dataLength = 0) => new()
    {
        Argsz = StructSize + dataLength,
        Flags = flags,
    };
}

/// <summary>The range and bitmap of a dirty query (C: vfio_iommu_type1_dirty_bitmap_get, linux/vfio.h).</summary>
[Uapi("vfio_iommu_type1_dirty_bitmap_get", Since = "5.8")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioIommuType1DirtyBitmapGet
{
    public ulong Iova;
    public ulong Size;
    public VfioBitmap Bitmap;
}
