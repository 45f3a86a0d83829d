using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// Intel VT-d (drivers/iommu/intel). Its registers are those of QEMU's unit, whose modes the kinds are.
/// </summary>
/// <remarks>
/// <code>
/// flags                0, PASID                        with DIRTY_TRACKING        with NEST_PARENT
/// legacy               second stage                    refused                    refused
/// scalable             second stage                    second stage if SLADS      refused: no nesting here
/// first stage          first stage, no dirty ops       second stage if SLADS      refused
/// </code>
/// </remarks>
internal sealed class VtdDriver : IommuDriver
{
    private const ulong CapDomains = 6UL;
    private const ulong CapFaultRegisters = 0x22UL << 24;
    private const ulong CapSuperPages = 0b11UL << 34;
    private const ulong CapPageSelective = 1UL << 39;
    private const ulong CapAddressMask = 18UL << 48;
    private const ulong CapDrain = 0b11UL << 54;
    private const ulong CapFirstStage1G = 1UL << 56;
    private const ulong CapFirstStage5Level = 1UL << 60;
    private const ulong CapRootPointerFlush = 1UL << 63;

    private const ulong EcapQueuedInvalidation = 1UL << 1;
    private const ulong EcapInterruptRemapping = 1UL << 3;
    private const ulong EcapPassThrough = 1UL << 6;
    private const ulong EcapIotlbRegister = 0xFUL << 8;
    private const ulong EcapHandleMask = 0xFUL << 20;
    private const ulong EcapSupervisorRequest = 1UL << 31;
    private const ulong EcapPasid20Bits = 1UL << 40 | 19UL << 35;
    private const ulong EcapScalableMode = 1UL << 43;
    private const ulong EcapSecondStageDirty = 1UL << 45;
    private const ulong EcapSecondStage = 1UL << 46;
    private const ulong EcapFirstStage = 1UL << 47;
    private const ulong EcapScalableModeCoherent = 1UL << 48;

    private readonly bool _hasFirstStage;
    private readonly bool _hasSecondStage;

    public VtdDriver(SoftIommuUnit unit)
        : base(unit)
    {
        if (unit.AddressWidth is not (39 or 48 or 57))
        {
            throw new ArgumentException(
                $"IOMMU {unit.Name} has an address width of {unit.AddressWidth}; VT-d has 39, 48 and 57.",
                nameof(unit));
        }

        _hasFirstStage = unit.Kind == SoftIommuKind.VtdFirstStage;
        TracksDirty = unit.DirtyTracking && unit.Kind != SoftIommuKind.VtdLegacy;
        _hasSecondStage = !_hasFirstStage || TracksDirty;
    }

    public override bool TracksDirty { get; }

    public override IReadOnlyList<(ulong First, ulong Last)> ReservedRegions => X86Regions.Interrupts;

    public override IommuHwInfoType InfoType => IommuHwInfoType.IntelVtd;

    /// <summary>
    /// CAP: the widths up to its own, and what QEMU has beside them. QEMU 11.1 tracks nothing and flushes when its root
    /// table changes; the older one that is made to track does not say so.
    /// </summary>
    public ulong CapabilityRegister
    {
        get
        {
            ulong widths = 0;
            for (int width = 39; width <= Unit.AddressWidth; width += 9)
                widths |= 1UL << (8 + 1 + (width - 39) / 9);
            ulong firstStage = _hasFirstStage
                ? CapFirstStage1G | (Unit.AddressWidth > 48 ? CapFirstStage5Level : 0) : 0;
            return CapDomains | widths | (ulong)(Unit.AddressWidth - 1) << 16 | CapFaultRegisters | CapSuperPages
                | CapPageSelective | CapAddressMask | CapDrain | firstStage | (TracksDirty ? 0 : CapRootPointerFlush);
        }
    }

    /// <summary>ECAP.</summary>
    public ulong ExtendedCapabilityRegister
    {
        get
        {
            ulong value = EcapQueuedInvalidation | EcapInterruptRemapping | EcapPassThrough | EcapIotlbRegister
                | EcapHandleMask;
            if (Unit.Kind == SoftIommuKind.VtdLegacy)
                return value;
            value |= EcapScalableMode;
            value |= _hasFirstStage ? EcapFirstStage | EcapPasid20Bits : EcapSupervisorRequest;
            value |= _hasSecondStage ? EcapSecondStage : 0;
            return TracksDirty ? value | EcapSecondStageDirty | EcapScalableModeCoherent : value;
        }
    }

    public override Errno Choose(IommuHwptAllocFlags flags, bool hasData, out PageTableFormat? format)
    {
        const IommuHwptAllocFlags SecondStageFlags = IommuHwptAllocFlags.DirtyTracking | IommuHwptAllocFlags.Pasid;
        if (hasData)
            return Refuse(out format);
        if (_hasFirstStage && (flags & ~IommuHwptAllocFlags.Pasid) == 0)
        {
            format = PageTableFormat.X86FirstStage(Unit.AddressWidth);
            return Errno.Success;
        }

        bool dirtyTracking = (flags & IommuHwptAllocFlags.DirtyTracking) != 0;
        if ((flags & ~SecondStageFlags) != 0 || (dirtyTracking && !TracksDirty) || !_hasSecondStage)
            return Refuse(out format);
        format = PageTableFormat.VtdSecondStage(Unit.AddressWidth, dirtyTracking);
        return Errno.Success;
    }

    public override int CopyInfo(Span<byte> into)
    {
        into[..24].Clear();
        // The driver tells of the erratum 772415 whatever the processor is.
        BinaryPrimitives.WriteUInt32LittleEndian(into, 1);
        BinaryPrimitives.WriteUInt64LittleEndian(into[8..], CapabilityRegister);
        BinaryPrimitives.WriteUInt64LittleEndian(into[16..], ExtendedCapabilityRegister);
        return 24;
    }

    protected override bool AcceptsOfSameKind(PageTableFormat format, IommuDriver maker) =>
        format.Layout == PageTableLayout.X86FirstStage
            ? _hasFirstStage && (Unit.AddressWidth > 48 || format.AddressWidth <= 48)
            : _hasSecondStage && format.AddressWidth <= Unit.AddressWidth;
}

/// <summary>Windows of x86 hosts.</summary>
internal static class X86Regions
{
    /// <summary>Where DMA means a message-signalled interrupt.</summary>
    private static readonly (ulong First, ulong Last) s_interrupts = (0xFEE0_0000, 0xFEEF_FFFF);

    public static IReadOnlyList<(ulong First, ulong Last)> Interrupts { get; } = [s_interrupts];

    /// <summary>AMD's also has the HyperTransport hole.</summary>
    public static IReadOnlyList<(ulong First, ulong Last)> Amd { get; } =
        [s_interrupts, (0xFD_0000_0000, 0xFF_FFFF_FFFF)];
}
