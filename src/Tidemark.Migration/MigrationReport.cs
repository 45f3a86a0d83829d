using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>The figures of one migration.</summary>
public sealed record MigrationReport
{
    public IReadOnlyList<PassReport> Passes { get; init; } = [];

    public IReadOnlyList<PartReport> Parts { get; init; } = [];

    /// <summary>The source's stop to the destination's start, as seen here, verification taken out.</summary>
    public TimeSpan Downtime { get; init; }

    /// <summary>The parts of <see cref="Downtime"/>, in order; they sum to it.</summary>
    public IReadOnlyList<DowntimePart> DowntimeParts { get; init; } = [];

    /// <summary>What the destination measured of the hand-over; contained in <see cref="DowntimeParts"/>.</summary>
    public IReadOnlyList<DowntimePart> DestinationTimes { get; init; } = [];

    /// <summary>Time spent hashing and comparing.</summary>
    public TimeSpan VerifyTime { get; init; }

    public TimeSpan TotalTime { get; init; }

    /// <summary>Bytes put on the wire, all channels, both framing and content.</summary>
    public ulong BytesSent { get; init; }

    /// <summary>The bytes of each connection: at the source those sent, at the destination those that channels
    /// received.</summary>
    public IReadOnlyList<ChannelReport> Channels { get; init; } = [];

    /// <summary>Lost connections after which the migration was to go on.</summary>
    public int Retries { get; init; }

    /// <summary>Pages whose hash differed after the stop; null when not verified.</summary>
    public ulong? LostPages { get; init; }

    /// <summary>First few differing guest pages, for the message.</summary>
    public IReadOnlyList<ulong> FirstLostPages { get; init; } = [];

    /// <summary>The differing guest pages as runs, in the order they were found; at most 4096 runs of them.</summary>
    public IReadOnlyList<PageRun> LostRuns { get; init; } = [];
}

/// <summary>One trip over dirty memory; pass 0 is the full copy.</summary>
/// <param name="DirtyPages">Pages the pass was to bring over: the union.</param>
/// <param name="SentPages">Pages sent with content; zero pages are not among them.</param>
/// <param name="ZeroPages">Pages told to be zero.</param>
/// <param name="Bytes">Bytes on the wire.</param>
/// <param name="Sources">What each source reported, before the union; empty for pass 0.</param>
/// <param name="Final">The last pass, taken after the stop.</param>
public sealed record PassReport(
    int Index, ulong DirtyPages, ulong SentPages, ulong ZeroPages, ulong Bytes, TimeSpan Duration,
    IReadOnlyList<DirtyCount> Sources, bool Final)
{
    /// <summary>Downtime predicted after this pass, or null for the last.</summary>
    public TimeSpan? PredictedDowntime { get; init; }

    /// <summary>Dirty pages that were not sent, because the destination has just this content.</summary>
    public ulong UnchangedPages { get; init; }

    /// <summary>Pages that arrived other than they were hashed and were sent again in a later pass.</summary>
    public ulong RepeatedPages { get; init; }

    /// <summary>Pages left to the next pass, because they were written again before they were read.</summary>
    public ulong SkippedPages { get; init; }

    /// <summary>What each harvest took that was made since the pass before: during the pass, and the one after the
    /// stop.</summary>
    public IReadOnlyList<TimeSpan> Harvests { get; init; } = [];

    /// <summary>Bytes a second on the wire during the pass.</summary>
    public double BytesPerSecond => Duration > TimeSpan.Zero ? Bytes / Duration.TotalSeconds : 0;
}

/// <summary>State of one device (or of the workload) that was moved.</summary>
public sealed record PartReport(string Name, ulong StateBytes)
{
    /// <summary>From the stop of the machine to the part's last byte of state, at the source.</summary>
    public TimeSpan SaveTime { get; init; }

    /// <summary>From its last byte of state until it was loaded, at the destination; parts load side by side.</summary>
    public TimeSpan LoadTime { get; init; }
}

/// <summary>The bytes of one connection, headers counted, those of lost connections included.</summary>
/// <param name="Number">0: control, with the preambles of all connections.</param>
public sealed record ChannelReport(int Number, ulong Bytes);

/// <summary>A named share of the downtime.</summary>
public sealed record DowntimePart(string Name, TimeSpan Duration);
