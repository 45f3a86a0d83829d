using System.Globalization;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>The sentences of the policy: each has the figures that led to the decision.</summary>
internal readonly struct ConvergenceSentences(
    in PassFacts facts, in DowntimePrediction now, TimeSpan limit, double bytesPerSecond, double bytesPerPage,
    DirtyModel dirty, TimeSpan? reachable)
{
    private readonly PassFacts _facts = facts;
    private readonly DowntimePrediction _now = now;
    private readonly double _rate = DirtyRate(facts);
    private readonly double _freshRate = dirty.Best.Rate * GuestPage.Size;

    /// <summary>Bytes of guest memory that became dirty a second.</summary>
    public static double DirtyRate(in PassFacts facts) =>
        facts.Interval > TimeSpan.Zero ? facts.FreshPages * (double)GuestPage.Size / facts.Interval.TotalSeconds : 0;

    public string SwitchesOver(int done) => $"Switching over after {Passes(done)}: {Figures()}.";

    public string SwitchesOverAnyway(int done) => $"Switching over after {Passes(done)} although the limit will be "
        + $"exceeded, as asked for: {Figures()}{BestReachable()}.";

    public string GoesOn(int done, ConvergenceVerdict verdict, bool fits, TimeSpan next)
    {
        string why = done < ConvergencePolicy.LeastPasses ? "too few passes to judge"
            : fits ? $"it saves downtime, about {Words.Of(next)} will be left"
            : verdict switch
            {
                ConvergenceVerdict.TooEarly => "too early to judge",
                ConvergenceVerdict.Stalled => "too much, and it does not shrink",
                ConvergenceVerdict.Converging => $"too much, about {Words.Of(next)} will be left",
                ConvergenceVerdict.CanNotConverge => "too much",
                _ => "too much",
            };
        return $"Pass {done} follows ({why}): {Figures()}.";
    }

    public string Waits(int done) => $"Pass {done} follows although the limit can not be reached while the machine writes "
        + $"like this, as asked for: {Figures()}{BestReachable()}.";

    public string Raises(int done, TimeSpan before, TimeSpan after) =>
        $"The downtime limit is raised from {Words.Of(before)} to {Words.Of(after)} after {Passes(done)}, because "
            + $"{CauseAndEvidence()}: {Figures()}.";

    public string Throttles(int done, int percent) => string.Create(CultureInfo.InvariantCulture,
        $"The processors are throttled by {percent} % after {Passes(done)}, because {CauseAndEvidence()}: {Figures()}.");

    public string TimeIsUp(TimeSpan? timeout) =>
        $"the time of {Words.Of(timeout ?? TimeSpan.Zero)} is used up after {Words.Of(_facts.Elapsed)}";

    public string CeilingIsTooLow(int done, TimeSpan ceiling) => GivesUp(
        done, $"the ceiling of {Words.Of(ceiling)} for raising the limit is too low");

    public string GivesUp(int done, string? why) => string.Create(CultureInfo.InvariantCulture,
        $"The machine can not be moved within its downtime limit: after {Passes(done)}"
            + $"{(why is null ? "" : $" ({why})")} {CauseAndEvidence()}, which means {Words.Of(_now.Total)} of downtime "
            + $"({_now.PageCount} pages, {State()} of state) where {Words.Of(limit)} are allowed; raise the downtime limit to "
            + $"at least {Words.Of(Needed())}, give it more bandwidth, or let the machine write less.");

    private TimeSpan Needed()
    {
        TimeSpan need = reachable is { } least && least < _now.Promised ? least : _now.Promised;
        // Rounded up, and never less than what is allowed already.
        return TimeSpan.FromMilliseconds(Math.Ceiling(Math.Max(need.TotalMilliseconds, limit.TotalMilliseconds) * 1.05));
    }

    private string CauseAndEvidence()
    {
        if (_now.Fixed > limit)
        {
            return $"what no pass can make smaller takes {Words.Of(_now.Fixed)} ({State()} of state take "
                + $"{Words.Of(_now.State)} at {Words.OfRate(bytesPerSecond)})";
        }

        double shown = Math.Max(_rate, Math.Min(_freshRate, _rate * 4)) * (bytesPerPage / PageCost.WholePage);
        return $"it dirties {Words.OfRate(shown)} against a bandwidth of {Words.OfRate(bytesPerSecond)}";
    }

    private string Figures() => string.Create(CultureInfo.InvariantCulture,
        $"{_facts.DirtyPages} pages dirty, {State()} of state, {Words.OfRate(_rate)} written at "
            + $"{Words.OfRate(bytesPerSecond)} of bandwidth: {Words.Of(_now.Total)} of downtime predicted "
            + $"(at most {Words.Of(_now.Promised)}), {Words.Of(limit)} allowed");

    private string BestReachable() => reachable is { } least ? $", at best {Words.Of(least)} can be reached" : "";

    private string State() => string.Create(CultureInfo.InvariantCulture,
        $"{(_facts.StateUnknown ? "at least " : "")}{_facts.StateBytes} bytes");

    private static string Passes(int count) =>
        string.Create(CultureInfo.InvariantCulture, $"{count} pass{(count == 1 ? "" : "es")}");
}
