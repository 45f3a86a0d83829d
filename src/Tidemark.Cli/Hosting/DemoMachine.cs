using System.Text.Json.Nodes;
using Tidemark.Machine.Workload;

namespace Tidemark.Cli.Hosting;

/// <summary>The machine file of each side: one machine, whose device may lie elsewhere.</summary>
internal sealed record DemoFiles(string Source, string Destination);

/// <summary>The demo's machine files and, if the user names none, its disks.</summary>
internal static class DemoMachine
{
    private const ulong MiB = 1UL << 20;
    private const int OwnDiskBytes = 16 << 20;
    private const long SmallestRead = 4 << 10;
    private const long LargestRead = 64 << 10;

    /// <summary>LIMIT: the soft host of the demo takes this many disks.</summary>
    private const int MaximumDisks = 8;

    /// <summary>Writes the machine files into the folder.</summary>
    /// <exception cref="CommandFailure">A file can not be a disk.</exception>
    public static DemoFiles Write(string folder, DemoOptions options)
    {
        string source = Path.Combine(folder, "machine.json");
        if (options.IsLinux)
        {
            string destination = Path.Combine(folder, "machine-there.json");
            Save(source, DescribeReal(options.Devices[0], options.MemoryBytes));
            Save(destination, DescribeReal(options.Devices[1], options.MemoryBytes));
            return new DemoFiles(source, destination);
        }

        IReadOnlyList<string> disks = options.Files.Count > 0 ? Check(options.Files) : MakeDisks(folder);
        Save(source, Describe(disks, options.MemoryBytes, options.DriverAssisted));
        return new DemoFiles(source, source);
    }

    private static void Save(string path, JsonObject machine) =>
        File.WriteAllText(path, machine.ToJsonString(new() { WriteIndented = true }));

    /// <summary>
    /// One real controller, whose disk is only read. Modest rates: a guest in software emulation shall keep up.
    /// </summary>
    private static JsonObject DescribeReal(string address, ulong memoryBytes) => new()
    {
        ["name"] = "demo",
        ["memory"] = new JsonObject { ["size"] = memoryBytes },
        ["workload"] = new JsonObject
        {
            ["fill"] = memoryBytes / 4, ["cpuWorkingSet"] = memoryBytes / 16, ["cpuBytesPerSecond"] = "2MiB",
        },
        ["devices"] = new JsonArray(new JsonObject
        {
            ["name"] = "nvme0",
            ["host"] = address,
            ["arena"] = Math.Max(2 * MiB, memoryBytes / 8 / (2 * MiB) * (2 * MiB)),
            ["readBytesPerSecond"] = "16MiB",
            ["blockSize"] = "16KiB",
            ["sameDisk"] = "copy",
        }),
    };

    /// <summary>
    /// Three controllers at least, one for each kind of tracker; further files get controllers of the first kind, the
    /// case that Tidemark exists for.
    /// </summary>
    private static JsonObject Describe(IReadOnlyList<string> disks, ulong memoryBytes, bool driverAssisted)
    {
        var devices = new JsonArray();
        var hardware = new JsonArray();
        bool small = memoryBytes < 512 * MiB;
        for (int index = 0; index < Math.Max(3, disks.Count); index++)
        {
            string address = $"0000:{index + 1:x2}:00.0";
            bool logs = index == 1;
            bool untracked = index == 2;
            devices.Add(new JsonObject
            {
                ["name"] = untracked ? "nvme-assumed" : logs ? "nvme-log" : index == 0 ? "nvme-iommu" : $"nvme-iommu{index}",
                ["host"] = address,
                ["arena"] = untracked ? "16MiB" : small ? "8MiB" : "32MiB",
                ["isolated"] = untracked,
                ["readBytesPerSecond"] = "48MiB",
                ["blockSize"] = ReadSize(disks[index % disks.Count]),
            });
            hardware.Add(new JsonObject
            {
                ["address"] = address,
                ["iommu"] = untracked ? "plain" : "tracking",
                ["disk"] = disks[index % disks.Count],
                ["dmaLogging"] = logs,
                ["preCopy"] = !untracked && !driverAssisted,
                ["p2p"] = !driverAssisted,
                ["migration"] = !driverAssisted,
            });
        }

        return new JsonObject
        {
            ["name"] = "demo",
            ["memory"] = new JsonObject { ["size"] = memoryBytes },
            ["workload"] = new JsonObject
            {
                ["fill"] = memoryBytes / 4, ["cpuWorkingSet"] = small ? "8MiB" : "32MiB", ["cpuBytesPerSecond"] = "16MiB",
            },
            ["devices"] = devices,
            ["softHost"] = new JsonObject
            {
                ["iommus"] = new JsonArray(
                    new JsonObject { ["name"] = "tracking", ["dirtyTracking"] = true },
                    new JsonObject { ["name"] = "plain", ["dirtyTracking"] = false }),
                ["devices"] = hardware,
            },
        };
    }

    /// <summary>Small files are read in small pieces.</summary>
    private static long ReadSize(string disk) =>
        Math.Clamp(new FileInfo(disk).Length / SmallestRead * SmallestRead, SmallestRead, LargestRead);

    private static IReadOnlyList<string> Check(IReadOnlyList<string> files)
    {
        if (files.Count > MaximumDisks)
            throw new CommandFailure($"The demo takes at most {MaximumDisks} files; there are {files.Count}.", ExitCode.Usage);
        var problems = new List<string>();
        foreach (string file in files)
        {
            try
            {
                ulong size = DiskFiles.SizeOf(new() { Address = "the demo", Iommu = "", Disk = Path.GetFullPath(file) });
                if (size < (ulong)SmallestRead)
                    problems.Add($"{file} has {size} bytes; as a disk of the demo a file needs {SmallestRead} or more.");
            }
            catch (CommandFailure failure)
            {
                // All files are looked at before the user is told.
                problems.Add(failure.Message);
            }
        }

        return problems.Count == 0 ? [.. files.Select(Path.GetFullPath)] : throw new CommandFailure(string.Join("\n", problems));
    }

    private static string[] MakeDisks(string folder)
    {
        var paths = new string[3];
        byte[] block = new byte[64 << 10];
        for (int disk = 0; disk < paths.Length; disk++)
        {
            paths[disk] = Path.Combine(folder, $"disk{disk}.img");
            var sequence = new SeededSequence((ulong)disk + 1);
            using FileStream file = File.Create(paths[disk]);
            for (int written = 0; written < OwnDiskBytes; written += block.Length)
            {
                for (int index = 0; index < block.Length; index += 8)
                    BitConverter.TryWriteBytes(block.AsSpan(index), sequence.Next());
                file.Write(block);
            }
        }

        return paths;
    }
}
