using System.Globalization;
using System.Runtime.InteropServices;
using Tidemark.Bench;
using Tidemark.Bench.Soak;

// Measures ratios on this machine: each figure has its yardstick measured beside it, in turns, in the same process.
bool json = args.Contains("--json");
string[] rest = [.. args.Where(argument => argument != "--json")];
// A soak takes turns with measurements, round by round; the sides of loopback belong to one that measures.
using QuietMachine? quiet = rest is ["soak" or "loopback-send" or "loopback-receive", ..] ? null : QuietMachine.Hold();
// Ctrl-C ends it as SIGTERM does, so that the memory of a peer's machine does not stay in /dev/shm.
using PosixSignalRegistration? interrupt = quiet is null ? null : PosixSignalRegistration.Create(PosixSignal.SIGINT, signal =>
{
    signal.Cancel = true;
    Environment.Exit(130);
});
return rest switch
{
    ["kernels"] => KernelsBench.Run(json),
    ["pipeline"] => PipelineBench.Run(json),
    ["soft"] => SoftBench.Run(json),
    ["migrate", ..] => MigrateBench.Run(rest[1..], json),
    ["peer", ..] => PeerBench.Run(rest[1..], json),
    ["pause", ..] => PauseBench.Run(rest[1..], json),
    ["snapshot", ..] => SnapshotBench.Run(rest[1..], json),
    ["options", ..] => OptionsBench.Run(rest[1..], json),
    ["devices", ..] => DevicesBench.Run(rest[1..], json),
    ["soak", ..] => SoakBench.Run(rest[1..], json),
    // The two sides of plain loopback, started by `migrate` and `peer`.
    ["loopback-send", var bytes, var channels, var address, var work] =>
        LoopbackRun.Send(Size(bytes), Count(channels), address, (LoopbackWork)Count(work)),
    ["loopback-receive", var bytes, var channels, var kind, var state, var work] =>
        LoopbackRun.Receive(Size(bytes), Count(channels), kind == "unix", state == "touched", (LoopbackWork)Count(work)),
    _ => Usage(),
};

static ulong Size(string text) => ulong.Parse(text, CultureInfo.InvariantCulture);

static int Count(string text) => int.Parse(text, CultureInfo.InvariantCulture);

static int Usage()
{
    Console.Error.WriteLine("Usage: Tidemark.Bench kernels [--json]");
    Console.Error.WriteLine("       Tidemark.Bench pipeline [--json]");
    Console.Error.WriteLine("       Tidemark.Bench soft [--json]");
    Console.Error.WriteLine("       Tidemark.Bench migrate [--memory 4GiB] [--channels 2] [--pairs 7] [--json]");
    Console.Error.WriteLine("       Tidemark.Bench peer [--row NAME]... [--memory 2GiB] [--pairs 5] [--json]");
    Console.Error.WriteLine("       Tidemark.Bench pause [--row NAME]... [--memory 2GiB] [--pairs 7] [--json]");
    Console.Error.WriteLine("       Tidemark.Bench snapshot [--memory SIZE] [--pairs 5] [--json]");
    Console.Error.WriteLine("       Tidemark.Bench devices [--row NAME]... [--memory SIZE] [--pairs 5] [--json]");
    Console.Error.WriteLine("       Tidemark.Bench options [--row NAME]... [--memory 1GiB] [--pairs 5] [--json]");
    Console.Error.WriteLine("       Tidemark.Bench soak [--minutes 10] [--seed S [--round K]] [--rounds N] [--steps | --phases] [--plant NAME] [--json]");
    Console.Error.WriteLine("  kernels   zero-page test, clean bitmap scan and page hash against plain reading");
    Console.Error.WriteLine("  pipeline  merging dirty bitmaps of 1 TiB and cutting them into runs against the same in C (needs gcc)");
    Console.Error.WriteLine("  soft      DMA through the soft kernel's IOMMU and its dirty bits against plain copying and reading");
    Console.Error.WriteLine("  migrate   the first pass of a migration against plain TCP between two processes");
    Console.Error.WriteLine("  peer      whole migrations by us and by QEMU in turns; rows: " + string.Join(", ", PeerRow.All.Select(row => row.Name)));
    Console.Error.WriteLine("  pause     how long machines that write stand still, by us and by QEMU in turns (needs as and ld); rows: " + string.Join(", ", PauseRow.All.Select(row => row.Name)));
    Console.Error.WriteLine("  snapshot  a machine saved to a file in the temporary folder and restored, by us and by QEMU (mapped-ram) in turns");
    Console.Error.WriteLine("  devices   the pause with four devices of 100 MiB of state and 70 ms to load against one such device; rows: " + string.Join(", ", DevicesBench.Rows));
    Console.Error.WriteLine("  options   migrations with an option and without, in turns; rows: " + string.Join(", ", OptionsBench.Rows));
    Console.Error.WriteLine("  soak      migrations back and forth with random cuts, kills and cancels; what may not be is told with its seed");
    return 64;
}
