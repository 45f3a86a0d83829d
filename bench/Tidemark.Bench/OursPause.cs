using System.Globalization;
using System.Text.Json;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>One migration by the product of a machine whose processor writes at a given rate.</summary>
internal static class OursPause
{
    private const ulong MiB = 1UL << 20;

    /// <summary>What is no working set and no fill: the layout's rest.</summary>
    private const ulong Rest = 4 * MiB;

    /// <summary>How long it writes before it is moved.</summary>
    internal static readonly TimeSpan Settle = TimeSpan.FromSeconds(2);

    internal static ulong WorkingSet(ulong memoryBytes) => memoryBytes / 4;

    internal static Pause Measure(PauseRow row, ulong memoryBytes)
    {
        string folder = Directory.CreateTempSubdirectory("tidemark-bench-").FullName;
        try
        {
            return Measure(row, memoryBytes, folder);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static Pause Measure(PauseRow row, ulong memoryBytes, string folder)
    {
        string machine = Path.Combine(folder, "machine.json");
        ulong workingSet = WorkingSet(memoryBytes);
        File.WriteAllText(machine, $$"""
            {
              "name": "bench",
              "memory": { "size": {{memoryBytes}}, "prefault": true },
              "workload": { "fill": {{memoryBytes - workingSet - Rest}}, "cpuWorkingSet": {{workingSet}}, "cpuBytesPerSecond": {{row.WritesPerSecond}} }
            }
            """);
        using var destination = ChildProgram.Start(
            MigrationRun.Program, ["receive", machine, "--quiet", "--name", "bench-destination", "--listen", "tcp:127.0.0.1:0", "--tied"], folder);
        using var source = ChildProgram.Start(MigrationRun.Program, ["run", machine, "--quiet", "--tied"], folder);
        string address = destination.ReadUntil(" receives at ").Split(' ').First(word => word.StartsWith("tcp:", StringComparison.Ordinal));
        source.ReadUntil(" runs ");
        Thread.Sleep(Settle);
        using var watch = new HeartbeatWatch(
            [ProcessMemory.Open(source.ProcessId, FileAccess.Read), ProcessMemory.Open(destination.ProcessId, FileAccess.Read)],
            memoryBytes - GuestPage.Size);
        string[] options =
        [
            "--json", "--quiet", "--channels", "2",
            .. row.LimitMilliseconds is { } limit ? ["--downtime-limit", limit.ToString(CultureInfo.InvariantCulture)] : Array.Empty<string>(),
            .. row.LinkBytesPerSecond is { } link ? ["--bandwidth-limit", link.ToString(CultureInfo.InvariantCulture)] : Array.Empty<string>(),
        ];
        using var migrate = ChildProgram.Start(MigrationRun.Program, ["migrate", "bench", address, .. options], folder);
        string result = migrate.ReadUntil("{");
        double gap = watch.End();
        using JsonDocument document = JsonDocument.Parse(result);
        JsonElement root = document.RootElement;
        JsonElement[] passes = [.. root.GetProperty("passes").EnumerateArray()];
        double predicted = passes.Where(pass => !pass.GetProperty("final").GetBoolean())
            .Select(pass => pass.GetProperty("predictedDowntimeMilliseconds")).Where(value => value.ValueKind == JsonValueKind.Number)
            .Select(value => value.GetDouble()).LastOrDefault();
        return new Pause(
            gap, root.GetProperty("downtimeMilliseconds").GetDouble(), predicted, root.GetProperty("bytesSent").GetDouble(), passes.Length,
            root.GetProperty("outcome").GetString() == "completed", root.GetProperty("totalMilliseconds").GetDouble() / 1000,
            row.WritesPerSecond);
    }
}
