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

    /// <summary>The command line program, built into the same output folder and configuration as this one.</summary>
    internal static string Program { get; } = Path.GetFullPath(
        Path.Combine(AppContext.BaseDirectory, "..", "..", "Tidemark.Cli", Path.GetFileName(AppContext.BaseDirectory.TrimEnd('/')), "tidemark.dll"));

    internal static Transfer Measure(ulong memoryBytes, int channels)
    {
        string folder = Directory.CreateTempSubdirectory("tidemark-bench-").FullName;
        try
        {
            string file = Path.Combine(folder, "machine.json");
            File.WriteAllText(file, $$"""
                {
                  "name": "bench",
                  "memory": { "size": {{memoryBytes}}, "prefault": true },
                  "workload": { "fill": {{memoryBytes - NotFilled}}, "cpuWorkingSet": {{MiB}}, "cpuBytesPerSecond": 0 }
                }
                """);
            return Measure(folder, file, channels);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static Transfer Measure(string folder, string file, int channels)
    {
        using var destination = ChildProgram.Start(
            Program, ["receive", file, "--quiet", "--name", "bench-destination", "--listen", "tcp:127.0.0.1:0", "--tied"], folder);
        using var source = ChildProgram.Start(Program, ["run", file, "--quiet", "--tied"], folder);
        string[] receiving = destination.ReadUntil(" receives at ").Split(' ');
        string address = receiving.First(word => word.StartsWith("tcp:", StringComparison.Ordinal));
        string kernel = receiving.First(word => word.StartsWith("(kernel=", StringComparison.Ordinal))["(kernel=".Length..].TrimEnd(',');
        source.ReadUntil(" runs ");

        double before = Look(source) + Look(destination);
        double after = before;
        using var ended = new ManualResetEventSlim();
        double lastSource = 0;
        double lastDestination = 0;
        var observer = new Thread(() =>
        {
            // The source ends when its machine has moved; its last figure before that is at most a few ticks short.
            while (!ended.Wait(5))
            {
                lastSource = Math.Max(lastSource, Look(source));
                lastDestination = Math.Max(lastDestination, Look(destination));
            }
        });
        observer.Start();
        string json;
        using (var migrate = ChildProgram.Start(
            Program, ["migrate", "bench", address, "--channels", channels.ToString(CultureInfo.InvariantCulture), "--json", "--quiet"], folder))
        {
            json = migrate.ReadToEnd();
        }

        ended.Set();
        observer.Join();
        after = lastSource + lastDestination;
        string result = json.Split('\n').Last(line => line.StartsWith('{'));
        using JsonDocument document = JsonDocument.Parse(result);
        if (document.RootElement.GetProperty("outcome").GetString() != "completed")
            throw new InvalidOperationException($"The migration did not complete: {result}");
        JsonElement pass = document.RootElement.GetProperty("passes")[0];
        return new Transfer(
            pass.GetProperty("bytes").GetUInt64(), pass.GetProperty("milliseconds").GetDouble() / 1000, after - before, kernel);
    }

    private static double Look(ChildProgram program) => ChildProgram.CpuSecondsOf(program.ProcessId) ?? 0;
}
