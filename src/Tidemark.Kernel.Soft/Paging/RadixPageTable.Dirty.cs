namespace Tidemark.Kernel.Soft.Paging;

/// <summary>Reading dirty bits, in the two ways of Linux's drivers.</summary>
/// <remarks>
/// <code>
/// range asked for              |------------------------------|
/// leaves              [=== 1 ===][=== 2 ===]         [=== n ===]
/// VT-d, AMD           whole leaves, wherever the range cuts them: 1 begins below the range
/// SMMUv3                       [=== 1 ===][=== 2 ===] ...     each counted on from where the range begins
/// </code>
/// </remarks>
internal sealed partial class RadixPageTable<TEntry>
{
    public override bool ReadDirty<TVisitor>(
        ulong first, ulong last, bool clear, ref TVisitor visitor, ref DirtyExtent reported)
    {
        (ulong root, int level) = Root;
        if (first > Covered(level))
            return true;
        if (Format.Layout == PageTableLayout.SmmuV3Stage1)
        {
            var cursor = new Cursor(first, last, clear);
            return ReadDirtyFromCursor(root, level, 0, ref cursor, ref visitor, ref reported);
        }

        ReadDirty(root, level, 0, new Request(first, last, clear), ref visitor, ref reported);
        return true;
    }

    private void ReadDirty<TVisitor>(
        ulong table, int level, ulong start, Request request, ref TVisitor visitor, ref DirtyExtent reported)
        where TVisitor : struct, IDirtyLeafVisitor, allows ref struct
    {
        Span<ulong> entries = _physical.Table(table);
        (int from, int to) = Bounds(start, level, request.First, request.Last);
        for (int index = from; index <= to; index++)
        {
            if (!TEntry.HasReplicas && level == 0 && (index & 7) == 0 && index + 7 <= to
                && !TEntry.IsDirty(Union(entries.Slice(index, 8))))
            {
                index += 7;
                continue;
            }

            ulong entry = Volatile.Read(ref entries[index]);
            if (!TEntry.IsPresent(entry))
                continue;
            if (!TEntry.IsLeaf(entry, level))
            {
                ulong below = start + ((ulong)index << Shift(level));
                ReadDirty(TEntry.TableAddress(entry), level - 1, below, request, ref visitor, ref reported);
                continue;
            }

            int shift = TEntry.LeafShift(entry, level);
            int replicas = TEntry.HasReplicas ? 1 << (shift - Shift(level)) : 1;
            int leaf = index & ~(replicas - 1);
            Span<ulong> slots = entries.Slice(leaf, replicas);
            index = leaf + replicas - 1;
            if (!IsAnyDirty(slots))
                continue;
            ulong address = start + ((ulong)leaf << Shift(level));
            visitor.OnDirtyLeaf(address, 1UL << shift);
            if (!request.Clear)
                continue;
            foreach (ref ulong slot in slots)
                TEntry.Clean(ref slot);
            reported.Add(address, address + ((1UL << shift) - 1));
        }
    }

    /// <summary>
    /// SMMUv3's driver carries one address through the walk and adds each leaf's size to it. Begun inside a leaf, it is
    /// ahead of the table by as much from there on. False: it met an entry that is neither leaf nor table.
    /// </summary>
    private bool ReadDirtyFromCursor<TVisitor>(
        ulong table, int level, ulong start, ref Cursor cursor, ref TVisitor visitor, ref DirtyExtent reported)
        where TVisitor : struct, IDirtyLeafVisitor, allows ref struct
    {
        Span<ulong> entries = _physical.Table(table);
        for (int index = Index(cursor.Address, level); index < EntriesPerTable && !cursor.IsPastEnd; index++)
        {
            ulong entry = Volatile.Read(ref entries[index]);
            ulong address = start + ((ulong)index << Shift(level));
            if (!TEntry.IsPresent(entry))
                return false;
            if (!TEntry.IsLeaf(entry, level))
            {
                ulong child = TEntry.TableAddress(entry);
                if (!ReadDirtyFromCursor(child, level - 1, address, ref cursor, ref visitor, ref reported))
                {
                    return false;
                }

                continue;
            }

            ulong size = 1UL << Shift(level);
            if (TEntry.IsDirty(entry))
            {
                visitor.OnDirtyLeaf(cursor.Address, size);
                if (cursor.Clear)
                {
                    TEntry.Clean(ref entries[index]);
                    // FIDELITY: Linux 7.3 flushes nothing here, for its gather lacks a page size, and can lose writes
                    // by devices that have the leaf cached as dirty. Here the leaf is invalidated as everywhere.
                    reported.Add(address, address + (size - 1));
                }
            }

            cursor.Address += size;
        }

        return true;
    }

    private static bool IsAnyDirty(ReadOnlySpan<ulong> slots)
    {
        foreach (ref readonly ulong slot in slots)
        {
            if (TEntry.IsDirty(Volatile.Read(in slot)))
                return true;
        }

        return false;
    }

    private static ulong Union(ReadOnlySpan<ulong> run) =>
        run[0] | run[1] | run[2] | run[3] | run[4] | run[5] | run[6] | run[7];

    private readonly record struct Request(ulong First, ulong Last, bool Clear);

    private struct Cursor(ulong first, ulong last, bool clear)
    {
        public ulong Address { get; set; } = first;

        public readonly bool Clear => clear;

        public readonly bool IsPastEnd => Address > last;
    }
}
