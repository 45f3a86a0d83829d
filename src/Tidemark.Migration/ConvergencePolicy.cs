using System.Globalization;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>What to do with the pages of a harvest.</summary>
internal enum ConvergenceStep
{
    AnotherPass,
    SwitchOver,
    GiveUp,
}

/// <summary>What is known when a harvest has been taken.</summary>
/// <param name="PassesDone">Passes acknowledged so far, pass 0 counted.</param>
/// <param name="DirtyPages">Pages in this harvest.</param>
/// <param name="PreviousPages">Pages of the pass before.</param>
/// <param name="PreviousDuration">How long that pass took: the time in which these pages became dirty.</param>
/// <param name="BytesPerSecond">Measured on the wire.</param>
/// <param name="StateBytes">What the parts will have to send after the stop.</param>
/// <param name="HarvestTime">How long the last harvest took.</param>
internal readonly record struct ConvergenceFacts(
    int PassesDone, ulong DirtyPages, ulong PreviousPages, TimeSpan PreviousDuration, double BytesPerSecond,
    ulong StateBytes, TimeSpan HarvestTime)
{
    /// <summary>
    /// Pages are compared with what was sent, and most of them need not be: then what a page costs is what it cost in
    /// the pass before, and not its size on the wire.
    /// </summary>
    public bool ComparesPages { get; init; }
}

/// <summary>The step, the downtime predicted for switching over now, and the sentence that says why.</summary>
internal readonly record struct ConvergenceDecision(ConvergenceStep Step, TimeSpan Predicted, string Reason);

/// <summary>
/// When to stop the machine: as soon as the predicted downtime fits the limit and another pass would not make it much
/// smaller. A pure function of the figures.
/// </summary>
internal static class ConvergencePolicy
{
    /// <summary>Passes before the stop: the full copy, and one that shows how fast the machine writes.</summary>
    public const int LeastPasses = 2;

    /// <summary>
    /// Stands for what is not measured before: stopping, two round trips, starting at the destination.
    /// </summary>
    public static readonly TimeSpan FixedCost = TimeSpan.FromMilliseconds(10);

    /// <summary>A page on the wire: its content and its share of tables and headers.</summary>
    private const double BytesPerPage = GuestPage.Size + PageOverhead;

    private const double PageOverhead = 24;

    public static ConvergenceDecision Decide(in ConvergenceFacts facts, TimeSpan limit, int maximumPasses)
    {
        double rate = Math.Max(facts.BytesPerSecond, 1);
        double pageSeconds = facts.ComparesPages && facts.PreviousPages > 0
            ? facts.DirtyPages * (facts.PreviousDuration.TotalSeconds / facts.PreviousPages)
            : facts.DirtyPages * BytesPerPage / rate;
        double seconds = Math.Min(
            pageSeconds + facts.StateBytes / rate + facts.HarvestTime.TotalSeconds + FixedCost.TotalSeconds,
            TimeSpan.FromDays(365).TotalSeconds);
        TimeSpan predicted = TimeSpan.FromSeconds(seconds);
        bool fits = predicted <= limit;
        bool shrinks = facts.DirtyPages < facts.PreviousPages - facts.PreviousPages / 4;
        bool small = pageSeconds < limit.TotalSeconds / 10;
        string figures = string.Create(CultureInfo.InvariantCulture,
            $"{facts.DirtyPages} pages dirty, {facts.StateBytes} bytes of state, "
                + $"{Words.OfRate(facts.BytesPerSecond)}: {Words.Of(predicted)} of downtime predicted, "
                + $"{Words.Of(limit)} allowed");
        if (fits && facts.PassesDone >= Math.Min(LeastPasses, maximumPasses) && (small || !shrinks))
            return new(ConvergenceStep.SwitchOver, predicted, $"Switching over after {facts.PassesDone} passes: "
                + $"{figures}.");
        if (facts.PassesDone < maximumPasses)
        {
            string why = facts.PassesDone < LeastPasses ? "too few passes to judge" : fits ? "it still shrinks" : "too much";
            return new(ConvergenceStep.AnotherPass, predicted, $"Pass {facts.PassesDone} follows ({why}): {figures}.");
        }

        if (fits)
            return new(ConvergenceStep.SwitchOver, predicted, $"Switching over after the last pass allowed: "
                + $"{figures}.");
        double dirtyRate = facts.DirtyPages * (double)GuestPage.Size / Math.Max(facts.PreviousDuration.TotalSeconds, 1e-6);
        return new(ConvergenceStep.GiveUp, predicted, string.Create(CultureInfo.InvariantCulture,
            $"The machine writes faster than it can be moved: after {facts.PassesDone} passes it dirties "
                + $"{Words.OfRate(dirtyRate)} against a bandwidth of {Words.OfRate(facts.BytesPerSecond)}, which "
                + $"means {Words.Of(predicted)} of downtime ({facts.DirtyPages} pages, {facts.StateBytes} bytes "
                + $"of state) where {Words.Of(limit)} are allowed; raise the downtime limit to at least "
                + $"{Words.Of(predicted)}, or let the machine write less."));
    }
}
