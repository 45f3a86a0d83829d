using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>How a machine is to be saved.</summary>
public sealed record SnapshotSaveOptions
{
    /// <summary>Threads that write pages, 1 to 64.</summary>
    public int Threads { get; init; } = 4;

    /// <summary>
    /// How long the machine may stand still. Sought, not promised: a machine that writes too fast is stopped for longer
    /// when passes no longer make the rest smaller.
    /// </summary>
    public TimeSpan DowntimeLimit { get; init; } = TimeSpan.FromMilliseconds(300);

    /// <summary>Passes over a running machine, at most.</summary>
    public int MaximumPasses { get; init; } = 10;

    /// <summary>The machine does not run on when the file is complete.</summary>
    public bool StopsMachine { get; init; }

    /// <summary>
    /// Which pages were ever touched, asked when tracking is on: all others are zero, and looking at them would give
    /// them memory. Null: nobody knows, so all are looked at.
    /// </summary>
    public Func<PageBitmap>? FindTouchedPages { get; init; }
}

/// <summary>How a file is to be restored.</summary>
public sealed record SnapshotRestoreOptions
{
    /// <summary>Threads that read pages, 1 to 64.</summary>
    public int Threads { get; init; } = 4;

    /// <summary>
    /// Which pages of the machine's memory were touched before; all others are zero. Null: all may be.
    /// </summary>
    public Func<PageBitmap>? FindTouchedPages { get; init; }
}
