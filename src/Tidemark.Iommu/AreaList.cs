using System.Runtime.InteropServices;
using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>
/// The mappings of an address space, ascending and disjoint. Adding and removing one costs no memory that grows with
/// their number: a guest behind a virtual IOMMU may map and unmap for each command it gives a device.
/// </summary>
/// <remarks>Not safe for concurrent use; its owner serialises. A list that was handed out does not change.</remarks>
public sealed class AreaList
{
    private readonly List<MappedArea> _areas = [];
    private MappedArea[]? _snapshot = [];

    /// <summary>All of them, as they are now. The same array until something changes.</summary>
    public IReadOnlyList<MappedArea> Snapshot => _snapshot ??= [.. _areas];

    /// <summary>Adds a mapping that overlaps none of the others.</summary>
    public void Add(MappedArea area)
    {
        ArgumentNullException.ThrowIfNull(area);
        _areas.Insert(FindFirst(area.Range.First), area);
        _snapshot = null;
    }

    /// <summary>The mappings that have a byte in a range, ascending.</summary>
    public MappedArea[] FindOverlapping(IovaRange range)
    {
        int first = FindFirst(range.First), end = first;
        while (end < _areas.Count && _areas[end].Range.First.Value <= range.Last.Value)
            end++;
        return CollectionsMarshal.AsSpan(_areas)[first..end].ToArray();
    }

    /// <summary>Removes mappings that follow one another here, for instance the first of what
    /// <see cref="FindOverlapping"/> found.</summary>
    /// <param name="gone">Ascending, without one that is not here between two of them.</param>
    public void Remove(ReadOnlySpan<MappedArea> gone)
    {
        if (gone.IsEmpty)
            return;
        int first = FindFirst(gone[0].Range.First);
        if (first + gone.Length > _areas.Count || _areas[first] != gone[0] || _areas[first + gone.Length - 1] != gone[^1])
            throw new ArgumentException($"{gone[0]} and {gone.Length - 1} more are not mapped one after the other.", nameof(gone));
        _areas.RemoveRange(first, gone.Length);
        _snapshot = null;
    }

    /// <summary>Whether exactly this mapping is here, not one like it that was made later.</summary>
    public bool Has(MappedArea area)
    {
        ArgumentNullException.ThrowIfNull(area);
        int at = FindFirst(area.Range.First);
        return at < _areas.Count && ReferenceEquals(_areas[at], area);
    }

    public void Clear()
    {
        _areas.Clear();
        _snapshot = [];
    }

    /// <summary>The index of the first mapping that does not end below an IOVA.</summary>
    private int FindFirst(Iova iova)
    {
        int low = 0, high = _areas.Count;
        // Guests map upwards more often than not.
        if (high > 0 && _areas[high - 1].Range.Last.Value < iova.Value)
            return high;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_areas[middle].Range.Last.Value < iova.Value)
                low = middle + 1;
            else
                high = middle;
        }

        return low;
    }
}
