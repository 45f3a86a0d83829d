using System.Globalization;
using System.Text.Json;

namespace Tidemark.Bench;

/// <summary>
/// One migration of a described machine between two processes of the product: the whole of what `bench` asks of it.
/// </summary>
/// <param name="Source">The machine file at the source.</param>
/// <param name="Destination">The machine file at the destination.</param>
internal sealed record MachineMove(string Source, string Destination)
{
    /// <summary>The command line program as users run it: what ./tidemark starts, in this one's configuration.</summary>
    internal static string Program { get; } = Path.GetFullPath(Path.Combine(
        AppContext.BaseDirectory, "..", "..", "..", "tidemark", Path.GetFileName(AppContext.BaseDirectory.TrimEnd('/')), "tidemark.dll"));

    /// <summary>Through a Unix socket instead of TCP.</summary>
    internal bool Unix { get; init; }

    /// <summary>More words for <c>migrate</c>.</summary>
    internal IReadOnlyList<string> MigrateOptions { get; init; } = [];

    /// <summary>More words for <c>receive</c>.</summary>
    internal IReadOnlyList<string> ReceiveOptions { get; init; } = [];

    /// <summary>What is done to the machine before it moves; it gets the source's process.</summary>
    internal Action<int>? Prepare { get; init; }

    /// <summary>How long the machine runs before it moves; null: until both processes have come to rest.</summary>
    internal TimeSpan? Settle { get; init; }

    /// <summary>Processor time in a quarter of a second that counts as rest.</summary>
    internal double RestSeconds { get; init; } = 0.03;

    /// <summary>Free memory that is touched right before: more than the move takes of it.</summary>
    internal ulong WarmBytes { get; init; }

    /// <summary>Where the heartbeat lies in the memory file; null: the guest's own gap is not looked for.</summary>
    internal ulong? HeartbeatOffset { get; init; }

    /// <summary>A migration that is given up is a result, too.</summary>
    internal bool MayGiveUp { get; init; }

    /// <summary>A machine file without devices.</summary>
    /// <param name="filled">Bytes from the beginning that are incompressible.</param>
    /// <param name="writesPerSecond">Bytes a second that the processor writes over its working set.</param>
    internal static string Describe(ulong memoryBytes, ulong filled, bool prefault = true, ulong workingSet = 1 << 20, ulong writesPerSecond = 0) => $$"""
        {
          "name": "bench",
          "memory": { "size": {{memoryBytes}}, "prefault": {{(prefault ? "true" : "false")}} },
          "workload": { "fill": {{filled}}, "cpuWorkingSet": {{workingSet}}, "cpuBytesPerSecond": {{writesPerSecond}} }
        }
        """;

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
        string listen = Unix ? $"unix:{folder}/migration" : "tcp:127.0.0.1:0";
        FreeMemory.Warm(WarmBytes);
        using var destination = ChildProgram.Start(
            Program, ["receive", to, "--quiet", "--name", "bench-destination", "--listen", listen, "--tied", .. ReceiveOptions], folder);
        using var source = ChildProgram.Start(Program, ["run", from, "--quiet", "--tied"], folder);
        string[] receiving = destination.ReadUntil(" receives at ").Split(' ');
        string address = Unix ? listen : receiving.First(word => word.StartsWith("tcp:", StringComparison.Ordinal));
        string kernel = receiving.First(word => word.StartsWith("(kernel=", StringComparison.Ordinal))["(kernel=".Length..].TrimEnd(',');
        source.ReadUntil(" runs ");
        Prepare?.Invoke(source.ProcessId);
        if (Settle is { } time)
            Thread.Sleep(time);
        else
            AwaitRest(source, destination);
        FreeMemory.Warm(WarmBytes);
        using HeartbeatWatch? watch = HeartbeatOffset is { } offset ? Watch(source, destination, offset) : null;
        double before = LookAtWork(source) + Look(destination);
        double lastSource = 0;
        double lastDestination = 0;
        using var ended = new ManualResetEventSlim();
        var observer = new Thread(() =>
        {
            // The source ends when its machine has moved; its last figure before that is at most a few ticks short.
            while (!ended.Wait(5))
            {
                lastSource = Math.Max(lastSource, LookAtWork(source));
                lastDestination = Math.Max(lastDestination, Look(destination));
            }
        });
        using var migrate = ChildProgram.Start(Program, ["migrate", "bench", address, "--json", "--quiet", .. MigrateOptions], folder);
        observer.Start();
        string result = migrate.ReadUntil("{");
        ended.Set();
        observer.Join();
        double gap = watch?.End() ?? 0;
        using JsonDocument document = JsonDocument.Parse(result);
        JsonElement root = document.RootElement;
        bool completed = root.GetProperty("outcome").GetString() == "completed";
        if (!completed && !MayGiveUp)
            throw new InvalidOperationException($"The migration did not complete: {result}");
        return Moved.Of(root, kernel, completed, lastSource + lastDestination - before, gap);
    }

    private static HeartbeatWatch Watch(ChildProgram source, ChildProgram destination, ulong offset) => new(
        [ProcessMemory.Open(source.ProcessId, FileAccess.Read), ProcessMemory.Open(destination.ProcessId, FileAccess.Read)], offset);

    /// <summary>What a process still does after its start (compiling ahead, for one) is no part of a migration.</summary>
    private void AwaitRest(ChildProgram source, ChildProgram destination)
    {
        const int Looks = 40;
        double last = Look(source) + Look(destination);
        for (int look = 0; look < Looks; look++)
        {
            Thread.Sleep(250);
            double now = Look(source) + Look(destination);
            if (now - last < RestSeconds)
                return;
            last = now;
        }
    }

    /// <summary>
    /// Without its first thread: that waits during a migration and, after it, gives the memory back, which for the peer is
    /// not in the figure either.
    /// </summary>
    private static double LookAtWork(ChildProgram program) =>
        Look(program) - (ChildProgram.CpuSecondsOf($"/proc/{program.ProcessId}/task/{program.ProcessId}/stat") ?? 0);

    private static double Look(ChildProgram program) => ChildProgram.CpuSecondsOf(program.ProcessId) ?? 0;
}

/// <summary>What came of it, as <c>migrate --json</c> tells it.</summary>
/// <param name="Completed">False: it was given up.</param>
/// <param name="CpuSeconds">Of both processes, from the command to the completion.</param>
/// <param name="PredictedMilliseconds">The downtime that was promised when the machine was stopped.</param>
/// <param name="GapMilliseconds">How long the guest's heartbeat was silent; 0: it was not looked for.</param>
internal sealed record Moved(
    string Kernel, bool Completed, double Seconds, double PassSeconds, ulong PassBytes, double CpuSeconds, double DowntimeMilliseconds,
    double PredictedMilliseconds, double GapMilliseconds, double BytesSent, int Passes, ulong FinalPassBytes, string Parts)
{
    internal static Moved Of(JsonElement root, string kernel, bool completed, double cpuSeconds, double gapMilliseconds)
    {
        JsonElement[] passes = [.. root.GetProperty("passes").EnumerateArray()];
        double predicted = passes.Where(pass => !pass.GetProperty("final").GetBoolean())
            .Select(pass => pass.GetProperty("predictedDowntimeMilliseconds")).Where(value => value.ValueKind == JsonValueKind.Number)
            .Select(value => value.GetDouble()).LastOrDefault();
        string parts = string.Join(", ", root.GetProperty("downtimeParts").EnumerateArray().Select(part => string.Create(
            CultureInfo.InvariantCulture,
            $"{part.GetProperty("name").GetString()} {part.GetProperty("milliseconds").GetDouble():0}")));
        return new Moved(
            kernel, completed,
            root.GetProperty("totalMilliseconds").GetDouble() / 1000,
            passes[0].GetProperty("milliseconds").GetDouble() / 1000,
            passes[0].GetProperty("bytes").GetUInt64(),
            cpuSeconds,
            root.GetProperty("downtimeMilliseconds").GetDouble(),
            predicted,
            gapMilliseconds,
            root.GetProperty("bytesSent").GetDouble(),
            passes.Length,
            passes[^1].GetProperty("bytes").GetUInt64(),
            parts);
    }
}
