using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>
/// A soft host with guest memory of 8 MiB and NVMe controllers: <c>01</c> tracked by its IOMMU only, <c>02</c> with a
/// log of its own behind an IOMMU that can not track, <c>03</c> like 02 without the log, <c>04</c> like 01, <c>05</c>
/// with a log of its own behind the IOMMU of 01; and a mediated device.
/// </summary>
internal sealed class SoftRig : IDisposable
{
    public const ulong MemoryLength = 8 << 20;
    public const string MdevUuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    private readonly LinuxKernel _host = new();
    private readonly string _diskPath = Path.GetTempFileName();
    private readonly Mapping _mapping;

    public SoftRig()
    {
        File.WriteAllBytes(_diskPath, new byte[1 << 16]);
        Soft = new SoftKernel(_host, new SoftHost(
            [new SoftIommuUnit("capable"), new SoftIommuUnit("plain") { DirtyTracking = false }],
            [Nvme(1, "capable"), Nvme(2, "plain") with { DmaLogging = true }, Nvme(3, "plain"), Nvme(4, "capable"),
                Nvme(5, "capable") with { DmaLogging = true }])
        {
            Mediated = [new SoftMtty(MdevUuid, Ports: 1)],
        });
        Faults = new FaultInjectingKernel(Soft);
        MemoryFile = new KernelFd(
            Soft, (int)Soft.MemfdCreate("guest", MemfdFlags.CloseOnExec).ThrowIfFailed("memfd").Value);
        Soft.Ftruncate(MemoryFile.Number, MemoryLength).ThrowIfFailed("ftruncate");
        _mapping = Mapping.CreateShared(
            MemoryFile, MemoryLength, 0, MemoryProtection.Read | MemoryProtection.Write);
        Memory = new GuestMemory(
            [new MemorySlot(new GuestPhysicalAddress(0), MemoryLength, _mapping.Address, 0)]);
        Baseline = Soft.CountOpen();
    }

    public SoftKernel Soft { get; }

    /// <summary>The kernel under test: the soft one, with calls that can be made to fail.</summary>
    public FaultInjectingKernel Faults { get; }

    public KernelFd MemoryFile { get; }

    public GuestMemory Memory { get; }

    /// <summary>What is in use with nothing but guest memory.</summary>
    public SoftKernelUsage Baseline { get; }

    public Iommufd OpenIommufd() => Iommufd.Open(Faults);

    public AssignedDevice Assign(DmaContainer container, int number, DeviceLogUse use = DeviceLogUse.Auto) =>
        Assign(container, number, new AssignmentOptions { LogUse = use });

    public AssignedDevice Assign(DmaContainer container, int number, AssignmentOptions options) =>
        AssignedDevice.Assign(
            container.Open(
                Soft.Sysfs, VfioDiscovery.GetPciFolder($"0000:{number:x2}:00.0"), $"nvme{number}"),
            container, options);

    public void Dispose()
    {
        _mapping.Dispose();
        MemoryFile.Dispose();
        Soft.Dispose();
        File.Delete(_diskPath);
    }

    private SoftNvme Nvme(int number, string unit) =>
        new($"0000:{number:x2}:00.0", unit, new SoftDisk(_diskPath, 1 << 16));
}
