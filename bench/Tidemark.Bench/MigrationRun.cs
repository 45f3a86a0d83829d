using System.Globalization;
using System.Text.Json;

namespace Tidemark.Bench;

/// <summary>
/// One migration by the product: two processes, a machine whose memory is nearly all incompressible, no devices, and a
/// processor that writes one page. The figure is pass 0, which carries all memory; it begins after write protection of
/// all memory has been armed.
/// </summary>
internal static class MigrationRun
{
    private const ulong MiB = 1UL << 20;

    /// <summary>What the layout takes at least: working set, heartbeat.</summary>
    private const ulong NotFilled = 4 * MiB;

    /// <summary>The command line program as users run it: what ./tidemark starts.</summary>
    internal static string Program { get; } = Path.GetFullPath(
        Path.Combine(AppContext.BaseDirectory, "..", "..", "..", "tidemark", "tidemark.dll"));

    internal static Transfer Measure(ulong memoryBytes, int channels)
    {
        var row = new PeerRow("migrate", "", channels, false, 1, true, true) { Targets = [] };
        (Move move, ulong bytes, string kernel) = MeasureAll(row, memoryBytes);
        return new Transfer(bytes, move.PassSeconds, move.CpuSeconds, kernel);
    }

    internal static Move Measure(PeerRow row, ulong memoryBytes) => MeasureAll(row, memoryBytes).Move;

    private static (Move Move, ulong PassBytes, string Kernel) MeasureAll(PeerRow row, ulong memoryBytes)
    {
        string folder = Directory.CreateTempSubdirectory("tidemark-bench-").FullName;
        try
        {
            string from = WriteMachine(folder, "source.json", row, memoryBytes, row.SourceTouched);
            string to = WriteMachine(folder, "destination.json", row, memoryBytes, row.DestinationTouched);
            return Measure(folder, from, to, row, memoryBytes);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static string WriteMachine(string folder, string name, PeerRow row, ulong memoryBytes, bool touched)
    {
        ulong filled = (ulong)(memoryBytes * row.Filled) / MiB * MiB;
        string file = Path.Combine(folder, name);
        File.WriteAllText(file, $$"""
            {
              "name": "bench",
              "memory": { "size": {{memoryBytes}}, "prefault": {{(touched ? "true" : "false")}} },
              "workload": { "fill": {{Math.Min(filled, memoryBytes - NotFilled)}}, "cpuWorkingSet": {{MiB}}, "cpuBytesPerSecond": 0 }
            }
            """);
        return file;
    }

    private static (Move Move, ulong PassBytes, string Kernel) Measure(
        string folder, string from, string to, PeerRow row, ulong memoryBytes)
    {
        string listen = row.Unix ? $"unix:{folder}/migration" : "tcp:127.0.0.1:0";
        using var destination = ChildProgram.Start(
            Program, ["receive", to, "--quiet", "--name", "bench-destination", "--listen", listen, "--tied"], folder);
        using var source = ChildProgram.Start(Program, ["run", from, "--quiet", "--tied"], folder);
        string[] receiving = destination.ReadUntil(" receives at ").Split(' ');
        string address = row.Unix ? listen : receiving.First(word => word.StartsWith("tcp:", StringComparison.Ordinal));
        string kernel = receiving.First(word => word.StartsWith("(kernel=", StringComparison.Ordinal))["(kernel=".Length..].TrimEnd(',');
        source.ReadUntil(" runs ");

        AwaitCalm(source, destination);
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
        using var migrate = ChildProgram.Start(
            Program, ["migrate", "bench", address, "--channels", row.Channels.ToString(CultureInfo.InvariantCulture), "--json", "--quiet"], folder);
        observer.Start();
        string result = migrate.ReadUntil("{");
        ended.Set();
        observer.Join();
        using JsonDocument document = JsonDocument.Parse(result);
        JsonElement root = document.RootElement;
        if (root.GetProperty("outcome").GetString() != "completed")
            throw new InvalidOperationException($"The migration did not complete: {result}");
        JsonElement pass = root.GetProperty("passes")[0];
        var move = new Move(
            memoryBytes,
            root.GetProperty("totalMilliseconds").GetDouble() / 1000,
            pass.GetProperty("milliseconds").GetDouble() / 1000,
            lastSource + lastDestination - before,
            root.GetProperty("downtimeMilliseconds").GetDouble());
        return (move, pass.GetProperty("bytes").GetUInt64(), kernel);
    }

    /// <summary>What a process still does after its start (compiling ahead, for one) is no part of a migration.</summary>
    private static void AwaitCalm(ChildProgram source, ChildProgram destination)
    {
        const int Looks = 40;
        double last = Look(source) + Look(destination);
        for (int look = 0; look < Looks; look++)
        {
            Thread.Sleep(250);
            double now = Look(source) + Look(destination);
            if (now - last < 0.03)
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
