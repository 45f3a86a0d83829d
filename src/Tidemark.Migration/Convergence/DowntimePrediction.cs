namespace Tidemark.Migration;

/// <summary>The downtime of a switchover now, by its parts, in the order in which they happen.</summary>
/// <param name="Stop">Workload and devices come to a stop.</param>
/// <param name="FinalHarvest">The last look at the dirty bits.</param>
/// <param name="State">What devices say after the stop.</param>
/// <param name="Pages">The pages of the last pass.</param>
/// <param name="Start">Loading, the round trip of Commit, starting.</param>
/// <param name="Promised">
/// What the sum becomes with the bandwidth's low estimate and the write rate's high one: this is compared with the limit,
/// while <see cref="Total"/> is what to expect.
/// </param>
public readonly record struct DowntimePrediction(
    TimeSpan Stop, TimeSpan FinalHarvest, TimeSpan State, TimeSpan Pages, TimeSpan Start, TimeSpan Promised)
{
    /// <summary>What to expect.</summary>
    public TimeSpan Total => Stop + FinalHarvest + Pages + State + Start;

    /// <summary>Pages in the last pass, those included that become dirty before the machine stands still.</summary>
    public ulong PageCount { get; init; }

    /// <summary>The part that no further pass can make smaller.</summary>
    public TimeSpan Fixed => Total - Pages;

    /// <summary>The parts with names, as the downtime itself is reported.</summary>
    public IReadOnlyList<DowntimePart> Parts =>
    [
        new("stop", Stop), new("final harvest", FinalHarvest), new("device state", State), new("last pages", Pages),
        new("load and start", Start),
    ];
}
