using System.Diagnostics;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Description;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>A folder with disks, and soft hosts with machines over them: one for each side of a move.</summary>
internal sealed class MachineRig : IDisposable
{
    public const ulong MiB = 1UL << 20;

    /// <summary>Until something counts as hung: a guest whose processors are emulated on a busy host is slow, not hung.</summary>
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(120);
    private readonly List<IDisposable> _owned = [];

    public string Folder { get; } = Directory.CreateTempSubdirectory("tidemark-machine-tests-").FullName;

    /// <summary>
    /// A disk of 1 MiB with content that differs everywhere; made once, because machines may be reading it.
    /// </summary>
    public string CreateDisk(int number)
    {
        string path = Path.Combine(Folder, $"disk{number}.img");
        if (File.Exists(path))
            return path;
        var content = new byte[MiB];
        new Random(number + 1).NextBytes(content);
        File.WriteAllBytes(path, content);
        return path;
    }

    /// <summary>
    /// A machine of 24 MiB with two devices behind an IOMMU that tracks, reading without limit; <paramref
    /// name="change"/>
    /// gets the device of each number with its hardware.
    /// </summary>
    public MachineDescription Describe(
        int devices = 2,
        Func<int, DeviceDescription, SoftDeviceDescription, (DeviceDescription, SoftDeviceDescription)>? change = null)
    {
        var pairs = Enumerable.Range(0, devices).Select(number =>
        {
            string address = $"0000:{number + 1:x2}:00.0";
            var device = new DeviceDescription
            {
                Name = $"nvme{number}", Host = address, ArenaBytes = 4 * MiB, BlockBytes = 16 << 10, QueueDepth = 4,
                ReadBytesPerSecond = 32 * MiB,
            };
            var hardware = new SoftDeviceDescription { Address = address, Iommu = "tracking", Disk = CreateDisk(number) };
            return change is null ? (device, hardware) : change(number, device, hardware);
        }).ToList();
        return new MachineDescription
        {
            Name = "test",
            MemoryBytes = 24 * MiB,
            Workload = new WorkloadDescription { FillBytes = 6 * MiB, CpuWorkingSetBytes = 2 * MiB, CpuBytesPerSecond = 8 * MiB },
            Devices = [.. pairs.Select(pair => pair.Item1)],
            SoftHost = new SoftHostDescription
            {
                Iommus = [new SoftIommuDescription("tracking", true, 48), new SoftIommuDescription("plain", false, 48)],
                Devices = [.. pairs.Select(pair => pair.Item2)],
            },
        };
    }

    /// <param name="serial">Of all disks, where it shall not follow from the address.</param>
    public SoftKernel CreateKernel(MachineDescription machine, string? serial = null)
    {
        SoftHostDescription host = machine.SoftHost!;
        var kernel = new SoftKernel(new LinuxKernel(), new SoftHost(
            [.. host.Iommus.Select(iommu => new SoftIommuUnit(iommu.Name) { DirtyTracking = iommu.DirtyTracking, AddressWidth = iommu.AddressWidth })],
            [.. host.Devices.Select(device => new SoftNvme(device.Address, device.Iommu, CreateDisk(device))
            {
                Migration = device.Migration,
                P2P = device.Migration && device.P2P,
                PreCopy = device.Migration && device.PreCopy,
                DmaLogging = device.DmaLogging,
                SerialNumber = serial ?? $"TM{device.Address}",
                InternalStateBytes = device.InternalStateBytes,
                LoadTime = device.LoadTime,
            })])
        {
            Mediated = [.. host.Mediated.Select(uuid => new SoftMtty(uuid, Ports: 1))],
        });
        _owned.Add(kernel);
        return kernel;
    }

    /// <summary>A machine on a soft host of its own.</summary>
    public GuestMachine Assemble(MachineDescription description, GuestMachineFaults faults = GuestMachineFaults.None)
    {
        SoftKernel kernel = CreateKernel(description);
        return Own(GuestMachine.Assemble(description, kernel, kernel.Sysfs, faults));
    }

    /// <summary>The same without a word about its disks, as on a real host.</summary>
    public GuestMachine AssembleBlind(MachineDescription description)
    {
        SoftKernel kernel = CreateKernel(description);
        return Own(GuestMachine.Assemble(description with { SoftHost = null }, kernel, kernel.Sysfs));
    }

    public GuestMachine AssembleRunning(MachineDescription description, GuestMachineFaults faults = GuestMachineFaults.None)
    {
        return Run(Assemble(description, faults));
    }

    public static GuestMachine Run(GuestMachine machine)
    {
        machine.AcquireDisks();
        machine.StartFresh(CancellationToken.None);
        AwaitReads(machine, 20);
        return machine;
    }

    public T Own<T>(T item)
        where T : IDisposable
    {
        _owned.Add(item);
        return item;
    }

    /// <summary>Moves a machine through a Unix socket.</summary>
    /// <param name="whileItWorks">Not before it has written for half a second and more since the first pass: a control that
    /// wants writes to be lost needs some.</param>
    public (MigrationOutcome Source, MigrationOutcome Destination) Migrate(
        GuestMachine source, GuestMachine destination, MigrationOptions? options = null, Func<IAcceptor, IAcceptor>? wire = null,
        MigrationPhase? cancelAt = null, Action<MigrationPhase>? onPhase = null,
        Func<MigrationAddress, IConnector>? connect = null, bool whileItWorks = false)
    {
        var address = new MigrationAddress.Unix(Path.Combine(Folder, "migration.sock"));
        using SocketAcceptor listener = SocketAcceptor.Listen(address);
        IAcceptor acceptor = wire is null ? listener : wire(listener);
        using var giveUp = new CancellationTokenSource(s_patience);
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(giveUp.Token);
        MigrationOutcome? received = null;
        var receiver = new Thread(() => received = new MigrationDestination(
            destination, acceptor, new DestinationOptions(), new SilentObserver(), TimeProvider.System).Run(giveUp.Token));
        receiver.Start();
        using var gate = new ManualResetEventSlim();
        // A slow host must not make a machine that moves one that does not converge.
        options ??= new MigrationOptions { Verify = true, DowntimeLimit = TimeSpan.FromSeconds(3) };
        if (whileItWorks)
            options = options with { SwitchoverGate = gate };
        MigrationOutcome sent = new MigrationSource(
            source, connect?.Invoke(address) ?? new SocketConnector(address, TimeSpan.FromSeconds(5)), options,
            new CancellingObserver(cancelAt, cancel, onPhase) { Gate = gate }, TimeProvider.System).Run(cancel.Token);
        receiver.Join();
        return (sent, received!);
    }

    /// <summary>Waits until each device has completed so many more reads.</summary>
    public static void AwaitReads(GuestMachine machine, ulong more)
    {
        GuestDevice[] working = [.. machine.Devices.Where(device => device.HasWorkload)];
        ulong[] before = [.. working.Select(device => device.Workload.Counters.ReadsHere)];
        Await(() => working.Select((device, index) => device.Workload.Counters.ReadsHere - before[index]).All(count => count >= more),
            () => $"more reads ({machine.WorkloadFailure ?? "no failure"})");
    }

    public static void Await(Func<bool> condition, Func<string> what)
    {
        long start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(start) > s_patience)
                throw new TimeoutException($"Waited too long for {what()}.");
            Thread.Sleep(2);
        }
    }

    public static void AssertGoodData(GuestMachine machine)
    {
        Assert.Null(machine.WorkloadFailure);
        Assert.Equal(0UL, machine.Processor.StalePages);
        foreach (GuestDevice device in machine.Devices.Where(device => device.HasWorkload))
        {
            Assert.Null(device.Workload.Counters.FirstError);
            Assert.Equal(0UL, device.Workload.Counters.DataErrors);
        }
    }

    public void Dispose()
    {
        for (int index = _owned.Count - 1; index >= 0; index--)
            _owned[index].Dispose();
        Directory.Delete(Folder, recursive: true);
    }

    private static SoftDisk CreateDisk(SoftDeviceDescription device) =>
        new(device.Disk, (ulong)new FileInfo(device.Disk).Length, device.Mode switch
        {
            DiskMode.Overlay => SoftDiskMode.Overlay,
            DiskMode.WriteThrough => SoftDiskMode.WriteThrough,
            _ => SoftDiskMode.ReadOnly,
        })
        {
            OverlayPath = device.Overlay,
        };

    private sealed class CancellingObserver(
        MigrationPhase? phase, CancellationTokenSource cancel, Action<MigrationPhase>? onPhase) : IMigrationObserver
    {
        private int _waits;

        public ManualResetEventSlim? Gate { get; init; }

        public void OnEvent(MigrationEvent migrationEvent)
        {
            if (migrationEvent is MigrationEvent.WaitingForSwitchover && ++_waits == 2)
                Gate?.Set();
            if (migrationEvent is not MigrationEvent.PhaseBegan began)
                return;
            if (began.Phase == phase)
                cancel.Cancel();
            onPhase?.Invoke(began.Phase);
        }
    }

    internal sealed class SilentObserver : IMigrationObserver
    {
        public void OnEvent(MigrationEvent migrationEvent)
        {
            // Outcomes say all that these tests look at.
        }
    }
}
