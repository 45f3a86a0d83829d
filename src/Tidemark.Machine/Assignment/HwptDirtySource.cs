using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// DMA as the dirty bits of one page table record it: the writes of every device on it, whoever else records them too.
/// </summary>
/// <remarks>
/// <code>
/// device --DMA--> IOMMU sets D in the leaf of an IOVA --Harvest, mapping by mapping--> bit of the guest page
/// </code>
/// Mappings are looked up at each harvest. The buffer belongs to the caller and may be shared among sources, because
/// their harvests are serialised.
/// </remarks>
public sealed class HwptDirtySource : IDirtySource
{
    private readonly Hwpt _hwpt;
    private readonly DirtyBuffer _buffer;

    /// <param name="deviceNames">The devices that rely on this source.</param>
    public HwptDirtySource(Hwpt hwpt, IReadOnlyList<string> deviceNames, DirtyBuffer buffer)
    {
        ArgumentNullException.ThrowIfNull(hwpt);
        ArgumentNullException.ThrowIfNull(deviceNames);
        if (!hwpt.HasDirtyTracking)
            throw new ArgumentException($"{hwpt} was made without dirty tracking.", nameof(hwpt));
        _hwpt = hwpt;
        _buffer = buffer;
        Name = $"{string.Join(", ", deviceNames)} (iommu)";
    }

    public string Name { get; }

    public DirtySourceKind Kind => DirtySourceKind.Iommu;

    /// <inheritdoc/>
    /// <exception cref="KernelException">The kernel refused; this source is off.</exception>
    public void Start() => _hwpt.SetDirtyTracking(true);

    /// <inheritdoc/>
    public void Stop() => _hwpt.SetDirtyTracking(false);

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        foreach (MappedArea area in _hwpt.Ioas.Areas)
        {
            if (area.CanDirtyGuest)
                _hwpt.HarvestDirty(area, _buffer, pages);
        }
    }

    /// <summary>Adds the pages that the next harvest would give, and leaves them there.</summary>
    /// <exception cref="KernelException">A read failed.</exception>
    public void Peek(PageBitmap pages)
    {
        foreach (MappedArea area in _hwpt.Ioas.Areas)
        {
            if (area.CanDirtyGuest)
                _hwpt.PeekDirty(area, _buffer, pages);
        }
    }
}
