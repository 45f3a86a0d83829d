using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft;

/// <summary>
/// The hardware of a soft host: its IOMMUs and the devices behind them. Immutable; a kernel is built over it.
/// </summary>
public sealed record SoftHost(IReadOnlyList<SoftIommuUnit> Iommus, IReadOnlyList<SoftNvme> Devices)
{
    /// <summary>Mediated devices. They are behind no IOMMU.</summary>
    public IReadOnlyList<SoftMtty> Mediated { get; init; } = [];

    /// <summary>
    /// <c>/dev/vfio/vfio</c> is iommufd's imitation of a container (CONFIG_IOMMUFD_VFIO_CONTAINER), not VFIO's own.
    /// </summary>
    public bool IommufdContainer { get; init; }

    /// <summary>The parameter <c>vfio_iommu_type1.disable_hugepages</c>: type1 maps page by page.</summary>
    public bool Type1DisablesHugePages { get; init; }

    /// <summary>
    /// RLIMIT_MEMLOCK in bytes of a caller without any capability, who has what it pins charged and ENOMEM beyond the
    /// limit. Null: the caller has all of them (CAP_IPC_LOCK, CAP_SYS_RESOURCE, CAP_SYS_RAWIO), and no limit.
    /// </summary>
    public ulong? LockedMemoryLimit { get; init; }

    /// <summary>
    /// The kernel is built with IOMMUFD_TEST: <c>/dev/iommu</c> answers IOMMU_TEST_CMD, which makes devices that need no
    /// hardware.
    /// </summary>
    public bool TestDomain { get; init; }
}

/// <summary>An IOMMU of a soft host.</summary>
/// <param name="Name">Referred to by devices; unique in the host.</param>
public sealed record SoftIommuUnit(string Name)
{
    /// <summary>Whose IOMMU it is: page-table formats, what the driver accepts, what GET_HW_INFO tells.</summary>
    public SoftIommuKind Kind { get; init; } = SoftIommuKind.VtdScalable;

    /// <summary>
    /// Whether it sets dirty bits and so offers dirty tracking. <see cref="SoftIommuKind.VtdLegacy"/> never does.
    /// </summary>
    public bool DirtyTracking { get; init; } = true;

    /// <summary>
    /// Width of IOVAs in bits, for VT-d: 39, 48 or 57. The others have one width each: AMD's tables take all 64 bits,
    /// SMMUv3's 48.
    /// </summary>
    public int AddressWidth { get; init; } = 48;
}

/// <summary>The kinds of IOMMU.</summary>
public enum SoftIommuKind
{
    /// <summary>Intel VT-d in scalable mode with second-stage tables.</summary>
    VtdScalable,

    /// <summary>Intel VT-d in legacy mode: second-stage tables, no dirty bits.</summary>
    VtdLegacy,

    /// <summary>
    /// Intel VT-d in scalable mode with first-stage tables, which are what a page table without flags gets.
    /// Second-stage tables as well only if it tracks dirty pages.
    /// </summary>
    VtdFirstStage,

    /// <summary>AMD IOMMU with version 1 tables.</summary>
    Amd,

    /// <summary>Arm SMMUv3 with stage 1 tables.</summary>
    SmmuV3,

    /// <summary>virtio-iommu, as in a virtual machine: nothing but mappings.</summary>
    Virtio,

    /// <summary>What the kernel's own IOMMUFD_TEST devices sit behind: AMD tables with pages of 2 KiB.</summary>
    TestDomain,
}

/// <summary>An NVMe controller behind VFIO, and what its driver (in the host's kernel) can do for migration.</summary>
/// <param name="Address">PCI address, <c>0000:01:00.0</c>.</param>
/// <param name="IommuUnit">Name of the <see cref="SoftIommuUnit"/> it sits behind; null: it has none (the no-IOMMU mode of
/// VFIO's device files).</param>
public sealed record SoftNvme(string Address, string? IommuUnit, SoftDisk Disk)
{
    /// <summary>
    /// Address of a device before this one in <see cref="SoftHost.Devices"/>, behind the same IOMMU, whose IOMMU group
    /// this one shares: the two then have one owner and one page table. Null: it is alone in a group, or the first one of
    /// it. The group has the number of its first device.
    /// </summary>
    public string? GroupWith { get; init; }

    /// <summary>Has the migration feature at all (STOP_COPY).</summary>
    public bool Migration { get; init; } = true;

    /// <summary>Has the P2P states.</summary>
    public bool P2P { get; init; } = true;

    /// <summary>Has the PRE_COPY states.</summary>
    public bool PreCopy { get; init; } = true;

    /// <summary>Can log its own DMA (DMA_LOGGING_*).</summary>
    public bool DmaLogging { get; init; }

    /// <summary>
    /// Memory inside the device, in bytes, that its final state carries besides what the controller keeps, as the queues
    /// and tables of a network card. Equal on both sides.
    /// </summary>
    public int InternalStateBytes { get; init; }

    /// <summary>How long the device takes, at least, to take a state over.</summary>
    public TimeSpan LoadTime { get; init; }

    /// <summary>PCI vendor, as configuration space and sysfs tell it.</summary>
    public ushort VendorId { get; init; } = NvmePci.SoftVendorId;

    /// <summary>PCI device, likewise.</summary>
    public ushort DeviceId { get; init; } = NvmePci.SoftDeviceId;

    /// <summary>Has memory of its own (BAR2) in which submission queues may lie: a controller memory buffer.</summary>
    public bool ControllerMemory { get; init; } = true;

    /// <summary>Whether the host can reset the function: VFIO_DEVICE_RESET, and the flag that tells of it.</summary>
    public bool Resettable { get; init; } = true;

    /// <summary>
    /// At most 20 ASCII characters. State moves only between controllers of equal serial number: it names the disk, not
    /// the slot.
    /// </summary>
    public string SerialNumber { get; init; } = $"TM{Address}";
}

/// <summary>Where a namespace's blocks lie.</summary>
/// <param name="Path">An ordinary file: the blocks.</param>
/// <param name="ByteLength">Size of the namespace in bytes; a last incomplete block reads as zeros beyond the file's
/// end.</param>
public sealed record SoftDisk(string Path, ulong ByteLength, SoftDiskMode Mode = SoftDiskMode.ReadOnly)
{
    /// <summary>For <see cref="SoftDiskMode.Overlay"/>: the file that takes the written blocks.</summary>
    public string? OverlayPath { get; init; }
}

/// <summary>What a write command does.</summary>
public enum SoftDiskMode
{
    /// <summary>Fails with the write-protected status.</summary>
    ReadOnly,

    /// <summary>Goes to the overlay file; the disk file itself is never written.</summary>
    Overlay,

    /// <summary>Goes to the disk file.</summary>
    WriteThrough,
}

/// <summary>Planted faults of the soft kernel. None in any normal run.</summary>
[Flags]
public enum SoftKernelFaults
{
    None = 0,

    /// <summary>
    /// Reading and clearing dirty bits leaves the IOTLB as it is and does not wait for writes in flight.
    /// </summary>
    SkipIotlbDrain = 1,
}
