using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// What stands for the IOMMU of a device that has none (UAPI: hwpt_noiommu.c): its tables are looked up by software
/// only, and the device's addresses are physical ones.
/// </summary>
internal sealed class NoIommuDriver() : IommuDriver(new SoftIommuUnit("none") { DirtyTracking = false })
{
    public static NoIommuDriver Instance { get; } = new();

    public override bool TracksDirty => false;

    public override IReadOnlyList<(ulong First, ulong Last)> ReservedRegions => [];

    public override IommuHwInfoType InfoType => IommuHwInfoType.None;

    /// <summary>No flag and no data.</summary>
    public override Errno Choose(IommuHwptAllocFlags flags, bool hasData, out PageTableFormat? format)
    {
        if (hasData || flags != IommuHwptAllocFlags.None)
            return Refuse(out format);
        format = PageTableFormat.NoIommu;
        return Errno.Success;
    }

    public override int CopyInfo(Span<byte> into) => 0;
}
