namespace Tidemark.Migration;

/// <summary>When the machine may be stopped, and what to do when that moment does not come.</summary>
public sealed record ConvergenceOptions
{
    /// <summary>How long the machine may stand still.</summary>
    public TimeSpan DowntimeLimit { get; init; } = TimeSpan.FromMilliseconds(300);

    /// <summary>Passes while the machine runs, pass 0 counted; what follows the stop is not.</summary>
    public int MaximumPasses { get; init; } = 60;

    /// <summary>Time for all passes together; null: no limit. Looked at after each pass, it cuts none short.</summary>
    public TimeSpan? Timeout { get; init; }

    public WhenStuck WhenStuck { get; init; } = WhenStuck.GiveUp;

    /// <summary>For <see cref="WhenStuck.RaiseLimit"/>: never more than this.</summary>
    public TimeSpan LimitCeiling { get; init; } = TimeSpan.FromSeconds(3);

    /// <summary>For <see cref="WhenStuck.RaiseLimit"/>: equal steps from the limit to the ceiling.</summary>
    public int LimitSteps { get; init; } = 8;

    /// <summary>For <see cref="WhenStuck.Throttle"/>: the first step, in percent of the processors' time.</summary>
    public int ThrottleFirst { get; init; } = 20;

    /// <summary>For <see cref="WhenStuck.Throttle"/>: each further step.</summary>
    public int ThrottleStep { get; init; } = 10;

    /// <summary>For <see cref="WhenStuck.Throttle"/>: the last step.</summary>
    public int ThrottleMaximum { get; init; } = 99;

    /// <exception cref="ArgumentOutOfRangeException">An option is outside its range.</exception>
    public void Check()
    {
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(DowntimeLimit, TimeSpan.Zero);
        ArgumentOutOfRangeException.ThrowIfLessThan(MaximumPasses, 1);
        if (Timeout is { } timeout)
            ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(timeout, TimeSpan.Zero, nameof(Timeout));
        if (WhenStuck == WhenStuck.RaiseLimit)
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(LimitCeiling, DowntimeLimit);
            ArgumentOutOfRangeException.ThrowIfLessThan(LimitSteps, 1);
        }

        ArgumentOutOfRangeException.ThrowIfLessThan(ThrottleFirst, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(ThrottleStep, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(ThrottleMaximum, ThrottleFirst);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(ThrottleMaximum, 99);
    }
}
