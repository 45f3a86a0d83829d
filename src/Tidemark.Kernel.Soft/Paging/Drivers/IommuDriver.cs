using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// The driver of one IOMMU: which page tables it makes, which of them its devices can use, and what it tells of itself.
/// Has no state.
/// </summary>
internal abstract class IommuDriver(SoftIommuUnit unit)
{
    /// <summary>Bytes that <see cref="CopyInfo"/> needs room for.</summary>
    public const int LargestInfo = 64;

    public SoftIommuUnit Unit { get; } = unit;

    /// <summary>IOMMU_CAP_DIRTY_TRACKING: HWPT_ALLOC takes DIRTY_TRACKING, and GET_HW_INFO says so.</summary>
    public abstract bool TracksDirty { get; }

    /// <summary>Whether it makes page tables by flags at all; if not, every flag and all data are EOPNOTSUPP.</summary>
    public virtual bool TakesFlags => true;

    /// <summary>
    /// What no mapping may touch while a device is attached, in the order in which the kernel reserves it, both ends
    /// included.
    /// </summary>
    public abstract IReadOnlyList<(ulong First, ulong Last)> ReservedRegions { get; }

    /// <summary>What GET_HW_INFO calls <see cref="CopyInfo"/>'s data; None: the driver tells nothing.</summary>
    public abstract IommuHwInfoType InfoType { get; }

    /// <summary>What GET_HW_INFO's capability word holds.</summary>
    public IommuHwCapabilities Capabilities =>
        (TracksDirty ? IommuHwCapabilities.DirtyTracking : 0) | IommuHwCapabilities.PciAtsNotSupported;

    /// <exception cref="ArgumentException">The unit's width is not one of its kind.</exception>
    public static IommuDriver For(SoftIommuUnit unit) => unit.Kind switch
    {
        SoftIommuKind.VtdScalable or SoftIommuKind.VtdLegacy or SoftIommuKind.VtdFirstStage => new VtdDriver(unit),
        SoftIommuKind.Amd => new AmdDriver(unit),
        SoftIommuKind.SmmuV3 => new SmmuDriver(unit),
        SoftIommuKind.Virtio => new VirtioDriver(unit),
        SoftIommuKind.TestDomain => new TestDomainDriver(unit),
        _ => throw new ArgumentException($"IOMMU {unit.Name} is of the unknown kind {unit.Kind}.", nameof(unit)),
    };

    /// <summary>
    /// The format of a paging table for the flags of HWPT_ALLOC, of which the caller has refused those that no driver
    /// knows. EOPNOTSUPP: not these flags, or not data.
    /// </summary>
    public abstract Errno Choose(IommuHwptAllocFlags flags, bool hasData, out PageTableFormat? format);

    /// <summary>Whether a device behind the unit can use a table that <paramref name="maker"/> made.</summary>
    public bool Accepts(PageTableFormat format, IommuDriver maker) =>
        maker.GetType() == GetType() && (!format.DirtyTracking || TracksDirty) && AcceptsOfSameKind(format, maker);

    /// <summary>GET_HW_INFO's data, into <see cref="LargestInfo"/> bytes; the number written.</summary>
    public abstract int CopyInfo(Span<byte> into);

    /// <summary>The part of <see cref="Accepts"/> that is the driver's own.</summary>
    protected virtual bool AcceptsOfSameKind(PageTableFormat format, IommuDriver maker) => true;

    /// <summary>EOPNOTSUPP and no format.</summary>
    protected static Errno Refuse(out PageTableFormat? format)
    {
        format = null;
        return Errno.EOPNOTSUPP;
    }
}
