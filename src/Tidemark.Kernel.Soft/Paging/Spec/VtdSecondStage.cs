namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// Entries of second-stage tables: VT-d specification, second-stage paging entries.
/// </summary>
/// <remarks>
/// <code>
/// 63  62..52   51 ........ 12  11   10  9  8  7   6..2  1  0
/// ign ignored  address         SNP  ign D  A  PS  0     W  R
/// </code>
/// An entry with neither R nor W is empty. Tables carry R and W. PS makes a leaf of an entry above level 0.
/// </remarks>
internal static class VtdSecondStage
{
    public const int EntriesPerTable = 512;
    public const int IndexBits = 9;

    public const ulong Read = 1UL << 0;
    public const ulong Write = 1UL << 1;
    public const ulong PageSize = 1UL << 7;
    public const ulong Accessed = 1UL << 8;
    public const ulong Dirty = 1UL << 9;
    public const ulong Snoop = 1UL << 11;
    public const ulong AddressMask = 0x000F_FFFF_FFFF_F000;

    /// <summary>The highest level with leaves: 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB.</summary>
    public const int LargestLeafLevel = 2;

    /// <summary>Capability register: superpage sizes 2 MiB and 1 GiB.</summary>
    private const ulong CapSuperPages = 0b11UL << 34;

    private const ulong EcapCoherent = 1UL << 0;
    private const ulong EcapQueuedInvalidation = 1UL << 1;
    private const ulong EcapScalableMode = 1UL << 43;
    private const ulong EcapSecondStageAccessedDirty = 1UL << 45;
    private const ulong EcapSecondStage = 1UL << 46;
    private const ulong EcapScalableModeCoherent = 1UL << 48;

    public static bool IsPresent(ulong entry) => (entry & (Read | Write)) != 0;

    public static bool IsLeaf(ulong entry, int level) => level == 0 || (entry & PageSize) != 0;

    /// <summary>log2 of the bytes that one entry of a level covers.</summary>
    public static int Shift(int level) => 12 + IndexBits * level;

    public static int Index(ulong iova, int level) => (int)((iova >> Shift(level)) & (EntriesPerTable - 1));

    /// <summary>Levels of tables for a width of IOVAs: 3 for 39 bits, 4 for 48, 5 for 57.</summary>
    public static int Levels(int addressWidth) => (addressWidth - 12) / IndexBits;

    /// <summary>The capability register of a unit: adjusted widths up to its own, and superpages.</summary>
    public static ulong CapabilityRegister(int addressWidth)
    {
        ulong widths = 0;
        for (int width = 39; width <= addressWidth; width += IndexBits)
            widths |= 1UL << (8 + 1 + (width - 39) / IndexBits);
        return widths | (ulong)(addressWidth - 1) << 16 | CapSuperPages;
    }

    /// <summary>The extended capability register: scalable mode with second stage, and SLADS when the unit
    /// tracks.</summary>
    public static ulong ExtendedCapabilityRegister(bool dirtyTracking) =>
        EcapCoherent | EcapQueuedInvalidation | EcapScalableMode | EcapSecondStage | EcapScalableModeCoherent
        | (dirtyTracking ? EcapSecondStageAccessedDirty : 0);
}
