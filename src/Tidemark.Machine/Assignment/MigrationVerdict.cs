using Tidemark.Machine.Handover;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>Why a machine can not migrate.</summary>
public enum MigrationBlockerKind
{
    /// <summary>Neither the device's VFIO driver nor a driver here can move it.</summary>
    NoMigration,

    /// <summary>Several devices, and one could not hold back its DMA to peers while they stop.</summary>
    NoP2P,

    /// <summary>The user wants the device's own DMA log (<c>on</c>), and it has none.</summary>
    NoDeviceLog,

    /// <summary>The user said that the device does not move (<c>migration=off</c>).</summary>
    SwitchedOff,

    /// <summary>Nobody tracks what it writes, and the user wants that somebody does (<c>require-tracker</c>).</summary>
    NoTracker,
}

/// <summary>One reason why a machine can not migrate, found before anything starts. Each text is one sentence for
/// users.</summary>
public sealed record MigrationBlocker(
    MigrationBlockerKind Kind, string Device, string Cause, string Evidence, string Remedy)
{
    public override string ToString() => $"{Cause} {Evidence} {Remedy}";
}

/// <summary>What nobody tracks: no obstacle, but its price is known.</summary>
/// <param name="BytesPerPass">Guest memory that counts as written in every pass, in bytes.</param>
public sealed record StatedCost(string Device, ulong BytesPerPass, string Reason)
{
    /// <summary>How long a stopped machine waits for these bytes over a link, at the least.</summary>
    public TimeSpan PredictDowntime(double bytesPerSecond) => TimeSpan.FromSeconds(BytesPerPass / bytesPerSecond);

    /// <remarks>A look at a host maps no memory, and so knows no figure.</remarks>
    public override string ToString() => BytesPerPass == 0
        ? $"All memory that is mapped for {Device} is sent in every pass, the last one included. {Reason}"
        : $"{BytesPerPass >> 20} MiB are sent in every pass for {Device}, the last one included: "
        + $"{Math.Ceiling(PredictDowntime(1 << 30).TotalMilliseconds)} ms of downtime at 1 GiB/s. {Reason}";
}

/// <summary>Whether a set of devices can migrate together, why not, and at what price.</summary>
public sealed record MigrationVerdict(
    IReadOnlyList<MigrationBlocker> Blockers, IReadOnlyList<StatedCost> Costs)
{
    public bool CanMigrate => Blockers.Count == 0;

    /// <summary>Judges the devices of one machine as they are now; judge again when one comes or goes.</summary>
    public static MigrationVerdict Judge(IReadOnlyList<AssignedDevice> devices)
    {
        ArgumentNullException.ThrowIfNull(devices);
        var blockers = new List<MigrationBlocker>();
        foreach (AssignedDevice device in devices)
        {
            if (device.Handover.Kind == HandoverKind.None)
            {
                blockers.Add(new MigrationBlocker(MigrationBlockerKind.NoMigration, device.Name,
                    $"{device.Name} can not be migrated.",
                    device.Handover.Reason,
                    "Bind it to its vendor's VFIO driver with migration support, let its driver here help "
                    + "(handover=driver-assisted), or remove it before the migration."));
            }
            else if (devices.Count > 1 && !device.HasP2P)
            {
                blockers.Add(new MigrationBlocker(MigrationBlockerKind.NoP2P, device.Name,
                    $"{device.Name} can not be stopped together with the machine's other devices.",
                    $"There are {devices.Count} devices and this one has no P2P states "
                    + $"(abilities {device.MigrationAbilities}).",
                    "Use it as the only device, or a driver that offers VFIO_MIGRATION_P2P."));
            }

            if (device.Options.Migration == MigrationUse.Off)
            {
                blockers.Add(new MigrationBlocker(MigrationBlockerKind.SwitchedOff, device.Name,
                    $"{device.Name} is not to be migrated (migration=off).",
                    "The machine's description says so.",
                    "Say migration=auto, or remove the device before the migration."));
            }

            if (device.Options.RequireTracker && device.CostBytes is { } untracked)
            {
                blockers.Add(new MigrationBlocker(MigrationBlockerKind.NoTracker, device.Name,
                    $"Nobody tracks what {device.Name} writes, and somebody must (requireTracker).",
                    $"{device.Tracker.Reason} {untracked >> 20} MiB would be sent in every pass.",
                    "Use a host whose IOMMU sets dirty bits, or a device that logs its DMA; or leave requireTracker "
                    + "out and pay for it."));
            }

            if (device.Options.LogUse == DeviceLogUse.On && device.Tracker.Kind != TrackerKind.DeviceLog)
            {
                blockers.Add(new MigrationBlocker(MigrationBlockerKind.NoDeviceLog, device.Name,
                    $"{device.Name} must log its own DMA (device-dirty-tracking=on), and can not.",
                    "VFIO_DEVICE_FEATURE_DMA_LOGGING_START is not among its features.",
                    "Say device-dirty-tracking=auto."));
            }
        }

        StatedCost[] costs = [.. devices
            .Where(device => device.CostBytes is not null)
            .Select(device => new StatedCost(device.Name, device.CostBytes!.Value, device.Tracker.Reason))];
        return new MigrationVerdict(blockers, costs);
    }
}
