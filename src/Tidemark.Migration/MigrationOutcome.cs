namespace Tidemark.Migration;

/// <summary>How a migration ended, seen from one side.</summary>
public enum MigrationResult
{
    /// <summary>The destination runs.</summary>
    Completed,

    /// <summary>Cancelled before Commit; the source runs.</summary>
    Cancelled,

    /// <summary>Failed before Commit; the source runs (unless it is the one that died).</summary>
    Failed,

    /// <summary>Commit was sent and not acknowledged: the source stays stopped, an operator decides.</summary>
    StateUnknown,
}

/// <summary>The phases, in order. Everything before <see cref="Commit"/> can be undone.</summary>
public enum MigrationPhase
{
    Connect,
    Negotiate,
    Track,
    Precopy,
    Switchover,
    Verify,
    Commit,
    Done,
}

/// <summary>An ended migration: what happened, where, why, and everything that was counted.</summary>
/// <param name="Phase">Where it ended; <see cref="MigrationPhase.Done"/> when completed.</param>
/// <param name="Cause">One sentence with cause, evidence and remedy; null when completed.</param>
/// <param name="CaughtBy">The protection that stopped it (<c>memory-verification</c>, <c>stopped-before-commit</c>), or
/// null.</param>
public sealed record MigrationOutcome(
    MigrationResult Result, MigrationPhase Phase, string? Cause, string? CaughtBy, MigrationReport Report)
{
    /// <summary>At the destination: answers the source, which may be in doubt; null when it is not.</summary>
    public HandoverWitness? Witness { get; init; }

    /// <summary>At a source whose state is unknown: how an operator ends that; else null.</summary>
    public PendingHandover? Pending { get; init; }
}
