using System.Diagnostics;
using System.Text.Json.Nodes;

namespace Tidemark.Cli.Tests;

/// <summary>A private runtime folder with machine files and a disk, and the processes started in it.</summary>
internal sealed class Scene : IDisposable
{
    private readonly List<CommandLine> _started = [];

    public Scene()
    {
        Folder = Directory.CreateTempSubdirectory("tm-").FullName;
        byte[] disk = new byte[1 << 20];
        new Random(1).NextBytes(disk);
        File.WriteAllBytes(Path.Combine(Folder, "disk.img"), disk);
        WriteMachine("quiet", "64MiB", "4MiB", "4MiB");
        // Dirties its memory faster than 1 ms of downtime can take: pass follows pass until somebody ends it.
        WriteMachine("busy", "256MiB", "160MiB", "8GiB");
    }

    public string Folder { get; }

    public string WriteMachine(string name, string memory, string workingSet, string cpuBytesPerSecond, string device = "nvme0")
    {
        File.WriteAllText(Path.Combine(Folder, name + ".json"), $$"""
            {
              "name": "{{name}}",
              "memory": { "size": "{{memory}}" },
              "workload": { "fill": "16MiB", "cpuWorkingSet": "{{workingSet}}", "cpuBytesPerSecond": "{{cpuBytesPerSecond}}" },
              "devices": [ { "name": "{{device}}", "host": "0000:01:00.0", "arena": "4MiB", "readBytesPerSecond": "8MiB" } ],
              "softHost": {
                "iommus": [ { "name": "iommu0" } ],
                "devices": [ { "address": "0000:01:00.0", "iommu": "iommu0", "disk": "disk.img" } ]
              }
            }
            """);
        return name + ".json";
    }

    public CommandLine Start(params string[] arguments)
    {
        var process = new CommandLine(Folder, arguments);
        _started.Add(process);
        return process;
    }

    /// <summary>Runs a command to its end and checks the exit code.</summary>
    public CommandLine Expect(int exitCode, params string[] arguments)
    {
        CommandLine process = Start(arguments);
        int code = process.WaitForEnd();
        Assert.True(code == exitCode, $"tidemark {string.Join(' ', arguments)}: {process.All}");
        return process;
    }

    public CommandLine StartMachine(string file)
    {
        CommandLine process = Start("run", file);
        WaitFor(process, () => process.Output.Contains(" runs (kernel=soft", StringComparison.Ordinal));
        return process;
    }

    public (CommandLine Process, string Address) StartReceiver(string file, params string[] more)
    {
        CommandLine process = Start(["receive", file, "--name", "there", "--listen", "tcp:127.0.0.1:0", .. more]);
        WaitFor(process, () => process.Output.Contains(" receives at ", StringComparison.Ordinal));
        return (process, process.Output.Split(" receives at ")[1].Split(' ')[0]);
    }

    public JsonObject Status(string machine) => JsonNode.Parse(Expect(0, "status", machine, "--json").Output)!.AsObject();

    public static void WaitFor(CommandLine process, Func<bool> condition)
    {
        long began = Stopwatch.GetTimestamp();
        while (!condition())
        {
            Assert.True(Stopwatch.GetElapsedTime(began) < TimeSpan.FromSeconds(30), $"It did not come: {process.All}");
            Thread.Sleep(20);
        }
    }

    public void Dispose()
    {
        _started.ForEach(process => process.Dispose());
        Directory.Delete(Folder, recursive: true);
    }
}
