using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>AMD's IOMMU (drivers/iommu/amd) with version 1 tables. Its registers are those of QEMU's unit.</summary>
internal sealed class AmdDriver(SoftIommuUnit unit) : IommuDriver(unit)
{
    /// <summary>Prefetch, page requests, guest translation, invalidate-all, guest APIC, hardware errors; six levels of
    /// host and guest tables.</summary>
    private const ulong Features = 0x29D3;
    private const ulong FeatureX2Apic = 1UL << 2;
    private const ulong FeatureAccessed = 1UL << 49;
    private const ulong FeatureDirty = 1UL << 52;

    public override bool TracksDirty => Unit.DirtyTracking;

    public override IReadOnlyList<(ulong First, ulong Last)> ReservedRegions => X86Regions.Amd;

    public override IommuHwInfoType InfoType => IommuHwInfoType.Amd;

    /// <summary>EFR.</summary>
    public ulong ExtendedFeatures =>
        Features | (TracksDirty ? FeatureAccessed | FeatureDirty : FeatureX2Apic);

    /// <summary>Version 1 tables for 0 and DIRTY_TRACKING; there are neither PASIDs nor nesting.</summary>
    public override Errno Choose(IommuHwptAllocFlags flags, bool hasData, out PageTableFormat? format)
    {
        if (hasData || flags is not (IommuHwptAllocFlags.None or IommuHwptAllocFlags.DirtyTracking)
            || (flags != 0 && !TracksDirty))
        {
            return Refuse(out format);
        }

        format = PageTableFormat.AmdV1(dirtyTracking: flags != 0);
        return Errno.Success;
    }

    public override int CopyInfo(Span<byte> into)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(into, ExtendedFeatures);
        BinaryPrimitives.WriteUInt64LittleEndian(into[8..], 0);
        return 16;
    }
}
