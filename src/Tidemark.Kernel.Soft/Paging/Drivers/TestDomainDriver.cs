using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>What the kernel's IOMMUFD_TEST devices sit behind (drivers/iommu/iommufd/selftest.c).</summary>
internal sealed class TestDomainDriver(SoftIommuUnit unit) : IommuDriver(unit)
{
    private const IommuHwInfoType SelfTest = (IommuHwInfoType)0xFEED_BEEF;
    private const uint SelfTestValue = 0xDEAD_BEEF;

    public override bool TracksDirty => Unit.DirtyTracking;

    public override IReadOnlyList<(ulong First, ulong Last)> ReservedRegions => [];

    public override IommuHwInfoType InfoType => SelfTest;

    /// <summary>
    /// The default table. Data, which chooses another one, is the caller's to read: see
    /// <see cref="PageTableFormat.TestDomain"/>.
    /// </summary>
    public override Errno Choose(IommuHwptAllocFlags flags, bool hasData, out PageTableFormat? format)
    {
        const IommuHwptAllocFlags Known = IommuHwptAllocFlags.DirtyTracking | IommuHwptAllocFlags.NestParent
            | IommuHwptAllocFlags.Pasid;
        bool dirtyTracking = (flags & IommuHwptAllocFlags.DirtyTracking) != 0;
        if (hasData || (flags & ~Known) != 0 || (dirtyTracking && !TracksDirty))
            return Refuse(out format);
        format = PageTableFormat.TestDomain(dirtyTracking);
        return Errno.Success;
    }

    public override int CopyInfo(Span<byte> into)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(into, 0);
        BinaryPrimitives.WriteUInt32LittleEndian(into[4..], SelfTestValue);
        return 8;
    }
}
