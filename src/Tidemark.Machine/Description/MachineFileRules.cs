
namespace Tidemark.Machine.Description;

/// <summary>What must hold between the parts of a machine file, once each part by itself is well formed.</summary>
internal static class MachineFileRules
{
    public static void Check(MachineDescription machine, LinedJson root, List<MachineFileProblem> problems)
    {
        int devicesLine = LineOf(root, "devices");
        int hostLine = LineOf(root, "softHost");
        NoteTwice(machine.Devices.Select(device => device.Name), "device name", devicesLine, problems);
        NoteTwice(machine.Devices.Select(device => device.Host), "host address", devicesLine, problems);
        CheckRoom(machine, LineOf(root, "memory"), problems);
        if (machine.SoftHost is not { } host)
            return;
        NoteTwice(host.Iommus.Select(iommu => iommu.Name), "IOMMU name", hostLine, problems);
        NoteTwice(host.Devices.Select(device => device.Address), "soft device address", hostLine, problems);
        foreach (SoftIommuDescription iommu in host.Iommus)
        {
            if (iommu.AddressWidth is not (39 or 48 or 57))
                problems.Add(new(hostLine, $"IOMMU \"{iommu.Name}\": \"addressWidth\" must be 39, 48 or 57."));
        }

        foreach (SoftDeviceDescription device in host.Devices)
        {
            if (host.Iommus.All(iommu => iommu.Name != device.Iommu))
                problems.Add(new(hostLine, $"Soft device {device.Address} names IOMMU \"{device.Iommu}\", which is not in \"iommus\"."));
            if ((device.Mode == DiskMode.Overlay) != (device.Overlay is not null))
                problems.Add(new(hostLine, $"Soft device {device.Address}: \"overlay\" names the file for written blocks and goes with \"mode\": \"overlay\"."));
            if (!device.Migration && (device.P2P || device.PreCopy || device.DmaLogging) && ExplicitlyAsks(root, device.Address))
                problems.Add(new(hostLine, $"Soft device {device.Address} has \"migration\": false, so it can not have p2p or preCopy."));
        }

        foreach (DeviceDescription device in machine.Devices)
        {
            if (host.Devices.All(soft => soft.Address != device.Host) && !host.Mediated.Contains(device.Host))
                problems.Add(new(devicesLine, $"Device \"{device.Name}\" is {device.Host}, which is not in \"softHost\"."));
        }
    }

    private static void CheckRoom(MachineDescription machine, int line, List<MachineFileProblem> problems)
    {
        MemoryLayout layout = MemoryLayout.Plan(machine);
        if (layout.NeededBytes > machine.MemoryBytes)
        {
            problems.Add(new(line,
                $"Memory of {ByteSize.Format(machine.MemoryBytes)} is too small: fill, device arenas, the processor's working set and the heartbeat page need {ByteSize.Format(layout.NeededBytes)}."));
        }

        foreach (DeviceDescription device in machine.Devices)
        {
            ulong needed = MemoryLayout.MinimumArenaBytes(device);
            if (device.ArenaBytes < needed)
            {
                problems.Add(new(line,
                    $"Device \"{device.Name}\": {device.QueueDepth} reads of {ByteSize.Format(device.BlockBytes)} and its queues need an arena of {ByteSize.Format(needed)}; it has {ByteSize.Format(device.ArenaBytes)}."));
            }
        }
    }

    /// <summary>Whether the file itself says p2p or preCopy or dmaLogging true for this device.</summary>
    private static bool ExplicitlyAsks(LinedJson root, string address) =>
        root.Members.Where(member => member.Name == "softHost")
            .SelectMany(member => member.Value.Members).Where(member => member.Name == "devices")
            .SelectMany(member => member.Value.Items)
            .Where(item => item.Members.Any(member => member.Name == "address" && member.Value.Text == address))
            .SelectMany(item => item.Members)
            .Any(member => member.Name is "p2p" or "preCopy" && member.Value.Kind == System.Text.Json.JsonTokenType.True);

    private static void NoteTwice(IEnumerable<string> names, string what, int line, List<MachineFileProblem> problems)
    {
        foreach (var twice in names.GroupBy(name => name, StringComparer.Ordinal).Where(group => group.Count() > 1))
            problems.Add(new(line, $"The {what} \"{twice.Key}\" is used {twice.Count()} times."));
    }

    private static int LineOf(LinedJson root, string key) =>
        root.Members.Where(member => member.Name == key).Select(member => member.Line).FirstOrDefault(root.Line);
}
