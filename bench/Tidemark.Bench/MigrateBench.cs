using System.Globalization;
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
        ulong memoryBytes = 4UL << 30;
        int channels = 2;
        int pairs = 7;
        for (int index = 0; index < arguments.Count; index += 2)
        {
            string value = index + 1 < arguments.Count ? arguments[index + 1] : "";
            bool good = arguments[index] switch
            {
                "--memory" => ByteSize.TryParse(value, out memoryBytes) && memoryBytes >= 64 * MiB && memoryBytes % (2 * MiB) == 0,
                "--channels" => TryCount(value, 64, out channels),
                "--pairs" => TryCount(value, 99, out pairs),
                _ => false,
            };
            if (!good)
            {
                Console.Error.WriteLine($"bench migrate: {arguments[index]} {value} is not understood.");
                return 64;
            }
        }

        if (!File.Exists(MigrationRun.Program))
        {
            Console.Error.WriteLine($"bench migrate: {MigrationRun.Program} is missing; build src/Tidemark.Cli -c Release first.");
            return 1;
        }

        var measured = new List<(Transfer Loopback, Transfer Migration)>();
        if (!json)
            Console.WriteLine($"memory {ByteSize.Format(memoryBytes)}  channels {channels}  pairs {pairs}, interleaved  processors {Environment.ProcessorCount}  load {Load()}");
        for (int pair = 0; pair < pairs; pair++)
        {
            // Turn about, so that neither always runs on the memory that the other has just given back.
            Transfer loopback = pair % 2 == 0 ? LoopbackRun.Measure(memoryBytes, channels) : default;
            Transfer migration = MigrationRun.Measure(memoryBytes, channels);
            if (pair % 2 != 0)
                loopback = LoopbackRun.Measure(memoryBytes, channels);
            measured.Add((loopback, migration));
            if (!json)
                Console.WriteLine($"pair {pair + 1,2}  loopback {loopback}  migration {migration}  ratio {Ratio(measured[^1]):0.00}  load {Load()}");
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

    private static bool TryCount(string text, int maximum, out int count) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out count) && count >= 1 && count <= maximum;

    /// <summary>Load averages: what else runs on the machine is part of the result.</summary>
    private static string Load() => string.Join(' ', File.ReadAllText("/proc/loadavg").Split(' ')[..3]);

    private static void WriteJson(
        ulong memoryBytes, int channels, List<(Transfer Loopback, Transfer Migration)> measured, double median, double[] ratios)
    {
        using var writer = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        writer.WriteStartObject();
        writer.WriteString("kernel", measured[0].Migration.Kernel);
        writer.WriteNumber("memoryBytes", memoryBytes);
        writer.WriteNumber("channels", channels);
        writer.WriteString("load", Load());
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
