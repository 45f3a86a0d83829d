using System.Globalization;
using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;
using Tidemark.Vfio;

namespace Tidemark.Conformance;

/// <summary>What the cases may use: a kernel, and the devices that the user named. Nothing else is touched.</summary>
public sealed class ConformanceContext
{
    private const string IommufdPath = "/dev/iommu";

    internal ConformanceContext(IKernel kernel, Errno iommufd, IReadOnlyList<DeviceProfile> devices)
    {
        Kernel = kernel;
        IommufdErrno = iommufd;
        Devices = devices;
    }

    public IKernel Kernel { get; }

    /// <summary>What opening <c>/dev/iommu</c> answered.</summary>
    public Errno IommufdErrno { get; }

    /// <summary>
    /// The kernel is built with CONFIG_IOMMUFD_TEST: its own test devices can stand in where no device is named.
    /// </summary>
    public bool HasTestDomain { get; private init; }

    public bool HasIommufd => IommufdErrno == Errno.Success;

    public IReadOnlyList<DeviceProfile> Devices { get; }

    /// <summary>Looks at the kernel and at each device: opens and binds it for a moment.</summary>
    /// <param name="devices">PCI addresses, UUIDs of mdevs, or device nodes. One that can not be used has its reason in its profile.</param>
    public static ConformanceContext Create(IKernel kernel, ISysfs sysfs, IReadOnlyList<string> devices)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(sysfs);
        ArgumentNullException.ThrowIfNull(devices);
        SyscallResult opened = kernel.Open(IommufdPath, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        bool hasTestDomain = false;
        if (opened.Succeeded)
        {
            // An operation that nobody knows: a kernel without the command does not know the request either.
            TestCommand probe = TestCommand.Create(TestOperation.Unknown, 0);
            using var iommufd = new KernelFd(kernel, (int)opened.Value);
            hasTestDomain = kernel.Ioctl(iommufd, ref probe).Errno == Errno.EOPNOTSUPP;
        }

        var profiles = new List<DeviceProfile>();
        foreach (string address in opened.Succeeded ? devices : [])
            profiles.Add(DeviceProfile.Read(kernel, sysfs, address));
        return new ConformanceContext(kernel, opened.Errno, profiles) { HasTestDomain = hasTestDomain };
    }

    internal KernelFd OpenIommufd()
    {
        SyscallResult opened = Kernel.Open(IommufdPath, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        return opened.Succeeded
            ? new KernelFd(Kernel, (int)opened.Value)
            : throw new CaseEnded(
                ConformanceVerdict.NotApplicable,
                $"This kernel has no usable iommufd: opening {IommufdPath} answered {opened.Errno}.");
    }
}

/// <summary>What a device can do, as far as cases need to know.</summary>
/// <param name="Node">Its VFIO device node; empty when there is a problem.</param>
/// <param name="Problem">Why it can not be used, or null.</param>
public sealed record DeviceProfile(string Address, string Node, string? Problem)
{
    private const string NvmeClass = "0x010802";

    /// <summary>Its driver, as sysfs has it: <c>vfio-pci</c>, <c>mtty</c>; or null.</summary>
    public string? Driver { get; private init; }

    /// <summary>It is a mediated device: no IOMMU of its own, and nothing but an IOAS to attach to.</summary>
    public bool IsEmulated { get; private init; }

    /// <summary>It has no IOMMU: its addresses are physical ones.</summary>
    public bool IsNoIommu { get; private init; }

    /// <summary>It is the kernel's sample serial card, whose state is known to the byte.</summary>
    public bool IsMtty => IsEmulated && Driver == "mtty";

    /// <summary>An IOMMU stands between it and memory.</summary>
    public bool HasIommu => !IsEmulated && !IsNoIommu;

    /// <summary>A device of the kernel's test domain: without VFIO and without DMA.</summary>
    public bool IsTestDevice { get; private init; }

    /// <summary>The devices that the test domain makes on demand.</summary>
    internal static IReadOnlyList<DeviceProfile> TestDevices { get; } =
    [
        new("test domain", "", null) { IsTestDevice = true, IommuTracks = true },
        new("test domain without dirty tracking", "", null) { IsTestDevice = true },
    ];

    /// <summary>Its IOMMU offers dirty tracking.</summary>
    public bool IommuTracks { get; private init; }

    /// <summary>Whose IOMMU it is, as GET_HW_INFO tells; None: it does not.</summary>
    public IommuHwInfoType IommuType { get; private init; }

    /// <summary>Its migration abilities; None: no migration.</summary>
    public VfioMigrationFlags Migration { get; private init; }

    /// <summary>It can log its own DMA.</summary>
    public bool LogsDma { get; private init; }

    /// <summary>VFIO_DEVICE_RESET is possible.</summary>
    public bool Resets { get; private init; }

    /// <summary>MSI-X vectors.</summary>
    public uint MsixVectors { get; private init; }

    /// <summary>It is an NVMe controller, which the cases know how to let write into memory.</summary>
    public bool CanWrite { get; private init; }

    /// <summary>The node of its IOMMU group, and the group's number; null: the kernel shows no such node.</summary>
    public string? GroupNode { get; private init; }

    public uint GroupNumber { get; private init; }

    /// <summary>Vendor as discovery tells it, or null.</summary>
    public string? Vendor { get; private init; }

    /// <summary>
    /// Place in the device's file and size of each region, asked once: what else a region is differs from model to
    /// model, and a recording of a case that only reads a register need not tell.
    /// </summary>
    internal IReadOnlyList<(ulong Offset, ulong Size)> Regions { get; private init; } = [];

    internal static DeviceProfile Read(IKernel kernel, ISysfs sysfs, string address)
    {
        string node;
        string folder;
        try
        {
            folder = VfioDiscovery.FindFolder(sysfs, address);
            node = VfioDiscovery.FindDeviceNode(sysfs, folder, address);
        }
        catch (Exception failure) when (failure is KernelException or ArgumentException)
        {
            // The cases that would use it say so.
            return new DeviceProfile(address, "", failure.Message);
        }

        var profile = new DeviceProfile(address, node, null)
        {
            Driver = VfioDiscovery.FindDriver(sysfs, folder),
            IsEmulated = VfioDiscovery.IsMdev(sysfs, folder),
            IsNoIommu = VfioDiscovery.IsNoIommuNode(node),
        };
        var context = new ConformanceContext(kernel, Errno.Success, [profile]);
        using var run = new CaseRun(context);
        try
        {
            run.Use(DeviceNeed.Vfio);
            IommuHwInfo info = IommuHwInfo.Create(run.Device.Id);
            bool hasInfo = kernel.Ioctl(run.Iommufd, ref info).Succeeded;
            var irq = VfioIrqInfo.Create((uint)VfioPciIrqIndex.Msix);
            bool hasIrq = kernel.Ioctl(run.Device.File, ref irq).Succeeded;
            var device = VfioDeviceInfo.Create();
            var migration = default(VfioDeviceFeatureMigration);
            kernel.Feature(run.Device.File, VfioDeviceFeatureFlags.Get, ref migration);
            sysfs.TryReadText($"{folder}/class", out string? deviceClass);
            sysfs.TryReadText($"{folder}/vendor", out string? vendor);
            string? group = sysfs.TryReadLink($"{folder}/iommu_group", out string? link) ? link.Split('/')[^1] : null;
            return profile with
            {
                GroupNode = group is not null && sysfs.Exists($"/dev/vfio/{group}") ? $"/dev/vfio/{group}" : null,
                GroupNumber = uint.TryParse(group, NumberStyles.None, CultureInfo.InvariantCulture, out uint number)
                    ? number : 0,
                IommuTracks = hasInfo && (info.OutCapabilities & IommuHwCapabilities.DirtyTracking) != 0,
                IommuType = hasInfo ? info.OutDataType : IommuHwInfoType.None,
                Migration = migration.Flags,
                LogsDma = run.Device.Probe(VfioDeviceFeatureIndex.DmaLoggingStart, VfioDeviceFeatureFlags.Set)
                    == Errno.Success,
                MsixVectors = hasIrq ? irq.Count : 0,
                CanWrite = deviceClass == NvmeClass,
                Vendor = vendor,
                Resets = run.Kernel.Ioctl(run.Device.File, ref device).Succeeded
                    && (device.Flags & VfioDeviceFlags.Reset) != 0,
                Regions = [.. Enumerable.Range(0, (int)VfioPciRegionIndex.Vga).Select(index => PlaceOf(run, index))],
            };
        }
        catch (CaseEnded ended)
        {
            return profile with { Problem = ended.Message };
        }
    }

    private static (ulong Offset, ulong Size) PlaceOf(CaseRun run, int region)
    {
        VfioRegionInfo info = VfioRegionInfo.Create((uint)region);
        return run.Kernel.Ioctl(run.Device.File, ref info).Succeeded ? (info.Offset, info.Size) : default;
    }
}

/// <summary>What a case demands of a device.</summary>
/// <param name="Text">As in "needs a device ...".</param>
internal sealed record DeviceNeed(string Text, Func<DeviceProfile, bool> IsMetBy)
{
    /// <summary>A PCI function of its own, behind an IOMMU: what most cases are about.</summary>
    public static DeviceNeed Any { get; } = new("bound to vfio-pci or a variant of it", device => device.HasIommu);

    /// <summary>Also one without IOMMU, and one that exists in its driver only.</summary>
    public static DeviceNeed Vfio { get; } = new("bound to a VFIO driver", _ => true);

    public static DeviceNeed Mtty { get; } = new("that is one of mtty's mdevs", device => device.IsMtty);

    public static DeviceNeed Emulated { get; } = new("that is an mdev", device => device.IsEmulated);

    public static DeviceNeed NoIommu { get; } = new("without IOMMU", device => device.IsNoIommu);

    public static DeviceNeed Tracking { get; } = new("whose IOMMU tracks dirty pages", device => device.IommuTracks);

    public static DeviceNeed NotTracking { get; } =
        new("whose IOMMU does not track dirty pages", device => device.HasIommu && !device.IommuTracks);

    public static DeviceNeed TrackedWriter { get; } = new(
        "(an NVMe controller) whose IOMMU tracks dirty pages",
        device => device.IommuTracks && (device.CanWrite || device.IsTestDevice));

    public static DeviceNeed Writer { get; } =
        new("that is an NVMe controller behind an IOMMU", device => device.CanWrite && device.HasIommu);

    /// <summary>A tracked writer whose page tables Linux's generic code walks: VT-d's and AMD's.</summary>
    public static DeviceNeed TrackedWriterOfGenericTables { get; } = new(
        "(an NVMe controller) behind a VT-d or AMD IOMMU that tracks dirty pages",
        device => device.IommuTracks && device.CanWrite
            && device.IommuType is IommuHwInfoType.IntelVtd or IommuHwInfoType.Amd);

    /// <summary>Reached through its group as well; a mediated device has no IOMMU and is none of these.</summary>
    public static DeviceNeed InGroup { get; } = new(
        "with an IOMMU group that has a node", device => device.GroupNode is not null && device.HasIommu);

    public static DeviceNeed WriterInGroup { get; } = new(
        "that is an NVMe controller, with an IOMMU group that has a node",
        device => InGroup.IsMetBy(device) && device.CanWrite);

    public static DeviceNeed Msix { get; } = new("with MSI-X", device => device.MsixVectors > 0 && !device.IsEmulated);

    public static DeviceNeed Resettable { get; } = new(
        "(an NVMe controller) that can be reset", device => device.Resets && device.CanWrite && device.HasIommu);

    public static DeviceNeed Migratable { get; } =
        new("with migration states", device => device.Migration != VfioMigrationFlags.None);

    public static DeviceNeed NotMigratable { get; } =
        new("without migration states", device => device.Migration == VfioMigrationFlags.None);

    public static DeviceNeed PreCopying { get; } =
        new("with PRE_COPY", device => device.Migration.HasFlag(VfioMigrationFlags.PreCopy));

    public static DeviceNeed NotPreCopying { get; } =
        new("without PRE_COPY", device => !device.Migration.HasFlag(VfioMigrationFlags.PreCopy));

    /// <summary>mtty has the requests and neither starts nor stops anything: its answers are cases of its own.</summary>
    public static DeviceNeed Logging { get; } =
        new("that logs its DMA", device => device.LogsDma && !device.IsEmulated);

    public static DeviceNeed LoggingWriter { get; } =
        new("(an NVMe controller) that logs its DMA", device => device.LogsDma && device.CanWrite && device.HasIommu);

    public static DeviceNeed NotLogging { get; } = new("that does not log its DMA", device => !device.LogsDma);

    public static DeviceNeed Behind(IommuHwInfoType type) =>
        new($"behind an IOMMU of type {type}", device => device.IommuType == type);

    public static DeviceNeed TrackedWriterBehind(IommuHwInfoType type) => new(
        $"(an NVMe controller) behind an IOMMU of type {type} that tracks dirty pages",
        device => device.IommuTracks && device.CanWrite && device.IommuType == type);

    public static DeviceNeed States(VfioMigrationFlags flags) =>
        new($"whose migration abilities are exactly {flags}", device => device.Migration == flags);
}
