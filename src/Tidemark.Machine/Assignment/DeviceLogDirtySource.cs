using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>DMA as one device's own log records it.</summary>
/// <remarks>
/// A log covers the ranges that it was started with, and behind a virtual IOMMU mappings come and go:
/// <code>
/// Harvest:  mapping inside the logged ranges --> its bits
///           mapping outside them             --> all of it counts as written, and the log is armed again
/// arming again:  read all bits; stop; start over wider ranges; count all mapped memory as written once, because what
///                the device writes between the last read and the new start is in no log
/// </code>
/// The wider ranges are twice what the mappings span, so that a guest whose mappings wander makes it happen ever more
/// seldom. A device that refuses them gets the exact ranges; one that refuses those too is as good as one without a
/// log, until a harvest at which it accepts them.
/// </remarks>
public sealed class DeviceLogDirtySource : IDirtySource
{
    private readonly DmaLogging _log;
    private readonly Func<IReadOnlyList<MappedArea>> _areas;
    private readonly DirtyBuffer _buffer;
    private readonly Func<bool> _standsStill;
    private bool _on;

    /// <param name="areas">What is mapped for the device at the time of the call.</param>
    /// <param name="standsStill">Whether the device can not write any more; then the log is not armed again.</param>
    public DeviceLogDirtySource(
        string deviceName, DmaLogging log, Func<IReadOnlyList<MappedArea>> areas, DirtyBuffer buffer,
        Func<bool>? standsStill = null)
    {
        ArgumentNullException.ThrowIfNull(log);
        ArgumentNullException.ThrowIfNull(areas);
        _log = log;
        _areas = areas;
        _buffer = buffer;
        _standsStill = standsStill ?? (() => false);
        Name = $"{deviceName} (device log)";
    }

    public string Name { get; }

    public DirtySourceKind Kind => DirtySourceKind.DeviceLog;

    /// <summary>How often the log was started anew because mappings lay outside it, or the device was reset.</summary>
    public int RearmCount { get; private set; }

    /// <inheritdoc/>
    /// <exception cref="KernelException">The device refused; this source is off.</exception>
    public void Start()
    {
        IovaRange[] ranges = FindRanges();
        if (ranges.Length != 0)
            _log.Start(ranges, FindWindows());
        _on = true;
    }

    /// <inheritdoc/>
    public void Stop()
    {
        _on = false;
        _log.Stop();
    }

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        if (!_on)
            return;
        bool isCovered = true;
        foreach (MappedArea area in _areas())
        {
            if (area.CanDirtyGuest)
                isCovered &= Take(area, pages);
        }

        if (!isCovered && !_standsStill())
            ArmAgain(pages);
    }

    /// <summary>
    /// Adds what the log has for a mapping that is gone, or all of it where the log does not cover it or can not be
    /// read.
    /// </summary>
    public void TakeGone(MappedArea area, PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(area);
        if (!_on || !area.CanDirtyGuest)
            return;
        try
        {
            Take(area, pages);
        }
        catch (KernelException)
        {
            // The mapping is gone and the log can not say what was written through it.
            AddAll(area, pages);
        }
    }

    /// <summary>
    /// The device leaves: takes all that its log still has and ends it; from now on this source has nothing. Its DMA
    /// must be blocked. Never throws: what the log can not say counts as written.
    /// </summary>
    public void End(IReadOnlyList<MappedArea> areas, PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(areas);
        foreach (MappedArea area in areas)
            TakeGone(area, pages);
        _on = false;
        TryStop();
    }

    /// <summary>The device was reset, which ended its log: everything counts as written, and the log starts
    /// anew.</summary>
    public void OnReset(PageBitmap pages)
    {
        if (_on)
            ArmAgain(pages);
    }

    private static void AddAll(MappedArea area, PageBitmap pages) =>
        pages.SetRange(area.Guest!.Value.Page, area.Range.ByteLength >> GuestPage.Shift);

    private IovaRange[] FindRanges() => [.. _areas().Where(area => area.CanDirtyGuest).Select(area => area.Range)];

    /// <summary>What is mapped and is no memory of the guest's: BARs of other devices.</summary>
    private IovaRange[] FindWindows() => [.. _areas().Where(area => area.Guest is null).Select(area => area.Range)];

    /// <returns>Whether the log covers it.</returns>
    private bool Take(MappedArea area, PageBitmap pages)
    {
        if (_log.Covers(area.Range))
        {
            _log.Report(area, _buffer, pages);
            return true;
        }

        AddAll(area, pages);
        return false;
    }

    private void ArmAgain(PageBitmap pages)
    {
        RearmCount++;
        // Also with nothing mapped: a log that a reset has ended must not be taken for one that covers what is mapped
        // later.
        TryStop();
        IovaRange[] ranges = FindRanges();
        IovaRange[] windows = FindWindows();
        if (ranges.Length != 0 && !TryStart(LoggedRanges.Widen(ranges, windows), windows))
            TryStart(ranges, windows);

        // ORDER: after the new start. What was written between the last read and it is in no log.
        foreach (MappedArea area in _areas())
        {
            if (area.CanDirtyGuest)
                AddAll(area, pages);
        }
    }

    private void TryStop()
    {
        try
        {
            _log.Stop();
        }
        catch (KernelException)
        {
            // It counts as stopped: nothing is covered until a start succeeds.
        }
    }

    private bool TryStart(IReadOnlyList<IovaRange> ranges, IReadOnlyList<IovaRange> windows)
    {
        try
        {
            _log.Start(ranges, windows);
            return true;
        }
        catch (KernelException)
        {
            // Not covered then, which each harvest sees and pays for.
            return false;
        }
    }
}
