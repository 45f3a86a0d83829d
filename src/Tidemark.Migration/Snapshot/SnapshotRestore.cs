using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>Fills a machine that has not run from a file, and runs it.</summary>
/// <remarks>
/// <code>
/// Prepare --> Load --> State --> Start --> Done (the machine runs)
///    '----------'--------'---------'--> failed or cancelled: the machine does not run, and is to be disposed
/// </code>
/// Differences between file and machine, and disks that somebody else has, are found before memory is read.
/// </remarks>
public sealed class SnapshotRestore
{
    private readonly IDestinationMachine _machine;
    private readonly ISnapshotFile _file;
    private readonly SnapshotRestoreOptions _options;
    private readonly ISnapshotObserver _observer;
    private readonly TimeProvider _time;
    private SnapshotPhase _phase;
    private SnapshotContents? _contents;
    private TimeSpan _transfer;
    private ulong _pagesRead;

    /// <param name="file">Read, not disposed.</param>
    public SnapshotRestore(
        IDestinationMachine machine, ISnapshotFile file, SnapshotRestoreOptions options, ISnapshotObserver observer,
        TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Threads, 1, nameof(options));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.Threads, 64, nameof(options));
        _machine = machine;
        _file = file;
        _options = options;
        _observer = observer;
        _time = time;
    }

    /// <summary>Restores, on this thread and a few of its own. Does not throw: how it ended is the outcome.</summary>
    public SnapshotOutcome Run(CancellationToken cancel)
    {
        long start = _time.GetTimestamp();
        try
        {
            Begin(SnapshotPhase.Prepare, cancel);
            SnapshotContents contents = _contents = SnapshotContents.Open(_file);
            Compare(contents);
            foreach (IMigratable part in _machine.Parts)
                PartStep.Do(part, "prepare to take state", migratable => migratable.BeginLoad());
            _machine.AcquireDisks();
            Begin(SnapshotPhase.Load, cancel);
            LoadMemory(contents, cancel);
            Begin(SnapshotPhase.State, cancel);
            LoadState(contents, cancel);
            Begin(SnapshotPhase.Start, cancel);
            _machine.Start();
            _phase = SnapshotPhase.Done;
            return End(SnapshotResult.Completed, null, start);
        }
        catch (Exception failure)
        {
            // Before Start nothing ran; a Start that fails stops what it started.
            return cancel.IsCancellationRequested
                ? End(SnapshotResult.Cancelled, "The restore was cancelled. Nothing runs.", start)
                : End(SnapshotResult.Failed, $"{failure.Message} Nothing runs.", start);
        }
    }

    /// <summary>Everything that differs, at once.</summary>
    private void Compare(SnapshotContents contents)
    {
        var obstacles = new List<string>();
        PageRun[] slots = [.. _machine.Memory.Slots.Select(slot => new PageRun(slot.FirstPage, slot.PageCount))];
        if (!contents.Slots.SequenceEqual(slots))
        {
            obstacles.Add($"Guest memory has {contents.MemoryBytes} bytes in {contents.Slots.Count} slots in the snapshot, "
                + $"and {_machine.Memory.ByteLength} bytes in {slots.Length} slots here (or the slots lie elsewhere).");
        }

        string[] names = [.. _machine.Parts.Select(part => part.Name)];
        if (!contents.Parts.Select(part => part.Name).SequenceEqual(names))
        {
            obstacles.Add($"The machine's parts are {string.Join(", ", contents.Parts.Select(part => part.Name))} in the "
                + $"snapshot, and {string.Join(", ", names)} here.");
        }

        obstacles.AddRange(_machine.FindObstacles(contents.Description));
        if (obstacles.Count > 0)
        {
            throw new MigrationFailedException(
                $"{_file.Path} is not of this machine: {string.Join(" ", obstacles)} Restore it with the machine file that it "
                    + "was saved with.");
        }
    }

    private void LoadMemory(SnapshotContents contents, CancellationToken cancel)
    {
        long began = _time.GetTimestamp();
        PageBitmap? touched = _options.FindTouchedPages?.Invoke();
        using (var threads = new SnapshotThreads(_options.Threads))
        {
            var readers = new PageReaders(_file, contents, threads);
            readers.Run(
                _machine.Memory, touched,
                pages => SnapshotContents.Tell(_observer, new SnapshotEvent.Progress(-1, pages, contents.PresentPages)), cancel);
            _pagesRead = readers.PagesRead;
        }

        _transfer = _time.GetElapsedTime(began);
    }

    private void LoadState(SnapshotContents contents, CancellationToken cancel)
    {
        new StateLogReader(_file, contents.Header, contents.Parts).ReadAll(
            (index, bytes) => PartStep.Do(_machine.Parts[index], "take its state", part => part.WriteState(bytes.Span)), cancel);
        foreach (IMigratable part in _machine.Parts)
            PartStep.Do(part, "complete its state", migratable => migratable.EndLoad());
    }

    private void Begin(SnapshotPhase phase, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        _phase = phase;
        SnapshotContents.Tell(_observer, new SnapshotEvent.PhaseBegan(phase));
    }

    private SnapshotOutcome End(SnapshotResult result, string? cause, long start) => new(result, _phase, cause, new SnapshotReport
    {
        Parts = _contents?.Parts ?? [],
        FileBytes = _contents?.FileBytes ?? 0,
        PresentPages = _contents?.PresentPages ?? 0,
        MemoryBytesMoved = _pagesRead * GuestPage.Size,
        TotalTime = _time.GetElapsedTime(start),
        TransferTime = _transfer,
        Lane = _file.Lane,
        Threads = _options.Threads,
    })
    {
        MachineRuns = result == SnapshotResult.Completed,
        FileIsComplete = _contents is not null,
    };
}
