using System.Numerics;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>A page table whose entries are <typeparamref name="TEntry"/>.</summary>
/// <remarks>
/// AMD's tables begin with three levels and grow at the top when an address or a leaf asks for it:
/// <code>
/// top = old --- leaf at 2^39 asked for ---> top = new page, its entry 0 = old
/// </code>
/// Root and level change in one store, so a walker sees a tree that is whole.
/// </remarks>
internal sealed partial class RadixPageTable<TEntry> : IoPageTable
    where TEntry : struct, IEntryFormat
{
    private const int IndexBits = 9;
    private const int EntriesPerTable = PhysicalMemory.EntriesPerTable;
    private const ulong LevelMask = 7;
    private const int FirstLevelOfGrowing = 2;
    private const int LargestOfSmallLeaves = 12;

    private readonly PhysicalMemory _physical;
    private readonly int _highestLevel;
    private readonly ulong _leafSizes;
    private readonly LeafAttributes _attributes;

    /// <summary>The physical address of the root, and its level in the low bits.</summary>
    private ulong _top;
    private volatile bool _tracking;
    private bool _disposed;

    public RadixPageTable(PhysicalMemory physical, PageTableFormat format, ulong root)
        : base(format)
    {
        _physical = physical;
        _highestLevel = (format.AddressWidth - TEntry.GranuleShift + IndexBits - 1) / IndexBits - 1;
        _leafSizes = format.PageSizes & TEntry.LeafSizes;
        _attributes = (format.DirtyTracking ? LeafAttributes.Tracked : LeafAttributes.None)
            | (format.ForceCoherent ? LeafAttributes.Snoop : LeafAttributes.None);
        bool grows = format.Layout is PageTableLayout.AmdV1 or PageTableLayout.NoIommu;
        _top = root | (uint)(grows ? Math.Min(FirstLevelOfGrowing, _highestLevel) : _highestLevel);
        _tracking = !TEntry.SwitchesTracking && format.DirtyTracking;
    }

    public override int PageShift => TEntry.GranuleShift;

    public override bool Tracking
    {
        get => _tracking;
        set
        {
            if (TEntry.SwitchesTracking)
                _tracking = value;
        }
    }

    public override (ulong Physical, int Level) Root
    {
        get
        {
            ulong top = Volatile.Read(ref _top);
            return (top & ~LevelMask, (int)(top & LevelMask));
        }
    }

    public override Errno Map(ulong iova, ulong physical, ulong byteLength, bool read, bool write, bool largeLeaves)
    {
        LeafAttributes attributes = _attributes
            | (read ? LeafAttributes.Read : 0) | (write ? LeafAttributes.Write : 0);
        int limit = largeLeaves ? 63 : LargestOfSmallLeaves;
        while (byteLength != 0)
        {
            int shift = LeafShiftFor(iova | physical, byteLength, limit);
            if (shift < TEntry.GranuleShift)
                return Errno.ENXIO;
            int level = (shift - TEntry.GranuleShift) / IndexBits;
            ulong size = 1UL << shift;
            if (!TryGrow(unchecked(iova + (size - 1)), level) || !TryDescend(iova, level, out ulong table))
                return Errno.ENOMEM;
            Span<ulong> entries = _physical.Table(table);
            int index = Index(iova, level);
            int replicas = 1 << (shift - Shift(level));
            // Fills the rest of this table in one go; a run of leaves of one size shares its descent.
            do
            {
                ulong leaf = TEntry.LeafEntry(physical, shift, level, attributes);
                for (int replica = 0; replica < replicas; replica++)
                    Volatile.Write(ref entries[index++], leaf);
                byteLength -= size;
                unchecked
                {
                    iova += size;
                    physical += size;
                }
            }
            while (index < EntriesPerTable && byteLength != 0
                && LeafShiftFor(iova | physical, byteLength, limit) == shift);
        }

        return Errno.Success;
    }

    public override void Unmap(ulong first, ulong last, List<ulong> freed)
    {
        (ulong root, int level) = Root;
        if (first > Covered(level))
            return;
        Unmap(root, level, 0, first, last, freed);
    }

    public override bool TryWalk(ulong iova, bool write, out ulong physical, out IotlbFlags flags)
    {
        physical = 0;
        flags = IotlbFlags.None;
        (ulong table, int level) = Root;
        if (iova > Covered(level))
            return false;
        while (true)
        {
            ref ulong slot = ref _physical.Table(table)[Index(iova, level)];
            ulong entry = Volatile.Read(ref slot);
            if (!TEntry.IsPresent(entry))
                return false;
            if (!TEntry.IsLeaf(entry, level))
            {
                table = TEntry.TableAddress(entry);
                level--;
                continue;
            }

            if (!TEntry.Permits(entry, write))
                return false;
            // Read once: an entry cached as "dirty known" because nobody tracks is dropped when tracking starts.
            bool tracking = _tracking;
            ulong wanted = tracking ? TEntry.AfterAccess(entry, write) : entry;
            if (wanted != entry && Interlocked.CompareExchange(ref slot, wanted, entry) != entry)
                continue;
            ulong inLeaf = (1UL << TEntry.LeafShift(entry, level)) - (1UL << TEntry.GranuleShift);
            physical = TEntry.LeafAddress(entry, level) | (iova & inLeaf);
            flags = TEntry.Permits(entry, write: false) ? IotlbFlags.Read : IotlbFlags.None;
            if (TEntry.Permits(entry, write: true))
                flags |= IotlbFlags.Write;
            if (!tracking || TEntry.IsDirty(wanted))
                flags |= IotlbFlags.DirtyKnown;
            return true;
        }
    }

    public override bool TryFind(ulong iova, out ulong physical, out ulong leafByteLength)
    {
        physical = leafByteLength = 0;
        if (!TryFindLeaf(iova, out ulong table, out int level))
            return false;
        ulong entry = Volatile.Read(ref _physical.Table(table)[Index(iova, level)]);
        leafByteLength = 1UL << TEntry.LeafShift(entry, level);
        physical = TEntry.LeafAddress(entry, level) | (iova & (leafByteLength - 1));
        return true;
    }

    public override bool TrySetDirty(ulong iova)
    {
        if (!TryFindLeaf(iova, out ulong table, out int level))
            return false;
        ref ulong slot = ref _physical.Table(table)[Index(iova, level)];
        ulong entry;
        do
        {
            entry = Volatile.Read(ref slot);
        }
        while (Interlocked.CompareExchange(ref slot, TEntry.Dirtied(entry), entry) != entry);
        return true;
    }

    public override void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        (ulong root, int level) = Root;
        FreeTree(root, level);
    }

    private static int Shift(int level) => TEntry.GranuleShift + IndexBits * level;

    private static int Index(ulong iova, int level) => (int)((iova >> Shift(level)) & (EntriesPerTable - 1));

    /// <summary>The highest address that a tree with this top level can hold.</summary>
    private static ulong Covered(int level)
    {
        int width = Shift(level) + IndexBits;
        return width >= 64 ? ulong.MaxValue : (1UL << width) - 1;
    }

    /// <summary>First and last index of a table that a range touches. The range touches the table.</summary>
    private static (int From, int To) Bounds(ulong start, int level, ulong first, ulong last)
    {
        ulong end = start + Covered(level);
        int from = first <= start ? 0 : Index(first, level);
        int to = last >= end ? EntriesPerTable - 1 : Index(last, level);
        return (from, to);
    }

    /// <summary>log2 of the leaf for an address, or less than the granule when none fits.</summary>
    private int LeafShiftFor(ulong addresses, ulong byteLength, int limit)
    {
        int largest = Math.Min(limit, BitOperations.Log2(byteLength));
        largest = Math.Min(largest, BitOperations.TrailingZeroCount(addresses));
        ulong sizes = _leafSizes & (ulong.MaxValue >> (63 - largest));
        return sizes == 0 ? 0 : BitOperations.Log2(sizes);
    }

    /// <summary>Adds tables at the top until the address and the level are there.</summary>
    private bool TryGrow(ulong lastIova, int leafLevel)
    {
        (ulong root, int level) = Root;
        while (lastIova > Covered(level) || leafLevel > level)
        {
            if (level == _highestLevel || !_physical.TryAllocatePage(out ulong page))
                return false;
            level++;
            _physical.Table(page)[0] = TEntry.TableEntry(root, level);
            root = page;
            // ORDER: the page is filled before a walker can find it.
            Volatile.Write(ref _top, root | (uint)level);
        }

        return true;
    }

    private bool TryDescend(ulong iova, int targetLevel, out ulong table)
    {
        (table, int level) = Root;
        for (; level > targetLevel; level--)
        {
            ref ulong slot = ref _physical.Table(table)[Index(iova, level)];
            ulong entry = slot;
            if (!TEntry.IsPresent(entry))
            {
                if (!_physical.TryAllocatePage(out ulong page))
                    return false;
                entry = TEntry.TableEntry(page, level);
                // ORDER: the page is zeroed before a walker can find it.
                Volatile.Write(ref slot, entry);
            }

            table = TEntry.TableAddress(entry);
        }

        return true;
    }

    private bool TryFindLeaf(ulong iova, out ulong table, out int level)
    {
        (table, level) = Root;
        if (iova > Covered(level))
            return false;
        while (true)
        {
            ulong entry = Volatile.Read(ref _physical.Table(table)[Index(iova, level)]);
            if (!TEntry.IsPresent(entry))
                return false;
            if (TEntry.IsLeaf(entry, level))
                return true;
            table = TEntry.TableAddress(entry);
            level--;
        }
    }

    /// <summary>Answers whether the table is empty afterwards.</summary>
    private bool Unmap(ulong table, int level, ulong start, ulong first, ulong last, List<ulong> freed)
    {
        Span<ulong> entries = _physical.Table(table);
        (int from, int to) = Bounds(start, level, first, last);
        for (int index = from; index <= to; index++)
        {
            ulong entry = Volatile.Read(ref entries[index]);
            if (!TEntry.IsPresent(entry))
                continue;
            if (!TEntry.IsLeaf(entry, level))
            {
                ulong child = TEntry.TableAddress(entry);
                if (!Unmap(child, level - 1, start + ((ulong)index << Shift(level)), first, last, freed))
                    continue;
                freed.Add(child);
            }

            Interlocked.Exchange(ref entries[index], 0);
        }

        return !entries.ContainsAnyExcept(0UL);
    }

    private void FreeTree(ulong table, int level)
    {
        if (level > 0)
        {
            foreach (ulong entry in _physical.Table(table))
            {
                if (TEntry.IsPresent(entry) && !TEntry.IsLeaf(entry, level))
                    FreeTree(TEntry.TableAddress(entry), level - 1);
            }
        }

        _physical.FreePage(table);
    }
}
