using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>Makes any set of IOVA ranges fit what a device's log accepts, without leaving anything out.</summary>
public static class LoggedRanges
{
    /// <summary>
    /// Rounds outward to pages, joins what touches or overlaps, and while there are too many joins across the smallest
    /// gap.
    /// </summary>
    /// <param name="excessBytes">Bytes that the result covers and the input does not; rounding not counted.</param>
    /// <returns>Ascending, disjoint, not touching, at most <paramref name="maximumCount"/>.</returns>
    public static IReadOnlyList<IovaRange> Fit(
        IReadOnlyList<IovaRange> ranges, ulong pageSize, int maximumCount, out ulong excessBytes)
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

        // Keep the widest gaps: the others are logged although nobody asked.
        int kept = maximumCount - 1;
        HashSet<int> borders = [.. Enumerable.Range(1, joined.Count - 1)
            .OrderByDescending(index => GapBetween(joined[index - 1], joined[index]))
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

    /// <summary>Bytes between two ranges in ascending order; 0 when they touch or overlap.</summary>
    private static ulong GapBetween(IovaRange lower, IovaRange upper) =>
        upper.First.Value <= lower.Last.Value ? 0 : upper.First.Value - lower.Last.Value - 1;

    private static IovaRange Join(IovaRange lower, IovaRange upper) =>
        new(lower.First, new Iova(Math.Max(lower.Last.Value, upper.Last.Value)));
}
