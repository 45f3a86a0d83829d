using System.Globalization;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>One migration by the product of a machine whose processor writes at a given rate.</summary>
internal static class OursPause
{
    /// <summary>What is no working set and no fill: the layout's rest.</summary>
    private const ulong Rest = 4 << 20;

    /// <summary>How long it writes before it is moved.</summary>
    internal static readonly TimeSpan Settle = TimeSpan.FromSeconds(2);

    internal static ulong WorkingSet(ulong memoryBytes) => memoryBytes / 4;

    internal static Pause Measure(PauseRow row, ulong memoryBytes)
    {
        ulong workingSet = WorkingSet(memoryBytes);
        string machine = MachineMove.Describe(
            memoryBytes, memoryBytes - workingSet - Rest, workingSet: workingSet, writesPerSecond: row.WritesPerSecond);
        Moved moved = new MachineMove(machine, machine)
        {
            Settle = Settle,
            HeartbeatOffset = memoryBytes - GuestPage.Size,
            MayGiveUp = true,
            MigrateOptions =
            [
                "--channels", "2",
                .. row.LimitMilliseconds is { } limit ? ["--downtime-limit", limit.ToString(CultureInfo.InvariantCulture)] : Array.Empty<string>(),
                .. row.LinkBytesPerSecond is { } link ? ["--bandwidth-limit", link.ToString(CultureInfo.InvariantCulture)] : Array.Empty<string>(),
            ],
        }.Run();
        return new Pause(
            moved.GapMilliseconds, moved.DowntimeMilliseconds, moved.PredictedMilliseconds, moved.BytesSent, moved.Passes, moved.Completed,
            moved.Seconds, row.WritesPerSecond);
    }
}
