using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Nvme;
using Tidemark.Machine.Viommu;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine;

/// <summary>One device of a machine together with the part of the workload that drives it.</summary>
/// <remarks>
/// The driver's queues lie at the start of the device's arena, its data buffers fill the rest, so that DMA reaches all
/// of it. Owns driver and reader, not the assigned device.
/// </remarks>
public sealed class GuestDevice : IDisposable
{
    private const uint QueueEntries = 64;

    private readonly VfioNvmeHardware? _hardware;
    private readonly NvmeDriver? _driver;
    private readonly NvmeWorkload? _workload;
    private readonly FileExpectedContent? _expected;

    /// <exception cref="KernelException">The device does not answer, or its disk is too small.</exception>
    /// <exception cref="IOException">The disk's file can not be read.</exception>
    internal GuestDevice(
        DeviceDescription description, AssignedDevice assigned, GuestMemory memory,
        (GuestPhysicalAddress Start, ulong ByteLength) arena, SoftDeviceDescription? disk, int seed,
        GuestIommuEndpoint? endpoint)
    {
        Assigned = assigned;
        HostAddress = description.Host;
        string? lack = HandoverChoice.FindNvmeLack(assigned.Device);
        if (lack is not null)
        {
            // It is moved all the same; there is only nobody here who would make it work.
            assigned.ChooseHandover(description.Handover, lack);
            return;
        }

        if (disk is not null)
            DiskBytes = CheckDisk(description, disk);
        IGuestDma? dma = description.Viommu == DeviceTranslation.Translated ? new StrictDma(endpoint!) : null;
        ulong queueBytes = NvmeDriver.RequiredArenaBytes(QueueEntries);
        _hardware = new VfioNvmeHardware(assigned.Device);
        _driver = new NvmeDriver(
            _hardware, memory, assigned.Device.Kernel, new NvmeDriverOptions(arena.Start, queueBytes)
            {
                QueueEntries = QueueEntries,
                Dma = dma,
                ArenaBusAddress = StrictDma.QueueStart,
            });
        // A real disk's content is known only through its controller: what was read once must be read again.
        _expected = disk is null ? null : new FileExpectedContent(disk.Disk);
        _workload = new NvmeWorkload(
            _driver, memory, _expected,
            new NvmeWorkloadOptions(
                description.Name, new GuestPhysicalAddress(arena.Start.Value + queueBytes), arena.ByteLength - queueBytes)
            {
                Dma = dma,
                Depth = description.QueueDepth,
                BlockBytes = (int)description.BlockBytes,
                RateLimit = description.ReadBytesPerSecond,
                Seed = (ulong)seed,
                // A disk that is not a soft one is somebody's data: never written.
                WritePercent = disk?.Mode == DiskMode.Overlay ? 10 : 0,
                DiskMatch = description.SameDisk,
            });
        assigned.ChooseHandover(description.Handover, driverLack: null, _workload);
    }

    public string Name => Assigned.Name;

    public string HostAddress { get; }

    public AssignedDevice Assigned { get; }

    public TrackerChoice Tracker => Assigned.Tracker;

    /// <summary>Size of the file behind a soft disk; null for a real one.</summary>
    public ulong? DiskBytes { get; }

    /// <summary>Whether there is a driver for it here; a device without one is idle.</summary>
    public bool HasWorkload => _workload is not null;

    /// <exception cref="InvalidOperationException">The device is idle.</exception>
    public NvmeWorkload Workload =>
        _workload ?? throw new InvalidOperationException($"Nobody here drives {Name}.");

    /// <summary>The kernel's name of the IOMMU before the device, where it tells.</summary>
    public string? Iommu { get; init; }

    /// <summary>Why its reader ended by itself, or null.</summary>
    public string? Failure => _workload?.Failure?.Message;

    /// <summary>Whether only the device writes a guest page, and the processor at most before it runs.</summary>
    public bool IsWrittenByDevice(ulong page) =>
        _workload is not null && (_workload.IsBuffer(page) || _driver!.IsWrittenByController(page));

    /// <summary>Sets the controller up and reads.</summary>
    public void StartFresh()
    {
        _workload?.SetUp();
        _workload?.Start();
    }

    /// <summary>The guest's driver shuts the controller down and sets it up anew; while paused.</summary>
    internal void Reset() => _workload?.Reset();

    public void Pause() => _workload?.Pause();

    public void Resume() => _workload?.Resume();

    /// <summary>
    /// The driver's and the reader's state, while paused; nothing for a driver-assisted device, whose part it is, and
    /// for an idle one.
    /// </summary>
    public byte[] Save() => Assigned.Assisted is null ? _workload?.SaveState() ?? [] : [];

    /// <summary>Takes a state; the controller has its own already.</summary>
    /// <exception cref="InvalidDataException">The source moved this device in another way.</exception>
    public void Load(byte[] state)
    {
        ArgumentNullException.ThrowIfNull(state);
        if (Assigned.Assisted is null && _workload is not null)
            _workload.RestoreState(state);
        else if (state.Length > 0)
            throw new InvalidDataException($"The state of {Name} is for a controller that moves by migration states.");
    }

    /// <summary>The driver's and the reader's state, while paused, for a process that goes on with the device.</summary>
    internal byte[] SaveForAdoption() => _workload?.SaveForAdoption() ?? [];

    /// <summary>Takes it.</summary>
    /// <exception cref="InvalidDataException">It is for a device that somebody drives, or for one that nobody does.</exception>
    internal void Adopt(byte[] state)
    {
        if (_workload is null != (state.Length == 0))
            throw new InvalidDataException($"The state of {Name} is not for such a device.");
        _workload?.Adopt(state);
    }

    /// <summary>The device signals here again, after another process had its interrupts. Nothing when it never did.</summary>
    /// <exception cref="KernelException">Refused; completions are found by looking.</exception>
    internal void ReconnectInterrupts() => _driver?.ReconnectInterrupts();

    /// <summary>Reads on from a loaded state.</summary>
    public void Start() => _workload?.Start();

    public void Dispose()
    {
        _workload?.Dispose();
        // The controller must forget its commands before their memory goes: closing the device, which follows, resets
        // it.
        _driver?.Dispose();
        _hardware?.Dispose();
        _expected?.Dispose();
    }

    private static ulong CheckDisk(DeviceDescription description, SoftDeviceDescription disk)
    {
        ulong bytes = (ulong)new FileInfo(disk.Disk).Length;
        // The controller rounds up to its own blocks of 512 bytes.
        if (bytes + 511 >= description.BlockBytes)
            return bytes;
        throw new KernelException(
            $"Setting up the workload of {description.Name} over {disk.Disk}", Errno.EINVAL,
            $"The disk has {bytes} bytes, and one read takes {description.BlockBytes} (\"blockSize\"); use a larger file or smaller reads.");
    }
}
