using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Nvme;
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

    private readonly VfioNvmeHardware _hardware;
    private readonly NvmeDriver _driver;
    private readonly FileExpectedContent? _expected;

    /// <exception cref="KernelException">The device is no NVMe controller that can be driven, or its disk is too
    /// small.</exception>
    /// <exception cref="IOException">The disk's file can not be read.</exception>
    internal GuestDevice(
        DeviceDescription description, AssignedDevice assigned, GuestMemory memory,
        (GuestPhysicalAddress Start, ulong ByteLength) arena, SoftDeviceDescription? disk, int seed)
    {
        Assigned = assigned;
        HostAddress = description.Host;
        if (disk is not null)
            DiskBytes = CheckDisk(description, disk);

        ulong queueBytes = NvmeDriver.RequiredArenaBytes(QueueEntries);
        _hardware = new VfioNvmeHardware(assigned.Device);
        _driver = new NvmeDriver(
            _hardware, memory, assigned.Device.Kernel, new NvmeDriverOptions(arena.Start, queueBytes) { QueueEntries = QueueEntries });
        // A real disk's content is known only through its controller: what was read once must be read again.
        _expected = disk is null ? null : new FileExpectedContent(disk.Disk);
        Workload = new NvmeWorkload(
            _driver, memory, _expected,
            new NvmeWorkloadOptions(
                description.Name, new GuestPhysicalAddress(arena.Start.Value + queueBytes), arena.ByteLength - queueBytes)
            {
                Depth = description.QueueDepth,
                BlockBytes = (int)description.BlockBytes,
                RateLimit = description.ReadBytesPerSecond,
                Seed = (ulong)seed,
                // A disk that is not a soft one is somebody's data: never written.
                WritePercent = disk?.Mode == DiskMode.Overlay ? 10 : 0,
                DiskMatch = description.SameDisk,
            });
        assigned.ChooseHandover(description.Handover, HandoverChoice.FindNvmeLack(assigned.Device), Workload);
    }

    public string Name => Assigned.Name;

    public string HostAddress { get; }

    public AssignedDevice Assigned { get; }

    public TrackerChoice Tracker => Assigned.Tracker;

    /// <summary>Size of the file behind a soft disk; null for a real one.</summary>
    public ulong? DiskBytes { get; }

    public NvmeWorkload Workload { get; }

    /// <summary>The kernel's name of the IOMMU before the device, where it tells.</summary>
    public string? Iommu { get; init; }

    /// <summary>Why its reader ended by itself, or null.</summary>
    public string? Failure => Workload.Failure?.Message;

    /// <summary>Whether only the device writes a guest page, and the processor at most before it runs.</summary>
    public bool IsWrittenByDevice(ulong page) =>
        Workload.IsBuffer(page) || _driver.IsWrittenByController(page);

    /// <summary>Sets the controller up and reads.</summary>
    public void StartFresh()
    {
        Workload.SetUp();
        Workload.Start();
    }

    public void Pause() => Workload.Pause();

    public void Resume() => Workload.Resume();

    /// <summary>
    /// The driver's and the reader's state, while paused; nothing for a driver-assisted device, whose part it is.
    /// </summary>
    public byte[] Save() => Assigned.Assisted is null ? Workload.SaveState() : [];

    /// <summary>Takes a state; the controller has its own already.</summary>
    /// <exception cref="InvalidDataException">The source moved this device in another way.</exception>
    public void Load(byte[] state)
    {
        if (Assigned.Assisted is null)
            Workload.RestoreState(state);
        else if (state.Length > 0)
            throw new InvalidDataException($"The state of {Name} is for a controller that moves by migration states.");
    }

    /// <summary>Reads on from a loaded state.</summary>
    public void Start() => Workload.Start();

    public void Dispose()
    {
        Workload.Dispose();
        // The controller must forget its commands before their memory goes: closing the device, which follows, resets
        // it.
        _driver.Dispose();
        _hardware.Dispose();
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
