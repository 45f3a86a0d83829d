using Tidemark.Memory.Codecs;

namespace Tidemark.Migration;

/// <summary>How a machine is to be moved.</summary>
public sealed record MigrationOptions
{
    /// <summary>Connections that carry pages, 1 to 64.</summary>
    public int Channels { get; init; } = 2;

    /// <summary>How long the machine may stand still; verification is not counted.</summary>
    public TimeSpan DowntimeLimit { get; init; } = TimeSpan.FromMilliseconds(300);

    /// <summary>Both sides hash all guest memory after the stop and compare before Commit.</summary>
    public bool Verify { get; init; }

    /// <summary>
    /// Passes after which the engine stops trying to fit the limit and fails (the machine goes on running here).
    /// </summary>
    public int MaximumPasses { get; init; } = 60;

    public Compression Compression { get; init; }

    /// <summary>Makes a channel's codec (zstd); needed to compress.</summary>
    public Func<IPageCodec>? Codec { get; init; }

    /// <summary>What to do when the machine can not be moved within the limit.</summary>
    public WhenStuck WhenStuck { get; init; } = WhenStuck.GiveUp;

    /// <summary>For <see cref="WhenStuck.RaiseLimit"/>: never more than this.</summary>
    public TimeSpan LimitCeiling { get; init; } = TimeSpan.FromSeconds(3);

    /// <summary>Time for all passes together; null: no limit.</summary>
    public TimeSpan? Timeout { get; init; }

    /// <summary>
    /// When it is there, the machine is not stopped before it is set, however well it fits: until then passes go on, about
    /// two a second.
    /// </summary>
    public ManualResetEventSlim? SwitchoverGate { get; init; }

    /// <summary>How long a side waits for the other without any progress before it gives the connection up.</summary>
    public TimeSpan IdleTimeout { get; init; } = TimeSpan.FromSeconds(20);

    /// <summary>
    /// How long the source tries to reach the destination again after a lost connection, before Commit; the machine runs
    /// meanwhile. Zero: a lost connection ends the migration.
    /// </summary>
    public TimeSpan RetryFor { get; init; } = TimeSpan.FromSeconds(15);

    /// <summary>
    /// How long the destination is asked what became of the machine when the acknowledgement of Commit is lost.
    /// </summary>
    public TimeSpan QueryFor { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>These options as the convergence mechanism takes them.</summary>
    public ConvergenceOptions Convergence => new()
    {
        DowntimeLimit = DowntimeLimit,
        // LIMIT: who waits for an operator goes on for hours, at two passes a second.
        MaximumPasses = SwitchoverGate is null ? MaximumPasses : 100_000,
        Timeout = Timeout,
        WhenStuck = WhenStuck,
        LimitCeiling = LimitCeiling < DowntimeLimit ? DowntimeLimit : LimitCeiling,
    };

    /// <summary>LIMIT: what may have to be sent again after a cut, and how often the peer answers.</summary>
    internal ulong BatchBytes { get; init; } = 8 << 20;

    /// <summary>Faults planted on purpose, so that a check can be seen to fire.</summary>
    public MigrationFaults Faults { get; init; }
}

/// <summary>Planted faults of the engine. None in any normal run.</summary>
[Flags]
public enum MigrationFaults
{
    None = 0,

    /// <summary>Every harvest loses the last word of its bitmap (the last 64 pages of guest memory).</summary>
    ForgetLastWord = 1,

    /// <summary>The last harvest is taken before the writers are stopped.</summary>
    EarlyFinalHarvest = 2,

    /// <summary>The source runs again between the last pass and Commit.</summary>
    ResumeBeforeCommit = 4,
}
