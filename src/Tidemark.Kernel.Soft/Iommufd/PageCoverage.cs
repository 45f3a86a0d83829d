using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>How many pages at least one of some ranges covers. Ranges are whole pages, their end excluded.</summary>
/// <remarks>
/// Invariants: parts are sorted, disjoint and not empty; each is covered at least once; neighbours that touch are covered
/// a different number of times. So there are never more than two parts for each range.
/// </remarks>
internal sealed class PageCoverage
{
    private readonly List<(ulong From, ulong To, int Times)> _parts = [];

    /// <summary>Pages covered, however often.</summary>
    public ulong Pages { get; private set; }

    public void Add(ulong from, ulong to) => Change(from, to, 1);

    /// <summary>Takes back what was added, which may have been in other portions.</summary>
    public void Remove(ulong from, ulong to) => Change(from, to, -1);

    private void Change(ulong from, ulong to, int times)
    {
        int index = SplitAt(from);
        ulong next = from;
        while (next < to)
        {
            if (index == _parts.Count || _parts[index].From > next)
            {
                ulong end = index == _parts.Count ? to : Math.Min(to, _parts[index].From);
                _parts.Insert(index++, (next, end, times));
                Pages += (end - next) / GuestPage.Size;
                next = end;
                continue;
            }

            if (_parts[index].To > to)
                SplitAt(to);
            (ulong start, ulong stop, int present) = _parts[index];
            next = stop;
            if (present + times != 0)
            {
                _parts[index++] = (start, stop, present + times);
                continue;
            }

            _parts.RemoveAt(index);
            Pages -= (stop - start) / GuestPage.Size;
        }

        JoinAt(to);
        JoinAt(from);
    }

    /// <summary>The first part that starts at or above an address, after cutting one that lies across it.</summary>
    private int SplitAt(ulong address)
    {
        int index = FirstEndingAbove(address);
        if (index == _parts.Count || _parts[index].From >= address)
            return index;
        (ulong from, ulong to, int times) = _parts[index];
        _parts[index] = (from, address, times);
        _parts.Insert(index + 1, (address, to, times));
        return index + 1;
    }

    private void JoinAt(ulong address)
    {
        int index = FirstEndingAbove(address);
        if (index == 0 || index == _parts.Count)
            return;
        (ulong from, ulong to, int times) = _parts[index - 1];
        if (to != _parts[index].From || times != _parts[index].Times)
            return;
        _parts[index - 1] = (from, _parts[index].To, times);
        _parts.RemoveAt(index);
    }

    private int FirstEndingAbove(ulong address)
    {
        int low = 0, high = _parts.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_parts[middle].To <= address)
                low = middle + 1;
            else
                high = middle;
        }

        return low;
    }
}
