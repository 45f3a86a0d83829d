using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// DMA as one of the kernel's tables records it, a page table or the bitmaps of a type1 container: the writes of every
/// device behind it, whoever else records them too.
/// </summary>
/// <remarks>
/// <code>
/// device --DMA--> IOMMU sets D in the leaf of an IOVA --Harvest, mapping by mapping--> bit of the guest page
/// </code>
/// Table and mappings are looked up at each call, because a migration may move devices to another page table. The
/// buffer belongs to the caller and may be shared among sources, because their harvests are serialised.
/// </remarks>
public sealed class TableDirtySource : IDirtySource
{
    private readonly Func<IDirtyTable> _table;
    private readonly Func<IReadOnlyList<MappedArea>> _areas;
    private readonly DirtyBuffer _buffer;

    private TableDirtySource(
        DirtySourceKind kind, Func<IDirtyTable> table, Func<IReadOnlyList<MappedArea>> areas, DirtyBuffer buffer,
        IReadOnlyList<string> deviceNames)
    {
        ArgumentNullException.ThrowIfNull(deviceNames);
        Kind = kind;
        _table = table;
        _areas = areas;
        _buffer = buffer;
        DeviceNames = deviceNames;
    }

    public string Name =>
        $"{string.Join(", ", DeviceNames)} ({(Kind == DirtySourceKind.Iommu ? "iommu" : "type1")})";

    public DirtySourceKind Kind { get; }

    /// <summary>The devices that rely on this source.</summary>
    public IReadOnlyList<string> DeviceNames { get; set; }

    /// <summary>A page table of a container, whichever it is at the time.</summary>
    public static TableDirtySource Of(ContainerHwpt entry, DirtyBuffer buffer, IReadOnlyList<string> deviceNames)
    {
        ArgumentNullException.ThrowIfNull(entry);
        CheckTracking(entry.Hwpt);
        return new TableDirtySource(
            DirtySourceKind.Iommu, () => entry.Hwpt, () => entry.Hwpt.Ioas.Areas, buffer, deviceNames);
    }

    /// <summary>One page table.</summary>
    public static TableDirtySource Of(Hwpt hwpt, DirtyBuffer buffer, IReadOnlyList<string> deviceNames)
    {
        ArgumentNullException.ThrowIfNull(hwpt);
        CheckTracking(hwpt);
        return new TableDirtySource(DirtySourceKind.Iommu, () => hwpt, () => hwpt.Ioas.Areas, buffer, deviceNames);
    }

    /// <summary>The bitmaps of a legacy container.</summary>
    public static TableDirtySource Of(
        Type1Table table, LegacyContainer container, DirtyBuffer buffer, IReadOnlyList<string> deviceNames)
    {
        ArgumentNullException.ThrowIfNull(table);
        ArgumentNullException.ThrowIfNull(container);
        return new TableDirtySource(DirtySourceKind.Type1, () => table, () => container.Areas, buffer, deviceNames);
    }

    /// <inheritdoc/>
    /// <exception cref="KernelException">The kernel refused; this source is off.</exception>
    public void Start() => _table().SetDirtyTracking(true);

    /// <inheritdoc/>
    public void Stop() => _table().SetDirtyTracking(false);

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        IDirtyTable table = _table();
        foreach (MappedArea area in _areas())
        {
            if (area.CanDirtyGuest)
                table.HarvestDirty(area, _buffer, pages);
        }
    }

    /// <summary>
    /// Adds the pages that the next harvest would give, and leaves them there. Nothing from a type1 container, which
    /// can not look without clearing.
    /// </summary>
    /// <exception cref="KernelException">A read failed.</exception>
    public void Peek(PageBitmap pages)
    {
        if (_table() is not Hwpt hwpt)
            return;
        foreach (MappedArea area in _areas())
        {
            if (area.CanDirtyGuest)
                hwpt.PeekDirty(area, _buffer, pages);
        }
    }

    private static void CheckTracking(Hwpt hwpt)
    {
        if (!hwpt.HasDirtyTracking)
            throw new ArgumentException($"{hwpt} was made without dirty tracking.", nameof(hwpt));
    }
}
