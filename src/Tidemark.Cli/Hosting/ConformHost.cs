using Tidemark.Kernel;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// The kernel that conformance cases judge, and its devices. For the soft kernel: a host with a device of every kind
/// that a case asks for, over one small disk file that goes with it.
/// </summary>
internal sealed class ConformHost : IDisposable
{
    private const ulong DiskLength = 1 << 16;

    private readonly KernelChoice _choice;
    private readonly string? _disk;

    private ConformHost(KernelChoice choice, IReadOnlyList<string> devices, string? disk)
    {
        _choice = choice;
        Devices = devices;
        _disk = disk;
    }

    public IKernel Kernel => _choice.Kernel;

    public ISysfs Sysfs => _choice.Sysfs;

    /// <summary>PCI addresses that cases may use.</summary>
    public IReadOnlyList<string> Devices { get; }

    public static ConformHost Create(string? kernel, IReadOnlyList<string> devices, string? tracePath)
    {
        if (kernel != "soft")
            return new ConformHost(KernelChoice.Create("linux", null, tracePath), devices, null);
        string disk = Path.GetTempFileName();
        KernelChoice? choice = null;
        try
        {
            File.WriteAllBytes(disk, new byte[DiskLength]);
            SoftHostDescription hardware = Describe(disk);
            var machine = new MachineDescription { Name = "conform", MemoryBytes = 0, SoftHost = hardware };
            choice = KernelChoice.Create("soft", machine, tracePath);
            return new ConformHost(
                choice, devices.Count != 0 ? devices : [.. hardware.Devices.Select(device => device.Address)], disk);
        }
        catch
        {
            // Nothing was handed over that would delete it.
            choice?.Dispose();
            File.Delete(disk);
            throw;
        }
    }

    public void Dispose()
    {
        _choice.Dispose();
        if (_disk is not null)
            File.Delete(_disk);
    }

    /// <summary>Two IOMMUs, one of which tracks; each set of migration abilities; DMA logging or not.</summary>
    private static SoftHostDescription Describe(string disk) => new()
    {
        Iommus =
        [
            new SoftIommuDescription("tracking", DirtyTracking: true, AddressWidth: 48),
            new SoftIommuDescription("plain", DirtyTracking: false, AddressWidth: 48),
        ],
        Devices =
        [
            Device(disk, "0000:01:00.0", "tracking", p2p: false, preCopy: false),
            Device(disk, "0000:02:00.0", "tracking", p2p: true, preCopy: false),
            Device(disk, "0000:03:00.0", "tracking", p2p: false, preCopy: true) with { DmaLogging = true },
            Device(disk, "0000:04:00.0", "plain", p2p: true, preCopy: true) with { DmaLogging = true },
            Device(disk, "0000:05:00.0", "plain", p2p: false, preCopy: false) with { Migration = false },
        ],
    };

    private static SoftDeviceDescription Device(string disk, string address, string iommu, bool p2p, bool preCopy) =>
        new() { Address = address, Iommu = iommu, Disk = disk, P2P = p2p, PreCopy = preCopy };
}
