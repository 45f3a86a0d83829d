namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// Entries of first-stage tables: those of x86-64 processors (VT-d specification, first-stage paging entries).
/// </summary>
/// <remarks>
/// <code>
/// 63  62..52   51 ........ 12  11..8   7   6  5  4..3  2  1   0
/// XD  ignored  address         ign     PS  D  A  0     U  RW  P
/// </code>
/// The kernel sets A in each entry, and D in each leaf that can be written, so the hardware never has to: these tables
/// know nothing of dirty pages. There is no bit that forbids reading.
/// </remarks>
internal readonly struct X86FirstStage : IEntryFormat
{
    public const ulong Present = 1UL << 0;
    public const ulong Write = 1UL << 1;
    public const ulong User = 1UL << 2;
    public const ulong Accessed = 1UL << 5;
    public const ulong Dirty = 1UL << 6;
    public const ulong PageSize = 1UL << 7;
    public const ulong AddressMask = 0x000F_FFFF_FFFF_F000;

    public static int GranuleShift => 12;

    public static ulong LeafSizes => 1UL << 12 | 1UL << 21 | 1UL << 30;

    public static bool HasReplicas => false;

    public static bool SwitchesTracking => true;

    public static bool IsPresent(ulong entry) => (entry & Present) != 0;

    public static bool IsLeaf(ulong entry, int level) => level == 0 || (entry & PageSize) != 0;

    public static ulong TableEntry(ulong physical, int level) => physical | Present | Write | User | Accessed;

    public static ulong TableAddress(ulong entry) => entry & AddressMask;

    public static ulong LeafEntry(ulong physical, int sizeShift, int level, LeafAttributes attributes) =>
        physical | Present | User | Accessed
        | ((attributes & LeafAttributes.Write) != 0 ? Write | Dirty : 0)
        | (level == 0 ? 0 : PageSize);

    public static int LeafShift(ulong entry, int level) => 12 + 9 * level;

    public static ulong LeafAddress(ulong entry, int level) => entry & AddressMask;

    public static bool Permits(ulong entry, bool write) => !write || (entry & Write) != 0;

    public static bool IsDirty(ulong entry) => (entry & Dirty) != 0;

    public static ulong Dirtied(ulong entry) => entry | Dirty;

    public static ulong AfterAccess(ulong entry, bool write) => entry | Accessed | (write ? Dirty : 0);

    public static void Clean(ref ulong slot) => Interlocked.And(ref slot, ~Dirty);
}
