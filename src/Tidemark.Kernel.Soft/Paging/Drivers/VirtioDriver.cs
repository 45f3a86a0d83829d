using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// The paravirtual IOMMU of virtual machines (drivers/iommu/virtio-iommu.c), as QEMU offers it on x86: 39 bits of IOVAs,
/// no flags, no information.
/// </summary>
/// <remarks>FIDELITY: the device keeps a list of mappings and no tables; here they are VT-d's second stage.</remarks>
internal sealed class VirtioDriver(SoftIommuUnit unit) : IommuDriver(unit)
{
    public override bool TracksDirty => false;

    public override bool TakesFlags => false;

    public override IReadOnlyList<(ulong First, ulong Last)> ReservedRegions => X86Regions.Interrupts;

    public override IommuHwInfoType InfoType => IommuHwInfoType.None;

    public override Errno Choose(IommuHwptAllocFlags flags, bool hasData, out PageTableFormat? format)
    {
        if (flags != 0 || hasData)
            return Refuse(out format);
        format = PageTableFormat.Virtio();
        return Errno.Success;
    }

    public override int CopyInfo(Span<byte> into) => 0;

    /// <summary>A table belongs to one unit.</summary>
    protected override bool AcceptsOfSameKind(PageTableFormat format, IommuDriver maker) =>
        ReferenceEquals(maker.Unit, Unit);
}
