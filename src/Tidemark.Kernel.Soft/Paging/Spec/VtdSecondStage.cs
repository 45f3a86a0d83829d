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
internal readonly struct VtdSecondStage : IEntryFormat
{
    public const ulong Read = 1UL << 0;
    public const ulong Write = 1UL << 1;
    public const ulong PageSize = 1UL << 7;
    public const ulong Accessed = 1UL << 8;
    public const ulong Dirty = 1UL << 9;
    public const ulong Snoop = 1UL << 11;
    public const ulong AddressMask = 0x000F_FFFF_FFFF_F000;

    public static int GranuleShift => 12;

    public static ulong LeafSizes => 1UL << 12 | 1UL << 21 | 1UL << 30;

    public static bool HasReplicas => false;

    public static bool SwitchesTracking => true;

    public static bool IsPresent(ulong entry) => (entry & (Read | Write)) != 0;

    public static bool IsLeaf(ulong entry, int level) => level == 0 || (entry & PageSize) != 0;

    public static ulong TableEntry(ulong physical, int level) => physical | Read | Write;

    public static ulong TableAddress(ulong entry) => entry & AddressMask;

    public static ulong LeafEntry(ulong physical, int sizeShift, int level, LeafAttributes attributes) =>
        physical
        | ((attributes & LeafAttributes.Read) != 0 ? Read : 0)
        | ((attributes & LeafAttributes.Write) != 0 ? Write : 0)
        | ((attributes & LeafAttributes.Snoop) != 0 ? Snoop : 0)
        | (level == 0 ? 0 : PageSize);

    public static int LeafShift(ulong entry, int level) => 12 + 9 * level;

    public static ulong LeafAddress(ulong entry, int level) => entry & AddressMask;

    public static bool Permits(ulong entry, bool write) => (entry & (write ? Write : Read)) != 0;

    public static bool IsDirty(ulong entry) => (entry & Dirty) != 0;

    public static ulong Dirtied(ulong entry) => entry | Dirty;

    public static ulong AfterAccess(ulong entry, bool write) => entry | Accessed | (write ? Dirty : 0);

    public static void Clean(ref ulong slot) => Interlocked.And(ref slot, ~Dirty);
}
