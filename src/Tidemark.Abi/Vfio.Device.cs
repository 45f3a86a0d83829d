using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Flags of <see cref="VfioDeviceBindIommufd"/> (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_DEVICE_BIND_FLAG_*", Since = "6.17")]
public enum VfioDeviceBindFlags : uint
{
    None = 0,

    /// <summary>The token's address is valid.</summary>
    Token = 1,
}

/// <summary>
/// Binds an opened device to an iommufd; the first call on a cdev (C: vfio_device_bind_iommufd, linux/vfio.h). Nothing
/// unbinds it but closing. A kernel before 6.17 knows only 16 bytes.
/// </summary>
[Uapi("vfio_device_bind_iommufd", Since = "6.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceBindIommufd : IIoctlArgument<VfioDeviceBindIommufd>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 16;

    public uint Argsz;
    public VfioDeviceBindFlags Flags;
    public int Iommufd;
    public uint OutDevid;
    public ulong TokenUuidPtr;

    public static IoctlRequest Request => VfioRequests.DeviceBindIommufd;

    public static VfioDeviceBindIommufd Create(int iommufd) => new()
    {
        Argsz = MinimumSize,
        Iommufd = iommufd,
    };
}

/// <summary>Flags of <see cref="VfioDeviceAttachIommufdPt"/> (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_DEVICE_ATTACH_*", Since = "6.15")]
public enum VfioDeviceAttachFlags : uint
{
    None = 0,
    Pasid = 1,
}

/// <summary>
/// Attaches a device to an IOAS or a HWPT, replacing what it had (C: vfio_device_attach_iommufd_pt, linux/vfio.h). The
/// id that comes back is the HWPT in use.
/// </summary>
[Uapi("vfio_device_attach_iommufd_pt", Since = "6.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceAttachIommufdPt : IIoctlArgument<VfioDeviceAttachIommufdPt>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 16;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 12;

    public uint Argsz;
    public VfioDeviceAttachFlags Flags;
    public uint PtId;
    public uint Pasid;

    public static IoctlRequest Request => VfioRequests.DeviceAttachIommufdPt;

    public static VfioDeviceAttachIommufdPt Create(uint ptId) => new()
    {
        Argsz = StructSize,
        PtId = ptId,
    };
}

/// <summary>Flags of <see cref="VfioDeviceDetachIommufdPt"/> (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_DEVICE_DETACH_*", Since = "6.15")]
public enum VfioDeviceDetachFlags : uint
{
    None = 0,
    Pasid = 1,
}

/// <summary>
/// Detaches a device; its DMA is then blocked (C: vfio_device_detach_iommufd_pt, linux/vfio.h). Detaching what is not
/// attached succeeds.
/// </summary>
[Uapi("vfio_device_detach_iommufd_pt", Since = "6.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceDetachIommufdPt : IIoctlArgument<VfioDeviceDetachIommufdPt>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 12;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 8;

    public uint Argsz;
    public VfioDeviceDetachFlags Flags;
    public uint Pasid;

    public static IoctlRequest Request => VfioRequests.DeviceDetachIommufdPt;

    public static VfioDeviceDetachIommufdPt Create() => new()
    {
        Argsz = StructSize,
    };
}

/// <summary>
/// Begins each capability of an information call (C: vfio_info_cap_header, linux/vfio.h). The offset of the next one
/// counts from the start of the whole buffer; 0 ends the chain.
/// </summary>
[Uapi("vfio_info_cap_header", Since = "4.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioInfoCapHeader
{
    public ushort Id;
    public ushort Version;
    public uint Next;
}

/// <summary>What kind of device it is and what it can (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_DEVICE_FLAGS_*", Since = "3.6")]
public enum VfioDeviceFlags : uint
{
    None = 0,
    Reset = 1,
    Pci = 2,
    Platform = 4,
    Amba = 8,
    Ccw = 0x10,
    Ap = 0x20,
    FslMc = 0x40,
    Caps = 0x80,
    Cdx = 0x100,
}

/// <summary>Says how many regions and interrupts a device has (C: vfio_device_info, linux/vfio.h).</summary>
[Uapi("vfio_device_info", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceInfo : IIoctlArgument<VfioDeviceInfo>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 16;

    public uint Argsz;
    public VfioDeviceFlags Flags;
    public uint NumRegions;
    public uint NumIrqs;
    public uint CapOffset;
    public uint Pad;

    public static IoctlRequest Request => VfioRequests.DeviceGetInfo;

    public static VfioDeviceInfo Create(uint capabilityLength = 0) => new()
    {
        Argsz = StructSize + capabilityLength,
    };
}

/// <summary>Capabilities of <see cref="VfioDeviceInfo"/> (linux/vfio.h).</summary>
[Uapi("VFIO_DEVICE_INFO_CAP_*", Since = "5.12")]
public enum VfioDeviceInfoCapId : ushort
{
    ZpciBase = 1,
    ZpciGroup = 2,
    ZpciUtil = 3,
    ZpciPfip = 4,
    PciAtomicComp = 5,
}

/// <summary>Widths of atomic completer support (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_PCI_ATOMIC_*", Since = "6.5")]
public enum VfioPciAtomicCompFlags : uint
{
    None = 0,
    Comp32 = 1,
    Comp64 = 2,
    Comp128 = 4,
}

/// <summary>
/// Atomic operations the root port completes (C: vfio_device_info_cap_pci_atomic_comp, linux/vfio.h).
/// </summary>
[Uapi("vfio_device_info_cap_pci_atomic_comp", Since = "6.5")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceInfoCapPciAtomicComp
{
    public VfioInfoCapHeader Header;
    public VfioPciAtomicCompFlags Flags;
    public uint Reserved;
}

/// <summary>What a region allows (linux/vfio.h).</summary>
[Flags]
[Uapi("VFIO_REGION_INFO_FLAG_*", Since = "3.6")]
public enum VfioRegionInfoFlags : uint
{
    None = 0,
    Read = 1,
    Write = 2,
    Mmap = 4,
    Caps = 8,
}

/// <summary>
/// Describes one region (C: vfio_region_info, linux/vfio.h). When capabilities do not fit, the size needed comes back
/// with offset 0 and success.
/// </summary>
[Uapi("vfio_region_info", Since = "3.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioRegionInfo : IIoctlArgument<VfioRegionInfo>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 32;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 32;

    public uint Argsz;
    public VfioRegionInfoFlags Flags;
    public uint Index;
    public uint CapOffset;
    public ulong Size;

    /// <summary>Where the region starts in the device's descriptor.</summary>
    public ulong Offset;

    public static IoctlRequest Request => VfioRequests.DeviceGetRegionInfo;

    public static VfioRegionInfo Create(uint index, uint capabilityLength = 0) => new()
    {
        Argsz = StructSize + capabilityLength,
        Index = index,
    };
}

/// <summary>Capabilities of <see cref="VfioRegionInfo"/> (linux/vfio.h).</summary>
[Uapi("VFIO_REGION_INFO_CAP_*", Since = "4.6")]
public enum VfioRegionInfoCapId : ushort
{
    SparseMmap = 1,
    Type = 2,

    /// <summary>The MSI-X table may be mapped too. Header only.</summary>
    MsixMappable = 3,
}

/// <summary>One part of a region that can be mapped (C: vfio_region_sparse_mmap_area, linux/vfio.h).</summary>
[Uapi("vfio_region_sparse_mmap_area", Since = "4.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioRegionSparseMmapArea
{
    /// <summary>From the start of the region.</summary>
    public ulong Offset;
    public ulong Size;
}

/// <summary>
/// Lists the only parts that can be mapped; the areas follow (C: vfio_region_info_cap_sparse_mmap, linux/vfio.h).
/// </summary>
[Uapi("vfio_region_info_cap_sparse_mmap", Since = "4.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioRegionInfoCapSparseMmap
{
    public VfioInfoCapHeader Header;
    public uint NrAreas;
    public uint Reserved;
}

/// <summary>The type of a device-specific region (C: vfio_region_info_cap_type, linux/vfio.h).</summary>
[Uapi("vfio_region_info_cap_type", Since = "4.6")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioRegionInfoCapType
{
    public VfioInfoCapHeader Header;
    public uint Type;
    public uint Subtype;
}

/// <summary>The fixed regions of a PCI device (linux/vfio.h); device-specific ones follow.</summary>
[Uapi("VFIO_PCI_*_REGION_INDEX", Since = "3.6")]
public enum VfioPciRegionIndex : uint
{
    Bar0 = 0,
    Bar1 = 1,
    Bar2 = 2,
    Bar3 = 3,
    Bar4 = 4,
    Bar5 = 5,
    Rom = 6,
    Config = 7,
    Vga = 8,
    [Uapi("VFIO_PCI_NUM_REGIONS")]
    Count = 9,
}

/// <summary>
/// Lets an eventfd trigger a write into a region (C: vfio_device_ioeventfd, linux/vfio.h). Descriptor -1 removes it.
/// </summary>
[Uapi("vfio_device_ioeventfd", Since = "4.17")]
[StructLayout(LayoutKind.Sequential)]
public struct VfioDeviceIoeventfd : IIoctlArgument<VfioDeviceIoeventfd>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 32;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 32;

    public uint Argsz;
    public VfioDeviceIoeventfdFlags Flags;

    /// <summary>As given by the region's information.</summary>
    public ulong Offset;
    public ulong Data;
    public int Fd;
    public uint Reserved;

    public static IoctlRequest Request => VfioRequests.DeviceIoeventfd;

    public static VfioDeviceIoeventfd Create(VfioDeviceIoeventfdFlags flags, ulong offset, int fd, ulong data) => new()
    {
        Argsz = StructSize,
        Flags = flags,
        Offset = offset,
        Fd = fd,
        Data = data,
    };
}

/// <summary>The width of the write; exactly one (linux/vfio.h).</summary>
[Flags]
public enum VfioDeviceIoeventfdFlags : uint
{
    None = 0,
    [Uapi("VFIO_DEVICE_IOEVENTFD_8")]
    Bits8 = 1,
    [Uapi("VFIO_DEVICE_IOEVENTFD_16")]
    Bits16 = 2,
    [Uapi("VFIO_DEVICE_IOEVENTFD_32")]
    Bits32 = 4,
    [Uapi("VFIO_DEVICE_IOEVENTFD_64")]
    Bits64 = 8,
    [Uapi("VFIO_DEVICE_IOEVENTFD_SIZE_MASK")]
    SizeMask = 0xF,
}
