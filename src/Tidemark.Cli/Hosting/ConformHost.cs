using Tidemark.Kernel;
using Tidemark.Kernel.Soft;

namespace Tidemark.Cli.Hosting;

/// <summary>
/// The kernel that conformance cases judge, and its devices. For the soft kernel: a host with a device of every kind
/// that a case asks for, or that of a profile, over one small disk file that goes with it.
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

    /// <summary>PCI addresses and UUIDs that cases may use.</summary>
    public IReadOnlyList<string> Devices { get; }

    /// <param name="profile">What hardware the soft kernel has; null: a device of every kind.</param>
    public static ConformHost Create(
        string? kernel, IReadOnlyList<string> devices, string? tracePath, ConformProfile? profile)
    {
        if (kernel != "soft")
            return new ConformHost(KernelChoice.Create("linux", null, tracePath), devices, null);
        string disk = Path.GetTempFileName();
        KernelChoice? choice = null;
        try
        {
            File.WriteAllBytes(disk, new byte[DiskLength]);
            var content = new SoftDisk(disk, DiskLength);
            SoftHost hardware = profile is null ? ConformProfiles.Everything(content) : profile.Build(content);
            // The real kernels that the cases are compared with are built with the test domain.
            choice = KernelChoice.CreateSoft(hardware with { TestDomain = true }, tracePath);
            string[] all =
                [.. hardware.Devices.Select(device => device.Address), .. hardware.Mediated.Select(mdev => mdev.Uuid)];
            return new ConformHost(choice, devices.Count != 0 ? devices : all, disk);
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
}
