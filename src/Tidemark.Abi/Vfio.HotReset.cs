using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>How the list of affected devices reads (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_PCI_HOT_RESET_FLAG_*", Since = "6.6")]
public enum VfioPciHotResetFlags : uint
{
    None = 0,

    /// <summary>The list has iommufd device ids, not group ids.</summary>
    DevId = 1,

    /// <summary>Every affected device is owned by the caller's iommufd.</summary>
    DevIdOwned = 2,
}

/// <summary>One device that a bus reset would touch (C: vfio_pci_dependent_device, linux/vfio.h).</summary>
[Uapi("vfio_pci_dependent_device", Since = "3.12")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioPciDependentDevice
{
    /// <summary>The device is owned by the caller's iommufd, but not bound by itself.</summary>
    [Uapi("VFIO_PCI_DEVID_OWNED")]
    public const uint DevidOwned = 0;

    /// <summary>Somebody else owns the device: a reset is refused.</summary>
    [Uapi("VFIO_PCI_DEVID_NOT_OWNED")]
    public const uint DevidNotOwned = 0xFFFF_FFFF;

    /// <summary>A group id unless the flags say otherwise.</summary>
    [Uapi("devid")]
    [Uapi("group_id")]
    public uint Devid;
    public ushort Segment;
    public byte Bus;
    public byte Devfn;
}

/// <summary>
/// Heads the list of devices a bus reset would touch (C: vfio_pci_hot_reset_info, linux/vfio.h). Too small a buffer
/// answers ENOSPC and the count.
/// </summary>
[Uapi("vfio_pci_hot_reset_info", Since = "3.12")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioPciHotResetInfo : IIoctlArgument<VfioPciHotResetInfo>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 12;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 12;

    public uint Argsz;
    public VfioPciHotResetFlags Flags;
    public uint Count;

    public static IoctlRequest Request => VfioRequests.DeviceGetPciHotResetInfo;

    public static VfioPciHotResetInfo Create(uint listLength = 0) => new()
    {
        Argsz = StructSize + listLength,
    };
}

/// <summary>
/// Heads a bus reset; group descriptors (s32) follow (C: vfio_pci_hot_reset, linux/vfio.h). A cdev passes none.
/// </summary>
[Uapi("vfio_pci_hot_reset", Since = "3.12")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioPciHotReset : IIoctlArgument<VfioPciHotReset>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 12;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 12;

    public uint Argsz;
    public uint Flags;
    public uint Count;

    public static IoctlRequest Request => VfioRequests.DevicePciHotReset;

    public static VfioPciHotReset Create(uint count = 0) => new()
    {
        Argsz = StructSize + (count * sizeof(int)),
        Count = count,
    };
}
