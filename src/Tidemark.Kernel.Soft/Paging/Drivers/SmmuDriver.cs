using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>Arm's SMMUv3 (drivers/iommu/arm/arm-smmu-v3) with stage 1 tables and a granule of 4 KiB.</summary>
internal sealed class SmmuDriver(SoftIommuUnit unit) : IommuDriver(unit)
{
    /// <summary>
    /// The kernel's own choice, where it maps the doorbell of message-signalled interrupts for the device.
    /// </summary>
    private static readonly (ulong First, ulong Last)[] s_interrupts = [(0x0800_0000, 0x080F_FFFF)];

    /// <summary>IDR0: stage 1, AArch64 tables, coherent walks; HTTU 0 or 2 (access and dirty) follows.</summary>
    private const uint Idr0 = 1u << 1 | 2u << 2 | 1u << 4;
    private const uint Idr0DirtyUpdates = 2u << 6;

    /// <summary>IDR5: granule of 4 KiB, output addresses of 48 bits.</summary>
    private const uint Idr5 = 1u << 4 | 5u;

    public override bool TracksDirty => Unit.DirtyTracking;

    public override IReadOnlyList<(ulong First, ulong Last)> ReservedRegions => s_interrupts;

    public override IommuHwInfoType InfoType => IommuHwInfoType.ArmSmmuv3;

    /// <summary>Stage 1 for 0, PASID, DIRTY_TRACKING and both; there is no stage 2, so no nesting.</summary>
    public override Errno Choose(IommuHwptAllocFlags flags, bool hasData, out PageTableFormat? format)
    {
        bool dirtyTracking = (flags & IommuHwptAllocFlags.DirtyTracking) != 0;
        if (hasData || (flags & ~(IommuHwptAllocFlags.DirtyTracking | IommuHwptAllocFlags.Pasid)) != 0)
            return Refuse(out format);
        format = PageTableFormat.SmmuV3Stage1(dirtyTracking);
        return Errno.Success;
    }

    public override int CopyInfo(Span<byte> into)
    {
        into[..40].Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(into[8..], Idr0 | (TracksDirty ? Idr0DirtyUpdates : 0));
        BinaryPrimitives.WriteUInt32LittleEndian(into[28..], Idr5);
        return 40;
    }

    /// <summary>A table belongs to one unit.</summary>
    protected override bool AcceptsOfSameKind(PageTableFormat format, IommuDriver maker) =>
        ReferenceEquals(maker.Unit, Unit);
}
