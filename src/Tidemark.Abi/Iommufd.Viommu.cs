using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Kinds of virtual IOMMU (C: iommu_viommu_type, linux/iommufd.h).</summary>
[Uapi("IOMMU_VIOMMU_TYPE_*", Since = "6.13")]
public enum IommuViommuType : uint
{
    Default = 0,
    ArmSmmuv3 = 1,
    Tegra241Cmdqv = 2,
}

/// <summary>Where to map the Tegra241 virtual interface (C: iommu_viommu_tegra241_cmdqv, linux/iommufd.h).</summary>
[Uapi("iommu_viommu_tegra241_cmdqv", Since = "6.17")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuViommuTegra241Cmdqv
{
    public ulong OutVintfMmapOffset;
    public ulong OutVintfMmapLength;
}

/// <summary>Creates a virtual IOMMU above a nest parent (C: iommu_viommu_alloc, linux/iommufd.h).</summary>
[Uapi("iommu_viommu_alloc", Since = "6.13")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuViommuAlloc : IIoctlArgument<IommuViommuAlloc>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 40;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Size;
    public uint Flags;
    public IommuViommuType Type;
    public uint DevId;
    public uint HwptId;
    public uint OutViommuId;
    public uint DataLen;
    public uint Reserved;
    public ulong DataUptr;

    public static IoctlRequest Request => IommufdRequests.ViommuAlloc;

    public static IommuViommuAlloc Create(uint devId, IommuViommuType type, uint hwptId) => new()
    {
        Size = StructSize,
        DevId = devId,
        Type = type,
        HwptId = hwptId,
    };
}

/// <summary>Gives a device its identity behind a vIOMMU (C: iommu_vdevice_alloc, linux/iommufd.h).</summary>
[Uapi("iommu_vdevice_alloc", Since = "6.13")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuVdeviceAlloc : IIoctlArgument<IommuVdeviceAlloc>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Size;
    public uint ViommuId;
    public uint DevId;
    public uint OutVdeviceId;
    public ulong VirtId;

    public static IoctlRequest Request => IommufdRequests.VdeviceAlloc;

    public static IommuVdeviceAlloc Create(uint viommuId, ulong virtId, uint devId) => new()
    {
        Size = StructSize,
        ViommuId = viommuId,
        VirtId = virtId,
        DevId = devId,
    };
}

/// <summary>Flags of <see cref="IommufdVeventHeader"/> (C: iommu_veventq_flag, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_VEVENTQ_FLAG_*", Since = "6.15")]
public enum IommuVeventqFlags : uint
{
    None = 0,

    /// <summary>The queue overflowed; no event follows the header.</summary>
    LostEvents = 1,
}

/// <summary>
/// Stands before every event read from a virtual event queue (C: iommufd_vevent_header, linux/iommufd.h).
/// </summary>
[Uapi("iommufd_vevent_header", Since = "6.15")]
[StructLayout(LayoutKind.Sequential)]
public struct IommufdVeventHeader
{
    public IommuVeventqFlags Flags;
    public uint Sequence;
}

/// <summary>Kinds of virtual event queue (C: iommu_veventq_type, linux/iommufd.h).</summary>
[Uapi("IOMMU_VEVENTQ_TYPE_*", Since = "6.15")]
public enum IommuVeventqType : uint
{
    Default = 0,
    ArmSmmuv3 = 1,
    Tegra241Cmdqv = 2,
}

/// <summary>One SMMUv3 event record, little endian (C: iommu_vevent_arm_smmuv3, linux/iommufd.h).</summary>
[Uapi("iommu_vevent_arm_smmuv3", Since = "6.15")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuVeventArmSmmuv3
{
    public UInt64x4 Evt;
}

/// <summary>
/// The error map of Tegra241's logical queues, little endian (C: iommu_vevent_tegra241_cmdqv, linux/iommufd.h).
/// </summary>
[Uapi("iommu_vevent_tegra241_cmdqv", Since = "6.17")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuVeventTegra241Cmdqv
{
    public UInt64x2 LvcmdqErrMap;
}

/// <summary>Creates a virtual event queue and its descriptor (C: iommu_veventq_alloc, linux/iommufd.h).</summary>
[Uapi("iommu_veventq_alloc", Since = "6.15")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuVeventqAlloc : IIoctlArgument<IommuVeventqAlloc>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 32;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 28;

    public uint Size;
    public uint Flags;
    public uint ViommuId;
    public IommuVeventqType Type;
    public uint VeventqDepth;
    public uint OutVeventqId;
    public uint OutVeventqFd;
    public uint Reserved;

    public static IoctlRequest Request => IommufdRequests.VeventqAlloc;

    public static IommuVeventqAlloc Create(uint viommuId, IommuVeventqType type, uint veventqDepth) => new()
    {
        Size = StructSize,
        ViommuId = viommuId,
        Type = type,
        VeventqDepth = veventqDepth,
    };
}

/// <summary>Kinds of hardware queue (C: iommu_hw_queue_type, linux/iommufd.h).</summary>
[Uapi("IOMMU_HW_QUEUE_TYPE_*", Since = "6.17")]
public enum IommuHwQueueType : uint
{
    Default = 0,
    Tegra241Cmdqv = 1,
}

/// <summary>
/// Hands a guest's queue memory to the hardware (C: iommu_hw_queue_alloc, linux/iommufd.h). While it lives the mapping
/// below can not be removed.
/// </summary>
[Uapi("iommu_hw_queue_alloc", Since = "6.17")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwQueueAlloc : IIoctlArgument<IommuHwQueueAlloc>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 40;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 40;

    public uint Size;
    public uint Flags;
    public uint ViommuId;
    public IommuHwQueueType Type;
    public uint Index;
    public uint OutHwQueueId;
    public ulong NestingParentIova;
    public ulong Length;

    public static IoctlRequest Request => IommufdRequests.HwQueueAlloc;

    public static IommuHwQueueAlloc Create(
        uint viommuId, IommuHwQueueType type, uint index, ulong nestingParentIova, ulong length) => new()
    {
        Size = StructSize,
        ViommuId = viommuId,
        Type = type,
        Index = index,
        NestingParentIova = nestingParentIova,
        Length = length,
    };
}
