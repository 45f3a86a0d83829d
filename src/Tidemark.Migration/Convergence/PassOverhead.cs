namespace Tidemark.Migration;

/// <summary>
/// What a pass takes beside its pages: threads that wake, the way there and back, the last acknowledgement. The least that
/// was seen counts, because a pass that met a slow moment of the link looks as if it had more.
/// </summary>
internal sealed class PassOverhead
{
    /// <summary>LIMIT: a pass that is longer says more of its pages than of anything else.</summary>
    private static readonly TimeSpan s_longestPass = TimeSpan.FromMilliseconds(200);

    /// <summary>
    /// Of a pass whose pages took more than this part of it, the rest is a small difference of large numbers: it can make the
    /// first guess smaller, and not larger.
    /// </summary>
    private const double MostlyPages = 0.8;

    private static readonly TimeSpan s_default = TimeSpan.FromMilliseconds(1.5);

    private TimeSpan? _least;

    /// <param name="secondsPerPage">What the pages themselves cost.</param>
    public void Add(in PassFacts facts, double secondsPerPage)
    {
        if (facts.Pass == 0 || facts.Duration > s_longestPass)
            return;
        var pages = TimeSpan.FromSeconds(facts.HandledPages * secondsPerPage);
        TimeSpan rest = facts.Duration - pages;
        TimeSpan guess = Guess(facts.Costs);
        if (pages > MostlyPages * facts.Duration && rest > guess)
            rest = guess;
        if (rest < TimeSpan.Zero)
            rest = TimeSpan.Zero;
        if (_least is null || rest < _least)
            _least = rest;
    }

    public TimeSpan Of(in FixedCosts costs) => _least ?? Guess(costs);

    private static TimeSpan Guess(in FixedCosts costs) => s_default + costs.LeastRoundTripOrDefault;
}
