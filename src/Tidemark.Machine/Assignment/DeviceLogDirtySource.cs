using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>DMA as one device's own log records it.</summary>
/// <remarks>
/// LIMIT: the logged ranges are those mapped when tracking starts. Guest memory mapped later would not be logged, so a
/// harvest reports such a mapping as written as a whole instead of asking about it.
/// </remarks>
public sealed class DeviceLogDirtySource : IDirtySource
{
    private readonly DmaLogging _log;
    private readonly Ioas _ioas;
    private readonly DirtyBuffer _buffer;
    private HashSet<MappedArea> _logged = [];

    public DeviceLogDirtySource(string deviceName, DmaLogging log, Ioas ioas, DirtyBuffer buffer)
    {
        ArgumentNullException.ThrowIfNull(log);
        ArgumentNullException.ThrowIfNull(ioas);
        _log = log;
        _ioas = ioas;
        _buffer = buffer;
        Name = $"{deviceName} (device log)";
    }

    public string Name { get; }

    public DirtySourceKind Kind => DirtySourceKind.DeviceLog;

    /// <inheritdoc/>
    /// <exception cref="KernelException">The device refused; this source is off.</exception>
    public void Start()
    {
        MappedArea[] areas = [.. _ioas.Areas.Where(area => area.CanDirtyGuest)];
        if (areas.Length != 0)
            _log.Start([.. areas.Select(area => area.Range)]);
        _logged = [.. areas];
    }

    /// <inheritdoc/>
    public void Stop()
    {
        _logged = [];
        _log.Stop();
    }

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        foreach (MappedArea area in _ioas.Areas)
        {
            if (!area.CanDirtyGuest)
                continue;
            if (_logged.Contains(area))
                _log.Report(area, _buffer, pages);
            else
                pages.SetRange(area.Guest!.Value.Page, area.Range.ByteLength >> GuestPage.Shift);
        }
    }
}
