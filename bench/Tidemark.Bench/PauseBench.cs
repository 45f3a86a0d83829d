using System.Globalization;
using System.Text.Json;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>Machines that write while they move, by us and by QEMU, in turns.</summary>
internal static class PauseBench
{
    private const ulong MiB = 1UL << 20;

    internal static int Run(IReadOnlyList<string> arguments, bool json)
    {
        var given = new BenchArguments("pause")
        {
            MemoryBytes = 1024 * MiB, LeastBytes = 256 * MiB, MostBytes = 3072 * MiB, Pairs = 7,
            AllRows = [.. PauseRow.All.Select(row => row.Name)],
        };
        if (!given.TryRead(arguments))
            return 64;
        if (!BenchArguments.FindProgram("pause") || BenchArguments.FindQemu() is not { } qemu)
            return 1;
        bool met = true;
        var results = new List<object>();
        using var peer = new QemuPause(qemu, given.MemoryBytes);
        foreach (string name in given.Rows)
            met &= Run(PauseRow.All.Single(row => row.Name == name), peer, given.MemoryBytes, given.Pairs, json ? results : null);
        if (json)
            Console.WriteLine(JsonSerializer.Serialize(results, s_indented));
        return met ? 0 : 1;
    }

    private static readonly JsonSerializerOptions s_indented = new() { WriteIndented = true };

    private static bool Run(PauseRow row, QemuPause peer, ulong memoryBytes, int pairs, List<object>? results)
    {
        if (results is null)
            Console.WriteLine($"{row.Name}: {row.Says}; {ByteSize.Format(memoryBytes)}, {pairs} pairs, processors {Environment.ProcessorCount}");
        var measured = new List<PausePair>();
        for (int pair = 0; pair < pairs; pair++)
        {
            Pause theirs = pair % 2 == 0 ? peer.Measure(row) : default;
            Pause ours = OursPause.Measure(row, memoryBytes);
            if (pair % 2 != 0)
                theirs = peer.Measure(row);
            measured.Add(new PausePair(row, ours, theirs, BenchArguments.Load()));
            if (results is null)
                Console.WriteLine($"{pair + 1,4}  ours {Text(ours)}  QEMU {Text(theirs)}  load {BenchArguments.Load()}");
        }

        bool met = true;
        foreach (PauseTarget target in row.Targets)
        {
            double figure = target.Of(measured);
            bool good = target.AtLeast ? figure >= target.Bound : figure <= target.Bound;
            met &= good;
            if (results is null)
            {
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"      {target.Name,-20} {figure:0.00}  target {(target.AtLeast ? ">=" : "<=")} {target.Bound:0.00} {(good ? "met" : "MISSED")}"));
            }
        }

        results?.Add(new
        {
            row = row.Name,
            memoryBytes,
            pairs = measured.Select(pair => new { ours = pair.Ours, qemu = pair.Qemu, load = pair.Load }),
            figures = row.Targets.Select(target => new { name = target.Name, figure = Math.Round(target.Of(measured), 3), target = target.Bound }),
        });
        return met;
    }

    private static string Text(Pause pause) => string.Create(CultureInfo.InvariantCulture,
        $"{(pause.Completed ? "" : "given up, ")}gap {pause.GapMilliseconds:0.0} ms (stated {pause.StatedMilliseconds:0.0}, predicted {pause.PredictedMilliseconds:0.0}) {pause.Passes} passes {pause.Bytes / 1e6:0} MB in {pause.Seconds:0.0} s, wrote {pause.WrittenPerSecond / 1e6:0} MB/s");
}
