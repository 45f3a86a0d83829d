using System.Globalization;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// What a migration would be like, from harvests of a machine that nobody moves: the policy that decides real migrations
/// decides this one, and the passes are computed instead of sent.
/// </summary>
public sealed class MigrationForecast
{
    private MigrationForecast(
        IReadOnlyList<ForecastPass> passes, ConvergenceDecision decision, TimeSpan duration, ulong bytes, string reason)
    {
        Passes = passes;
        Decision = decision;
        Duration = duration;
        Bytes = bytes;
        Reason = reason;
    }

    /// <summary>Passes before the stop, and after a switchover the last one.</summary>
    public IReadOnlyList<ForecastPass> Passes { get; }

    /// <summary>How it would end.</summary>
    public ConvergenceDecision Decision { get; }

    /// <summary>The downtime, by its parts.</summary>
    public DowntimePrediction Downtime => Decision.Predicted;

    /// <summary>It would be moved, within the limit that the decision names.</summary>
    public bool Converges => Decision.Step == ConvergenceStep.SwitchOver;

    /// <summary>Bytes a second at which it would be; null when it is, or when no bandwidth would do.</summary>
    public double? NeedsBytesPerSecond { get; private init; }

    /// <summary>All passes and the downtime.</summary>
    public TimeSpan Duration { get; }

    public ulong Bytes { get; }

    /// <summary>One sentence with the figures.</summary>
    public string Reason { get; }

    /// <exception cref="ArgumentException">No interval was measured, or the bandwidth is not positive.</exception>
    public static MigrationForecast Make(ForecastFacts facts, ConvergenceOptions options)
    {
        ArgumentNullException.ThrowIfNull(facts);
        ArgumentNullException.ThrowIfNull(options);
        if (facts.Intervals.Count == 0)
            throw new ArgumentException("A forecast needs at least one harvest interval.", nameof(facts));
        if (!(facts.BytesPerSecond > 0))
            throw new ArgumentException($"A bandwidth of {facts.BytesPerSecond} bytes a second moves nothing.", nameof(facts));
        MigrationForecast forecast = Run(facts, options, facts.BytesPerSecond);
        if (forecast.Converges)
            return forecast;
        double? needed = FindBandwidth(facts, options);
        string remedy = needed is { } rate ? $"needs at least {Words.OfRate(rate)}, or a limit of"
            : "no bandwidth would do, it needs a limit of";
        TimeSpan limit = forecast.Decision.Reachable ?? forecast.Downtime.Promised;
        return new(
            forecast.Passes, forecast.Decision, forecast.Duration, forecast.Bytes, string.Create(CultureInfo.InvariantCulture,
                $"Will not converge at {Words.OfRate(facts.BytesPerSecond)} within {Words.Of(forecast.Decision.Limit)}: "
                    + $"{remedy} {Words.Of(limit)} (after {forecast.Passes.Count} passes "
                    + $"{Words.Of(forecast.Downtime.Total)} of downtime would be left)."))
        {
            NeedsBytesPerSecond = needed,
        };
    }

    private static MigrationForecast Run(ForecastFacts facts, ConvergenceOptions options, double bytesPerSecond)
    {
        var policy = new ConvergencePolicy(options, facts.MemoryPages);
        foreach (ForecastInterval interval in facts.Intervals)
            policy.Observe(interval.DirtyPages, interval.Duration);
        DirtyModel.Curve curve = policy.Dirty.Best;
        var passes = new List<ForecastPass>();
        ulong pages = facts.MemoryPages;
        ulong sent = (ulong)(facts.MemoryPages * facts.NonZeroShare);
        ulong bytes = 0;
        TimeSpan elapsed = TimeSpan.Zero;
        for (int pass = 0; ; pass++)
        {
            ulong passBytes = (ulong)(sent * PageCost.WholePage);
            // Time beyond ten thousand years is not a forecast any more.
            TimeSpan duration = facts.Costs.RoundTripOrDefault
                + TimeSpan.FromSeconds(Math.Min(passBytes / bytesPerSecond, TimeSpan.FromDays(3650).TotalSeconds));
            bytes += passBytes;
            elapsed += duration;
            passes.Add(new ForecastPass(pass, pages, passBytes, duration));
            TimeSpan interval = duration + facts.HarvestTime;
            ulong dirty = (ulong)curve.Pages(interval.TotalSeconds);
            policy.Sent(passBytes, duration);
            ConvergenceDecision decision = policy.Decide(new PassFacts
            {
                Pass = pass,
                DirtyPages = dirty,
                FreshPages = dirty,
                Interval = interval,
                SinceHarvest = facts.HarvestTime,
                SentPages = sent,
                ZeroPages = pages - sent,
                Bytes = passBytes,
                Duration = duration,
                HarvestTime = facts.HarvestTime,
                StateBytes = facts.StateBytes,
                StateUnknown = facts.StateUnknown,
                Costs = facts.Costs,
                Elapsed = elapsed,
            });
            if (decision.Step == ConvergenceStep.AnotherPass)
            {
                pages = sent = dirty;
                continue;
            }

            string reason = decision.Reason;
            if (decision.Step == ConvergenceStep.SwitchOver)
            {
                ulong last = (ulong)(decision.Predicted.PageCount * PageCost.WholePage) + facts.StateBytes;
                passes.Add(new ForecastPass(pass + 1, decision.Predicted.PageCount, last, decision.Predicted.Total));
                bytes += last;
                elapsed += decision.Predicted.Total;
                reason = string.Create(CultureInfo.InvariantCulture,
                    $"Would take {passes.Count} passes, {bytes >> 20} MiB and {Words.Of(elapsed)} at "
                        + $"{Words.OfRate(bytesPerSecond)}, with {Words.Of(decision.Predicted.Total)} of downtime (at most "
                        + $"{Words.Of(decision.Predicted.Promised)}, {Words.Of(decision.Limit)} allowed).");
            }

            return new(passes, decision, elapsed, bytes, reason);
        }
    }

    /// <summary>To about one percent; null when a thousand times the bandwidth does not do.</summary>
    private static double? FindBandwidth(ForecastFacts facts, ConvergenceOptions options)
    {
        double low = facts.BytesPerSecond;
        double high = low * 1000;
        ConvergenceOptions plain = options with { WhenStuck = WhenStuck.GiveUp };
        if (!Run(facts, plain, high).Converges)
            return null;
        while (high > 1.01 * low)
        {
            double middle = Math.Sqrt(low * high);
            if (Run(facts, plain, middle).Converges)
                high = middle;
            else
                low = middle;
        }

        return high;
    }
}
