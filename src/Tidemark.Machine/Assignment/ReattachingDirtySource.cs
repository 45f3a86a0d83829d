using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>What came of moving devices from one page table to another while tracking.</summary>
/// <param name="PagesFromOld">Dirty pages that the old table still had when its devices had left it.</param>
/// <param name="PagesFromNew">Dirty pages that the new table has reported since.</param>
public sealed record Reattachment(string Devices, uint From, uint To, ulong PagesFromOld, ulong PagesFromNew);

/// <summary>
/// As <see cref="TableDirtySource"/>, but in the middle of a migration it moves its devices to a new page table: to show,
/// on whichever IOMMU there is, that no write falls between the two.
/// </summary>
/// <remarks>
/// <code>
/// Start: tracking on --Harvest 1--> --Harvest 2: new table, tracking on, devices over, old table read and destroyed--> --Harvest n-->
/// </code>
/// Devices with a driver here are kept idle meanwhile (<see cref="StandingStill"/>); others work on.
/// A refusal leaves the devices where they were; the migration then goes on without the exercise, and says so.
/// </remarks>
public sealed class ReattachingDirtySource : IDirtySource
{
    private const int ReattachAt = 2;

    private readonly IommufdContainer _container;
    private readonly IReadOnlyList<AssignedDevice> _devices;
    private readonly DirtyBuffer _buffer;
    private readonly ContainerHwpt _entry;
    private int _harvests;

    public ReattachingDirtySource(IommufdContainer container, ContainerHwpt entry, IReadOnlyList<AssignedDevice> devices, DirtyBuffer buffer)
    {
        ArgumentNullException.ThrowIfNull(container);
        ArgumentNullException.ThrowIfNull(entry);
        _container = container;
        _entry = entry;
        _devices = devices;
        _buffer = buffer;
        Name = $"{string.Join(", ", devices.Select(device => device.Name))} (iommu)";
    }

    public string Name { get; }

    public DirtySourceKind Kind => DirtySourceKind.Iommu;

    /// <summary>What was done, or null when it was not (yet).</summary>
    public Reattachment? Done { get; private set; }

    /// <summary>Why it could not be done, or null.</summary>
    public string? Refusal { get; private set; }

    /// <inheritdoc/>
    public void Start()
    {
        _harvests = 0;
        _entry.Hwpt.SetDirtyTracking(true);
    }

    /// <inheritdoc/>
    public void Stop() => _entry.Hwpt.SetDirtyTracking(false);

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        if (++_harvests == ReattachAt)
            Reattach(pages);
        ulong before = pages.CountSet();
        HarvestFrom(_entry.Hwpt, pages);
        if (Done is not null)
            Done = Done with { PagesFromNew = Done.PagesFromNew + pages.CountSet() - before };
    }

    private void Reattach(PageBitmap pages)
    {
        Hwpt old;
        try
        {
            using var rest = StandingStill.Of(_devices);
            old = _container.Replace(_entry, hwpt => hwpt.SetDirtyTracking(true), hwpt => TakeAll(hwpt, pages));
        }
        catch (KernelException failure)
        {
            // The devices are on the old table, which goes on recording.
            Refusal = failure.Message;
            return;
        }

        // No device is on it any more: this harvest of it is its last.
        TakeAll(old, pages);
        Done = new Reattachment(string.Join(", ", _devices.Select(device => device.Name)), old.Id, _entry.Hwpt.Id, pages.CountSet(), 0);
        old.Dispose();
    }

    /// <summary>The last look at a table that goes: what it can not say counts as written.</summary>
    private void TakeAll(Hwpt hwpt, PageBitmap pages)
    {
        try
        {
            HarvestFrom(hwpt, pages);
        }
        catch (KernelException)
        {
            foreach (MappedArea area in hwpt.Ioas.Areas)
            {
                if (area.CanDirtyGuest)
                    pages.SetRange(area.Guest!.Value.Page, area.Range.ByteLength >> GuestPage.Shift);
            }
        }
    }

    private void HarvestFrom(Hwpt hwpt, PageBitmap pages)
    {
        foreach (MappedArea area in hwpt.Ioas.Areas)
        {
            if (area.CanDirtyGuest)
                hwpt.HarvestDirty(area, _buffer, pages);
        }
    }
}
