using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Flags of creating a hardware page table (C: iommufd_hwpt_alloc_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_HWPT_ALLOC_*", Since = "6.6")]
public enum IommuHwptAllocFlags : uint
{
    None = 0,
    NestParent = 1,

    /// <summary>Only devices behind IOMMUs that can track may attach.</summary>
    DirtyTracking = 2,
    [Uapi("IOMMU_HWPT_FAULT_ID_VALID")]
    FaultIdValid = 4,
    Pasid = 8,
}

/// <summary>Which hardware's data accompanies an allocation (C: iommu_hwpt_data_type, linux/iommufd.h).</summary>
[Uapi("IOMMU_HWPT_DATA_*", Since = "6.8")]
public enum IommuHwptDataType : uint
{
    None = 0,
    VtdS1 = 1,
    ArmSmmuv3 = 2,
    AmdGuest = 3,
}

/// <summary>
/// Creates a hardware page table for a device (C: iommu_hwpt_alloc, linux/iommufd.h). A wrong parent id answers EINVAL,
/// not ENOENT.
/// </summary>
[Uapi("iommu_hwpt_alloc", Since = "6.6")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptAlloc : IIoctlArgument<IommuHwptAlloc>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 48;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Size;
    public IommuHwptAllocFlags Flags;
    public uint DevId;

    /// <summary>Parent: an IOAS, a nest-parent HWPT, or a vIOMMU.</summary>
    public uint PtId;
    public uint OutHwptId;
    public uint Reserved;
    public IommuHwptDataType DataType;
    public uint DataLen;
    public ulong DataUptr;
    public uint FaultId;
    public uint Reserved2;

    public static IoctlRequest Request => IommufdRequests.HwptAlloc;

    public static IommuHwptAlloc Create(uint devId, IommuHwptAllocFlags flags, uint ptId) => new()
    {
        Size = StructSize,
        DevId = devId,
        Flags = flags,
        PtId = ptId,
    };
}

/// <summary>Flags of a guest's VT-d first stage (C: iommu_hwpt_vtd_s1_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_VTD_S1_*", Since = "6.8")]
public enum IommuHwptVtdS1Flags : ulong
{
    None = 0,
    Sre = 1,
    Eafe = 2,
    Wpe = 4,
}

/// <summary>A guest's VT-d first-stage table (C: iommu_hwpt_vtd_s1, linux/iommufd.h).</summary>
[Uapi("iommu_hwpt_vtd_s1", Since = "6.8")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptVtdS1
{
    public IommuHwptVtdS1Flags Flags;
    public ulong PgtblAddr;
    public uint AddrWidth;
    public uint Reserved;
}

/// <summary>A guest's SMMUv3 stream table entry, little endian (C: iommu_hwpt_arm_smmuv3, linux/iommufd.h).</summary>
[Uapi("iommu_hwpt_arm_smmuv3", Since = "6.13")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptArmSmmuv3
{
    public UInt64x2 Ste;
}

/// <summary>A guest's AMD device table entry (C: iommu_hwpt_amd_guest, linux/iommufd.h).</summary>
[Uapi("iommu_hwpt_amd_guest", Since = "7.0")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptAmdGuest
{
    public UInt64x4 Dte;
}

/// <summary>
/// Flags of <see cref="IommuHwptSetDirtyTracking"/> (C: iommufd_hwpt_set_dirty_tracking_flags, linux/iommufd.h).
/// </summary>
[Flags]
[Uapi("IOMMU_HWPT_DIRTY_TRACKING_*", Since = "6.7")]
public enum IommuHwptSetDirtyTrackingFlags : uint
{
    None = 0,
    Enable = 1,
}

/// <summary>
/// Starts or stops dirty tracking of a hardware page table (C: iommu_hwpt_set_dirty_tracking, linux/iommufd.h).
/// Starting clears every dirty bit; no flag stops.
/// </summary>
[Uapi("iommu_hwpt_set_dirty_tracking", Since = "6.7")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptSetDirtyTracking : IIoctlArgument<IommuHwptSetDirtyTracking>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 16;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 16;

    public uint Size;
    public IommuHwptSetDirtyTrackingFlags Flags;
    public uint HwptId;
    public uint Reserved;

    public static IoctlRequest Request => IommufdRequests.HwptSetDirtyTracking;

    public static IommuHwptSetDirtyTracking Create(uint hwptId, IommuHwptSetDirtyTrackingFlags flags) => new()
    {
        Size = StructSize,
        HwptId = hwptId,
        Flags = flags,
    };
}

/// <summary>
/// Flags of <see cref="IommuHwptGetDirtyBitmap"/> (C: iommufd_hwpt_get_dirty_bitmap_flags, linux/iommufd.h).
/// </summary>
[Flags]
[Uapi("IOMMU_HWPT_GET_DIRTY_BITMAP_*", Since = "6.7")]
public enum IommuHwptGetDirtyBitmapFlags : uint
{
    None = 0,

    /// <summary>Read only: leave the bits set.</summary>
    NoClear = 1,
}

/// <summary>
/// Reads, and clears, dirty bits (C: iommu_hwpt_get_dirty_bitmap, linux/iommufd.h). Bit 0 is the range's start, the
/// kernel only sets bits, and a hole ends the walk silently with success.
/// </summary>
[Uapi("iommu_hwpt_get_dirty_bitmap", Since = "6.7")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptGetDirtyBitmap : IIoctlArgument<IommuHwptGetDirtyBitmap>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 48;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 48;

    public uint Size;
    public uint HwptId;
    public IommuHwptGetDirtyBitmapFlags Flags;
    public uint Reserved;
    public ulong Iova;
    public ulong Length;

    /// <summary>Bytes per bit.</summary>
    public ulong PageSize;

    /// <summary>Address of the bitmap. Its pages are pinned while the kernel writes them.</summary>
    public ulong Data;

    public static IoctlRequest Request => IommufdRequests.HwptGetDirtyBitmap;

    public static IommuHwptGetDirtyBitmap Create(
        uint hwptId, ulong iova, ulong length, ulong pageSize, ulong data, IommuHwptGetDirtyBitmapFlags flags)
        => new()
    {
        Size = StructSize,
        HwptId = hwptId,
        Iova = iova,
        Length = length,
        PageSize = pageSize,
        Data = data,
        Flags = flags,
    };
}

/// <summary>
/// Which hardware's entries an invalidation carries (C: iommu_hwpt_invalidate_data_type, linux/iommufd.h).
/// </summary>
public enum IommuHwptInvalidateDataType : uint
{
    [Uapi("IOMMU_HWPT_INVALIDATE_DATA_VTD_S1")]
    VtdS1 = 0,

    /// <summary>For a vIOMMU instead of a HWPT.</summary>
    [Uapi("IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3")]
    ArmSmmuv3 = 1,
}

/// <summary>Flags of one VT-d invalidation (C: iommu_hwpt_vtd_s1_invalidate_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_VTD_INV_FLAGS_*", Since = "6.8")]
public enum IommuHwptVtdS1InvalidateFlags : uint
{
    None = 0,
    Leaf = 1,
}

/// <summary>
/// One invalidation of a guest's VT-d first stage (C: iommu_hwpt_vtd_s1_invalidate, linux/iommufd.h).
/// </summary>
[Uapi("iommu_hwpt_vtd_s1_invalidate", Since = "6.8")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptVtdS1Invalidate
{
    public ulong Addr;
    public ulong Npages;
    public IommuHwptVtdS1InvalidateFlags Flags;
    public uint Reserved;
}

/// <summary>One command of a guest's SMMUv3 queue (C: iommu_viommu_arm_smmuv3_invalidate, linux/iommufd.h).</summary>
[Uapi("iommu_viommu_arm_smmuv3_invalidate", Since = "6.13")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuViommuArmSmmuv3Invalidate
{
    public UInt64x2 Cmd;
}

/// <summary>
/// Invalidates cached translations of a nested page table or a vIOMMU (C: iommu_hwpt_invalidate, linux/iommufd.h).
/// </summary>
[Uapi("iommu_hwpt_invalidate", Since = "6.8")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptInvalidate : IIoctlArgument<IommuHwptInvalidate>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 32;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 32;

    public uint Size;
    public uint HwptId;
    public ulong DataUptr;
    public IommuHwptInvalidateDataType DataType;
    public uint EntryLen;

    /// <summary>Out: entries handled, also on failure.</summary>
    public uint EntryNum;
    public uint Reserved;

    public static IoctlRequest Request => IommufdRequests.HwptInvalidate;

    public static IommuHwptInvalidate Create(
        uint hwptId, ulong dataUptr, IommuHwptInvalidateDataType dataType, uint entryLen, uint entryNum) =>
        new()
    {
        Size = StructSize,
        HwptId = hwptId,
        DataUptr = dataUptr,
        DataType = dataType,
        EntryLen = entryLen,
        EntryNum = entryNum,
    };
}
