using System.Numerics;
using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// An I/O address space: mappings from IOVA to memory, what is reserved, and the page tables that show it to devices.
/// Guarded by the context's lock.
/// </summary>
/// <remarks>
/// Invariants: areas are sorted and disjoint; none touches a reserved range; every page table holds exactly the areas;
/// pages are pinned exactly while there is a page table.
/// </remarks>
internal sealed partial class Ioas(IommufdContext context) : IommuObject
{
    private const ulong LargestAutomaticAlignment = 2 << 20;

    private readonly List<IoasArea> _areas = [];
    private readonly List<ReservedIovas> _reserved = [];
    private readonly List<Hwpt> _tables = [];
    private readonly List<IoasAccess> _accesses = [];
    private List<(ulong First, ulong Last)> _allowed = [];

    public IReadOnlyList<IoasArea> Areas => _areas;

    /// <summary>Page tables in order of creation.</summary>
    public IReadOnlyList<Hwpt> Tables => _tables;

    public bool LargeLeaves { get; private set; } = true;

    /// <summary>Bytes that addresses and lengths are multiples of: 1 until something needs pages.</summary>
    public ulong Alignment => Math.Max(AlignmentOfTables, AlignmentOfAccesses);

    private ulong AlignmentOfTables => Math.Max(
        LargeLeaves ? 1UL : GuestPage.Size,
        _tables.Count == 0 ? 1UL : _tables.Max(table => table.Table.Format.SmallestPage));

    private ulong AlignmentOfAccesses => _accesses.Count == 0 ? 1UL : _accesses.Max(access => access.Alignment);

    public override void Destroy()
    {
        Remove(0, _areas.Count);
        context.ForgetCompatibilityIoas(this);
    }

    /// <summary>The complement of what is reserved, ascending.</summary>
    public List<(ulong First, ulong Last)> UsableRanges() => [.. Holes(0, ulong.MaxValue, withAreas: false)];

    /// <summary>ALLOW_IOVAS. EADDRINUSE: a range touches something reserved; the list is then as before.</summary>
    public Errno TryAllow(List<(ulong First, ulong Last)> allowed)
    {
        foreach ((ulong first, ulong last) in allowed)
        {
            if (TouchesReserved(first, last))
                return Errno.EADDRINUSE;
        }

        _allowed = allowed;
        return Errno.Success;
    }

    /// <summary>Reserves. EADDRINUSE: a mapping or an allowed range is in the way.</summary>
    public Errno TryReserve(ulong first, ulong last, object owner)
    {
        if (TouchesArea(first, last) || _allowed.Exists(range => range.First <= last && range.Last >= first))
            return Errno.EADDRINUSE;
        _reserved.Add(new ReservedIovas(first, last, owner));
        return Errno.Success;
    }

    public void Unreserve(object owner) => _reserved.RemoveAll(range => ReferenceEquals(range.Owner, owner));

    /// <summary>OPTION HUGE_PAGES.</summary>
    public Errno SetLargeLeaves(ulong value)
    {
        switch (value)
        {
            case 1:
                LargeLeaves = true;
                return Errno.Success;
            case 0 when !LargeLeaves:
                return Errno.Success;
            case 0 when _tables.Count != 0 && _areas.Count != 0:
                return Errno.EINVAL;
            case 0 when !AreasAreAligned(GuestPage.Size):
                return Errno.EADDRINUSE;
            case 0:
                LargeLeaves = false;
                return Errno.Success;
            default:
                return Errno.EINVAL;
        }
    }

    /// <summary>
    /// Adds mappings of <paramref name="pieces"/> one after the other, at <paramref name="iova"/> or, unless fixed,
    /// where there is room. On failure nothing is changed.
    /// </summary>
    public Errno TryMap(IReadOnlyList<PagePiece> pieces, IommuIoasMapFlags flags, ref ulong iova)
    {
        ulong total = 0;
        foreach (PagePiece piece in pieces)
            total = unchecked(total + piece.ByteLength);
        Errno errno = TryPlace(pieces[0].SourceAddress, total, flags, ref iova);
        IommuIoasMapFlags permissions = flags & ~IommuIoasMapFlags.FixedIova;
        var added = new List<IoasArea>();
        ulong first = iova;
        foreach (PagePiece piece in pieces)
        {
            if (errno != Errno.Success)
                return errno;
            if ((permissions & IommuIoasMapFlags.Writeable) != 0 && !piece.Pages.Writable)
                errno = Errno.EPERM;
            else if (piece.SourceAddress % GuestPage.Size % Alignment != 0)
                errno = Errno.EINVAL;
            added.Add(new IoasArea(
                first, first + (piece.ByteLength - 1), piece.Pages, piece.FirstByte, permissions));
            first = unchecked(first + piece.ByteLength);
        }

        if (errno == Errno.Success && _tables.Count != 0)
            errno = Fill(added);
        if (errno != Errno.Success)
            return errno;
        foreach (IoasArea area in added)
            area.Pages.AddArea();
        _areas.InsertRange(FirstEndingAtOrAbove(added[0].First), added);
        return Errno.Success;
    }

    /// <summary>
    /// What is mapped at a range, in order; ENOENT when there is a gap.
    /// </summary>
    public Errno TryCollect(ulong first, ulong last, List<PagePiece> pieces)
    {
        int index = FirstEndingAtOrAbove(first);
        ulong next = first;
        while (true)
        {
            if (index == _areas.Count || _areas[index].First > next)
                return Errno.ENOENT;
            IoasArea area = _areas[index++];
            ulong end = Math.Min(area.Last, last);
            pieces.Add(new PagePiece(area.Pages, area.FirstByte + (next - area.First), end - next + 1));
            if (end == last)
                return Errno.Success;
            next = end + 1;
        }
    }

    /// <summary>
    /// Unmaps whole areas, ascending. ENOENT at an area that is only partly inside: those before it stay unmapped.
    /// </summary>
    public Errno TryUnmap(ulong first, ulong last, out ulong unmapped)
    {
        unmapped = 0;
        int from = FirstEndingAtOrAbove(first);
        int to = from;
        Errno errno = Errno.Success;
        for (; to < _areas.Count && _areas[to].First <= last; to++)
        {
            IoasArea area = _areas[to];
            // ORDER: a lock is seen before a cut, and both before anybody is told to let go.
            errno = area.Locks != 0 ? Errno.EBUSY
                : area.First < first || area.Last > last ? Errno.ENOENT
                : LetGo(area) ? Errno.Success : Errno.EDEADLK;
            if (errno != Errno.Success)
                break;
            unmapped = unchecked(unmapped + (area.Last - area.First + 1));
        }

        if (errno == Errno.Success && from == to)
            return Errno.ENOENT;
        Remove(from, to - from);
        return errno;
    }

    /// <summary>As <see cref="TryUnmap"/>, but nothing to unmap is no error.</summary>
    public Errno TryUnmapAll(out ulong unmapped)
    {
        unmapped = 0;
        return _areas.Count == 0 ? Errno.Success : TryUnmap(0, ulong.MaxValue, out unmapped);
    }

    /// <summary>The mapping at an address, or null.</summary>
    public IoasArea? FindArea(ulong iova)
    {
        int index = FirstEndingAtOrAbove(iova);
        return index < _areas.Count && _areas[index].First <= iova ? _areas[index] : null;
    }

    /// <summary>An access begins to use the space. EADDRINUSE: a mapping is not aligned for it.</summary>
    public Errno TryAddAccess(IoasAccess access)
    {
        if (access.Alignment > Alignment && !AreasAreAligned(access.Alignment))
            return Errno.EADDRINUSE;
        _accesses.Add(access);
        Users++;
        return Errno.Success;
    }

    public void RemoveAccess(IoasAccess access)
    {
        _accesses.Remove(access);
        Users--;
    }

    /// <summary>
    /// A new page table: it narrows the space and shows every mapping from here on. On failure nothing is changed.
    /// </summary>
    public Errno TryAddTable(Hwpt table)
    {
        if (!AreasAreAligned(table.Table.Format.SmallestPage))
            return Errno.EADDRINUSE;
        Errno errno = table.Table.FirstIova == 0
            ? Errno.Success : TryReserve(0, table.Table.FirstIova - 1, table);
        if (errno == Errno.Success && table.Table.LastIova != ulong.MaxValue)
            errno = TryReserve(table.Table.LastIova + 1, ulong.MaxValue, table);
        if (errno != Errno.Success)
        {
            Unreserve(table);
            return errno;
        }

        _tables.Add(table);
        Users++;
        foreach (IoasArea area in _areas)
        {
            if (errno == Errno.Success)
                errno = area.TryPin();
            if (errno == Errno.Success)
                errno = table.Map(area);
            if (errno == Errno.Success)
                errno = area.Pages.TryCharge();
        }

        if (errno != Errno.Success)
            RemoveTable(table);
        return errno;
    }

    /// <summary>The page table goes; its pages are the caller's to free.</summary>
    public void RemoveTable(Hwpt table)
    {
        _tables.Remove(table);
        Users--;
        Unreserve(table);
        if (_tables.Count != 0)
            return;
        foreach (IoasArea area in _areas)
            area.Unpin();
    }

    /// <summary>What of a range is mapped, area by area, from its start to the first hole.</summary>
    public IEnumerable<(ulong First, ulong Last)> ContiguousParts(ulong first, ulong last)
    {
        for (int index = FirstEndingAtOrAbove(first); index < _areas.Count && _areas[index].First <= first; index++)
        {
            ulong end = Math.Min(_areas[index].Last, last);
            yield return (first, end);
            if (end == last)
                yield break;
            first = end + 1;
        }
    }

    /// <summary>Takes the mappings of a page set out of every table.</summary>
    public void Hide(PageSet pages)
    {
        foreach (IoasArea area in _areas)
        {
            if (!ReferenceEquals(area.Pages, pages))
                continue;
            foreach (Hwpt table in _tables)
                table.Unmap([(area.First, area.Last)]);
        }
    }

    /// <summary>Tells the accesses to let go of a mapping that is about to be unmapped; false: one does not.</summary>
    private bool LetGo(IoasArea area)
    {
        for (int reminder = 0; area.Accesses != 0; reminder++)
        {
            if (reminder > IoasAccess.Reminders)
                return false;
            area.PreventAccess = true;
            foreach (IoasAccess access in _accesses.ToArray())
                access.Owner?.OnUnmap(area.First, area.Last);
        }

        return true;
    }

    /// <summary>Pins new areas, adds them to every table and charges them, in this order, or none of it.</summary>
    private Errno Fill(List<IoasArea> added)
    {
        Errno errno = Errno.Success;
        foreach (IoasArea area in added)
        {
            if (errno == Errno.Success)
                errno = area.TryPin();
            foreach (Hwpt table in _tables)
            {
                if (errno == Errno.Success)
                    errno = table.Map(area);
            }

            if (errno == Errno.Success)
                errno = area.Pages.TryCharge();
        }

        if (errno == Errno.Success)
            return errno;
        foreach (Hwpt table in _tables)
            table.Unmap([(added[0].First, added[^1].Last)]);
        foreach (IoasArea area in added)
            area.Unpin();
        return errno;
    }

    private void Remove(int index, int count)
    {
        if (count == 0)
            return;
        List<IoasArea> gone = _areas.GetRange(index, count);
        _areas.RemoveRange(index, count);
        // Tables first, invalidated and drained; then no device can reach the pages.
        if (_tables.Count != 0)
        {
            List<(ulong, ulong)> ranges = gone.ConvertAll(area => (area.First, area.Last));
            foreach (Hwpt table in _tables)
                table.Unmap(ranges);
        }

        foreach (IoasArea area in gone)
        {
            area.Unpin();
            area.Pages.RemoveArea();
        }
    }

    /// <summary>Where new mappings go: checks of a fixed place, or a search.</summary>
    private Errno TryPlace(ulong sourceAddress, ulong byteLength, IommuIoasMapFlags flags, ref ulong iova)
    {
        if (byteLength % Alignment != 0)
            return Errno.EINVAL;
        if ((flags & IommuIoasMapFlags.FixedIova) == 0)
            return TryFindRoom(sourceAddress, byteLength, ref iova);
        if (iova % Alignment != 0)
            return Errno.EINVAL;
        if (iova > ulong.MaxValue - (byteLength - 1))
            return Errno.EOVERFLOW;
        ulong last = iova + (byteLength - 1);
        if (TouchesReserved(iova, last))
            return Errno.EINVAL;
        return TouchesArea(iova, last) ? Errno.EEXIST : Errno.Success;
    }

    private Errno TryFindRoom(ulong sourceAddress, ulong byteLength, ref ulong iova)
    {
        if (byteLength >= ulong.MaxValue / 2)
            return Errno.EOVERFLOW;
        ulong alignment = BitOperations.RoundUpToPowerOf2(byteLength);
        if (sourceAddress != 0)
            alignment = Math.Min(alignment, 1UL << BitOperations.TrailingZeroCount(sourceAddress));
        alignment = Math.Min(alignment, LargestAutomaticAlignment);
        if (alignment < Alignment)
            return Errno.EINVAL;
        ulong inPage = sourceAddress % GuestPage.Size;
        const ulong Lowest = GuestPage.Size;
        const ulong Highest = ulong.MaxValue - GuestPage.Size;
        List<(ulong First, ulong Last)> allowed = _allowed.Count == 0 ? [(Lowest, Highest)] : _allowed;
        foreach ((ulong allowedFirst, ulong allowedLast) in allowed.OrderBy(range => range.First))
        {
            ulong from = Math.Max(allowedFirst, Lowest);
            ulong to = Math.Min(allowedLast, Highest);
            if (from > to)
                continue;
            foreach ((ulong first, ulong last) in Holes(from, to, withAreas: true))
            {
                if (first > ulong.MaxValue - (alignment - 1))
                    continue;
                ulong start = ((first + (alignment - 1)) & ~(alignment - 1)) | inPage;
                if (start >= last || last - start < byteLength - 1)
                    continue;
                iova = start;
                return Errno.Success;
            }
        }

        return Errno.ENOSPC;
    }

    /// <summary>The parts of a range that nothing reserves (nor, if asked, maps), ascending.</summary>
    private IEnumerable<(ulong First, ulong Last)> Holes(ulong from, ulong to, bool withAreas)
    {
        // The areas are sorted already, and there can be many of them; the others are a handful.
        ReservedIovas[] reserved = [.. _reserved.OrderBy(range => range.First)];
        int areas = withAreas ? _areas.Count : 0;
        int area = withAreas ? FirstEndingAtOrAbove(from) : 0;
        int other = 0;
        ulong next = from;
        while (area < areas || other < reserved.Length)
        {
            bool isArea = other == reserved.Length || (area < areas && _areas[area].First < reserved[other].First);
            (ulong first, ulong last) = isArea
                ? (_areas[area].First, _areas[area++].Last)
                : (reserved[other].First, reserved[other++].Last);
            if (last < next)
                continue;
            if (first > to)
                break;
            if (first > next)
                yield return (next, first - 1);
            if (last >= to)
                yield break;
            next = last + 1;
        }

        yield return (next, to);
    }

    private bool AreasAreAligned(ulong alignment) => _areas.TrueForAll(area =>
        ((area.First | unchecked(area.Last + 1) | area.SourceAddress) & (alignment - 1)) == 0);

    private bool TouchesReserved(ulong first, ulong last) =>
        _reserved.Exists(range => range.First <= last && range.Last >= first);

    private bool TouchesArea(ulong first, ulong last)
    {
        int index = FirstEndingAtOrAbove(first);
        return index < _areas.Count && _areas[index].First <= last;
    }

    private int FirstEndingAtOrAbove(ulong iova)
    {
        int low = 0, high = _areas.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_areas[middle].Last < iova)
                low = middle + 1;
            else
                high = middle;
        }

        return low;
    }
}

/// <summary>Part of a page set that is about to be mapped.</summary>
internal readonly record struct PagePiece(PageSet Pages, ulong FirstByte, ulong ByteLength)
{
    /// <summary>In the page set's own terms; wraps like the arithmetic of the kernel.</summary>
    public ulong SourceAddress => unchecked(Pages.Start + FirstByte);
}
