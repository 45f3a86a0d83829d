using System.Globalization;
using Tidemark.Machine.Description;

namespace Tidemark.Bench;

/// <summary>
/// The pause of a machine with four devices against one with a single device, each of 100 MiB of state that moves while the
/// machine stands still and 70 ms to load.
/// </summary>
internal static class DevicesBench
{
    private const string Command = "devices";
    private const string Loopback = "loopback";
    private const string Link = "link-1000";

    private const ulong MiB = 1UL << 20;
    private const ulong StateBytes = 100 * MiB;
    private const double LoadMilliseconds = 70;
    private const int Channels = 4;

    /// <summary>Of the second row, in bytes a second: less than 10 Gbit Ethernet carries, and less than two processors do.</summary>
    private const double LinkBytesPerSecond = 1e9;

    internal static string[] Rows { get; } = [Loopback, Link];

    internal static int Run(IReadOnlyList<string> arguments, bool json)
    {
        var given = new BenchArguments(Command) { MemoryBytes = 256 * MiB, MostBytes = 2048 * MiB, Pairs = 5, AllRows = Rows };
        if (!given.TryRead(arguments))
            return 64;
        if (!BenchArguments.FindProgram(Command))
            return 1;
        string disk = Path.GetTempFileName();
        try
        {
            using (FileStream file = File.OpenWrite(disk))
                file.SetLength((long)(16 * MiB));
            return PairFigures.Report(given.Rows.Select(row => Measure(row, given, disk, !json)), json);
        }
        finally
        {
            File.Delete(disk);
        }
    }

    private static PairFigures Measure(string row, BenchArguments given, string disk, bool show)
    {
        bool linked = row == Link;
        if (show)
            Console.WriteLine($"{row}: 4 devices against 1, {ByteSize.Format(StateBytes)} of state and {LoadMilliseconds} ms to load each, {Channels} streams{(linked ? " of 1 GB/s together" : "")}; {ByteSize.Format(given.MemoryBytes)}, {given.Pairs} pairs");
        var figures = new PairFigures(row);
        Transfer before = linked ? default : LoopbackRun.Measure(512 * MiB, Channels);
        for (int pair = 0; pair < given.Pairs; pair++)
        {
            // Turn about, so that neither always runs on the memory that the other has just given back.
            Moved? one = pair % 2 == 0 ? Move(given.MemoryBytes, 1, disk, linked).Run() : null;
            Moved four = Move(given.MemoryBytes, 4, disk, linked).Run();
            one ??= Move(given.MemoryBytes, 1, disk, linked).Run();
            Transfer after = linked ? default : LoopbackRun.Measure(512 * MiB, Channels);
            double bandwidth = linked ? LinkBytesPerSecond : 2 / ((1 / before.BytesPerSecond) + (1 / after.BytesPerSecond));
            before = after;
            Add(figures, one, four, bandwidth);
            if (show)
            {
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"{pair + 1,4}  {(linked ? "link" : "loopback")} {bandwidth / 1e9:0.00} GB/s  1: {one.DowntimeMilliseconds:0} ms, gap {one.GapMilliseconds:0}  4: {four.DowntimeMilliseconds:0} ms, gap {four.GapMilliseconds:0} ({four.Parts})  load {BenchArguments.Load()}"));
            }
        }

        return figures;
    }

    private static void Add(PairFigures figures, Moved one, Moved four, double bandwidth)
    {
        figures.Add("gap / (bytes / bandwidth + load)", four.GapMilliseconds / Limit(4, four, bandwidth), atMost: 1.1);
        figures.Add("the same of its own downtime", four.DowntimeMilliseconds / Limit(4, four, bandwidth));
        figures.Add("the same of 1 device's gap", one.GapMilliseconds / Limit(1, one, bandwidth));
        figures.Add("gap of 4 / gap of 1", four.GapMilliseconds / one.GapMilliseconds);
        figures.Add("gap of 4, ms", four.GapMilliseconds);
        figures.Add("gap of 1, ms", one.GapMilliseconds);
        figures.Add("bandwidth, GB/s", bandwidth / 1e9);
    }

    /// <summary>What the pause can not be less than: all that moves in it, and one load.</summary>
    private static double Limit(int devices, Moved moved, double bandwidth) =>
        (((ulong)devices * StateBytes + moved.FinalPassBytes) / bandwidth * 1000) + LoadMilliseconds;

    private static MachineMove Move(ulong memoryBytes, int devices, string disk, bool linked)
    {
        string assigned = string.Join(",", Enumerable.Range(1, devices).Select(number => $$"""
            { "name": "dev{{number}}", "host": "0000:0{{number}}:00.0", "arena": "2MiB", "readBytesPerSecond": "1MiB",
              "blockSize": 4096, "queueDepth": 1 }
            """));
        string hardware = string.Join(",", Enumerable.Range(1, devices).Select(number => $$"""
            { "address": "0000:0{{number}}:00.0", "iommu": "iommu0", "disk": "{{disk}}", "internalState": {{StateBytes}},
              "loadMilliseconds": {{LoadMilliseconds}} }
            """));
        string machine = $$"""
            {
              "name": "bench",
              "memory": { "size": {{memoryBytes}}, "prefault": true },
              "workload": { "fill": {{memoryBytes / 2}}, "cpuWorkingSet": {{MiB}}, "cpuBytesPerSecond": 0 },
              "devices": [ {{assigned}} ],
              "softHost": { "iommus": [ { "name": "iommu0" } ], "devices": [ {{hardware}} ] }
            }
            """;
        return new MachineMove(machine, machine)
        {
            // The limit leaves room: how long it takes is what is measured.
            MigrateOptions =
            [
                "--channels", Channels.ToString(CultureInfo.InvariantCulture), "--downtime-limit", "20000",
                .. linked ? ["--bandwidth-limit", LinkBytesPerSecond.ToString("0", CultureInfo.InvariantCulture)] : Array.Empty<string>(),
            ],
            HeartbeatOffset = memoryBytes - 4096,
            // The workload itself takes some.
            RestSeconds = 0.06,
        };
    }
}
