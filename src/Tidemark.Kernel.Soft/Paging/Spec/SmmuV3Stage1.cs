namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// Entries of SMMUv3's stage 1 tables with a granule of 4 KiB: Arm Architecture Reference Manual, VMSAv8-64
/// descriptors, and hardware management of the dirty state.
/// </summary>
/// <remarks>
/// <code>
/// 54..53  51   47 ........ 12  11  10  9..8     7       6      4..2      1..0
/// XN      DBM  address         nG  AF  SH = 11  RDONLY  AP[1]  attr = 1  11 table or page, 01 block
///
///                 DBM  RDONLY
/// read only        0     1
/// writable, clean  1     1     a write makes it dirty: the hardware takes RDONLY away
/// writable, dirty  1     0
/// writable         0     0     in a table that was not made for tracking
/// </code>
/// A leaf that can be written is made dirty in a table that tracks. AF is always set. Nothing forbids reading. The
/// hardware tracks in such a table from the beginning; there is no switch.
/// </remarks>
internal readonly struct SmmuV3Stage1 : IEntryFormat
{
    public const ulong Valid = 1UL << 0;
    public const ulong TableOrPage = 1UL << 1;
    public const ulong CachedAttribute = 1UL << 2;
    public const ulong Unprivileged = 1UL << 6;
    public const ulong ReadOnly = 1UL << 7;
    public const ulong InnerShareable = 3UL << 8;
    public const ulong AccessFlag = 1UL << 10;
    public const ulong NotGlobal = 1UL << 11;
    public const ulong DirtyModifier = 1UL << 51;
    public const ulong AddressMask = 0x0000_FFFF_FFFF_F000;

    public static int GranuleShift => 12;

    public static ulong LeafSizes => 1UL << 12 | 1UL << 21 | 1UL << 30;

    public static bool HasReplicas => false;

    public static bool SwitchesTracking => false;

    public static bool IsPresent(ulong entry) => (entry & Valid) != 0;

    public static bool IsLeaf(ulong entry, int level) => level == 0 || (entry & TableOrPage) == 0;

    public static ulong TableEntry(ulong physical, int level) => physical | Valid | TableOrPage;

    public static ulong TableAddress(ulong entry) => entry & AddressMask;

    public static ulong LeafEntry(ulong physical, int sizeShift, int level, LeafAttributes attributes)
    {
        ulong entry = physical | Valid | (level == 0 ? TableOrPage : 0)
            | CachedAttribute | Unprivileged | InnerShareable | AccessFlag | NotGlobal;
        if ((attributes & LeafAttributes.Write) == 0)
            return entry | ReadOnly;
        return (attributes & LeafAttributes.Tracked) != 0 ? entry | DirtyModifier : entry;
    }

    public static int LeafShift(ulong entry, int level) => 12 + 9 * level;

    public static ulong LeafAddress(ulong entry, int level) => entry & AddressMask;

    public static bool Permits(ulong entry, bool write) =>
        !write || (entry & ReadOnly) == 0 || (entry & DirtyModifier) != 0;

    public static bool IsDirty(ulong entry) => (entry & (ReadOnly | DirtyModifier)) == DirtyModifier;

    public static ulong Dirtied(ulong entry) => (entry & DirtyModifier) != 0 ? entry & ~ReadOnly : entry;

    public static ulong AfterAccess(ulong entry, bool write) => write ? Dirtied(entry) : entry;

    public static void Clean(ref ulong slot) => Interlocked.Or(ref slot, ReadOnly);
}
