using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Vfio;

/// <summary>
/// From a device's folder under <c>/sys</c> to its VFIO device node:
/// <c>/sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio3</c> is <c>/dev/vfio/devices/vfio3</c>.
/// </summary>
public static class VfioDiscovery
{
    private const string PciFolder = "/sys/bus/pci/devices";
    private const string MdevFolder = "/sys/bus/mdev/devices";
    private const string NodeFolder = "/dev/vfio/devices";

    /// <summary>What the nodes of devices without IOMMU are called; they translate nothing.</summary>
    private const string NoIommuPrefix = "noiommu-";

    /// <summary>The PCI addresses of all devices that have a VFIO device node now.</summary>
    public static IReadOnlyList<string> ListPciDevices(ISysfs sysfs)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        return [.. sysfs.List(PciFolder).Where(name => FindEntry(sysfs, $"{PciFolder}/{name}") is not null)];
    }

    /// <summary>The folder of a PCI device.</summary>
    /// <exception cref="ArgumentException">Not a PCI address.</exception>
    public static string GetPciFolder(string pciAddress)
    {
        ArgumentNullException.ThrowIfNull(pciAddress);
        if (!IsPciAddress(pciAddress))
        {
            throw new ArgumentException(
                $"\"{pciAddress}\" is not a PCI address such as 0000:01:00.0.", nameof(pciAddress));
        }

        return $"{PciFolder}/{pciAddress}";
    }

    /// <summary>
    /// The folder of a device by any of its names: PCI address, UUID of an mdev, or path of its VFIO device node.
    /// </summary>
    /// <exception cref="ArgumentException">None of these.</exception>
    /// <exception cref="KernelException">No device has that node.</exception>
    public static string FindFolder(ISysfs sysfs, string name)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        ArgumentNullException.ThrowIfNull(name);
        if (Guid.TryParseExact(name, "D", out _))
            return $"{MdevFolder}/{name}";
        if (!name.StartsWith($"{NodeFolder}/", StringComparison.Ordinal))
        {
            return IsPciAddress(name)
                ? GetPciFolder(name)
                : throw new ArgumentException(
                    $"\"{name}\" is neither a PCI address such as 0000:01:00.0 nor an mdev's UUID nor a path such as "
                    + $"{NodeFolder}/vfio0.", nameof(name));
        }

        string entry = LastPart(name);
        foreach (string bus in (string[])[PciFolder, MdevFolder])
        {
            if (sysfs.List(bus).FirstOrDefault(device => FindEntry(sysfs, $"{bus}/{device}") == entry) is { } found)
                return $"{bus}/{found}";
        }

        throw new KernelException(
            $"Looking for the VFIO device of {name}", Errno.ENODEV, "No PCI device and no mdev of this host has it.");
    }

    /// <summary>Whether a device node is that of a device without IOMMU.</summary>
    public static bool IsNoIommuNode(string node)
    {
        ArgumentNullException.ThrowIfNull(node);
        return LastPart(node).StartsWith(NoIommuPrefix, StringComparison.Ordinal);
    }

    /// <summary>The device node behind a device's folder.</summary>
    /// <exception cref="KernelException">There is none; the remedy says what to do about it.</exception>
    public static string FindDeviceNode(ISysfs sysfs, string folder, string name)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        string operation = $"Looking for the VFIO device of {name}";
        if (!sysfs.Exists(folder))
        {
            throw new KernelException(
                operation, Errno.ENODEV, $"This host has no such device ({folder} does not exist).");
        }

        if (!sysfs.Exists($"{folder}/vfio-dev"))
        {
            string bound = FindDriver(sysfs, folder) is { } driver
                ? $"It is bound to {driver}"
                : "It is bound to no driver";
            throw new KernelException(operation, Errno.ENODEV,
                $"{bound}: bind it to vfio-pci or to its vendor's VFIO driver. Kernels before 6.6, or without "
                + "CONFIG_VFIO_DEVICE_CDEV, offer only the legacy group interface.");
        }

        string? entry = FindEntry(sysfs, folder);
        return entry is null
            ? throw new KernelException(operation, Errno.ENOENT,
                $"{folder}/vfio-dev is there but empty: the kernel may lack CONFIG_VFIO_DEVICE_CDEV.")
            : $"{NodeFolder}/{entry}";
    }

    /// <summary>The driver a device is bound to, or null.</summary>
    public static string? FindDriver(ISysfs sysfs, string folder)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        return sysfs.TryReadLink($"{folder}/driver", out string? target) ? LastPart(target) : null;
    }

    /// <summary>The kernel's name of the IOMMU before a device (<c>dmar0</c>, <c>ivhd0</c>), or null where sysfs does not
    /// tell.</summary>
    public static string? FindIommu(ISysfs sysfs, string folder)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        return sysfs.TryReadLink($"{folder}/iommu", out string? target) ? LastPart(target) : null;
    }

    /// <summary>Whether the device is a mediated one: its subsystem link leads to the bus <c>mdev</c>.</summary>
    public static bool IsMdev(ISysfs sysfs, string folder)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        return sysfs.TryReadLink($"{folder}/subsystem", out string? target) && LastPart(target) == "mdev";
    }

    private static string? FindEntry(ISysfs sysfs, string folder) =>
        sysfs.List($"{folder}/vfio-dev").FirstOrDefault(entry =>
            entry.StartsWith("vfio", StringComparison.Ordinal)
            || entry.StartsWith($"{NoIommuPrefix}vfio", StringComparison.Ordinal));

    private static string LastPart(string path) => path[(path.LastIndexOf('/') + 1)..];

    /// <summary>Whether a text is dddd:bb:dd.f with a domain of four digits or more.</summary>
    public static bool IsPciAddress(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        string[] parts = text.Split(':');
        return parts.Length == 3 && parts[0].Length is >= 4 and <= 8 && parts[1].Length == 2 && parts[2].Length == 4
            && parts[2][2] == '.' && parts[2][3] is >= '0' and <= '7'
            && parts[0].All(char.IsAsciiHexDigit) && parts[1].All(char.IsAsciiHexDigit)
            && parts[2].Take(2).All(char.IsAsciiHexDigit);
    }
}
