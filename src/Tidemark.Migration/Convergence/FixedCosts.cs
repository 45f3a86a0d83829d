namespace Tidemark.Migration;

/// <summary>
/// What a switchover costs whatever is sent. Null is not measured yet, and a default stands in its place.
/// </summary>
public readonly record struct FixedCosts
{
    private static readonly TimeSpan DefaultRoundTrip = TimeSpan.FromMilliseconds(1);

    // Measured with soft devices, 0 to 4 of them: a workload alone, and what each part adds (a device has two).
    private static readonly TimeSpan DefaultStop = TimeSpan.FromMilliseconds(0.4);

    private static readonly TimeSpan DefaultStopOfPart = TimeSpan.FromMilliseconds(0.3);

    private static readonly TimeSpan DefaultStart = TimeSpan.FromMilliseconds(0.6);

    private static readonly TimeSpan DefaultStartOfPart = TimeSpan.FromMilliseconds(1.3);

    /// <summary>On the control connection. Two lie in the downtime: that of the last pages, and that of Commit.</summary>
    public TimeSpan? RoundTrip { get; init; }

    /// <summary>The shortest seen, before anything was sent perhaps: what it takes when nothing competes, as in the pause.</summary>
    public TimeSpan? LeastRoundTrip { get; init; }

    /// <summary>The workload and all devices come to a stop.</summary>
    public TimeSpan? Stop { get; init; }

    /// <summary>State is loaded, disks change hands, the destination starts.</summary>
    public TimeSpan? Start { get; init; }

    /// <summary>Parts beside the workload that are stopped and started. 0 or more.</summary>
    public int DeviceParts { get; init; }

    internal TimeSpan RoundTripOrDefault => RoundTrip ?? DefaultRoundTrip;

    internal TimeSpan LeastRoundTripOrDefault => LeastRoundTrip ?? RoundTripOrDefault;

    internal TimeSpan StopOrDefault => Stop ?? DefaultStop + (DeviceParts * DefaultStopOfPart);

    internal TimeSpan StartOrDefault => Start ?? DefaultStart + (DeviceParts * DefaultStartOfPart);
}
