using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.CpuTracking;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>What a look at a host found.</summary>
public enum HostVerdict
{
    /// <summary>Every device that was looked at can migrate.</summary>
    Ready,

    /// <summary>Something stands against it; the reasons say what and what to do.</summary>
    NotReady,

    /// <summary>The kernel has no iommufd.</summary>
    NotSupported,
}

/// <summary>What was found out about one device.</summary>
/// <param name="Problem">Why it could not be looked at, or null; the members after it mean nothing then.</param>
public sealed record DeviceCheck(string Name, string Host, string? Driver, string? Problem)
{
    /// <summary>
    /// Whether its IOMMU can record what it writes (IOMMU_HW_CAP_DIRTY_TRACKING and a page table that does).
    /// </summary>
    public bool IommuTracks { get; init; }

    /// <summary>Why not; null when it can.</summary>
    public string? IommuReason { get; init; }

    /// <summary>The kernel's name of that IOMMU, where it tells.</summary>
    public string? Iommu { get; init; }

    /// <summary>How the device would move, and why so.</summary>
    public HandoverChoice? Handover { get; init; }

    public bool HasDeviceLog { get; init; }

    /// <summary>Migration features, or why there are none.</summary>
    public string Abilities { get; init; } = "";

    public TrackerChoice? Tracker { get; init; }
}

/// <summary>
/// A look at a host: kernel, iommufd, and devices, each opened, bound and attached for a moment. Changes nothing that
/// stays: closing a device that was bound resets it, so only devices bound to a VFIO driver and not in use are touched.
/// </summary>
public sealed record HostCheck
{
    public required string Kernel { get; init; }

    public required bool HasIommufd { get; init; }

    public required string IommufdReason { get; init; }

    /// <summary>Who would see processor writes, <c>userfaultfd</c> or <c>write-barrier</c>, and why.</summary>
    public required string CpuTracking { get; init; }

    public required string CpuTrackingReason { get; init; }

    public IReadOnlyList<DeviceCheck> Devices { get; init; } = [];

    public IReadOnlyList<MigrationBlocker> Blockers { get; init; } = [];

    public IReadOnlyList<StatedCost> Costs { get; init; } = [];

    public required HostVerdict Verdict { get; init; }

    /// <summary>The verdict in one sentence.</summary>
    public required string Reason { get; init; }

    /// <param name="devices">A machine's devices; null: every device here that is bound to a VFIO driver.</param>
    /// <param name="backend">The interface that the machine would use.</param>
    public static HostCheck Run(
        IKernel kernel, ISysfs sysfs, IReadOnlyList<DeviceDescription>? devices,
        DeviceBackend backend = DeviceBackend.Auto)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(sysfs);
        (string Mechanism, string Reason) processors = LookAtProcessors(kernel);
        KernelInterface opened;
        try
        {
            opened = KernelInterface.Open(kernel, sysfs, backend);
        }
        catch (KernelException failure)
        {
            // Nothing was opened: whatever the devices are, there is no way to assign them.
            bool missing = failure.Errno is Errno.ENOENT or Errno.ENODEV or Errno.ENXIO;
            return new HostCheck
            {
                Kernel = kernel.Identity.ToString(),
                HasIommufd = false,
                IommufdReason = failure.Message,
                CpuTracking = processors.Mechanism,
                CpuTrackingReason = processors.Reason,
                Verdict = missing ? HostVerdict.NotSupported : HostVerdict.NotReady,
                Reason = DescribeMissing(backend, missing),
            };
        }

        using (opened)
        {
            IReadOnlyList<DeviceDescription> wanted = devices ?? [.. VfioDiscovery.ListPciDevices(sysfs)
                .Where(address => sysfs.List($"{VfioDiscovery.GetPciFolder(address)}/vfio-dev").Count > 0)
                .Select(address => new DeviceDescription { Name = address, Host = address })];
            return Look(kernel, sysfs, opened, wanted, processors, areMachine: devices is not null);
        }
    }

    private static string DescribeMissing(DeviceBackend backend, bool missing) => (backend, missing) switch
    {
        (DeviceBackend.Legacy, true) =>
            "this kernel has no VFIO containers (CONFIG_VFIO_CONTAINER; `modprobe vfio vfio_iommu_type1`)",
        (DeviceBackend.Legacy, false) => $"{LegacyContainer.DefaultPath} can not be opened",
        (_, true) => "this kernel has no iommufd; it needs CONFIG_IOMMUFD (Linux 6.2 or later; `modprobe iommufd`) and "
            + "an IOMMU that is switched on",
        _ => "iommufd can not be opened",
    };

    private static (string Mechanism, string Reason) LookAtProcessors(IKernel kernel)
    {
        var machine = new MachineDescription { Name = "check", MemoryBytes = 4UL << 20 };
        using GuestMemoryFile memory = GuestMemoryFile.Create(kernel, MemoryLayout.Plan(machine), prefault: false);
        using CpuDirtyTracking tracking = CpuDirtyTracking.Choose(kernel, memory.Memory);
        return (tracking.Mechanism, tracking.Reason);
    }

    private static HostCheck Look(
        IKernel kernel, ISysfs sysfs, KernelInterface opened, IReadOnlyList<DeviceDescription> wanted,
        (string Mechanism, string Reason) processors, bool areMachine)
    {
        var checks = new List<DeviceCheck>();
        var assigned = new List<AssignedDevice>();
        var containers = new List<DmaContainer>();
        try
        {
            foreach (DeviceDescription device in wanted)
                checks.Add(LookAt(sysfs, opened, device, assigned, containers));
            // Devices of one machine are judged together; unrelated ones each by itself.
            MigrationVerdict[] verdicts = areMachine
                ? [MigrationVerdict.Judge(assigned)]
                : [.. assigned.Select(device => MigrationVerdict.Judge([device]))];
            MigrationBlocker[] blockers = [.. verdicts.SelectMany(verdict => verdict.Blockers)];
            bool ready = blockers.Length == 0 && checks.Count > 0 && checks.TrueForAll(check => check.Problem is null);
            return new HostCheck
            {
                Kernel = kernel.Identity.ToString(),
                HasIommufd = opened.IsIommufd,
                IommufdReason = opened.Description,
                CpuTracking = processors.Mechanism,
                CpuTrackingReason = processors.Reason,
                Devices = checks,
                Blockers = blockers,
                Costs = [.. verdicts.SelectMany(verdict => verdict.Costs)],
                Verdict = ready ? HostVerdict.Ready : HostVerdict.NotReady,
                Reason = Explain(ready, checks, blockers),
            };
        }
        finally
        {
            assigned.ForEach(device => device.Dispose());
            containers.ForEach(container => container.Dispose());
        }
    }

    private static DeviceCheck LookAt(
        ISysfs sysfs, KernelInterface opened, DeviceDescription device,
        List<AssignedDevice> assigned, List<DmaContainer> containers)
    {
        string folder = VfioDiscovery.FindFolder(sysfs, device.Host);
        string? driver = VfioDiscovery.FindDriver(sysfs, folder);
        try
        {
            DmaContainer container = opened.CreateContainer();
            containers.Add(container);
            AssignedDevice one = AssignedDevice.Assign(
                container.Open(sysfs, folder, device.Name), container, device.Assignment);
            assigned.Add(one);
            // The workload of a machine here would be the device's driver, if it is one that it can drive.
            one.ChooseHandover(device.Handover, one.Device.IsMdev ? "it is a mediated device" : HandoverChoice.FindNvmeLack(one.Device));
            return new DeviceCheck(device.Name, device.Host, driver, null)
            {
                IommuTracks = one.Attachment.HasIommuTracking,
                IommuReason = one.Attachment.NoTrackingReason,
                Iommu = VfioDiscovery.FindIommu(sysfs, folder),
                Handover = one.Handover,
                HasDeviceLog = TrackerChoice.HasDeviceLog(one.Device),
                Abilities = one.Migratable is null ? $"none ({one.MigrationLack})" : one.MigrationAbilities.ToString(),
                Tracker = one.Tracker,
            };
        }
        catch (KernelException failure)
        {
            // The device is closed again; the others are looked at all the same.
            return new DeviceCheck(device.Name, device.Host, driver, failure.Message);
        }
    }

    private static string Explain(bool ready, List<DeviceCheck> checks, MigrationBlocker[] blockers)
    {
        if (ready)
        {
            int assisted = checks.Count(check => check.Handover?.Kind == HandoverKind.DriverAssisted);
            string how = assisted == 0 ? "" : assisted == checks.Count ? ", driver-assisted" : $", {assisted} of them driver-assisted";
            return (checks.Count == 1 ? "the device can migrate live" : $"all {checks.Count} devices can migrate live") + how;
        }

        if (checks.Count == 0)
            return "no device here is bound to a VFIO driver; bind one (driverctl set-override 0000:01:00.0 vfio-pci) or name a machine file";
        if (blockers.Length > 0)
            return blockers[0].Cause + (blockers.Length > 1 ? $" ({blockers.Length - 1} more above)" : "");
        return $"{checks.Count(check => check.Problem is not null)} of {checks.Count} devices could not be looked at";
    }
}
