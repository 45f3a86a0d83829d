namespace Tidemark.Bench;

/// <summary>A machine that writes while it moves, and what is asked of its pause.</summary>
/// <param name="WritesPerSecond">Bytes a second, page by page in random order over the working set; 0: an idle machine.</param>
/// <param name="LimitMilliseconds">The downtime limit; null: each side's default.</param>
/// <param name="PeerLimitMilliseconds">The peer's, where it differs.</param>
/// <param name="LinkBytesPerSecond">What the migration may take; null: all there is.</param>
/// <param name="Converges">False: it can not be moved within the limit, and the question is when that is said.</param>
internal sealed record PauseRow(
    string Name, string Says, ulong WritesPerSecond, int? LimitMilliseconds, int? PeerLimitMilliseconds, ulong? LinkBytesPerSecond, bool Converges)
{
    private const ulong MB = 1_000_000;

    internal required PauseTarget[] Targets { get; init; }

    internal static PauseRow[] All { get; } =
    [
        new("idle", "idle machine, both at their defaults", 0, null, null, null, true)
        {
            Targets = [PauseTarget.Gap(0.1)],
        },
        new("idle-tuned", "idle machine, QEMU's limit 10 ms", 0, null, 10, null, true)
        {
            Targets = [PauseTarget.Gap(1.5)],
        },
        .. from rate in new ulong[] { 200, 800 }
           from limit in new[] { 300, 50 }
           select new PauseRow($"writer-{rate}-{limit}", $"writer of {rate} MB/s, limit {limit} ms", rate * MB, limit, limit, null, true)
           {
               Targets = [PauseTarget.Kept(rate == 200 ? 1 : 0.95), PauseTarget.Gap(1.0), PauseTarget.Error(0.5, 0.15), PauseTarget.Error(0.9, 0.3)],
           },
        new("capped-200", "writer of 200 MB/s, link of 300 MB/s, limit 300 ms", 200 * MB, 300, 300, 300 * MB, true)
        {
            Targets = [PauseTarget.Bytes(1.0), PauseTarget.Passes(0.8)],
        },
        new("capped-400", "writer of 400 MB/s, link of 300 MB/s, limit 300 ms", 400 * MB, 300, 300, 300 * MB, false)
        {
            Targets = [PauseTarget.ToldWithin(3)],
        },
    ];
}

/// <summary>One migration of a machine that writes.</summary>
/// <param name="GapMilliseconds">Longest silence of the machine as seen from outside.</param>
/// <param name="StatedMilliseconds">What the tool itself calls its downtime.</param>
/// <param name="PredictedMilliseconds">What it had predicted when it stopped the machine; 0 where nothing was.</param>
/// <param name="Passes">Rounds through memory, the last one included.</param>
/// <param name="Completed">False: it was given up.</param>
/// <param name="WrittenPerSecond">What the machine really wrote before the migration.</param>
internal readonly record struct Pause(
    double GapMilliseconds, double StatedMilliseconds, double PredictedMilliseconds, double Bytes, int Passes, bool Completed,
    double Seconds, double WrittenPerSecond);

internal sealed record PausePair(PauseRow Row, Pause Ours, Pause Qemu, string Load);

/// <param name="Of">One figure of all pairs.</param>
internal sealed record PauseTarget(string Name, Func<IReadOnlyList<PausePair>, double> Of, double Bound, bool AtLeast)
{
    internal static PauseTarget Gap(double bound) =>
        new("gap / QEMU's", pairs => Quantile(pairs.Select(pair => pair.Ours.GapMilliseconds / pair.Qemu.GapMilliseconds), 0.5), bound, false);

    /// <summary>By our own account on both sides: the watch from outside adds the time between two beats.</summary>
    internal static PauseTarget Kept(double bound) => new(
        "limit kept", pairs => pairs.Average(pair => pair.Ours.StatedMilliseconds <= pair.Row.LimitMilliseconds ? 1.0 : 0.0), bound, true);

    internal static PauseTarget Error(double quantile, double bound) => new(
        $"prediction off, p{quantile * 100:0}",
        pairs => Quantile(pairs.Select(pair => Math.Abs((pair.Ours.PredictedMilliseconds / pair.Ours.StatedMilliseconds) - 1)), quantile),
        bound, false);

    internal static PauseTarget Bytes(double bound) =>
        new("bytes / QEMU's", pairs => Quantile(pairs.Select(pair => pair.Ours.Bytes / pair.Qemu.Bytes), 0.5), bound, false);

    internal static PauseTarget Passes(double bound) =>
        new("passes / QEMU's", pairs => Quantile(pairs.Select(pair => (double)pair.Ours.Passes / pair.Qemu.Passes), 0.5), bound, false);

    internal static PauseTarget ToldWithin(int passes) => new(
        "passes until told", pairs => pairs.Max(pair => pair.Ours.Completed ? double.PositiveInfinity : pair.Ours.Passes), passes, false);

    private static double Quantile(IEnumerable<double> figures, double part)
    {
        double[] sorted = [.. figures.Order()];
        return sorted[(int)Math.Round(part * (sorted.Length - 1))];
    }
}
