namespace Tidemark.Migration;

/// <summary>A step with everything that led to it.</summary>
public sealed record ConvergenceDecision(
    ConvergenceStep Step, ConvergenceVerdict Verdict, DowntimePrediction Predicted, TimeSpan Limit, string Reason)
{
    /// <summary>
    /// The next pass leaves out the pages that were dirty in the harvest before, too: they would be written again before
    /// the stop, and they fit in the last pass. They stay carried.
    /// </summary>
    public bool HoldBackHot { get; init; }

    /// <summary>The limit from now on, when this decision raised it.</summary>
    public TimeSpan? NewLimit { get; init; }

    /// <summary>The processors' throttle from now on, when this decision changed it; 0 to 99.</summary>
    public int? ThrottlePercent { get; init; }

    /// <summary>
    /// While the pass runs, dirty bits are worth a harvest this often: pages that were written again and have not been
    /// sent yet can be left to the next pass.
    /// </summary>
    public TimeSpan HarvestEvery { get; init; }

    /// <summary>What another pass is expected to leave, as downtime; null when there is too little to tell.</summary>
    public TimeSpan? AfterNextPass { get; init; }

    /// <summary>The smallest downtime that any number of passes is expected to reach; null when there is too little to
    /// tell.</summary>
    public TimeSpan? Reachable { get; init; }

    /// <summary>Bytes a second: what is expected, and what the promise rests on.</summary>
    public double BytesPerSecond { get; init; }

    public double LowBytesPerSecond { get; init; }

    /// <summary>Bytes a second that the machine writes, each page counted once however often it is written.</summary>
    public double DirtyBytesPerSecond { get; init; }
}
