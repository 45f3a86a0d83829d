using System.Globalization;
using System.Text.Json;

namespace Tidemark.Bench;

/// <summary>One migration of a described machine between two processes of the product, with the options under test.</summary>
internal sealed record MachineMove(string Source, string Destination)
{
    /// <summary>More words for <c>migrate</c>.</summary>
    internal IReadOnlyList<string> MigrateOptions { get; init; } = [];

    /// <summary>More words for <c>receive</c>.</summary>
    internal IReadOnlyList<string> ReceiveOptions { get; init; } = [];

    /// <summary>What is done to the machine before it moves; it gets the source's process.</summary>
    internal Action<int>? Prepare { get; init; }

    /// <summary>Where the heartbeat lies in the memory file; null: the guest's own gap is not looked for.</summary>
    internal ulong? HeartbeatOffset { get; init; }

    internal Moved Run()
    {
        string folder = Directory.CreateTempSubdirectory("tidemark-bench-").FullName;
        try
        {
            return Run(folder);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private Moved Run(string folder)
    {
        string from = Path.Combine(folder, "source.json");
        string to = Path.Combine(folder, "destination.json");
        File.WriteAllText(from, Source);
        File.WriteAllText(to, Destination);
        using var destination = ChildProgram.Start(
            MigrationRun.Program,
            ["receive", to, "--quiet", "--name", "bench-destination", "--listen", "tcp:127.0.0.1:0", "--tied", .. ReceiveOptions], folder);
        using var source = ChildProgram.Start(MigrationRun.Program, ["run", from, "--quiet", "--tied"], folder);
        string address = destination.ReadUntil(" receives at ").Split(' ')
            .First(word => word.StartsWith("tcp:", StringComparison.Ordinal));
        source.ReadUntil(" runs ");
        Prepare?.Invoke(source.ProcessId);
        AwaitCalm(source, destination);
        using HeartbeatWatch? watch = HeartbeatOffset is { } offset
            ? new HeartbeatWatch([ProcessMemory.Open(source.ProcessId, FileAccess.Read), ProcessMemory.Open(destination.ProcessId, FileAccess.Read)], offset) : null;
        double before = Look(source) + Look(destination);
        using var migrate = ChildProgram.Start(
            MigrationRun.Program, ["migrate", "bench", address, "--json", "--quiet", .. MigrateOptions], folder);
        double cpu = 0;
        using var ended = new ManualResetEventSlim();
        var observer = new Thread(() =>
        {
            // The source ends when its machine has moved; its last figure before that is at most a few ticks short.
            while (!ended.Wait(10))
                cpu = Math.Max(cpu, Look(source) + Look(destination) - before);
        });
        observer.Start();
        string result = migrate.ReadUntil("{");
        ended.Set();
        observer.Join();
        using JsonDocument document = JsonDocument.Parse(result);
        JsonElement root = document.RootElement;
        if (root.GetProperty("outcome").GetString() != "completed")
            throw new InvalidOperationException($"The migration did not complete: {result}");
        return Moved.Of(root, cpu, watch?.End() ?? 0);
    }

    /// <summary>What a process still does after its start (compiling, for one) is no part of a migration.</summary>
    private static void AwaitCalm(ChildProgram source, ChildProgram destination)
    {
        double last = Look(source) + Look(destination);
        for (int look = 0; look < 40; look++)
        {
            Thread.Sleep(250);
            double now = Look(source) + Look(destination);
            // With devices the workload itself takes some.
            if (now - last < 0.06)
                return;
            last = now;
        }
    }

    private static double Look(ChildProgram program) => ChildProgram.CpuSecondsOf(program.ProcessId) ?? 0;
}

/// <summary>What came of it, as <c>migrate --json</c> tells it.</summary>
/// <param name="GapMilliseconds">How long the guest's heartbeat was silent; 0: it was not looked for.</param>
internal sealed record Moved(
    double Seconds, double PassSeconds, ulong PassBytes, double CpuSeconds, double DowntimeMilliseconds, double GapMilliseconds,
    ulong FinalPassBytes, string Parts)
{
    internal static Moved Of(JsonElement root, double cpuSeconds, double gapMilliseconds)
    {
        JsonElement[] passes = [.. root.GetProperty("passes").EnumerateArray()];
        string parts = string.Join(", ", root.GetProperty("downtimeParts").EnumerateArray().Select(part => string.Create(
            CultureInfo.InvariantCulture,
            $"{part.GetProperty("name").GetString()} {part.GetProperty("milliseconds").GetDouble():0}")));
        return new Moved(
            root.GetProperty("totalMilliseconds").GetDouble() / 1000,
            passes[0].GetProperty("milliseconds").GetDouble() / 1000,
            passes[0].GetProperty("bytes").GetUInt64(),
            cpuSeconds,
            root.GetProperty("downtimeMilliseconds").GetDouble(),
            gapMilliseconds,
            passes[^1].GetProperty("bytes").GetUInt64(),
            parts);
    }
}
