using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.CpuTracking;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// The dirty sources that cover the DMA of a machine's devices: every device is covered by exactly the tracker chosen
/// for it, whatever its neighbours have.
/// </summary>
/// <remarks>
/// <code>
///   device --tracker--> source                      changes while tracking is on
///   IOMMU      one for each page table              Join    start its source; all it can reach counts as written once
///   Type1      one for each legacy container        Leave   block its DMA, take its last bits, stop its source
///   DeviceLog  one for each device                  Reset   the log is gone: all it can reach counts, a new log
///   Assumed    one for each device                  Unmap   take the bits of the mapping that goes
///                                                   SetHugePages  other leaves, by a second address space
/// </code>
/// Make it after the memory is mapped, and <see cref="Connect"/> it to the tracker that harvests: each change happens
/// between two harvests. Dispose it after the last harvest; the sources are unusable then.
/// </remarks>
public sealed class AssignmentTracking : IDisposable
{
    private readonly DirtyBuffer _buffer;
    private readonly List<AssignedDevice> _devices = [];
    private readonly Dictionary<object, Source> _sources = [];
    private readonly bool _reattach;
    private DirtyTracker? _tracker;

    private AssignmentTracking(DirtyBuffer buffer, bool reattach)
    {
        _buffer = buffer;
        _reattach = reattach;
    }

    /// <summary>In the order IOMMU, type1, device logs, assumed.</summary>
    public IReadOnlyList<IDirtySource> Sources =>
        [.. _sources.Values.Select(source => source.Outer).OrderBy(source => source.Kind)];

    /// <summary>The sources of one kind of object, as they are behind <see cref="Sources"/>.</summary>
    public IEnumerable<T> Find<T>()
        where T : class, IDirtySource => _sources.Values.Select(source => source.Inner).OfType<T>();

    /// <exception cref="KernelException">There is no memory for the buffer.</exception>
    /// <param name="reattach">Move devices to another page table in the middle of a migration, to show that it can be
    /// done.</param>
    public static AssignmentTracking Create(
        IKernel kernel, IReadOnlyList<AssignedDevice> devices, bool reattach = false)
    {
        ArgumentNullException.ThrowIfNull(devices);
        var tracking = new AssignmentTracking(DirtyBuffer.Create(kernel), reattach);
        foreach (AssignedDevice device in devices)
            tracking.Cover(device);
        return tracking;
    }

    /// <summary>Names the tracker that harvests <see cref="Sources"/>; the members below need it.</summary>
    public void Connect(DirtyTracker tracker)
    {
        ArgumentNullException.ThrowIfNull(tracker);
        _tracker = tracker;
    }

    /// <summary>
    /// Covers a device that was assigned just now, also while tracking is on: then all it can reach counts as written
    /// once, because it may have written before its tracker was on.
    /// </summary>
    /// <exception cref="KernelException">Its tracker could not be started; it is not covered and must not
    /// run.</exception>
    public void Join(AssignedDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        RequireTracker().Change((pages, isTracking) =>
        {
            if (Cover(device) is { } added)
            {
                try
                {
                    RequireTracker().Add(added.Outer);
                }
                catch
                {
                    Uncover(device);
                    throw;
                }
            }

            if (isTracking)
                AddAll(device.Container.Areas, pages);
        });
    }

    /// <summary>
    /// Gives a device up, also while tracking is on: its DMA is blocked, then what its tracker has recorded is taken,
    /// then it is closed. Where it can not be blocked before, all it can reach counts as written. Nothing it wrote is
    /// lost. Never throws for a failure of the kernel. Nothing when it is not covered.
    /// </summary>
    public void Leave(AssignedDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        RequireTracker().Change((pages, isTracking) =>
        {
            if (!_devices.Contains(device))
                return;
            IReadOnlyList<MappedArea> areas = device.Container.Areas;
            bool isKnown = device.Tracker.Kind != TrackerKind.Assumed;
            try
            {
                if (Uncover(device) is { } source)
                {
                    bool isTaken = false;
                    // ORDER: first no more DMA, then the last bits, then closing, which ends a log.
                    if (source.Inner is DeviceLogDirtySource log)
                    {
                        isKnown = device.TryBlockDma();
                        log.End(areas, pages);
                        isTaken = true;
                    }
                    else if (isKnown)
                    {
                        isKnown = device.Give(table =>
                        {
                            TakeAll(table, areas, pages);
                            isTaken = true;
                        });
                    }

                    // A table that others stay on is not handed over: it is read here, a last time.
                    TryRemove(source.Outer, areas, pages, isTaken);
                }

                if (isTracking && !isKnown)
                    AddAll(areas, pages);
            }
            finally
            {
                device.Dispose();
            }
        });
    }

    /// <summary>Resets a device. While tracking is on its log starts anew and all it can reach counts as
    /// written.</summary>
    /// <exception cref="KernelException">It could not be reset.</exception>
    public void Reset(AssignedDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        RequireTracker().Change((pages, _) =>
        {
            try
            {
                device.Device.Reset();
            }
            finally
            {
                // Also after a failure: how far the reset came is not known.
                if (_sources.TryGetValue(device, out Source? source) && source.Inner is DeviceLogDirtySource log)
                    log.OnReset(pages);
            }
        });
    }

    /// <summary>
    /// Unmaps part of a container's address space. While tracking is on, what was written through it is kept.
    /// </summary>
    /// <returns>Bytes unmapped.</returns>
    /// <exception cref="ArgumentException">The range cuts a mapping; nothing changed.</exception>
    /// <exception cref="KernelException">The kernel refused one; the lower mappings are gone, the others
    /// remain.</exception>
    public ulong Unmap(DmaContainer container, IovaRange range)
    {
        ArgumentNullException.ThrowIfNull(container);
        ulong unmapped = 0;
        RequireTracker().Change((pages, isTracking) =>
        {
            if (!isTracking)
            {
                unmapped = container.Unmap(range);
                return;
            }

            MappedArea[] before = container.FindAreas(range);
            try
            {
                unmapped = container.Unmap(range, _buffer, pages);
            }
            finally
            {
                MappedArea[] gone = Array.FindAll(before, area => !container.Has(area));
                foreach (AssignedDevice device in _devices)
                {
                    if (device.Container == container)
                        TakeGone(device, gone, pages);
                }
            }
        });
        return unmapped;
    }

    /// <summary>
    /// Moves a container's devices to tables with or without large leaves while they work. A leaf is one dirty unit:
    /// with base pages one write of 4 KiB costs 4 KiB.
    /// </summary>
    /// <exception cref="KernelException">Refused; everything is as before, and no dirty bit is lost.</exception>
    public void SetHugePages(IommufdContainer container, bool allowed)
    {
        ArgumentNullException.ThrowIfNull(container);
        // ORDER: before the tracker is held. A device behind a virtual IOMMU may need it to come to rest.
        using var rest = StandingStill.Of(_devices.Where(device => device.Container == container));
        RequireTracker().Change((pages, _) =>
        {
            IReadOnlyList<MappedArea> areas = container.Areas;
            container.Rebuild(
                allowed,
                (entry, next) => next.SetDirtyTracking(entry.Hwpt.IsTracking),
                table => TakeAll(table, areas, pages));
        });
    }

    public void Dispose() => _buffer.Dispose();

    private static void AddAll(IReadOnlyList<MappedArea> areas, PageBitmap pages)
    {
        foreach (MappedArea area in areas)
        {
            if (area.CanDirtyGuest)
                pages.SetRange(area.Guest!.Value.Page, area.Range.ByteLength >> GuestPage.Shift);
        }
    }

    private DirtyTracker RequireTracker() =>
        _tracker ?? throw new InvalidOperationException("The sources are connected to no tracker.");

    /// <summary>Takes the bits of a table that is about to go; what can not be read counts as written.</summary>
    private void TakeAll(IDirtyTable table, IReadOnlyList<MappedArea> areas, PageBitmap pages)
    {
        try
        {
            foreach (MappedArea area in areas)
            {
                if (area.CanDirtyGuest)
                    table.HarvestDirty(area, _buffer, pages);
            }
        }
        catch (KernelException)
        {
            AddAll(areas, pages);
        }
    }

    private void TakeGone(AssignedDevice device, MappedArea[] gone, PageBitmap pages)
    {
        if (device.Tracker.Kind == TrackerKind.Assumed)
            AddAll(gone, pages);
        if (!_sources.TryGetValue(device, out Source? source) || source.Inner is not DeviceLogDirtySource log)
            return;
        foreach (MappedArea area in gone)
            log.TakeGone(area, pages);
    }

    /// <summary>Makes the source a device needs, or adds the device to the one it shares.</summary>
    /// <returns>The source, if it is new.</returns>
    private Source? Cover(AssignedDevice device)
    {
        _devices.Add(device);
        object key = FindKey(device);
        if (_sources.TryGetValue(key, out Source? shared))
        {
            Rename(key, shared);
            return null;
        }

        var made = new Source(CreateSource(device), () => StandStill(key));
        made.Defer(IsDeferred(key));
        _sources.Add(key, made);
        return made;
    }

    /// <returns>The source, if no other device needs it.</returns>
    private Source? Uncover(AssignedDevice device)
    {
        _devices.Remove(device);
        object key = FindKey(device);
        if (!_sources.TryGetValue(key, out Source? source))
            return null;
        if (_devices.Exists(other => FindKey(other).Equals(key)))
        {
            Rename(key, source);
            return null;
        }

        _sources.Remove(key);
        return source;
    }

    private void TryRemove(
        IDirtySource source, IReadOnlyList<MappedArea> areas, PageBitmap pages, bool isHarvested)
    {
        try
        {
            RequireTracker().Remove(source);
        }
        catch (Exception failure) when (failure is KernelException or ObjectDisposedException)
        {
            // Its table is gone with the device, and was read before; or the kernel can not say what was written.
            if (!isHarvested)
                AddAll(areas, pages);
        }
    }

    private void Rename(object key, Source source)
    {
        if (source.Inner is TableDirtySource table)
            table.DeviceNames = [.. ReliantOn(key).Select(device => device.Name)];
        source.Defer(IsDeferred(key));
    }

    private IEnumerable<AssignedDevice> ReliantOn(object key) =>
        _devices.Where(device => FindKey(device).Equals(key));

    /// <summary>One device that wants to be read while it runs is enough: its neighbours must not blind it.</summary>
    private bool IsDeferred(object key) => ReliantOn(key).All(device => !device.Options.PrecopyTracking);

    private bool StandStill(object key) => ReliantOn(key).All(device => device.FindRunning() is null);

    /// <summary>What devices share a source by.</summary>
    private static object FindKey(AssignedDevice device) => device.Tracker.Kind switch
    {
        TrackerKind.Iommu => device.Attachment.Entry!,
        TrackerKind.Type1 => device.Attachment.Type1!,
        TrackerKind.DeviceLog or TrackerKind.Assumed => device,
        _ => device,
    };

    private IDirtySource CreateSource(AssignedDevice device) => device.Tracker.Kind switch
    {
        TrackerKind.Iommu when _reattach && device.Container is IommufdContainer container =>
            new ReattachingDirtySource(container, device.Attachment.Entry!, [device], _buffer),
        TrackerKind.Iommu => TableDirtySource.Of(device.Attachment.Entry!, _buffer, [device.Name]),
        TrackerKind.Type1 => TableDirtySource.Of(
            device.Attachment.Type1!, (LegacyContainer)device.Container, _buffer, [device.Name]),
        TrackerKind.DeviceLog => new DeviceLogDirtySource(
            device.Name, new DmaLogging(device.Device), () => device.Container.Areas, _buffer,
            () => device.FindRunning() is null),
        TrackerKind.Assumed => new AssumedDirtySource($"{device.Name} (assumed)", () => device.ReachablePages),
        _ => throw new InvalidOperationException($"{device.Name} has an unknown tracker."),
    };

    /// <summary>A source, and the same one behind the choice whether it is read while devices run.</summary>
    private sealed class Source
    {
        private bool _deferred;

        public Source(IDirtySource inner, Func<bool> standStill)
        {
            Inner = inner;
            Outer = new DeferredDirtySource(inner, () => !_deferred || standStill());
        }

        public IDirtySource Inner { get; }

        public IDirtySource Outer { get; }

        public void Defer(bool isDeferred) => _deferred = isDeferred;
    }
}
