using System.Globalization;

namespace Tidemark.Bench;

/// <summary>
/// One migration by the product as `migrate` and `peer` have it: a machine whose memory is nearly all incompressible, no
/// devices, and a processor that writes one page.
/// </summary>
internal static class MigrationRun
{
    private const ulong MiB = 1UL << 20;

    /// <summary>What the layout takes at least: working set, heartbeat.</summary>
    private const ulong NotFilled = 4 * MiB;

    /// <summary>The figure is pass 0, which carries all memory and begins after all of it was write-protected.</summary>
    internal static Transfer Measure(ulong memoryBytes, int channels)
    {
        Moved moved = Run(new PeerRow("migrate", "", channels, false, 1, true, true) { Targets = [] }, memoryBytes);
        return new Transfer(moved.PassBytes, moved.PassSeconds, moved.CpuSeconds, moved.Kernel);
    }

    internal static Move Measure(PeerRow row, ulong memoryBytes)
    {
        Moved moved = Run(row, memoryBytes);
        return new Move(memoryBytes, moved.Seconds, moved.PassSeconds, moved.CpuSeconds, moved.DowntimeMilliseconds);
    }

    private static Moved Run(PeerRow row, ulong memoryBytes)
    {
        ulong filled = Math.Min((ulong)(memoryBytes * row.Filled) / MiB * MiB, memoryBytes - NotFilled);
        return new MachineMove(
            MachineMove.Describe(memoryBytes, filled, row.SourceTouched), MachineMove.Describe(memoryBytes, filled, row.DestinationTouched))
        {
            Unix = row.Unix,
            WarmBytes = 2 * memoryBytes,
            MigrateOptions = ["--channels", row.Channels.ToString(CultureInfo.InvariantCulture)],
        }.Run();
    }
}
