using System.Numerics;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// Entries of AMD's version 1 host tables: AMD I/O Virtualization Technology specification, I/O page tables for host
/// translations.
/// </summary>
/// <remarks>
/// <code>
/// 63  62  61  60  59..52  51 ........ 12  11..9      8..7  6  5  4..1  0
/// 0   IW  IR  FC  ign     address         NextLevel  ign   D  A  ign   PR
/// NextLevel: 1..5 a table of that many levels; 0 a leaf of the entry's natural size; 7 a leaf whose size is told by
///            the address: a run of ones from bit 12 up, ended by a 0; 2^k of them, one beside the other
///     leaf of 64 KiB at 0xA0000: 16 equal entries, address field 0xA7000   (1010 0|111 -> 2^(12 + 3 + 1) bytes)
/// </code>
/// The hardware sets A and D in the one replica it used. The kernel neither defines nor looks at A.
/// </remarks>
internal readonly struct AmdV1 : IEntryFormat
{
    public static int GranuleShift => 12;

    public static ulong LeafSizes => ulong.MaxValue;

    public static bool HasReplicas => true;

    public static bool SwitchesTracking => true;

    public static bool IsPresent(ulong entry) => AmdEntry.IsPresent(entry);

    public static bool IsLeaf(ulong entry, int level) => AmdEntry.IsLeaf(entry, level);

    public static ulong TableEntry(ulong physical, int level) => AmdEntry.Table(physical, level, GranuleShift);

    public static ulong TableAddress(ulong entry) => AmdEntry.TableAddress(entry, GranuleShift);

    public static ulong LeafEntry(ulong physical, int sizeShift, int level, LeafAttributes attributes) =>
        AmdEntry.Leaf(physical, sizeShift, level, attributes, GranuleShift);

    public static int LeafShift(ulong entry, int level) => AmdEntry.LeafShift(entry, level, GranuleShift);

    public static ulong LeafAddress(ulong entry, int level) => AmdEntry.LeafAddress(entry, GranuleShift);

    public static bool Permits(ulong entry, bool write) => AmdEntry.Permits(entry, write);

    public static bool IsDirty(ulong entry) => (entry & AmdEntry.Dirty) != 0;

    public static ulong Dirtied(ulong entry) => entry | AmdEntry.Dirty;

    public static ulong AfterAccess(ulong entry, bool write) => AmdEntry.AfterAccess(entry, write);

    public static void Clean(ref ulong slot) => Interlocked.And(ref slot, ~AmdEntry.Dirty);
}

/// <summary>
/// As <see cref="AmdV1"/> with a granule of 2 KiB: the kernel's test domain, whose address fields count in 2 KiB.
/// </summary>
internal readonly struct AmdV1TwoKibibyte : IEntryFormat
{
    public static int GranuleShift => 11;

    public static ulong LeafSizes => ulong.MaxValue;

    public static bool HasReplicas => true;

    public static bool SwitchesTracking => true;

    public static bool IsPresent(ulong entry) => AmdEntry.IsPresent(entry);

    public static bool IsLeaf(ulong entry, int level) => AmdEntry.IsLeaf(entry, level);

    public static ulong TableEntry(ulong physical, int level) => AmdEntry.Table(physical, level, GranuleShift);

    public static ulong TableAddress(ulong entry) => AmdEntry.TableAddress(entry, GranuleShift);

    public static ulong LeafEntry(ulong physical, int sizeShift, int level, LeafAttributes attributes) =>
        AmdEntry.Leaf(physical, sizeShift, level, attributes, GranuleShift);

    public static int LeafShift(ulong entry, int level) => AmdEntry.LeafShift(entry, level, GranuleShift);

    public static ulong LeafAddress(ulong entry, int level) => AmdEntry.LeafAddress(entry, GranuleShift);

    public static bool Permits(ulong entry, bool write) => AmdEntry.Permits(entry, write);

    public static bool IsDirty(ulong entry) => (entry & AmdEntry.Dirty) != 0;

    public static ulong Dirtied(ulong entry) => entry | AmdEntry.Dirty;

    public static ulong AfterAccess(ulong entry, bool write) => AmdEntry.AfterAccess(entry, write);

    public static void Clean(ref ulong slot) => Interlocked.And(ref slot, ~AmdEntry.Dirty);
}

/// <summary>The bits of both.</summary>
internal static class AmdEntry
{
    public const ulong Present = 1UL << 0;
    public const ulong Accessed = 1UL << 5;
    public const ulong Dirty = 1UL << 6;
    public const int NextLevelShift = 9;
    public const ulong AddressMask = 0x000F_FFFF_FFFF_F000;
    public const ulong ForceCoherent = 1UL << 60;
    public const ulong Read = 1UL << 61;
    public const ulong Write = 1UL << 62;

    private const int AddressShift = 12;
    private const ulong SizeInAddress = 7;

    public static bool IsPresent(ulong entry) => (entry & Present) != 0;

    public static bool IsLeaf(ulong entry, int level) => level == 0 || NextLevel(entry) is 0 or SizeInAddress;

    public static ulong Table(ulong physical, int level, int granuleShift) =>
        Present | Read | Write | (ulong)level << NextLevelShift | Address(physical >> granuleShift);

    public static ulong TableAddress(ulong entry, int granuleShift) => Field(entry) << granuleShift;

    public static ulong Leaf(
        ulong physical, int sizeShift, int level, LeafAttributes attributes, int granuleShift)
    {
        ulong entry = Present
            | ((attributes & LeafAttributes.Read) != 0 ? Read : 0)
            | ((attributes & LeafAttributes.Write) != 0 ? Write : 0)
            | ((attributes & LeafAttributes.Snoop) != 0 ? ForceCoherent : 0);
        ulong field = physical >> granuleShift;
        if (sizeShift == granuleShift + 9 * level)
            return entry | Address(field);
        ulong ones = (1UL << (sizeShift - granuleShift - 1)) - 1;
        return entry | SizeInAddress << NextLevelShift | Address(field | ones);
    }

    public static int LeafShift(ulong entry, int level, int granuleShift) =>
        NextLevel(entry) == SizeInAddress
            ? granuleShift + BitOperations.TrailingZeroCount(~Field(entry)) + 1
            : granuleShift + 9 * level;

    public static ulong LeafAddress(ulong entry, int granuleShift)
    {
        ulong field = Field(entry);
        if (NextLevel(entry) == SizeInAddress)
            field &= field + 1;
        return field << granuleShift;
    }

    public static bool Permits(ulong entry, bool write) => (entry & (write ? Write : Read)) != 0;

    public static ulong AfterAccess(ulong entry, bool write) => entry | Accessed | (write ? Dirty : 0);

    private static ulong NextLevel(ulong entry) => entry >> NextLevelShift & 7;

    private static ulong Field(ulong entry) => (entry & AddressMask) >> AddressShift;

    private static ulong Address(ulong field) => field << AddressShift;
}
