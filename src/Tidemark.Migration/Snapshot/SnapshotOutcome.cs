namespace Tidemark.Migration.Snapshot;

/// <summary>How a save or a restore ended.</summary>
public enum SnapshotResult
{
    Completed,

    /// <summary>Cancelled: a saved machine runs, no file is there; a restored one does not run.</summary>
    Cancelled,

    /// <summary>Failed; as for cancelled, but for what the cause says.</summary>
    Failed,
}

/// <summary>The phases of a save and of a restore, in order.</summary>
public enum SnapshotPhase
{
    /// <summary>The file is made, or opened and compared with the machine.</summary>
    Prepare,

    /// <summary>Memory is written while the machine runs.</summary>
    Passes,

    /// <summary>The machine stands still: last pages, state.</summary>
    Stop,

    /// <summary>Memory is read.</summary>
    Load,

    /// <summary>State is read.</summary>
    State,

    /// <summary>The file gets its tables, header and name.</summary>
    Finish,

    /// <summary>The restored machine starts.</summary>
    Start,

    Done,
}

/// <summary>An ended save or restore.</summary>
/// <param name="Cause">One sentence with cause, evidence and remedy; null when completed.</param>
public sealed record SnapshotOutcome(SnapshotResult Result, SnapshotPhase Phase, string? Cause, SnapshotReport Report)
{
    /// <summary>The machine runs, so far as this side knows.</summary>
    public bool MachineRuns { get; init; }

    /// <summary>The file is complete under its name.</summary>
    public bool FileIsComplete { get; init; }
}

/// <summary>The figures of one save or restore.</summary>
public sealed record SnapshotReport
{
    /// <summary>Passes of a save.</summary>
    public IReadOnlyList<SnapshotPass> Passes { get; init; } = [];

    public IReadOnlyList<SavedPart> Parts { get; init; } = [];

    /// <summary>Length of the file, holes counted.</summary>
    public ulong FileBytes { get; init; }

    /// <summary>Pages that the file has; the rest of memory is zero.</summary>
    public ulong PresentPages { get; init; }

    /// <summary>Bytes of memory written or read, all passes.</summary>
    public ulong MemoryBytesMoved { get; init; }

    /// <summary>How long the machine stood still in a save.</summary>
    public TimeSpan Downtime { get; init; }

    /// <summary>The parts of <see cref="Downtime"/>; they sum to it.</summary>
    public IReadOnlyList<DowntimePart> DowntimeParts { get; init; } = [];

    public TimeSpan TotalTime { get; init; }

    /// <summary>Reading or writing memory, and the wait until it was in stable storage.</summary>
    public TimeSpan TransferTime { get; init; }

    public PageLane? Lane { get; init; }

    public int Threads { get; init; }
}

/// <summary>One trip over dirty memory into a file; pass 0 is the first.</summary>
/// <param name="DirtyPages">Pages to look at.</param>
/// <param name="WrittenPages">Pages written.</param>
/// <param name="ZeroPages">Pages that are zero and stay a hole.</param>
/// <param name="Final">Taken after the stop.</param>
public sealed record SnapshotPass(
    int Index, ulong DirtyPages, ulong WrittenPages, ulong ZeroPages, TimeSpan Duration, bool Final);

/// <summary>Something that happened during a save, restore or verification.</summary>
public abstract record SnapshotEvent
{
    private SnapshotEvent()
    {
    }

    public sealed record PhaseBegan(SnapshotPhase Phase) : SnapshotEvent;

    /// <summary>At most a few times a second.</summary>
    /// <param name="Pass">The pass of a save; -1 when pages are read.</param>
    public sealed record Progress(int Pass, ulong PagesDone, ulong PagesTotal) : SnapshotEvent;

    public sealed record PassEnded(SnapshotPass Pass) : SnapshotEvent;

    /// <summary>A decision, with the numbers that led to it.</summary>
    public sealed record Decided(string Text) : SnapshotEvent;
}

/// <summary>Sees the events, on the engine's thread: be quick. What it throws ends with it.</summary>
public interface ISnapshotObserver
{
    void OnEvent(SnapshotEvent snapshotEvent);
}
