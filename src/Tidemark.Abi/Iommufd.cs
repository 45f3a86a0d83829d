using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>
/// Destroys one iommufd object (C: iommu_destroy, linux/iommufd.h). An object with users answers EBUSY.
/// </summary>
[Uapi("iommu_destroy", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuDestroy : IIoctlArgument<IommuDestroy>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 8;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 8;

    public uint Size;
    public uint Id;

    public static IoctlRequest Request => IommufdRequests.Destroy;

    public static IommuDestroy Create(uint id) => new()
    {
        Size = StructSize,
        Id = id,
    };
}

/// <summary>What an <see cref="IommuOption"/> reads or sets (C: iommufd_option, linux/iommufd.h).</summary>
[Uapi("IOMMU_OPTION_*", Since = "6.2")]
public enum IommuOptionId : uint
{
    /// <summary>How pinned pages are accounted: 0 per user, 1 per process. Global: the object id must be 0.</summary>
    RlimitMode = 0,

    /// <summary>Whether an IOAS may use large leaves: 1 (the start value) or 0. Takes an IOAS id.</summary>
    HugePages = 1,
}

/// <summary>The direction of an <see cref="IommuOption"/> (C: iommufd_option_ops, linux/iommufd.h).</summary>
[Uapi("IOMMU_OPTION_OP_*", Since = "6.2")]
public enum IommuOptionOp : ushort
{
    Set = 0,
    Get = 1,
}

/// <summary>Reads or sets an option of the context or of one object (C: iommu_option, linux/iommufd.h).</summary>
[Uapi("iommu_option", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuOption : IIoctlArgument<IommuOption>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 24;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 24;

    public uint Size;
    public IommuOptionId OptionId;
    public IommuOptionOp Op;
    public ushort Reserved;
    public uint ObjectId;
    public ulong Val64;

    public static IoctlRequest Request => IommufdRequests.Option;

    public static IommuOption Create(
        IommuOptionId optionId, IommuOptionOp op, uint objectId = 0, ulong val64 = 0) => new()
    {
        Size = StructSize,
        OptionId = optionId,
        Op = op,
        ObjectId = objectId,
        Val64 = val64,
    };
}

/// <summary>What to do with the compatibility IOAS (C: iommufd_vfio_ioas_op, linux/iommufd.h).</summary>
[Uapi("IOMMU_VFIO_IOAS_*", Since = "6.2")]
public enum IommuVfioIoasOp : ushort
{
    Get = 0,
    Set = 1,
    Clear = 2,
}

/// <summary>
/// The IOAS that legacy VFIO container calls on this descriptor use (C: iommu_vfio_ioas, linux/iommufd.h).
/// </summary>
[Uapi("iommu_vfio_ioas", Since = "6.2")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuVfioIoas : IIoctlArgument<IommuVfioIoas>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 12;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 12;

    public uint Size;
    public uint IoasId;
    public IommuVfioIoasOp Op;
    public ushort Reserved;

    public static IoctlRequest Request => IommufdRequests.VfioIoas;

    public static IommuVfioIoas Create(IommuVfioIoasOp op, uint ioasId = 0) => new()
    {
        Size = StructSize,
        Op = op,
        IoasId = ioasId,
    };
}
