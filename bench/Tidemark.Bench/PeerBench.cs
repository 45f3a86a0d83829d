using System.Globalization;
using System.Text.Json;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>Migrations of the same memory by us and by QEMU, in turns, each pair between two probes of plain loopback.</summary>
internal static class PeerBench
{
    internal static int Run(IReadOnlyList<string> arguments, bool json)
    {
        var given = new BenchArguments("peer") { MemoryBytes = 2UL << 30, Pairs = 5, AllRows = [.. PeerRow.All.Select(row => row.Name)] };
        if (!given.TryRead(arguments))
            return 64;
        if (!BenchArguments.FindProgram("peer") || BenchArguments.FindQemu() is not { } qemu)
            return 1;
        bool met = true;
        using Utf8JsonWriter? writer = json ? new(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true }) : null;
        writer?.WriteStartArray();
        foreach (string name in given.Rows)
            met &= Run(PeerRow.All.Single(row => row.Name == name), qemu, given.MemoryBytes, given.Pairs, writer);
        writer?.WriteEndArray();
        return met ? 0 : 1;
    }

    private static bool Run(PeerRow row, string qemu, ulong memoryBytes, int pairs, Utf8JsonWriter? writer)
    {
        if (writer is null)
            Console.WriteLine($"{row.Name}: {row.Says}; {ByteSize.Format(memoryBytes)}, {pairs} pairs, processors {Environment.ProcessorCount}");
        using var peer = new QemuRun(qemu, row, memoryBytes);
        var measured = new List<PeerPair>();
        Transfer before = Probe(row, memoryBytes);
        for (int pair = 0; pair < pairs; pair++)
        {
            // Turn about, so that neither always runs on the memory that the other has just given back.
            Move theirs = pair % 2 == 0 ? peer.Measure() : default;
            Move ours = MigrationRun.Measure(row, memoryBytes);
            Transfer checkedLoopback = row.ComparesWithChecked ? Probe(row, memoryBytes, LoopbackWork.Checks) : default;
            Transfer reading = row.ComparesWithReading ? ReadBandwidth.OfZeros(memoryBytes, row.Channels) : default;
            Move oursFull = row.ComparesWithFull ? MigrationRun.Measure(row with { Filled = 1 }, memoryBytes) : default;
            if (pair % 2 != 0)
                theirs = peer.Measure();
            Transfer after = Probe(row, memoryBytes);
            var loopback = new Transfer(
                before.Bytes, (before.Seconds + after.Seconds) / 2, (before.CpuSeconds + after.CpuSeconds) / 2, "");
            measured.Add(new PeerPair(loopback, checkedLoopback, reading, ours, oursFull, theirs, BenchArguments.Load()));
            before = after;
            if (writer is null)
                Console.WriteLine($"{pair + 1,4}  loopback {loopback}  ours {Text(ours)}  QEMU {Text(theirs)}  load {BenchArguments.Load()}");
        }

        bool met = true;
        foreach (PeerTarget target in row.Targets)
            met &= Judge(target, measured, writer is null);
        writer?.WriteRawValue(JsonOf(row, memoryBytes, measured));
        return met;
    }

    private static Transfer Probe(PeerRow row, ulong memoryBytes, LoopbackWork work = LoopbackWork.Nothing) =>
        LoopbackRun.Measure(memoryBytes, row.Channels, row.Unix, row.DestinationTouched, work);

    private static (double Median, double Lowest, double Highest) Spread(PeerTarget target, List<PeerPair> measured)
    {
        double[] figures = [.. measured.Select(target.Of).Order()];
        return (figures[figures.Length / 2], figures[0], figures[^1]);
    }

    private static bool Judge(PeerTarget target, List<PeerPair> measured, bool show)
    {
        (double median, double lowest, double highest) = Spread(target, measured);
        bool met = target.IsMet(median);
        if (show)
        {
            string asked = target.Bound is null ? "" : string.Create(
                CultureInfo.InvariantCulture, $"  target {(target.AtLeast ? ">=" : "<=")} {target.Bound:0.00} {(met ? "met" : "MISSED")}");
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture, $"      {target.Name,-26} {median:0.00} ({lowest:0.00}-{highest:0.00}){asked}"));
        }

        return met;
    }

    private static string JsonOf(PeerRow row, ulong memoryBytes, List<PeerPair> measured) => JsonSerializer.Serialize(new
    {
        row = row.Name,
        memoryBytes,
        pairs = measured.Select(pair => new
        {
            loopbackBytesPerSecond = Math.Round(pair.Loopback.BytesPerSecond),
            loopbackCpuSecondsPerGigabyte = Math.Round(pair.Loopback.CpuSecondsPerGigabyte, 3),
            ours = Figures(pair.Ours),
            qemu = Figures(pair.Qemu),
            load = pair.Load,
        }),
        ratios = row.Targets.Select(target =>
        {
            (double median, double lowest, double highest) = Spread(target, measured);
            return new
            {
                name = target.Name,
                median = Math.Round(median, 3),
                lowest = Math.Round(lowest, 3),
                highest = Math.Round(highest, 3),
                target = target.Bound,
                met = target.IsMet(median),
            };
        }),
    });

    private static object Figures(Move move) => new
    {
        milliseconds = Math.Round(move.Seconds * 1000, 1),
        passMilliseconds = Math.Round(move.PassSeconds * 1000, 1),
        cpuSecondsPerGigabyte = Math.Round(move.CpuSecondsPerGigabyte, 3),
        pauseMilliseconds = Math.Round(move.PauseMilliseconds, 1),
    };

    private static string Text(Move move) => string.Create(CultureInfo.InvariantCulture,
        $"{move.Seconds * 1000:0} ms (pass {move.PassSeconds * 1000:0}) {move.BytesPerSecond / 1e9:0.00} GB/s {move.CpuSecondsPerGigabyte:0.00} CPU s/GB pause {move.PauseMilliseconds:0.0} ms");
}
