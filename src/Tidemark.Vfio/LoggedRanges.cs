using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>Makes any set of IOVA ranges fit what a device's log accepts, without leaving anything out.</summary>
public static class LoggedRanges
{
    private const ulong FourGiB = 1UL << 32;

    /// <summary>
    /// Rounds outward to pages, joins what touches or overlaps, and while there are too many joins across the smallest
    /// gap.
    /// </summary>
    /// <param name="apart">What is mapped and is no memory of the guest's: windows of other devices. A gap that holds one is
    /// joined only when nothing else is left to join.</param>
    /// <param name="excessBytes">Bytes that the result covers and the input does not; rounding not counted.</param>
    /// <returns>Ascending, disjoint, not touching, at most <paramref name="maximumCount"/>.</returns>
    public static IReadOnlyList<IovaRange> Fit(
        IReadOnlyList<IovaRange> ranges, ulong pageSize, int maximumCount, out ulong excessBytes,
        IReadOnlyList<IovaRange>? apart = null)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        ArgumentOutOfRangeException.ThrowIfLessThan(maximumCount, 1);
        if (!ulong.IsPow2(pageSize))
            throw new ArgumentException($"A page size of 0x{pageSize:x} is not a power of two.", nameof(pageSize));
        ulong mask = pageSize - 1;
        var joined = new List<IovaRange>();
        foreach (IovaRange range in ranges.OrderBy(range => range.First.Value))
        {
            var rounded = new IovaRange(new Iova(range.First.Value & ~mask), new Iova(range.Last.Value | mask));
            if (joined.Count != 0 && GapBetween(joined[^1], rounded) == 0)
                joined[^1] = Join(joined[^1], rounded);
            else
                joined.Add(rounded);
        }

        excessBytes = 0;
        if (joined.Count <= maximumCount)
            return joined;

        // Keep the widest gaps: the others are logged although nobody asked. The hole below 4 GiB comes before all:
        // firmware puts windows of devices there, which memory on both sides must not draw into the log.
        int kept = maximumCount - 1;
        HashSet<int> borders = [.. Enumerable.Range(1, joined.Count - 1)
            .OrderByDescending(index => joined[index - 1].Last.Value < FourGiB && joined[index].First.Value >= FourGiB)
            .ThenByDescending(index => apart?.Any(window =>
                window.First.Value > joined[index - 1].Last.Value && window.Last.Value < joined[index].First.Value))
            .ThenByDescending(index => GapBetween(joined[index - 1], joined[index]))
            .Take(kept)];
        var fitted = new List<IovaRange> { joined[0] };
        for (int index = 1; index < joined.Count; index++)
        {
            if (borders.Contains(index))
            {
                fitted.Add(joined[index]);
                continue;
            }

            excessBytes += GapBetween(joined[index - 1], joined[index]);
            fitted[^1] = Join(fitted[^1], joined[index]);
        }

        return fitted;
    }

    /// <summary>
    /// Ranges that hold the given ones with room around them, for mappings that are still to come: below and above
    /// 4 GiB apart and on each side of a window of another device, each a naturally aligned block of at least twice the
    /// span of what is mapped there, as far as its side goes.
    /// </summary>
    /// <param name="apart">What is mapped and is no memory of the guest's: windows of other devices.</param>
    public static IReadOnlyList<IovaRange> Widen(IReadOnlyList<IovaRange> ranges, IReadOnlyList<IovaRange>? apart = null)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        IovaRange[] windows = [.. (apart ?? []).OrderBy(window => window.First.Value)];
        return
        [
            .. ranges.GroupBy(range => (range.First.Value >= FourGiB, windows.Count(window => window.First.Value < range.First.Value)))
                .Select(side => WidenSide(
                    side.Min(range => range.First.Value), side.Max(range => range.Last.Value), windows)),
        ];
    }

    private static IovaRange WidenSide(ulong first, ulong last, IReadOnlyList<IovaRange> windows)
    {
        // Not across 4 GiB, unless what is mapped is, and not into a window: memory on both sides would draw it into the log.
        ulong lowest = first >= FourGiB ? FourGiB : 0, highest = last < FourGiB ? FourGiB - 1 : ulong.MaxValue;
        foreach (IovaRange window in windows)
        {
            if (window.Last.Value < first)
                lowest = Math.Max(lowest, window.Last.Value + 1);
            else if (window.First.Value > last)
                highest = Math.Min(highest, window.First.Value - 1);
        }

        // Aligned blocks double until one holds the side and as much again; the top of the space can not be logged.
        for (int shift = GuestPage.Shift + 1; shift < 63; shift++)
        {
            ulong size = 1UL << shift;
            if (size / 2 <= last - first || first / size != last / size)
                continue;
            ulong start = first & ~(size - 1), end = first | (size - 1);
            return new IovaRange(new Iova(Math.Max(start, lowest)), new Iova(Math.Min(end, highest)));
        }

        return new IovaRange(new Iova(first), new Iova(last));
    }

    /// <summary>Bytes between two ranges in ascending order; 0 when they touch or overlap.</summary>
    private static ulong GapBetween(IovaRange lower, IovaRange upper) =>
        upper.First.Value <= lower.Last.Value ? 0 : upper.First.Value - lower.Last.Value - 1;

    private static IovaRange Join(IovaRange lower, IovaRange upper) =>
        new(lower.First, new Iova(Math.Max(lower.Last.Value, upper.Last.Value)));
}
