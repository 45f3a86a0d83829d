using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Creates a queue of page requests and its descriptor (C: iommu_fault_alloc, linux/iommufd.h).</summary>
[Uapi("iommu_fault_alloc", Since = "6.11")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuFaultAlloc : IIoctlArgument<IommuFaultAlloc>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 16;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 16;

    public uint Size;
    public uint Flags;
    public uint OutFaultId;
    public uint OutFaultFd;

    public static IoctlRequest Request => IommufdRequests.FaultQueueAlloc;

    public static IommuFaultAlloc Create() => new()
    {
        Size = StructSize,
    };
}

/// <summary>Flags of <see cref="IommuHwptPgfault"/> (C: iommu_hwpt_pgfault_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_PGFAULT_FLAGS_*", Since = "6.11")]
public enum IommuHwptPgfaultFlags : uint
{
    None = 0,
    PasidValid = 1,
    LastPage = 2,
}

/// <summary>The access a page request wants (C: iommu_hwpt_pgfault_perm, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_PGFAULT_PERM_*", Since = "6.11")]
public enum IommuHwptPgfaultPerm : uint
{
    None = 0,
    Read = 1,
    Write = 2,
    Exec = 4,
    Priv = 8,
}

/// <summary>One page request, as read from a fault queue (C: iommu_hwpt_pgfault, linux/iommufd.h).</summary>
[Uapi("iommu_hwpt_pgfault", Since = "6.11")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptPgfault
{
    public IommuHwptPgfaultFlags Flags;
    public uint DevId;
    public uint Pasid;
    public uint Grpid;
    public IommuHwptPgfaultPerm Perm;
    public uint Reserved;
    public ulong Addr;
    public uint Length;
    public uint Cookie;
}

/// <summary>The answer to a page request (C: iommufd_page_response_code, linux/iommufd.h).</summary>
[Uapi("IOMMUFD_PAGE_RESP_*", Since = "6.11")]
public enum IommufdPageResponseCode : uint
{
    Success = 0,
    Invalid = 1,
}

/// <summary>One answer, as written to a fault queue (C: iommu_hwpt_page_response, linux/iommufd.h).</summary>
[Uapi("iommu_hwpt_page_response", Since = "6.11")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwptPageResponse
{
    public uint Cookie;
    public IommufdPageResponseCode Code;
}
