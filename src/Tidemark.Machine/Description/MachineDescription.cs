using Tidemark.Machine.Assignment;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Nvme;
using Tidemark.Vfio;

namespace Tidemark.Machine.Description;

/// <summary>
/// A machine as its file describes it: what both sides of a migration must agree on, and where its host differs.
/// </summary>
public sealed record MachineDescription
{
    public required string Name { get; init; }

    /// <summary>Guest memory in bytes, a multiple of 2 MiB.</summary>
    public required ulong MemoryBytes { get; init; }

    /// <summary>Touch all memory at start, so that nothing is allocated during a migration.</summary>
    public bool Prefault { get; init; }

    /// <summary>
    /// Let IOMMUs map guest memory with huge pages: fewer IOTLB misses, but a dirty unit of 2 MiB or more.
    /// </summary>
    public bool HugePages { get; init; }

    /// <summary>Which of the kernel's interfaces to devices is used.</summary>
    public DeviceBackend Backend { get; init; } = DeviceBackend.Auto;

    public WorkloadDescription Workload { get; init; } = new();

    public IReadOnlyList<DeviceDescription> Devices { get; init; } = [];

    /// <summary>The hardware of the soft kernel; ignored on a real one. Null: the file describes none.</summary>
    public SoftHostDescription? SoftHost { get; init; }

    /// <summary>Folder of the file: relative disk paths start there.</summary>
    public string BaseFolder { get; init; } = ".";
}

/// <summary>The machine's own IOMMU before a device (<c>viommu</c>).</summary>
public enum DeviceTranslation
{
    /// <summary>None: the device sees guest-physical addresses.</summary>
    None,

    /// <summary>One that the guest lets pass everything through.</summary>
    PassThrough,

    /// <summary>One in which the guest maps each buffer for the time of one command.</summary>
    Translated,
}

/// <summary>The kernel's two interfaces to devices (<c>backend</c>).</summary>
public enum DeviceBackend
{
    /// <summary>iommufd where the kernel has it, else groups and type1.</summary>
    Auto,

    /// <summary>iommufd and device files.</summary>
    Iommufd,

    /// <summary>Groups and type1.</summary>
    Legacy,
}

/// <summary>What stands in for the guest's processors.</summary>
public sealed record WorkloadDescription
{
    /// <summary>Memory filled with incompressible data before the machine runs.</summary>
    public ulong FillBytes { get; init; }

    /// <summary>Memory that the processor writes to.</summary>
    public ulong CpuWorkingSetBytes { get; init; } = 32UL << 20;

    /// <summary>
    /// Bytes a second that the processor dirties, counted in whole pages. 0: only the heartbeat page.
    /// </summary>
    public ulong CpuBytesPerSecond { get; init; } = 16UL << 20;

    /// <summary>Everything random in the workload follows from it.</summary>
    public int Seed { get; init; } = 1;
}

/// <summary>An assigned device.</summary>
public sealed record DeviceDescription
{
    public required string Name { get; init; }

    /// <summary>PCI address on this host, or the UUID of a mediated device.</summary>
    public required string Host { get; init; }

    /// <summary>Whether the device's own DMA log may be used.</summary>
    public DeviceLogUse DirtyTracking { get; init; } = DeviceLogUse.Auto;

    /// <summary>Whether its tracker is read while it runs.</summary>
    public bool PrecopyDirtyTracking { get; init; } = true;

    /// <summary>Whether it may move.</summary>
    public MigrationUse Migration { get; init; } = MigrationUse.Auto;

    /// <summary>A device that nobody tracks is an obstacle instead of a stated cost.</summary>
    public bool RequireTracker { get; init; }

    /// <summary>How the device moves.</summary>
    public HandoverWish Handover { get; init; } = HandoverWish.Auto;

    /// <summary>Which disk a driver-assisted hand-over accepts at the destination.</summary>
    public DiskMatch SameDisk { get; init; } = DiskMatch.Serial;

    /// <summary>
    /// Guest memory this device works in. When <see cref="Isolated"/>, its IOAS maps nothing else.
    /// </summary>
    public ulong ArenaBytes { get; init; } = 32UL << 20;

    /// <summary>
    /// An IOAS of its own in which only its arena is mapped, instead of all guest memory in the shared one.
    /// </summary>
    public bool Isolated { get; init; }

    /// <summary>What the guest sees before the device.</summary>
    public DeviceTranslation Viommu { get; init; } = DeviceTranslation.None;

    /// <summary>Bytes a second the workload reads through it; 0: as fast as it goes.</summary>
    public ulong ReadBytesPerSecond { get; init; } = 64UL << 20;

    /// <summary>Bytes of one read command, a multiple of 4 KiB.</summary>
    public uint BlockBytes { get; init; } = 64 << 10;

    /// <summary>Read commands in flight.</summary>
    public int QueueDepth { get; init; } = 8;

    /// <summary>What is said about it as an assigned device.</summary>
    public AssignmentOptions Assignment => new()
    {
        LogUse = DirtyTracking,
        PrecopyTracking = PrecopyDirtyTracking,
        Migration = Migration,
        RequireTracker = RequireTracker,
    };
}

/// <summary>The soft kernel's hardware.</summary>
public sealed record SoftHostDescription
{
    public IReadOnlyList<SoftIommuDescription> Iommus { get; init; } = [];

    public IReadOnlyList<SoftDeviceDescription> Devices { get; init; } = [];

    /// <summary>UUIDs of mediated devices (mtty).</summary>
    public IReadOnlyList<string> Mediated { get; init; } = [];

    /// <summary>The limit of locked memory of an unprivileged caller; null: a privileged one, without limit.</summary>
    public ulong? LockedMemoryBytes { get; init; }
}

/// <summary>An IOMMU of the soft host.</summary>
public sealed record SoftIommuDescription(string Name, bool DirtyTracking, int AddressWidth);

/// <summary>An NVMe controller of the soft host.</summary>
public sealed record SoftDeviceDescription
{
    public required string Address { get; init; }

    public required string Iommu { get; init; }

    /// <summary>Full path of the file that holds the namespace's blocks.</summary>
    public required string Disk { get; init; }

    public DiskMode Mode { get; init; } = DiskMode.ReadOnly;

    /// <summary>Full path of the overlay; only with <see cref="DiskMode.Overlay"/>.</summary>
    public string? Overlay { get; init; }

    public bool Migration { get; init; } = true;

    public bool P2P { get; init; } = true;

    public bool PreCopy { get; init; } = true;

    public bool DmaLogging { get; init; }

    /// <summary>Memory inside the device that moves with its state, in bytes.</summary>
    public int InternalStateBytes { get; init; }

    /// <summary>How long it takes, at least, to take a state over.</summary>
    public TimeSpan LoadTime { get; init; }
}

/// <summary>What happens to a guest's writes to a disk.</summary>
public enum DiskMode
{
    ReadOnly,
    Overlay,
    WriteThrough,
}
