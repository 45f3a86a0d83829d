namespace Tidemark.Migration;

/// <summary>
/// What a pass takes beside its pages: threads that wake, the way there and back, the last acknowledgement. The least that
/// was seen counts, because a pass that met a slow moment of the link looks as if it had more.
/// </summary>
internal sealed class PassOverhead
{
    /// <summary>LIMIT: a pass that is longer says more of its pages than of anything else.</summary>
    private static readonly TimeSpan s_longestPass = TimeSpan.FromMilliseconds(200);

    private static readonly TimeSpan s_default = TimeSpan.FromMilliseconds(1);

    private TimeSpan? _least;

    /// <param name="secondsPerPage">What the pages themselves cost.</param>
    public void Add(in PassFacts facts, double secondsPerPage)
    {
        if (facts.Pass == 0 || facts.Duration > s_longestPass)
            return;
        TimeSpan rest = facts.Duration - TimeSpan.FromSeconds(facts.HandledPages * secondsPerPage);
        if (rest < TimeSpan.Zero)
            rest = TimeSpan.Zero;
        if (_least is null || rest < _least)
            _least = rest;
    }

    public TimeSpan Of(in FixedCosts costs) => _least ?? s_default + costs.RoundTripOrDefault;
}
