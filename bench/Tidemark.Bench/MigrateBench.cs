using System.Text.Json;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>
/// How near a migration's first pass comes to what the same number of plain TCP streams carry between two processes of
/// this machine, measured in turns.
/// </summary>
internal static class MigrateBench
{
    private const double Target = 0.60;
    private const ulong MiB = 1UL << 20;

    internal static int Run(IReadOnlyList<string> arguments, bool json)
    {
        var given = new BenchArguments("migrate") { MemoryBytes = 4UL << 30, Pairs = 7, Channels = 2 };
        if (!given.TryRead(arguments))
            return 64;
        if (!BenchArguments.FindProgram("migrate"))
            return 1;
        (ulong memoryBytes, int channels, int pairs) = (given.MemoryBytes, given.Channels, given.Pairs);
        var measured = new List<(Transfer Loopback, Transfer Migration)>();
        if (!json)
            Console.WriteLine($"memory {ByteSize.Format(memoryBytes)}  channels {channels}  pairs {pairs}, interleaved  processors {Environment.ProcessorCount}  load {BenchArguments.Load()}");
        for (int pair = 0; pair < pairs; pair++)
        {
            // Turn about, so that neither always runs on the memory that the other has just given back.
            Transfer loopback = pair % 2 == 0 ? LoopbackRun.Measure(memoryBytes, channels) : default;
            Transfer migration = MigrationRun.Measure(memoryBytes, channels);
            if (pair % 2 != 0)
                loopback = LoopbackRun.Measure(memoryBytes, channels);
            measured.Add((loopback, migration));
            if (!json)
                Console.WriteLine($"pair {pair + 1,2}  loopback {loopback}  migration {migration}  ratio {Ratio(measured[^1]):0.00}  load {BenchArguments.Load()}");
        }

        double[] ratios = [.. measured.Select(Ratio).Order()];
        double median = ratios[ratios.Length / 2];
        if (json)
            WriteJson(memoryBytes, channels, measured, median, ratios);
        else
            Console.WriteLine($"kernel={measured[0].Migration.Kernel}  median ratio {median:0.00} ({ratios[0]:0.00}-{ratios[^1]:0.00})  target {Target:0.00} {(median >= Target ? "met" : "MISSED")}");
        return median >= Target ? 0 : 1;
    }

    private static double Ratio((Transfer Loopback, Transfer Migration) pair) =>
        pair.Migration.BytesPerSecond / pair.Loopback.BytesPerSecond;

    private static void WriteJson(
        ulong memoryBytes, int channels, List<(Transfer Loopback, Transfer Migration)> measured, double median, double[] ratios)
    {
        using var writer = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        writer.WriteStartObject();
        writer.WriteString("kernel", measured[0].Migration.Kernel);
        writer.WriteNumber("memoryBytes", memoryBytes);
        writer.WriteNumber("channels", channels);
        writer.WriteString("load", BenchArguments.Load());
        writer.WriteStartArray("pairs");
        foreach ((Transfer loopback, Transfer migration) in measured)
        {
            writer.WriteStartObject();
            writer.WriteNumber("loopbackBytesPerSecond", Math.Round(loopback.BytesPerSecond));
            writer.WriteNumber("migrationBytesPerSecond", Math.Round(migration.BytesPerSecond));
            writer.WriteNumber("loopbackCpuSecondsPerGigabyte", Math.Round(loopback.CpuSecondsPerGigabyte, 3));
            writer.WriteNumber("migrationCpuSecondsPerGigabyte", Math.Round(migration.CpuSecondsPerGigabyte, 3));
            writer.WriteNumber("ratio", Math.Round(Ratio((loopback, migration)), 3));
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        writer.WriteNumber("ratio", Math.Round(median, 3));
        writer.WriteNumber("ratioMinimum", Math.Round(ratios[0], 3));
        writer.WriteNumber("ratioMaximum", Math.Round(ratios[^1], 3));
        writer.WriteNumber("target", Target);
        writer.WriteEndObject();
        writer.Flush();
        Console.WriteLine();
    }
}
