using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Hosting;

/// <summary>The kernel a command works on: the only place that names one.</summary>
internal sealed class KernelChoice : IDisposable
{
    private readonly SoftKernel? _soft;
    private readonly TraceFile? _trace;

    private KernelChoice(IKernel kernel, ISysfs sysfs, SoftKernel? soft, TraceFile? trace)
    {
        Kernel = trace is null ? kernel : new TracingKernel(kernel, trace.Write);
        Sysfs = sysfs;
        _soft = soft;
        _trace = trace;
    }

    public IKernel Kernel { get; }

    public ISysfs Sysfs { get; }

    /// <param name="wanted"><c>soft</c>, <c>linux</c>, or null: soft when the machine file describes a soft
    /// host.</param>
    /// <param name="tracePath">A file that gets a line for each call to the kernel, or null.</param>
    /// <exception cref="CommandFailure">The soft kernel is wanted and no hardware is described for it, or a disk can
    /// not be used.</exception>
    public static KernelChoice Create(
        string? wanted, MachineDescription? machine, string? tracePath = null, SoftKernelFaults faults = SoftKernelFaults.None)
    {
        TraceFile? trace = tracePath is null ? null : TraceFile.Create(tracePath);
        bool soft = wanted is null ? machine?.SoftHost is not null : wanted == "soft";
        var host = new LinuxKernel();
        if (!soft)
            return new KernelChoice(host, new LinuxSysfs(), null, trace);
        if (machine?.SoftHost is not { } description)
            throw new CommandFailure("The soft kernel needs hardware: add a \"softHost\" to the machine file.", ExitCode.Usage);
        return OfSoft(new SoftKernel(host, Build(description, machine.Devices), faults), trace);
    }

    /// <summary>A soft kernel over hardware that no machine file describes.</summary>
    public static KernelChoice CreateSoft(SoftHost hardware, string? tracePath)
    {
        TraceFile? trace = tracePath is null ? null : TraceFile.Create(tracePath);
        return OfSoft(new SoftKernel(new LinuxKernel(), hardware), trace);
    }

    public void Dispose()
    {
        _soft?.Dispose();
        _trace?.Dispose();
    }

    private static KernelChoice OfSoft(SoftKernel kernel, TraceFile? trace) =>
        new(kernel, new HostedSysfs(kernel.Sysfs, new LinuxSysfs()), kernel, trace);

    private static SoftHost Build(SoftHostDescription description, IReadOnlyList<DeviceDescription> users) => new(
        [.. description.Iommus.Select(iommu => new SoftIommuUnit(iommu.Name)
        {
            DirtyTracking = iommu.DirtyTracking, AddressWidth = iommu.AddressWidth,
        })],
        [.. description.Devices.Select(device => new SoftNvme(device.Address, device.Iommu, BuildDisk(device))
        {
            Migration = device.Migration,
            P2P = device.Migration && device.P2P,
            PreCopy = device.Migration && device.PreCopy,
            DmaLogging = device.DmaLogging,
            InternalStateBytes = device.InternalStateBytes,
            LoadTime = device.LoadTime,
            SerialNumber = SerialOf(device, users),
        })])
    {
        LockedMemoryLimit = description.LockedMemoryBytes,
    };

    /// <summary>The machine's name for the device: equal on both sides of a move, wherever the device lies.</summary>
    private static string SerialOf(SoftDeviceDescription device, IReadOnlyList<DeviceDescription> users)
    {
        string name = users.FirstOrDefault(user => user.Host == device.Address)?.Name ?? device.Address;
        return name.Length <= 20 ? name : name[..20];
    }

    private static SoftDisk BuildDisk(SoftDeviceDescription device) => new(
        device.Disk, DiskFiles.SizeOf(device), device.Mode switch
        {
            DiskMode.ReadOnly => SoftDiskMode.ReadOnly,
            DiskMode.Overlay => SoftDiskMode.Overlay,
            DiskMode.WriteThrough => SoftDiskMode.WriteThrough,
            _ => throw new ArgumentOutOfRangeException(nameof(device)),
        })
    {
        OverlayPath = device.Overlay,
    };
}
