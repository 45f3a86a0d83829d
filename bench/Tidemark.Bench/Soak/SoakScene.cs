using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace Tidemark.Bench.Soak;

/// <summary>Something that may not be.</summary>
internal sealed class SoakViolationException(string message) : Exception(message)
{
    public ulong LostPages { get; init; }

    /// <summary>Lines of what is not to be had any more when the processes have ended; mostly none.</summary>
    public string Evidence { get; init; } = "";
}

/// <summary>The soak's own runtime folder, with disks, machine files and logs, and the processes started in it.</summary>
internal sealed class SoakScene : IDisposable
{
    /// <summary>LIMIT: a busy host is slow; one that takes longer than this for a step is not busy but stuck.</summary>
    internal static readonly TimeSpan StepLimit = TimeSpan.FromSeconds(60);

    private const int DiskBytes = 4 << 20;

    private readonly List<SoakProcess> _processes = [];
    private SoakShape? _shape;

    internal SoakScene()
    {
        // Short, because the paths of Unix sockets are.
        Folder = Directory.CreateTempSubdirectory("tm-soak-").FullName;
        Logs = Directory.CreateDirectory(Path.Combine(Folder, "logs")).FullName;
        byte[] disk = new byte[DiskBytes];
        for (int index = 0; index < 3; index++)
        {
            new Random(index).NextBytes(disk);
            File.WriteAllBytes(Path.Combine(Folder, $"disk{index}.img"), disk);
        }
    }

    internal string Folder { get; }

    internal string Logs { get; }

    internal string MachineFile => Path.Combine(Folder, "machine.json");

    /// <summary>Set when something went wrong: the folder stays.</summary>
    internal bool Keep { get; set; }

    internal void MakeCertificates()
    {
        using SoakProcess made = Start("certificates", "pki", ["certificates", "pki", "--host", "here", "--host", "there"]);
        if (!made.WaitForEnd(StepLimit) || made.ExitCode != 0)
            throw new InvalidOperationException($"No certificates were made; {made.LogFile} says why.");
        Remove(made);
    }

    internal void WriteMachine(SoakShape shape)
    {
        if (shape == _shape)
            return;
        _shape = shape;
        File.WriteAllText(MachineFile, DescribeMachine(shape).ToJsonString());
    }

    internal SoakProcess Start(string logName, string name, IEnumerable<string> arguments)
    {
        SoakProcess process = SoakProcess.Start(name, arguments, Folder, Path.Combine(Logs, $"{logName}.log"));
        _processes.Add(process);
        return process;
    }

    /// <summary>Ends it, if it has not ended, and forgets it.</summary>
    internal void Remove(SoakProcess process)
    {
        _processes.Remove(process);
        process.Dispose();
        File.Delete(process.LogFile);
        // What a process that was killed leaves behind.
        File.Delete(Path.Combine(Folder, process.Name + ".sock"));
    }

    /// <summary>After a violation: everything ends, and its logs stay.</summary>
    internal void EndAll()
    {
        _processes.ForEach(process => process.Dispose());
        _processes.Clear();
        foreach (string socket in Directory.GetFiles(Folder, "*.sock"))
            File.Delete(socket);
    }

    internal JsonObject? Status(SoakProcess process) => ControlSocket.Ask(Folder, process.Name, "status");

    /// <exception cref="SoakViolationException">It did not come about in time, or the process has ended.</exception>
    internal static void Await(string what, SoakProcess process, Func<bool> condition)
    {
        long began = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (process.HasEnded && !condition())
                throw new SoakViolationException($"{process.Name} ended with code {process.ExitCode} before {what}.");
            if (Stopwatch.GetElapsedTime(began) > StepLimit)
                throw new SoakViolationException($"{process.Name}: {what} has not come in {StepLimit.TotalSeconds:0} s.");
            Thread.Sleep(10);
        }
    }

    /// <exception cref="SoakViolationException">It goes on, or ends with another code.</exception>
    internal static void AwaitEnd(SoakProcess process, string why, params int[] codes)
    {
        if (!process.WaitForEnd(StepLimit))
            throw new SoakViolationException($"{process.Name} has not ended {StepLimit.TotalSeconds:0} s after {why}.");
        if (!codes.Contains(process.ExitCode))
        {
            throw new SoakViolationException(
                $"{process.Name} ended with code {process.ExitCode} after {why}; {string.Join(" or ", codes)} was due.");
        }
    }

    /// <summary>Processes in this folder that nobody knows of, and sockets that belong to none.</summary>
    internal IEnumerable<string> FindStrays()
    {
        HashSet<int> known = [.. _processes.Where(process => !process.HasEnded).Select(process => process.Id)];
        foreach (string folder in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(folder), NumberStyles.None, CultureInfo.InvariantCulture, out int id)
                && !known.Contains(id) && IsOurs(folder))
                yield return $"process {id} is left over";
        }

        HashSet<string> names = [.. _processes.Select(process => process.Name + ".sock")];
        foreach (string socket in Directory.GetFiles(Folder, "*.sock").Select(path => Path.GetFileName(path)))
        {
            if (!names.Contains(socket))
                yield return $"the socket {socket} is left over";
        }
    }

    public void Dispose()
    {
        EndAll();
        if (!Keep)
            Directory.Delete(Folder, recursive: true);
    }

    private bool IsOurs(string folder)
    {
        try
        {
            return File.ReadAllText(Path.Combine(folder, "environ")).Split('\0').Contains($"TIDEMARK_RUNTIME_DIR={Folder}");
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Another user's, or it has just ended.
            return false;
        }
    }

    /// <summary>As the demo's: one device for each kind of tracker, all reading, and processors that write.</summary>
    private static JsonObject DescribeMachine(SoakShape shape)
    {
        var devices = new JsonArray();
        var hardware = new JsonArray();
        string[] names = ["nvme-iommu", "nvme-log", "nvme-assumed"];
        for (int index = 0; index < names.Length; index++)
        {
            devices.Add(new JsonObject
            {
                ["name"] = names[index], ["host"] = $"0000:0{index + 1}:00.0", ["arena"] = "4MiB", ["isolated"] = index == 2,
                ["readBytesPerSecond"] = "12MiB", ["blockSize"] = "32KiB",
            });
            hardware.Add(new JsonObject
            {
                ["address"] = $"0000:0{index + 1}:00.0", ["iommu"] = index == 2 ? "plain" : "tracking", ["disk"] = $"disk{index}.img",
                ["dmaLogging"] = index == 1, ["preCopy"] = index != 2 && !shape.DriverAssisted, ["p2p"] = !shape.DriverAssisted,
                ["migration"] = !shape.DriverAssisted,
            });
        }

        return new JsonObject
        {
            ["name"] = "soak",
            ["memory"] = new JsonObject { ["size"] = "96MiB", ["hugePages"] = shape.HugePages },
            ["workload"] = new JsonObject
            {
                ["fill"] = "32MiB", ["cpuWorkingSet"] = $"{shape.WorkingSetMegabytes}MiB",
                ["cpuBytesPerSecond"] = $"{shape.CpuMegabytesPerSecond}MiB",
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
}
