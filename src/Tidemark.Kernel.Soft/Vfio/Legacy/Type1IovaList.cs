namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>
/// The IOVAs that a type1 container may map: the domains' aperture without what groups reserve, ascending. Empty while
/// no group with an IOMMU was ever there: then everything goes.
/// </summary>
internal sealed class Type1IovaList
{
    private List<(ulong First, ulong Last)> _ranges = [];

    public IReadOnlyList<(ulong First, ulong Last)> Ranges => _ranges;

    public Type1IovaList Copy() => new() { _ranges = [.. _ranges] };

    public bool Allows(ulong first, ulong last) =>
        _ranges.Count == 0 || _ranges.Exists(range => first >= range.First && last <= range.Last);

    /// <summary>
    /// Whether a narrower aperture has no room at all, or would cut off a mapping.
    /// </summary>
    /// <param name="isMapped">Whether something in a range is mapped.</param>
    public bool Conflicts(ulong first, ulong last, Func<ulong, ulong, bool> isMapped)
    {
        if (_ranges.Count == 0)
            return false;
        ulong lowest = _ranges[0].First;
        ulong highest = _ranges[^1].Last;
        return first > highest || last < lowest
            || (first > lowest && isMapped(lowest, first - 1))
            || (last < highest && isMapped(last + 1, highest));
    }

    /// <summary>Narrows to an aperture with which there is no conflict; the first aperture is the list.</summary>
    public void Narrow(ulong first, ulong last)
    {
        if (_ranges.Count == 0)
        {
            _ranges.Add((first, last));
            return;
        }

        _ranges = _ranges.ConvertAll(range => (Math.Max(range.First, first), Math.Min(range.Last, last)));
        _ranges.RemoveAll(range => range.First > range.Last);
    }

    public void Exclude(ulong first, ulong last)
    {
        var left = new List<(ulong First, ulong Last)>();
        foreach ((ulong rangeFirst, ulong rangeLast) in _ranges)
        {
            if (first > rangeLast || last < rangeFirst)
            {
                left.Add((rangeFirst, rangeLast));
                continue;
            }

            if (first > rangeFirst)
                left.Add((rangeFirst, first - 1));
            if (last < rangeLast)
                left.Add((last + 1, rangeLast));
        }

        _ranges = left;
    }

    /// <summary>Begins again with one range, the new aperture.</summary>
    public void Reset(ulong first, ulong last) => _ranges = [(first, last)];
}
