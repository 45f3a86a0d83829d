using System.Text.Json;

namespace Tidemark.Machine.Description;

/// <summary>
/// Reads machine files. Every mistake is reported, each with its line, in one go.
/// The schema is documented in docs/reference/machine-file.md; a test compares the two.
/// </summary>
public static class MachineFile
{
    /// <summary>LIMIT: a machine file is a page or two; anything larger is the wrong file.</summary>
    public const int MaximumBytes = 1 << 20;

    private const ulong MiB = 1UL << 20;

    /// <summary>LIMIT: the processor's ledger, 4 bytes a page, moves while the machine stands still.</summary>
    private const ulong MaximumWorkingSet = 8UL << 30;

    /// <summary>Null when there are problems.</summary>
    public static MachineDescription? Read(string path, out IReadOnlyList<MachineFileProblem> problems)
    {
        byte[] content;
        try
        {
            var file = new FileInfo(path);
            if (!file.Exists)
            {
                problems = [new(0, Directory.Exists(path) ? "It is a folder, not a machine file." : "There is no such file.")];
                return null;
            }

            if (file.Length == 0)
            {
                // Also a FIFO or a device, which could block or never end.
                problems = [new(0, "It is empty or no ordinary file.")];
                return null;
            }

            if (file.Length > MaximumBytes)
            {
                problems = [new(0, $"It has {ByteSize.Format(file.Length)}; a machine file has at most {ByteSize.Format(MaximumBytes)}.")];
                return null;
            }

            content = File.ReadAllBytes(path);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Nothing was read; the cause is the user's to mend.
            problems = [new(0, failure.Message)];
            return null;
        }

        return Parse(content, Path.GetDirectoryName(Path.GetFullPath(path)) ?? "/", out problems);
    }

    /// <summary>Null when there are problems.</summary>
    public static MachineDescription? Parse(byte[] utf8, string baseFolder, out IReadOnlyList<MachineFileProblem> problems)
    {
        LinedJson root;
        try
        {
            root = LinedJson.Parse(utf8);
        }
        catch (Exception failure) when (failure is JsonException or InvalidOperationException)
        {
            // Not JSON (or not UTF-8): there is nothing further to check.
            int line = failure is JsonException { LineNumber: long number } ? (int)number + 1 : 1;
            problems = [new(line, $"This is not JSON: {FirstSentence(failure.Message)}")];
            return null;
        }

        var found = new List<MachineFileProblem>();
        MachineDescription? description = ReadMachine(new MachineFileObject(root, "the machine", found), baseFolder);
        if (description is not null && found.Count == 0)
            MachineFileRules.Check(description, root, found);
        problems = [.. found.OrderBy(problem => problem.Line)];
        return found.Count == 0 ? description : null;
    }

    private static MachineDescription? ReadMachine(MachineFileObject machine, string baseFolder)
    {
        string name = machine.Name("name", required: true) ?? "";
        MachineFileObject? memory = machine.Object("memory", required: true);
        ulong memoryBytes = memory?.Size("size", 4 * MiB, 1UL << 40, multipleOf: 2 * MiB) ?? 0;
        bool prefault = memory?.Flag("prefault", false) ?? false;
        bool hugePages = memory?.Flag("hugePages", false) ?? false;
        memory?.RejectOthers();

        var workload = new WorkloadDescription();
        if (machine.Object("workload") is { } given)
        {
            workload = new WorkloadDescription
            {
                FillBytes = given.Size("fill", 0, 1UL << 40, fallback: workload.FillBytes),
                CpuWorkingSetBytes = given.Size("cpuWorkingSet", 4096, MaximumWorkingSet, multipleOf: 4096, fallback: workload.CpuWorkingSetBytes),
                CpuBytesPerSecond = given.Size("cpuBytesPerSecond", 0, 1UL << 40, fallback: workload.CpuBytesPerSecond),
                Seed = (int)given.Number("seed", 0, int.MaxValue, (ulong)workload.Seed),
            };
            given.RejectOthers();
        }

        var devices = machine.Objects("devices", 32).Select(ReadDevice).ToList();
        SoftHostDescription? softHost = null;
        if (machine.Object("softHost") is { } host)
        {
            softHost = new SoftHostDescription
            {
                Iommus = [.. host.Objects("iommus", 8).Select(ReadIommu)],
                Devices = [.. host.Objects("devices", 32).Select(device => ReadSoftDevice(device, baseFolder))],
                LockedMemoryBytes = host.Size("lockedMemory", 0, 1UL << 40, fallback: ulong.MaxValue)
                    is var limit and not ulong.MaxValue ? limit : null,
            };
            host.RejectOthers();
        }

        DeviceBackend backend = machine.Choice("backend", DeviceBackend.Auto);
        machine.RejectOthers();
        return new MachineDescription
        {
            Backend = backend,
            Name = name,
            MemoryBytes = memoryBytes,
            Prefault = prefault,
            HugePages = hugePages,
            Workload = workload,
            Devices = devices,
            SoftHost = softHost,
            BaseFolder = baseFolder,
        };
    }

    private static DeviceDescription ReadDevice(MachineFileObject device)
    {
        var defaults = new DeviceDescription { Name = "", Host = "" };
        var description = new DeviceDescription
        {
            Name = device.Name("name", required: true) ?? "",
            Host = device.DeviceAddress("host") ?? "",
            DirtyTracking = device.Choice("deviceDirtyTracking", defaults.DirtyTracking),
            PrecopyDirtyTracking = device.Flag("precopyDirtyTracking", defaults.PrecopyDirtyTracking),
            Migration = device.Choice("migration", defaults.Migration),
            RequireTracker = device.Flag("requireTracker", defaults.RequireTracker),
            Handover = device.Choice("handover", defaults.Handover),
            SameDisk = device.Choice("sameDisk", defaults.SameDisk),
            ArenaBytes = device.Size("arena", 2 * MiB, 1UL << 36, multipleOf: 2 * MiB, fallback: defaults.ArenaBytes),
            Viommu = device.Choice("viommu", defaults.Viommu),
            Isolated = device.Flag("isolated", defaults.Isolated),
            ReadBytesPerSecond = device.Size("readBytesPerSecond", 0, 1UL << 40, fallback: defaults.ReadBytesPerSecond),
            BlockBytes = (uint)device.Size("blockSize", 4096, MiB, multipleOf: 4096, fallback: defaults.BlockBytes),
            QueueDepth = (int)device.Number("queueDepth", 1, 63, (ulong)defaults.QueueDepth),
        };
        device.RejectOthers();
        return description;
    }

    private static SoftIommuDescription ReadIommu(MachineFileObject iommu)
    {
        var description = new SoftIommuDescription(
            iommu.Name("name", required: true) ?? "",
            iommu.Flag("dirtyTracking", true),
            (int)iommu.Number("addressWidth", 39, 57, 48));
        iommu.RejectOthers();
        return description;
    }

    private static SoftDeviceDescription ReadSoftDevice(MachineFileObject device, string baseFolder)
    {
        var description = new SoftDeviceDescription
        {
            Address = device.PciAddress("address") ?? "",
            Iommu = device.Name("iommu", required: true) ?? "",
            Disk = device.FilePath("disk", baseFolder, required: true) ?? "",
            Mode = device.Choice("mode", DiskMode.ReadOnly),
            Overlay = device.FilePath("overlay", baseFolder, required: false),
            Migration = device.Flag("migration", true),
            P2P = device.Flag("p2p", true),
            PreCopy = device.Flag("preCopy", true),
            DmaLogging = device.Flag("dmaLogging", false),
            InternalStateBytes = (int)device.Size("internalState", 0, 1UL << 30, fallback: 0),
            LoadTime = TimeSpan.FromMilliseconds(device.Number("loadMilliseconds", 0, 60_000, 0)),
        };
        device.RejectOthers();
        return description;
    }

    private static string FirstSentence(string text)
    {
        int end = text.IndexOf(". ", StringComparison.Ordinal);
        return end < 0 ? text : text[..(end + 1)];
    }
}
