using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.CpuTracking;
using Tidemark.Machine.Description;
using Tidemark.Machine.Hosting;
using Tidemark.Machine.LiveUpdate;
using Tidemark.Machine.Nvme;
using Tidemark.Machine.Snapshot;
using Tidemark.Machine.Viommu;
using Tidemark.Machine.Workload;
using Tidemark.Memory;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine;

/// <summary>
/// A machine: guest memory, assigned devices with their trackers, and a workload in place of processors. The engine
/// sees it as a source or a destination.
/// </summary>
/// <remarks>
/// <code>
/// Assemble --StartFresh--> Running --StopWorkload--> quiet --ResumeWorkload--> Running        (source)
///    '--(engine fills memory and parts)--Start--> Running                                     (destination)
/// </code>
/// Assembly order is the kernel's: memory file, iommufd, devices bound and attached (auto domains), memory mapped,
/// trackers.
/// <see cref="Dispose"/> undoes it in reverse.
/// </remarks>
public sealed partial class GuestMachine : ISourceMachine, IDestinationMachine, IDisposable
{
    private static readonly TimeSpan DiskWait = TimeSpan.FromSeconds(10);

    private readonly MachineDescription _description;
    private readonly IKernel _kernel;
    private readonly ISysfs _sysfs;
    private readonly MemoryLayout _layout;
    private readonly Stack<IDisposable> _owned = new();
    private readonly List<GuestDevice> _devices = [];
    private readonly GuestMemoryFile _memoryFile;
    private readonly DiskLocks _disks;
    private readonly GuestWorkload _workload;
    private bool _memoryIsNew;
    private readonly Lock _resetGate = new();
    private int _resets;
    private bool _disposed;

    private GuestMachine(
        MachineDescription description, IKernel kernel, ISysfs sysfs, GuestMachineFaults faults, GuestMachineExercises exercises,
        MachineInheritance? inheritance = null)
    {
        _description = description;
        _kernel = kernel;
        _sysfs = sysfs;
        _layout = MemoryLayout.Plan(description);
        try
        {
            MachineManifest? manifest = inheritance?.Read(description);
            (ulong written, string purpose) = description.Prefault
                ? (description.MemoryBytes, "Prefaulting guest memory")
                : (_layout.WrittenBytes, "What the machine writes to its memory");
            // What is inherited is there already.
            if (manifest is null && HostLimits.FindMemoryShortage(sysfs, written, purpose) is { } shortage)
                throw new KernelException("Starting the machine", Errno.ENOMEM, shortage);
            _memoryFile = Own(inheritance is null
                ? GuestMemoryFile.Create(kernel, _layout, description.Prefault)
                : GuestMemoryFile.Adopt(inheritance.MemoryFile, _layout));
            _memoryIsNew = inheritance is null;
            _disks = Own(new DiskLocks(description.SoftHost));
            if (manifest is null)
                AssignDevices();
            else
                AdoptDevices(manifest, inheritance!);
            CpuTracking = Own(CpuDirtyTracking.Choose(kernel, Memory));
            DeviceTracking = Own(AssignmentTracking.Create(
                kernel, [.. _devices.Select(device => device.Assigned)],
                (exercises & GuestMachineExercises.Reattach) != 0));
            DirtyTracker = CreateTracker(faults);
            RefuseWhatMustMove();
            _workload = Own(new GuestWorkload(Memory, _layout, description.Workload, _devices));
            // The machine's IOMMU first: its mappings are there before a device runs.
            IMigratable[] viommu = Viommu.Endpoints.Count == 0 ? [] : [Viommu];
            Parts = [.. viommu, .. _devices.SelectMany(device => device.Assigned.Parts), _workload];
            if (manifest is not null)
                AdoptWorkload(manifest);
        }
        catch
        {
            // What is inherited is still the other process's; whatever was taken is given back in reverse.
            if (inheritance is not null)
                Relinquish();
            Dispose();
            throw;
        }
    }

    public KernelIdentity KernelIdentity => _kernel.Identity;

    public GuestMemory Memory => _memoryFile.Memory;

    public DirtyTracker DirtyTracker { get; }

    public CpuDirtyTracking CpuTracking { get; }

    /// <summary>The machine's own IOMMU; without endpoints it has none.</summary>
    public GuestIommu Viommu { get; } = new();

    /// <summary>The sources that see the devices' writes.</summary>
    public AssignmentTracking DeviceTracking { get; }

    /// <summary>Why devices kept their large leaves when tracking began, or went without when it ended.</summary>
    public IReadOnlyList<string> LeafRefusals { get; private set; } = [];

    public IReadOnlyList<GuestDevice> Devices => _devices;

    public CpuWriter Processor => _workload.Processor;

    /// <summary>Whether the devices can move together, why not, and at what price; judged at each call, by what is
    /// there.</summary>
    public MigrationVerdict Verdict => MigrationVerdict.Judge([.. _devices.Select(device => device.Assigned)]);

    public IReadOnlyList<IMigratable> Parts { get; }

    /// <summary>What the other side must match. The disks of driver-assisted devices are in it once they are
    /// known.</summary>
    public ReadOnlyMemory<byte> Description => MachineIdentity.Describe(_description, [.. _devices.Select(device =>
        new DeviceIdentity(device.Assigned.Handover.Kind, device.DiskBytes, device.Assigned.Assisted?.Driver.Identity ?? []))]);

    /// <summary>
    /// Why the machine can not be sent now, or null: the first pass looks at every page, touched or not.
    /// </summary>
    public string? FindSendShortage()
    {
        ulong touched = Math.Min(HostLimits.ReadTouchedSharedMemory(_sysfs), Memory.ByteLength);
        return HostLimits.FindMemoryShortage(_sysfs, Memory.ByteLength - touched, "Looking at every page of the machine");
    }

    /// <summary>
    /// The pages that have content; all others read as zeros and are best left alone, because reading allocates them.
    /// A bitmap of the caller's own. To be asked when tracking is on: what is touched later, the sources see.
    /// </summary>
    public PageBitmap FindTouchedPages()
    {
        if (_description.Prefault)
        {
            TouchedPagesDoubt = null;
            return Memory.AllPages();
        }

        PageBitmap touched = _memoryFile.FindTouched(out string? reason);
        TouchedPagesDoubt = reason;
        return touched;
    }

    /// <summary>
    /// Why the last <see cref="FindTouchedPages"/> had to count holes as touched, or null when it had not.
    /// </summary>
    public string? TouchedPagesDoubt { get; private set; }

    /// <inheritdoc cref="NewSnapshotFile.Create"/>
    public NewSnapshotFile CreateSnapshotFile(string path, DirectIO direct) => NewSnapshotFile.Create(_kernel, path, direct);

    /// <inheritdoc cref="SnapshotFile.OpenRead"/>
    public SnapshotFile OpenSnapshotFile(string path, DirectIO direct) => SnapshotFile.OpenRead(_kernel, path, direct);

    /// <summary>Why part of the workload ended by itself, or null.</summary>
    public string? WorkloadFailure => _workload.Failure;

    /// <summary>Who should have seen the pages that a verification found lost; empty when none was.</summary>
    public IReadOnlyList<string> ExplainLost(MigrationReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        return LostPageEvidence.Describe(report.LostRuns, _devices, _layout, CpuTracking);
    }

    /// <exception cref="KernelException">A step was refused; nothing is left behind.</exception>
    public static GuestMachine Assemble(
        MachineDescription description, IKernel kernel, ISysfs sysfs, GuestMachineFaults faults = GuestMachineFaults.None,
        GuestMachineExercises exercises = GuestMachineExercises.None)
    {
        ArgumentNullException.ThrowIfNull(description);
        return new GuestMachine(description, kernel, sysfs, faults, exercises);
    }

    /// <summary>Fills memory, sets the devices up and runs.</summary>
    public void StartFresh(CancellationToken cancellation)
    {
        _memoryIsNew = false;
        MemoryFill.Fill(Memory, _layout.FillBytes, _description.Workload.Seed, cancellation);
        _workload.StartFresh();
    }

    /// <inheritdoc/>
    public bool ReportsUnchangedPages =>
        _devices.Exists(device => device.Assigned.CostBytes is not null) || (_description.HugePages && _devices.Count > 0);

    /// <inheritdoc/>
    public void StartTracking()
    {
        // A leaf is one dirty unit. Where the tables can not be exchanged (type1, a kernel that refuses), pages are
        // compared with what was sent instead.
        SetHugePages(allowed: false);
        try
        {
            DirtyTracker.Start();
        }
        catch
        {
            SetHugePages(allowed: true);
            throw;
        }
    }

    /// <inheritdoc/>
    public void StopTracking(bool staysHere)
    {
        // Of a machine that leaves, what is tracked is given back soon, and tracking ends with it (33 ms/GiB for the end
        // of write protection alone).
        if (!staysHere)
            return;
        try
        {
            DirtyTracker.Stop();
        }
        finally
        {
            SetHugePages(allowed: true);
        }
    }

    /// <inheritdoc/>
    public MemoryBeforeFilling BeginFilling()
    {
        PageBitmap touched = FindTouchedPages();
        PageBitmap? absent = null;
        if (!_description.Prefault)
        {
            absent = Memory.AllPages();
            absent.AndNot(touched);
        }

        // New memory reads as zeros, also where it has pages already: nothing of this machine has run.
        if (_memoryIsNew)
            touched = new PageBitmap(touched.PageCount);
        _memoryIsNew = false;
        return new MemoryBeforeFilling(touched, absent);
    }

    /// <inheritdoc/>
    public bool TryPut(PageRun pages, ReadOnlySpan<byte> content)
    {
        MemorySlot slot = Memory.Cut(new GuestPhysicalAddress(pages.FirstPage << GuestPage.Shift), pages.Count << GuestPage.Shift);
        SyscallResult written = _kernel.Pwrite(_memoryFile.File.Number, content, slot.FileOffset);
        return written.Succeeded && written.Value == content.Length;
    }

    /// <inheritdoc/>
    public bool CanThrottle => Processor.Writes;

    /// <inheritdoc/>
    public void Throttle(int percent) => Processor.ThrottlePercent = percent;

    public void StopWorkload()
    {
        lock (_resetGate)
            _workload.Pause();
    }

    public void ResumeWorkload() => _workload.Resume();

    /// <summary>
    /// The guest reboots, also in the middle of a migration: its processors stop, its drivers shut the devices down and set
    /// them up anew, memory is written over, and it runs again. What was in flight is lost.
    /// </summary>
    /// <remarks>
    /// By the devices' own means, as a guest does it: VFIO_DEVICE_RESET would end a state stream whose beginning is at the
    /// destination already. A stop of the machine waits until it is over.
    /// </remarks>
    /// <exception cref="InvalidOperationException">The machine stands still, so it can not do anything.</exception>
    public void Reset(CancellationToken cancellation)
    {
        lock (_resetGate)
        {
            _workload.Reset(() => MemoryFill.Fill(
                Memory, _layout.FillBytes, unchecked(_description.Workload.Seed + ++_resets), cancellation));
        }
    }

    public IReadOnlyList<string> FindRunners()
    {
        var runners = new List<string>(_workload.FindRunners());
        foreach (GuestDevice device in _devices)
        {
            if (device.Assigned.FindRunning() is { } running)
                runners.Add(running);
        }

        return runners;
    }

    public void FlushDisks()
    {
        // A stopped device has written everything: its Stop returns when its data is in stable storage.
    }

    public void ReleaseDisks() => _disks.Release();

    public void AcquireDisks() => _disks.Acquire(DiskWait);

    public IReadOnlyList<string> FindObstacles(ReadOnlyMemory<byte> sourceDescription) =>
        FindObstacles(sourceDescription, MachineIdentity.AtTheSource);

    /// <param name="where">Where the other description is from, for messages: <c>in the snapshot</c>.</param>
    /// <inheritdoc cref="IDestinationMachine.FindObstacles"/>
    public IReadOnlyList<string> FindObstacles(ReadOnlyMemory<byte> description, string where) =>
    [
        .. PrepareDevices(),
        .. MachineIdentity.FindDifferences(Description, description, where),
        .. HostLimits.FindShortages(_sysfs, Memory.ByteLength, _description.Prefault, channels: 64),
        .. _disks.FindObstacles(),
        .. Verdict.Blockers.Select(blocker => blocker.ToString()),
    ];

    public void Start()
    {
        _memoryIsNew = false;
        try
        {
            foreach (IMigratable part in Parts)
                part.PrepareStart();
            foreach (IMigratable part in Parts)
                part.Start();
        }
        catch
        {
            // Half a machine must not run: its devices would write into memory that nobody looks after.
            foreach (GuestDevice device in _devices)
                TryStop(device);
            throw;
        }
    }

    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        while (_owned.TryPop(out IDisposable? owned))
            owned.Dispose();
    }

    private static void TryStop(GuestDevice device)
    {
        try
        {
            device.Pause();
            device.Assigned.Part?.EnterP2P();
            device.Assigned.Part?.Stop();
        }
        catch (Exception failure) when (failure is KernelException or NvmeException or TimeoutException or InvalidOperationException)
        {
            // The others are stopped all the same; closing this one, which follows, resets it.
        }
    }

    /// <summary>
    /// Sets driver-assisted devices up once, before any guest memory arrives, so that a device that does not work or is
    /// another one is refused while the source runs.
    /// </summary>
    private List<string> PrepareDevices()
    {
        var problems = new List<string>();
        foreach (GuestDevice device in _devices)
        {
            try
            {
                device.Assigned.Assisted?.Prepare();
            }
            catch (Exception failure) when (failure is KernelException or NvmeException)
            {
                // Nothing was received; the others are looked at all the same.
                problems.Add($"The device {device.Name} can not be set up here: {failure.Message}");
            }
        }

        return problems;
    }

    /// <summary>A device that must be able to move (<c>migration=on</c>) and can not is told now, not when it is
    /// needed.</summary>
    private void RefuseWhatMustMove()
    {
        foreach (MigrationBlocker blocker in Verdict.Blockers)
        {
            if (_devices.Exists(device => device.Name == blocker.Device
                && device.Assigned.Options.Migration == MigrationUse.On))
            {
                throw new KernelException(
                    $"Starting the machine: {blocker.Device} must be able to move (migration=on), and can not",
                    Errno.EOPNOTSUPP, blocker.ToString());
            }
        }
    }

    /// <summary>
    /// Gives the devices tables with other leaves while they work, if the file wants large ones at all. A refusal
    /// leaves them as they are.
    /// </summary>
    private void SetHugePages(bool allowed)
    {
        if (!_description.HugePages)
            return;
        var refusals = new List<string>();
        foreach (IommufdContainer container in _devices
            .Select(device => device.Assigned)
            .Where(device => device.Tracker.Kind == TrackerKind.Iommu)
            .Select(device => device.Container).OfType<IommufdContainer>().Distinct())
        {
            try
            {
                DeviceTracking.SetHugePages(container, allowed);
            }
            catch (KernelException failure)
            {
                // Everything is as before; the migration costs more.
                refusals.Add(failure.Message);
            }
        }

        LeafRefusals = refusals;
    }

    private T Own<T>(T item)
        where T : IDisposable
    {
        _owned.Push(item);
        return item;
    }

    private void AssignDevices()
    {
        if (_description.Devices.Count == 0)
            return;
        KernelInterface opener = Own(KernelInterface.Open(_kernel, _sysfs, _description.Backend));
        _iommufd = opener.Iommufd;
        DmaContainer? shared = null;
        for (int index = 0; index < _description.Devices.Count; index++)
        {
            DeviceDescription device = _description.Devices[index];
            bool isAlone = device.Isolated || device.Viommu != DeviceTranslation.None;
            DmaContainer container = isAlone ? CreateContainer(opener) : shared ??= CreateContainer(opener);
            string folder = VfioDiscovery.FindFolder(_sysfs, device.Host);
            VfioDevice opened = container.Open(_sysfs, folder, device.Name);
            AssignedDevice assigned = Own(AssignedDevice.Assign(opened, container, device.Assignment));
            GuestIommuEndpoint? endpoint = device.Viommu == DeviceTranslation.None
                ? null
                : Viommu.Add(device.Name, container, Memory, _memoryFile.File);
            AddDevice(index, assigned, endpoint, folder);
        }

        foreach (GuestIommuEndpoint endpoint in Viommu.Endpoints)
        {
            if (_description.Devices.First(device => device.Name == endpoint.Name).Viommu == DeviceTranslation.PassThrough)
                endpoint.SetMode(EndpointMode.PassThrough);
        }

        // Devices first, then memory: so the mappings are checked against what the devices can reach.
        shared?.MapMemory(Memory, _memoryFile.File);
        for (int index = 0; index < _devices.Count; index++)
        {
            (GuestPhysicalAddress start, ulong byteLength) = _layout.Arenas[index];
            if (_description.Devices[index] is { Isolated: true, Viommu: DeviceTranslation.None })
                _devices[index].Assigned.Container.MapWindow(Memory, start, byteLength, _memoryFile.File);
        }
    }

    private void AddDevice(int index, AssignedDevice assigned, GuestIommuEndpoint? endpoint, string folder)
    {
        DeviceDescription device = _description.Devices[index];
        _devices.Add(Own(new GuestDevice(
            device, assigned, Memory, _layout.Arenas[index], FindDisk(device), _description.Workload.Seed + index, endpoint)
        {
            Iommu = VfioDiscovery.FindIommu(_sysfs, folder),
        }));
    }

    /// <summary>
    /// A leaf of the page table is one dirty unit, and leaves are not split when tracking starts: with huge leaves one
    /// small write costs 2 MiB or more in each pass. So base pages unless the file asks for huge ones.
    /// </summary>
    private DmaContainer CreateContainer(KernelInterface opened)
    {
        DmaContainer container = Own(opened.CreateContainer());
        _containers.Add(container);
        if (!_description.HugePages && container is IommufdContainer iommufd)
            iommufd.Ioas.SetHugePages(false);
        return container;
    }

    private SoftDeviceDescription? FindDisk(DeviceDescription device) =>
        _description.SoftHost?.Devices.FirstOrDefault(soft => soft.Address == device.Host);

    private DirtyTracker CreateTracker(GuestMachineFaults faults)
    {
        IEnumerable<IDirtySource> sources = [CpuTracking.Source, .. DeviceTracking.Sources];
        if ((faults & GuestMachineFaults.DropCpuSource) != 0)
            sources = sources.Where(source => source.Kind != DirtySourceKind.Cpu);
        if ((faults & GuestMachineFaults.DropIommuSource) != 0)
            sources = sources.Where(source => source.Kind != DirtySourceKind.Iommu);
        if ((faults & GuestMachineFaults.DropDeviceSources) != 0)
            sources = sources.Where(source => source.Kind == DirtySourceKind.Cpu);
        var tracker = new DirtyTracker(Memory.SpanPages, [.. sources]);
        DeviceTracking.Connect(tracker);
        if ((faults & GuestMachineFaults.ForgetUnmapped) != 0)
            return tracker;
        foreach (GuestIommuEndpoint endpoint in Viommu.Endpoints)
            endpoint.Connect(DeviceTracking);
        return tracker;
    }
}
