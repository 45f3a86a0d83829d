using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Creates an address space (C: iommu_ioas_alloc, linux/iommufd.h). Flags must be 0.</summary>
[Uapi("iommu_ioas_alloc", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasAlloc : IIoctlArgument<IommuIoasAlloc>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 12;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 12;

    public uint Size;
    public uint Flags;
    public uint OutIoasId;

    public static IoctlRequest Request => IommufdRequests.IoasAlloc;

    public static IommuIoasAlloc Create() => new()
    {
        Size = StructSize,
    };
}

/// <summary>A range of IOVA, both ends inclusive (C: iommu_iova_range, linux/iommufd.h).</summary>
[Uapi("iommu_iova_range", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIovaRange
{
    public ulong Start;
    public ulong Last;
}

/// <summary>
/// Lists the usable IOVA of an IOAS (C: iommu_ioas_iova_ranges, linux/iommufd.h). Too small an array answers EMSGSIZE
/// and the number needed; the list shrinks when a device attaches.
/// </summary>
[Uapi("iommu_ioas_iova_ranges", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasIovaRanges : IIoctlArgument<IommuIoasIovaRanges>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 32;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 32;

    public uint Size;
    public uint IoasId;

    /// <summary>In: room in the array. Out: ranges there are.</summary>
    public uint NumIovas;
    public uint Reserved;

    /// <summary>Address of an array of <see cref="IommuIovaRange"/>.</summary>
    public ulong AllowedIovas;
    public ulong OutIovaAlignment;

    public static IoctlRequest Request => IommufdRequests.IoasIovaRanges;

    public static IommuIoasIovaRanges Create(uint ioasId, ulong allowedIovas, uint numIovas) => new()
    {
        Size = StructSize,
        IoasId = ioasId,
        AllowedIovas = allowedIovas,
        NumIovas = numIovas,
    };
}

/// <summary>
/// Promises that only these IOVA will be used (C: iommu_ioas_allow_iovas, linux/iommufd.h). It limits automatic
/// allocation and later narrowing by devices, not fixed mappings.
/// </summary>
[Uapi("iommu_ioas_allow_iovas", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasAllowIovas : IIoctlArgument<IommuIoasAllowIovas>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Size;
    public uint IoasId;
    public uint NumIovas;
    public uint Reserved;

    /// <summary>Address of an array of <see cref="IommuIovaRange"/>, sorted, without overlap.</summary>
    public ulong AllowedIovas;

    public static IoctlRequest Request => IommufdRequests.IoasAllowIovas;

    public static IommuIoasAllowIovas Create(uint ioasId, ulong allowedIovas, uint numIovas) => new()
    {
        Size = StructSize,
        IoasId = ioasId,
        AllowedIovas = allowedIovas,
        NumIovas = numIovas,
    };
}

/// <summary>Flags of mapping and copying (C: iommufd_ioas_map_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_IOAS_MAP_*", Since = "6.2")]
public enum IommuIoasMapFlags : uint
{
    None = 0,

    /// <summary>Use the given IOVA. Without it the kernel chooses one.</summary>
    FixedIova = 1,
    Writeable = 2,
    Readable = 4,
}

/// <summary>
/// Maps memory of this process (C: iommu_ioas_map, linux/iommufd.h). Pages are pinned only once a domain needs them, so
/// a bad address may surface at attach.
/// </summary>
[Uapi("iommu_ioas_map", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasMap : IIoctlArgument<IommuIoasMap>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 40;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 40;

    public uint Size;
    public IommuIoasMapFlags Flags;
    public uint IoasId;
    public uint Reserved;
    public ulong UserVa;
    public ulong Length;

    /// <summary>In with FixedIova, else out.</summary>
    public ulong Iova;

    public static IoctlRequest Request => IommufdRequests.IoasMap;

    public static IommuIoasMap Create(
        uint ioasId, ulong iova, ulong userVa, ulong length, IommuIoasMapFlags flags) => new()
    {
        Size = StructSize,
        IoasId = ioasId,
        Iova = iova,
        UserVa = userVa,
        Length = length,
        Flags = flags,
    };
}

/// <summary>Maps a range of a memory file (C: iommu_ioas_map_file, linux/iommufd.h).</summary>
[Uapi("iommu_ioas_map_file", Since = "6.13")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasMapFile : IIoctlArgument<IommuIoasMapFile>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 40;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 40;

    public uint Size;
    public IommuIoasMapFlags Flags;
    public uint IoasId;
    public int Fd;

    /// <summary>Offset in the file.</summary>
    public ulong Start;
    public ulong Length;

    /// <summary>In with FixedIova, else out.</summary>
    public ulong Iova;

    public static IoctlRequest Request => IommufdRequests.IoasMapFile;

    public static IommuIoasMapFile Create(
        uint ioasId, ulong iova, int fd, ulong start, ulong length, IommuIoasMapFlags flags) => new()
    {
        Size = StructSize,
        IoasId = ioasId,
        Iova = iova,
        Fd = fd,
        Start = start,
        Length = length,
        Flags = flags,
    };
}

/// <summary>
/// Maps what another IOAS, or another place of the same, has mapped (C: iommu_ioas_copy, linux/iommufd.h). Parts of
/// mappings and several of them work.
/// </summary>
[Uapi("iommu_ioas_copy", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasCopy : IIoctlArgument<IommuIoasCopy>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 40;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 40;

    public uint Size;
    public IommuIoasMapFlags Flags;
    public uint DstIoasId;
    public uint SrcIoasId;
    public ulong Length;

    /// <summary>In with FixedIova, else out.</summary>
    public ulong DstIova;
    public ulong SrcIova;

    public static IoctlRequest Request => IommufdRequests.IoasCopy;

    public static IommuIoasCopy Create(
        uint dstIoasId, ulong dstIova, uint srcIoasId, ulong srcIova, ulong length, IommuIoasMapFlags flags) =>
        new()
    {
        Size = StructSize,
        DstIoasId = dstIoasId,
        DstIova = dstIova,
        SrcIoasId = srcIoasId,
        SrcIova = srcIova,
        Length = length,
        Flags = flags,
    };
}

/// <summary>
/// Unmaps whole mappings (C: iommu_ioas_unmap, linux/iommufd.h). IOVA 0 with length 2^64-1 means all; cutting a mapping
/// in two is refused.
/// </summary>
[Uapi("iommu_ioas_unmap", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasUnmap : IIoctlArgument<IommuIoasUnmap>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Size;
    public uint IoasId;
    public ulong Iova;

    /// <summary>Out: bytes unmapped.</summary>
    public ulong Length;

    public static IoctlRequest Request => IommufdRequests.IoasUnmap;

    public static IommuIoasUnmap Create(uint ioasId, ulong iova, ulong length) => new()
    {
        Size = StructSize,
        IoasId = ioasId,
        Iova = iova,
        Length = length,
    };
}

/// <summary>
/// Moves the accounting of file mappings to the calling process (C: iommu_ioas_change_process, linux/iommufd.h).
/// Refused when anything is mapped by address.
/// </summary>
[Uapi("iommu_ioas_change_process", Since = "6.13")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasChangeProcess : IIoctlArgument<IommuIoasChangeProcess>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 8;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 8;

    public uint Size;
    public uint Reserved;

    public static IoctlRequest Request => IommufdRequests.IoasChangeProcess;

    public static IommuIoasChangeProcess Create() => new()
    {
        Size = StructSize,
    };
}

/// <summary>
/// Translates an IOVA of a device without IOMMU (C: iommu_ioas_noiommu_get_pa, linux/iommufd.h). The length that comes
/// back is that of the contiguous part.
/// </summary>
[Uapi("iommu_ioas_noiommu_get_pa", Since = "7.3")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuIoasNoiommuGetPa : IIoctlArgument<IommuIoasNoiommuGetPa>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 40;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 40;

    public uint Size;
    public uint Flags;
    public uint IoasId;
    public uint Reserved;
    public ulong Iova;
    public ulong Length;
    public ulong OutPhys;

    public static IoctlRequest Request => IommufdRequests.IoasNoiommuGetPa;

    public static IommuIoasNoiommuGetPa Create(uint ioasId, ulong iova, ulong length = 0) => new()
    {
        Size = StructSize,
        IoasId = ioasId,
        Iova = iova,
        Length = length,
    };
}
