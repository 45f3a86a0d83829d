using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft;

/// <summary>The discovery files of a soft host, laid out as Linux does. Built once; never changes.</summary>
/// <remarks>
/// <code>
/// /sys/bus/pci/devices/ADDRESS -> ../../../devices/pci0000:00/ADDRESS
/// /sys/devices/pci0000:00/ADDRESS/ vendor device class driver iommu_group vfio-dev/vfioN/dev
/// /sys/kernel/iommu_groups/N/devices/ADDRESS -> ../../../../devices/pci0000:00/ADDRESS
/// /sys/bus/pci/drivers/NAME/ADDRESS -> ../../../../devices/pci0000:00/ADDRESS
/// /sys/bus/mdev/devices/UUID -> ../../../devices/virtual/mtty/mtty/UUID
/// /sys/devices/virtual/mtty/mtty/UUID/ driver iommu_group mdev_type vfio-dev/vfioN/dev
/// /dev/iommu  /dev/vfio/devices/vfioN (or noiommu-vfioN)  /dev/vfio/N  /dev/vfio/vfio
/// </code>
/// N counts devices from 0; a group has the number of its first device.
/// </remarks>
internal sealed class SoftSysfs : ISysfs
{
    public const string IommuNode = "/dev/iommu";
    public const string VfioFolder = "/dev/vfio";
    public const string GroupNodePrefix = "/dev/vfio/";
    public const string ContainerName = "vfio";
    public const string DeviceNodeFolder = "/dev/vfio/devices";

    /// <summary>LIMIT: links followed in one path, as in Linux.</summary>
    private const int MostLinks = 40;

    /// <summary>Major number of the VFIO nodes: of the range that Linux gives out as needed.</summary>
    private const int NodeMajor = 511;

    /// <summary>What the nodes of devices without IOMMU are called.</summary>
    private const string NoIommuPrefix = "noiommu-";

    private const string MttyHome = "/sys/devices/virtual/mtty/mtty";

    /// <summary>Ports that all of mtty's devices may have together.</summary>
    private const int MostMttyPorts = 24;

    private readonly Dictionary<string, Node> _nodes = new(StringComparer.Ordinal);

    /// <summary>Numbers of devices' groups by address.</summary>
    private readonly Dictionary<string, string> _groups = new(StringComparer.Ordinal);

    public SoftSysfs(SoftHost hardware)
    {
        AddFolder("/");
        AddFile(IommuNode, null);
        AddFolder(VfioFolder);
        AddFile($"{GroupNodePrefix}{ContainerName}", null);
        int index = 0;
        for (; index < hardware.Devices.Count; index++)
            AddDevice(hardware.Devices[index], index.ToString(CultureInfo.InvariantCulture));
        foreach (SoftMtty device in hardware.Mediated)
            AddMediated(device, (index++).ToString(CultureInfo.InvariantCulture));
        if (hardware.Mediated.Count > 0)
            AddMttyTypes(hardware.Mediated);
    }

    public IReadOnlyList<string> List(string path) =>
        Resolve(path, followLast: true) is { Children: SortedSet<string> children } ? [.. children] : [];

    public bool TryReadText(string path, [NotNullWhen(true)] out string? text)
    {
        text = Resolve(path, followLast: true)?.Text;
        return text is not null;
    }

    public bool TryReadLink(string path, [NotNullWhen(true)] out string? target)
    {
        target = Resolve(path, followLast: false)?.Target;
        return target is not null;
    }

    public bool Exists(string path) => Resolve(path, followLast: true) is not null;

    private void AddDevice(SoftNvme device, string number)
    {
        string home = $"/sys/devices/pci0000:00/{device.Address}";
        string driver = device.Migration ? "nvme-vfio-pci" : "vfio-pci";
        AddFile($"{home}/vendor", $"0x{device.VendorId:x4}");
        AddFile($"{home}/device", $"0x{device.DeviceId:x4}");
        AddFile($"{home}/class", $"0x{NvmePci.ClassCode:x6}");
        AddLink($"{home}/driver", $"../../../bus/pci/drivers/{driver}");
        string prefix = device.IommuUnit is null ? NoIommuPrefix : "";
        AddFile($"{home}/vfio-dev/{prefix}vfio{number}/dev", $"{NodeMajor}:{number}");
        AddFile($"{DeviceNodeFolder}/{prefix}vfio{number}", null);
        AddLink($"/sys/bus/pci/devices/{device.Address}", $"../../../devices/pci0000:00/{device.Address}");
        AddLink($"/sys/bus/pci/drivers/{driver}/{device.Address}",
            $"../../../../devices/pci0000:00/{device.Address}");
        if (device.IommuUnit is null)
            return;
        string group = device.GroupWith is null ? number : _groups[device.GroupWith];
        _groups.Add(device.Address, group);
        AddLink($"{home}/iommu_group", $"../../../kernel/iommu_groups/{group}");
        AddLink($"/sys/kernel/iommu_groups/{group}/devices/{device.Address}",
            $"../../../../devices/pci0000:00/{device.Address}");
        AddFile($"{GroupNodePrefix}{group}", null);
    }

    /// <summary>A device of the mdev bus under its parent, which is mtty's only one.</summary>
    private void AddMediated(SoftMtty device, string number)
    {
        string home = $"{MttyHome}/{device.Uuid}";
        AddLink($"{home}/subsystem", "../../../../../bus/mdev");
        AddLink($"{home}/driver", "../../../../../bus/mdev/drivers/mtty");
        AddLink($"{home}/iommu_group", $"../../../../../kernel/iommu_groups/{number}");
        AddLink($"{home}/mdev_type", $"../mdev_supported_types/mtty-{device.Ports}");
        AddFile($"{home}/vendor/sample_mdev_dev", $"This is MDEV {device.Uuid}");
        AddFile($"{home}/vfio-dev/vfio{number}/dev", $"{NodeMajor}:{number}");
        AddLink($"/sys/bus/mdev/devices/{device.Uuid}", $"../../../devices/virtual/mtty/mtty/{device.Uuid}");
        AddLink($"/sys/bus/mdev/drivers/mtty/{device.Uuid}", $"../../../../devices/virtual/mtty/mtty/{device.Uuid}");
        AddLink($"/sys/kernel/iommu_groups/{number}/devices/{device.Uuid}",
            $"../../../../devices/virtual/mtty/mtty/{device.Uuid}");
        AddFile($"{DeviceNodeFolder}/vfio{number}", null);
        AddFile($"{GroupNodePrefix}{number}", null);
    }

    private void AddMttyTypes(IReadOnlyList<SoftMtty> devices)
    {
        int left = MostMttyPorts - devices.Sum(device => device.Ports);
        AddType(1, "Single port serial");
        AddType(2, "Dual port serial");
        AddLink("/sys/class/mdev_bus/mtty", "../../devices/virtual/mtty/mtty");
        AddLink("/sys/class/mtty/mtty", "../../devices/virtual/mtty/mtty");
        foreach (SoftMtty device in devices)
        {
            AddLink(
                $"{MttyHome}/mdev_supported_types/mtty-{device.Ports}/devices/{device.Uuid}",
                $"../../../{device.Uuid}");
        }

        void AddType(int ports, string name)
        {
            string type = $"{MttyHome}/mdev_supported_types/mtty-{ports}";
            AddFile($"{type}/name", name);
            AddFile($"{type}/device_api", "vfio-pci");
            AddFile($"{type}/available_instances", (left / ports).ToString(CultureInfo.InvariantCulture));
            AddFolder($"{type}/devices");
        }
    }

    private void AddFolder(string path) =>
        Add(path, new Node { Children = new SortedSet<string>(StringComparer.Ordinal) });

    private void AddFile(string path, string? text) => Add(path, new Node { Text = text });

    private void AddLink(string path, string target) => Add(path, new Node { Target = target });

    private void Add(string path, Node node)
    {
        if (!_nodes.TryAdd(path, node) || path == "/")
            return;
        int slash = path.LastIndexOf('/');
        string parent = slash == 0 ? "/" : path[..slash];
        AddFolder(parent);
        _nodes[parent].Children!.Add(path[(slash + 1)..]);
    }

    /// <summary>Walks a path component by component, following links; null when it leads nowhere.</summary>
    private Node? Resolve(string path, bool followLast)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (!path.StartsWith('/'))
            return null;
        var pending = new Stack<string>(Split(path));
        string at = "/";
        int links = 0;
        while (pending.TryPop(out string? part))
        {
            if (_nodes[at].Children is null)
                return null;
            if (part == "..")
            {
                int slash = at.LastIndexOf('/');
                at = slash <= 0 ? "/" : at[..slash];
                continue;
            }

            string next = at == "/" ? $"/{part}" : $"{at}/{part}";
            if (!_nodes.TryGetValue(next, out Node? node))
                return null;
            if (node.Target is null || (pending.Count == 0 && !followLast))
            {
                at = next;
                continue;
            }

            if (++links > MostLinks)
                return null;
            foreach (string component in Split(node.Target))
                pending.Push(component);
        }

        return _nodes[at];
    }

    /// <summary>Components, last first, as a stack takes them.</summary>
    private static IEnumerable<string> Split(string path) =>
        path.Split('/', StringSplitOptions.RemoveEmptyEntries).Where(part => part != ".").Reverse();

    /// <summary>A folder, a file (a device node has no text), or a link.</summary>
    private sealed class Node
    {
        public SortedSet<string>? Children { get; init; }

        public string? Text { get; init; }

        public string? Target { get; init; }
    }
}
