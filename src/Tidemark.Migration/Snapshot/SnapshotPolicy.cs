using System.Globalization;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Snapshot;

/// <summary>
/// When to stop a machine that is being saved: as soon as the rest is written within the limit, or another pass would
/// not make it much smaller. Unlike a migration it never gives up: nobody waits at the other side. A pure function of
/// the figures.
/// </summary>
internal static class SnapshotPolicy
{
    /// <param name="dirtyPages">In the harvest after the last pass.</param>
    /// <param name="before">That pass.</param>
    /// <param name="bytesPerSecond">Measured while pages were written.</param>
    public static (bool Stop, string Reason) Decide(
        ulong dirtyPages, SnapshotPass before, double bytesPerSecond, in SnapshotLimits limits)
    {
        double seconds = dirtyPages * (double)GuestPage.Size / Math.Max(bytesPerSecond, 1);
        TimeSpan predicted = TimeSpan.FromSeconds(Math.Min(seconds, TimeSpan.FromDays(365).TotalSeconds));
        string figures = string.Create(CultureInfo.InvariantCulture,
            $"{dirtyPages} pages dirty, {Words.OfRate(bytesPerSecond)}: {Words.Of(predicted)} to write them, "
                + $"{Words.Of(limits.Downtime)} wanted");
        // Half of it: harvest, state and what the machine writes until it stands still come on top.
        if (predicted <= limits.Downtime / 2)
            return (true, $"Stopping the machine, the rest is small: {figures}.");
        if (before.Index + 1 >= limits.MaximumPasses)
            return (true, $"Stopping the machine after the last pass allowed: {figures}.");
        if (before.Index > 0 && dirtyPages >= before.DirtyPages - before.DirtyPages / 4)
            return (true, $"Stopping the machine, the rest does not shrink: {figures}.");
        return (false, $"Pass {before.Index + 1} follows: {figures}.");
    }
}

/// <summary>What a save tries to keep.</summary>
internal readonly record struct SnapshotLimits(TimeSpan Downtime, int MaximumPasses);
