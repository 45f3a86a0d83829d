namespace Tidemark.Migration;

/// <summary>What was measured of a machine that is not moved yet.</summary>
public sealed record ForecastFacts
{
    public required ulong MemoryPages { get; init; }

    /// <summary>Harvests, oldest first. Intervals of several lengths tell most, from 0.1 s to some seconds.</summary>
    public required IReadOnlyList<ForecastInterval> Intervals { get; init; }

    /// <summary>Measured, or assumed; it is said in the sentence.</summary>
    public required double BytesPerSecond { get; init; }

    /// <summary>Share of the pages that are not zero, 0 to 1.</summary>
    public double NonZeroShare { get; init; } = 1;

    public TimeSpan HarvestTime { get; init; }

    /// <summary>What parts have to send after the stop.</summary>
    public ulong StateBytes { get; init; }

    public bool StateUnknown { get; init; }

    public FixedCosts Costs { get; init; }
}
