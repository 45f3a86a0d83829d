using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>What only the VFIO compatibility requests do to an IOAS.</summary>
internal sealed partial class Ioas
{
    /// <summary>A bit for each size of page that every table has; sizes below a page count as a page.</summary>
    public ulong PageSizes
    {
        get
        {
            const ulong Any = ~((ulong)GuestPage.Size - 1);
            ulong sizes = _tables.Aggregate(ulong.MaxValue, (common, table) => common & table.Table.Format.PageSizes);
            sizes = (sizes & ~Any) == 0 ? sizes : (sizes & Any) | GuestPage.Size;
            return Math.Max(sizes, Alignment);
        }
    }

    /// <summary>All accesses of every table snoop the processor's caches.</summary>
    public bool IsCoherent => _tables.TrueForAll(table => table.Table.Format.ForceCoherent);

    /// <summary>Whether an area touches a range.</summary>
    public bool IsMapped(ulong first, ulong last) => TouchesArea(first, last);

    /// <summary>
    /// Cuts the area at an address in two after that address, which no device notices. Nothing when there is no area,
    /// or when it begins or ends there. EINVAL: the cut is not on a boundary of pages, or an access has pinned something of
    /// the area; EBUSY: it is being unmapped.
    /// </summary>
    public Errno TryCut(ulong iova)
    {
        int index = FirstEndingAtOrAbove(iova);
        if (index == _areas.Count || _areas[index].First > iova)
            return Errno.Success;
        IoasArea area = _areas[index];
        if (iova == area.First || iova == area.Last)
            return Errno.Success;
        if (area.PreventAccess)
            return Errno.EBUSY;
        ulong second = iova + 1;
        ulong offset = second - area.First;
        if ((second | unchecked(area.SourceAddress + offset)) % Alignment != 0)
            return Errno.EINVAL;
        // It is not known which half an access pinned.
        if (area.Accesses != 0)
            return Errno.EINVAL;
        var left = new IoasArea(area.First, iova, area.Pages, area.FirstByte, area.Permissions);
        var right = new IoasArea(second, area.Last, area.Pages, area.FirstByte + offset, area.Permissions);
        foreach (IoasArea half in (ReadOnlySpan<IoasArea>)[left, right])
        {
            half.Pages.AddArea();
            // The pin of the whole covers it: no page is pinned that was not, and so nothing can fail.
            if (area.Pins is not null)
                half.TryPin();
        }

        area.Unpin();
        area.Pages.RemoveArea();
        _areas.RemoveAt(index);
        _areas.InsertRange(index, [left, right]);
        return Errno.Success;
    }
}
