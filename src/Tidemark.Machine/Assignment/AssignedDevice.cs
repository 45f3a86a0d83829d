using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Handover;
using Tidemark.Memory;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// A device of a machine: opened, bound, attached to a container, with the tracker that sees its writes and the part
/// that moves with the machine.
/// </summary>
/// <remarks>
/// Owns the device, not the container (devices share it). <see cref="Dispose"/> undoes in reverse: state stream,
/// attachment, descriptor.
/// </remarks>
public sealed class AssignedDevice : IDisposable
{
    /// <summary>
    /// LIMIT: how long commands may take to complete at the switchover of a driver-assisted device. The slowest disk
    /// answers sooner, or is broken; then the source runs on.
    /// </summary>
    private static readonly TimeSpan QuiesceLimit = TimeSpan.FromSeconds(10);

    private readonly VfioMigration? _migration;
    private bool _disposed;

    private AssignedDevice(
        VfioDevice device, DmaContainer container, Attachment attachment, AssignmentOptions options,
        VfioMigration? migration, string? migrationLack)
    {
        Device = device;
        Container = container;
        Attachment = attachment;
        Options = options;
        Tracker = TrackerChoice.Choose(attachment, options.LogUse);
        if (StepEvents.Log.IsEnabled())
            StepEvents.Log.TrackerChosen(device.Name, Tracker.Kind.ToString(), Tracker.Reason);
        _migration = migration;
        MigrationLack = migrationLack;
        Migratable = migration is null ? null : new VfioMigratable(device.Name, migration);
        Handover = HandoverChoice.Choose(device.Name, HandoverWish.Auto, migrationLack, "it was not asked");
    }

    public string Name => Device.Name;

    public VfioDevice Device { get; }

    public DmaContainer Container { get; }

    public Attachment Attachment { get; }

    /// <summary>Who sees the device's writes, and why that one.</summary>
    public TrackerChoice Tracker { get; }

    /// <summary>What the user said about it.</summary>
    public AssignmentOptions Options { get; }

    /// <summary>The device's migration states, or null when its VFIO driver has none.</summary>
    public VfioMigratable? Migratable { get; }

    /// <summary>The device's configuration space, where it moves beside <see cref="Migratable"/>; a driver that helps sets it
    /// up itself.</summary>
    public PciConfigPart? Configuration { get; private set; }

    /// <summary>How it moves, and why so. By states, until <see cref="ChooseHandover"/> says otherwise.</summary>
    public HandoverChoice Handover { get; private set; }

    /// <summary>Its driver's help, when that is how it moves.</summary>
    public DriverAssistedMigratable? Assisted { get; private set; }

    /// <summary>The part that moves with the machine, or null when the device can not be migrated.</summary>
    public IMigratable? Part => Handover.Kind switch
    {
        HandoverKind.States => Migratable,
        HandoverKind.DriverAssisted => Assisted,
        HandoverKind.None => null,
        _ => null,
    };

    /// <summary>Everything of it that moves with the machine.</summary>
    public IEnumerable<IMigratable> Parts => Part switch
    {
        null => [],
        VfioMigratable when Configuration is not null => [Part, Configuration],
        _ => [Part],
    };

    /// <summary>Why <see cref="Migratable"/> is null, for users.</summary>
    public string? MigrationLack { get; }

    public VfioMigrationFlags MigrationAbilities => _migration?.Abilities ?? VfioMigrationFlags.None;

    /// <summary>
    /// Whether it can hold back its DMA before all devices stop: by the P2P states, or because its driver waits until
    /// nothing is in flight.
    /// </summary>
    public bool HasP2P => Handover.Kind == HandoverKind.DriverAssisted || (_migration?.HasP2P ?? false);

    /// <summary>Guest memory the device can write, as runs of guest pages: what *assumed* costs.</summary>
    public IReadOnlyList<PageRun> ReachablePages =>
    [
        .. Container.Areas
            .Where(area => area.CanDirtyGuest)
            .Select(area => new PageRun(area.Guest!.Value.Page, area.Range.ByteLength >> GuestPage.Shift)),
    ];

    /// <summary>Guest memory the device can write, in bytes.</summary>
    public ulong ReachableBytes =>
        ReachablePages.Aggregate(0UL, (sum, run) => sum + (run.Count << GuestPage.Shift));

    /// <summary>
    /// Bytes that count as written in every pass because nobody knows better; null when somebody does.
    /// </summary>
    public ulong? CostBytes => Tracker.Kind switch
    {
        TrackerKind.Assumed => ReachableBytes,
        TrackerKind.Type1 when Container is LegacyContainer { ReportsEverything: true } => ReachableBytes,
        TrackerKind.Type1 or TrackerKind.Iommu or TrackerKind.DeviceLog => null,
        _ => null,
    };

    /// <summary>The migration state that the kernel reports now; Running for a device without migration
    /// states.</summary>
    /// <exception cref="KernelException">The device did not answer.</exception>
    public VfioDeviceMigState GetMigrationState() => _migration?.GetState() ?? VfioDeviceMigState.Running;

    /// <summary>What of it could still write to guest memory, for users; null when it stands still.</summary>
    /// <exception cref="KernelException">The device did not answer.</exception>
    public string? FindRunning()
    {
        if (Handover.Kind == HandoverKind.DriverAssisted)
            return Assisted is null ? $"{Name} is nobody's" : Assisted.FindRunning();
        VfioDeviceMigState state = GetMigrationState();
        return state is VfioDeviceMigState.Stop or VfioDeviceMigState.StopCopy ? null : $"{Name} is {state}";
    }

    /// <summary>Decides how the device moves.</summary>
    /// <param name="driverLack">Why no driver in this process helps, or null when one does.</param>
    /// <param name="driver">That driver; without one (for a look at a host) the device could be moved but has no
    /// <see cref="Part"/>.</param>
    /// <exception cref="KernelException">The device has no configuration space.</exception>
    public void ChooseHandover(HandoverWish wish, string? driverLack, IHandoverDriver? driver = null)
    {
        Handover = HandoverChoice.Choose(Name, wish, MigrationLack, driverLack ?? driver?.FindObstacle());
        Configuration = Handover.Kind == HandoverKind.States ? PciConfigPart.Find(Device) : null;
        Assisted = Handover.Kind == HandoverKind.DriverAssisted && driver is not null
            ? new DriverAssistedMigratable(Name, driver, new PciBusMaster(Device), QuiesceLimit)
            : null;
    }

    /// <summary>Attaches a device, binding it first if that is still to do, and finds out what it can do.</summary>
    /// <param name="device">Opened by the same container, or handed in. Belongs to the result; after a failure it is
    /// closed.</param>
    /// <param name="container">Attach before guest memory is mapped into it.</param>
    /// <exception cref="KernelException">A step was refused; everything was undone.</exception>
    public static AssignedDevice Assign(
        VfioDevice device, DmaContainer container, AssignmentOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(container);
        options ??= AssignmentOptions.Default;
        try
        {
            if (container is IommufdContainer { Iommufd: var iommufd } && device.DeviceId is null)
                device.BindIommufd(iommufd);
            Attachment attachment = container.Attach(device, options.NestingParent);
            VfioMigration? migration = VfioMigration.Create(device, out string? lack);
            return new AssignedDevice(device, container, attachment, options, migration, lack);
        }
        catch
        {
            // In reverse: detach, then close, which unbinds. The container is as before.
            TryDetach(container, device);
            device.Dispose();
            throw;
        }
    }

    /// <summary>Goes on with a device that another process assigned; it is attached and may be writing.</summary>
    /// <param name="container">Adopted together with the device.</param>
    /// <exception cref="KernelException">The device does not say what it can do; it is not closed.</exception>
    public static AssignedDevice Adopt(VfioDevice device, DmaContainer container, AssignmentOptions options)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(container);
        Attachment attachment = container.Attachments.First(attached => attached.Device == device);
        VfioMigration? migration = VfioMigration.Create(device, out string? lack);
        return new AssignedDevice(device, container, attachment, options, migration, lack);
    }

    /// <summary>Takes its DMA away; it stays open, so that its log can be read. Never throws.</summary>
    /// <returns>Whether it certainly can not write any more.</returns>
    internal bool TryBlockDma() =>
        // In a legacy container only closing blocks a device; there its group's mappings stay until then.
        Container is IommufdContainer ? TryDetach(Container, Device) : StandsStill();

    /// <summary>Detaches it; a table that goes with it is handed to <paramref name="salvage"/> first. Never
    /// throws.</summary>
    /// <returns>Whether its DMA was blocked before the table was handed over.</returns>
    internal bool Give(Action<IDirtyTable> salvage)
    {
        // A legacy container closes the device; its state stream must be given up before.
        Migratable?.Dispose();
        return TryDetach(Container, Device, salvage);
    }

    /// <summary>Gives the device up: nothing of it is left in the container or the kernel. Never throws.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Migratable?.Dispose();
        TryDetach(Container, Device);
        Device.Dispose();
    }

    public override string ToString() => $"{Name}: {Tracker}";

    private bool StandsStill()
    {
        try
        {
            return FindRunning() is null;
        }
        catch (KernelException)
        {
            // A device that does not say that it stands still may be running.
            return false;
        }
    }

    private static bool TryDetach(
        DmaContainer container, VfioDevice device, Action<IDirtyTable>? salvage = null)
    {
        try
        {
            container.Detach(device, salvage);
            return true;
        }
        catch (KernelException)
        {
            // The container has forgotten the device, and closing its descriptor, which comes next, detaches it too.
            return false;
        }
    }
}
