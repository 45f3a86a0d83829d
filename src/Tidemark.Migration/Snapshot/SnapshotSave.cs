namespace Tidemark.Migration.Snapshot;

/// <summary>Saves a machine to a file while it runs.</summary>
/// <remarks>
/// <code>
/// Prepare --> Passes --> Stop ---------> Finish ----------------------> Done
///   |           |         |  state saved,  |  tables, sync, header and
///   |           |         |  the machine   |  trailer, sync, name
///   |           |         |  runs again    |
///   '-----------'---------'----------------'--> failed or cancelled: the machine runs, no file is left
/// </code>
/// With <see cref="SnapshotSaveOptions.StopsMachine"/> the machine stands still until the file has its name, and then
/// for good; a failure before lets it run on.
/// </remarks>
public sealed class SnapshotSave
{
    private readonly ISourceMachine _machine;
    private readonly Func<INewSnapshotFile> _create;
    private readonly SnapshotSaveOptions _options;
    private readonly ISnapshotObserver _observer;
    private readonly TimeProvider _time;

    /// <param name="create">Makes the file under its temporary name; it is disposed here.</param>
    public SnapshotSave(
        ISourceMachine machine, Func<INewSnapshotFile> create, SnapshotSaveOptions options, ISnapshotObserver observer,
        TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Threads, 1, nameof(options));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.Threads, 64, nameof(options));
        ArgumentOutOfRangeException.ThrowIfLessThan(options.MaximumPasses, 1, nameof(options));
        _machine = machine;
        _create = create;
        _options = options;
        _observer = observer;
        _time = time;
    }

    /// <summary>Saves, on this thread and a few of its own. Does not throw: how it ended is the outcome.</summary>
    public SnapshotOutcome Run(CancellationToken cancel)
    {
        using var run = new SaveRun(_machine, _create, _options, _observer, _time, cancel);
        return run.Execute();
    }
}
