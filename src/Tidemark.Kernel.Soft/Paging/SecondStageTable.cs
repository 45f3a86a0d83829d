using Tidemark.Abi;
using static Tidemark.Kernel.Soft.Paging.VtdSecondStage;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>Told of each dirty leaf, in ascending order.</summary>
internal interface IDirtyLeafVisitor
{
    void OnDirtyLeaf(ulong iova, ulong byteLength);
}

/// <summary>
/// One page table of the IOMMU: a tree of real 64-bit entries (see <see cref="VtdSecondStage"/>), 3 to 5 levels.
/// </summary>
/// <remarks>
/// <code>
/// level 4 (57 bits) .. 3 (48) .. 2: 1 GiB leaf or table .. 1: 2 MiB leaf or table .. 0: 4 KiB leaf
/// </code>
/// Mapping, unmapping and reading dirty bits are the owner's, under its lock. Devices walk at the same time with no
/// lock of the table: they set A and D with compare-and-exchange, so an entry that was just cleared never comes back.
/// Table pages that unmapping takes out are handed to the caller, who frees them after invalidating every port.
/// </remarks>
internal sealed class SecondStageTable : IDisposable
{
    private readonly PhysicalMemory _physical;
    private readonly int _topLevel;
    private readonly ulong _root;
    private volatile bool _tracking;
    private bool _disposed;

    private SecondStageTable(PhysicalMemory physical, int addressWidth, ulong root)
    {
        _physical = physical;
        _topLevel = Levels(addressWidth) - 1;
        _root = root;
        LastIova = (1UL << addressWidth) - 1;
    }

    /// <summary>The highest address that the table can translate.</summary>
    public ulong LastIova { get; }

    /// <summary>
    /// SSADE, the switch in each attached device's PASID table entry: off, a walk sets neither A nor D. Invalidate the
    /// ports after a change.
    /// </summary>
    public bool Tracking
    {
        get => _tracking;
        set => _tracking = value;
    }

    /// <summary>Null: no memory.</summary>
    public static SecondStageTable? TryCreate(PhysicalMemory physical, int addressWidth) =>
        physical.TryAllocatePage(out ulong root) ? new SecondStageTable(physical, addressWidth, root) : null;

    /// <summary>
    /// Maps a physically contiguous range, aligned to 4 KiB and empty until now, with the largest leaves that fit.
    /// ENOMEM: no table page; part of the range may then be mapped.
    /// </summary>
    public Errno Map(ulong iova, ulong physical, ulong byteLength, bool read, bool write, bool largeLeaves)
    {
        ulong permissions = (read ? VtdSecondStage.Read : 0) | (write ? VtdSecondStage.Write : 0);
        while (byteLength != 0)
        {
            int level = 0;
            while (largeLeaves && level < LargestLeafLevel && level < _topLevel)
            {
                ulong size = 1UL << Shift(level + 1);
                if (((iova | physical) & (size - 1)) != 0 || byteLength < size)
                    break;
                level++;
            }

            if (!TryDescend(iova, level, out ulong table))
                return Errno.ENOMEM;
            int index = Index(iova, level);
            ulong leaf = physical | permissions | Snoop | (level == 0 ? 0 : PageSize);
            Span<ulong> entries = _physical.Table(table);
            // Fills the rest of this table in one go; a run of leaves of one level shares its descent.
            ulong step = 1UL << Shift(level);
            do
            {
                Volatile.Write(ref entries[index], leaf);
                index++;
                leaf += step;
                byteLength -= step;
                unchecked
                {
                    iova += step;
                    physical += step;
                }
            }
            while (index < EntriesPerTable && byteLength >= step);
        }

        return Errno.Success;
    }

    /// <summary>
    /// Empties the range, which cuts no leaf. Table pages without entries leave the tree and are added to
    /// <paramref name="freed"/>.
    /// </summary>
    public void Unmap(ulong first, ulong last, List<ulong> freed) => Unmap(_root, _topLevel, 0, first, last, freed);

    /// <summary>
    /// Reports the dirty leaves that the range touches, whole leaves even where it cuts them; clears the bits if
    /// <paramref name="clear"/>. Answers whether any was found, and the range of them.
    /// </summary>
    public bool ReadDirty<TVisitor>(
        ulong first, ulong last, bool clear, ref TVisitor visitor, ref ulong dirtyFirst, ref ulong dirtyLast)
        where TVisitor : struct, IDirtyLeafVisitor, allows ref struct
    {
        var walk = new DirtyWalk(first, last, clear) { DirtyFirst = dirtyFirst, DirtyLast = dirtyLast };
        ReadDirty(_root, _topLevel, 0, ref walk, ref visitor);
        dirtyFirst = walk.DirtyFirst;
        dirtyLast = walk.DirtyLast;
        return walk.Found;
    }

    /// <summary>
    /// The IOMMU's walk for one access: permission, then A (and D for a write) when tracking, then the physical address
    /// of the 4 KiB page. False: a fault.
    /// </summary>
    public bool TryWalk(ulong iova, bool write, out ulong physical, out IotlbFlags flags)
    {
        physical = 0;
        flags = IotlbFlags.None;
        if (iova > LastIova)
            return false;
        ulong needed = write ? VtdSecondStage.Write : VtdSecondStage.Read;
        ulong table = _root;
        int level = _topLevel;
        while (true)
        {
            ref ulong slot = ref _physical.Table(table)[Index(iova, level)];
            ulong entry = Volatile.Read(ref slot);
            if ((entry & needed) == 0)
                return false;
            if (!IsLeaf(entry, level))
            {
                table = entry & AddressMask;
                level--;
                continue;
            }

            // Read once: an entry cached as "dirty known" because nobody tracks is dropped when tracking starts.
            bool tracking = _tracking;
            ulong wanted = !tracking ? entry : entry | Accessed | (write ? Dirty : 0);
            if (wanted != entry && Interlocked.CompareExchange(ref slot, wanted, entry) != entry)
                continue;
            ulong size = 1UL << Shift(level);
            physical = (entry & AddressMask & ~(size - 1)) | (iova & (size - 1) & AddressMask);
            flags = (entry & VtdSecondStage.Read) != 0 ? IotlbFlags.Read : IotlbFlags.None;
            if ((entry & VtdSecondStage.Write) != 0)
                flags |= IotlbFlags.Write;
            if (!tracking || (wanted & Dirty) != 0)
                flags |= IotlbFlags.DirtyKnown;
            return true;
        }
    }

    /// <summary>Frees every table page. No port uses the table any more.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        FreeTree(_root, _topLevel);
    }

    private bool TryDescend(ulong iova, int targetLevel, out ulong table)
    {
        table = _root;
        for (int level = _topLevel; level > targetLevel; level--)
        {
            ref ulong slot = ref _physical.Table(table)[Index(iova, level)];
            ulong entry = slot;
            if (!IsPresent(entry))
            {
                if (!_physical.TryAllocatePage(out ulong page))
                    return false;
                entry = page | VtdSecondStage.Read | VtdSecondStage.Write;
                // ORDER: the page is zeroed before a walker can find it.
                Volatile.Write(ref slot, entry);
            }

            table = entry & AddressMask;
        }

        return true;
    }

    /// <summary>Answers whether the table is empty afterwards.</summary>
    private bool Unmap(ulong table, int level, ulong start, ulong first, ulong last, List<ulong> freed)
    {
        Span<ulong> entries = _physical.Table(table);
        (int from, int to) = Bounds(start, level, first, last);
        for (int index = from; index <= to; index++)
        {
            ulong entry = Volatile.Read(ref entries[index]);
            if (!IsPresent(entry))
                continue;
            if (!IsLeaf(entry, level))
            {
                ulong child = entry & AddressMask;
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
                if (IsPresent(entry) && !IsLeaf(entry, level))
                    FreeTree(entry & AddressMask, level - 1);
            }
        }

        _physical.FreePage(table);
    }

    private void ReadDirty<TVisitor>(ulong table, int level, ulong start, ref DirtyWalk walk, ref TVisitor visitor)
        where TVisitor : struct, IDirtyLeafVisitor, allows ref struct
    {
        Span<ulong> entries = _physical.Table(table);
        (int from, int to) = Bounds(start, level, walk.First, walk.Last);
        for (int index = from; index <= to; index++)
        {
            if (level == 0 && (index & 7) == 0 && index + 7 <= to && IsCleanRun(entries.Slice(index, 8)))
            {
                index += 7;
                continue;
            }

            ulong entry = Volatile.Read(ref entries[index]);
            if (!IsPresent(entry))
                continue;
            ulong address = start + ((ulong)index << Shift(level));
            if (!IsLeaf(entry, level))
            {
                ReadDirty(entry & AddressMask, level - 1, address, ref walk, ref visitor);
                continue;
            }

            if ((entry & Dirty) == 0)
                continue;
            ulong size = 1UL << Shift(level);
            if (walk.Clear)
                Interlocked.And(ref entries[index], ~Dirty);
            walk.Add(address, address + (size - 1));
            visitor.OnDirtyLeaf(address, size);
        }
    }

    private static bool IsCleanRun(ReadOnlySpan<ulong> run) =>
        ((run[0] | run[1] | run[2] | run[3] | run[4] | run[5] | run[6] | run[7]) & Dirty) == 0;

    /// <summary>First and last index of a table that a range touches. The range touches the table.</summary>
    private static (int From, int To) Bounds(ulong start, int level, ulong first, ulong last)
    {
        ulong end = start + ((1UL << (Shift(level) + IndexBits)) - 1);
        int from = first <= start ? 0 : Index(first, level);
        int to = last >= end ? EntriesPerTable - 1 : Index(last, level);
        return (from, to);
    }

    private struct DirtyWalk(ulong first, ulong last, bool clear)
    {
        public readonly ulong First => first;

        public readonly ulong Last => last;

        public readonly bool Clear => clear;

        public bool Found { get; private set; }

        public ulong DirtyFirst { get; set; }

        public ulong DirtyLast { get; set; }

        public void Add(ulong leafFirst, ulong leafLast)
        {
            Found = true;
            DirtyFirst = Math.Min(DirtyFirst, leafFirst);
            DirtyLast = Math.Max(DirtyLast, leafLast);
        }
    }
}
