using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Snapshot;

/// <summary>One save. Drawn in SnapshotSave.cs.</summary>
internal sealed class SaveRun : IDisposable
{
    /// <summary>LIMIT: what one part may say between two looks at the pass.</summary>
    private const ulong PumpBytes = 4 << 20;

    private static readonly TimeSpan ProgressInterval = TimeSpan.FromMilliseconds(250);

    /// <summary>LIMIT: how long a part that is not ready to be stopped is waited for.</summary>
    private static readonly TimeSpan PartLimit = TimeSpan.FromMinutes(1);

    private readonly ISourceMachine _machine;
    private readonly Func<INewSnapshotFile> _create;
    private readonly SnapshotSaveOptions _options;
    private readonly ISnapshotObserver _observer;
    private readonly TimeProvider _time;
    private readonly CancellationToken _cancel;
    private readonly DowntimeClock _downtime;
    private readonly List<SnapshotPass> _passes = [];
    private readonly List<DirtyLease> _leases = [];
    private SnapshotPhase _phase;
    private ReadOnlyMemory<byte> _description;
    private INewSnapshotFile? _file;
    private SnapshotLayout? _layout;
    private SnapshotThreads? _threads;
    private PageWriters? _pages;
    private StateLogWriter? _state;
    private ulong _fileBytes;
    private ulong _presentPages;
    private TimeSpan _transfer;
    private bool _tracking;
    private bool _savingBegan;
    private bool _stopCalled;
    private bool _published;

    public SaveRun(
        ISourceMachine machine, Func<INewSnapshotFile> create, SnapshotSaveOptions options, ISnapshotObserver observer,
        TimeProvider time, CancellationToken cancel)
    {
        _machine = machine;
        _create = create;
        _options = options;
        _observer = observer;
        _time = time;
        _cancel = cancel;
        _downtime = new DowntimeClock(time);
    }

    private INewSnapshotFile File =>
        _file ?? throw new InvariantException("The snapshot file is used before it is made.");

    private SnapshotLayout Layout => _layout ?? throw new InvariantException("The layout is used before it is known.");

    private PageWriters Pages => _pages ?? throw new InvariantException("Pages are written before there is a file.");

    private StateLogWriter State => _state ?? throw new InvariantException("State is saved before there is a file.");

    private SnapshotThreads Threads =>
        _threads ?? throw new InvariantException("The threads are used before they run.");

    public SnapshotOutcome Execute()
    {
        long start = _time.GetTimestamp();
        SnapshotResult result = SnapshotResult.Completed;
        string? cause = null;
        bool runs = true;
        try
        {
            Prepare();
            StartTracking();
            RunPasses();
            Capture();
            List<string> problems = _options.StopsMachine ? [] : LetRun();
            Finish();
            runs = !_options.StopsMachine && problems.Count == 0;
            if (_options.StopsMachine)
                EndMachine();
            if (problems.Count > 0)
            {
                (result, cause) = (SnapshotResult.Failed, "The snapshot is complete, but the machine does not run as "
                    + $"before: {string.Join(" ", problems)}");
            }
        }
        catch (Exception failure)
        {
            // Nothing was published: the machine runs again before anything else is tidied away.
            _threads?.Stop();
            List<string> problems = LetRun();
            runs = problems.Count == 0;
            bool cancelled = _cancel.IsCancellationRequested;
            result = cancelled ? SnapshotResult.Cancelled : SnapshotResult.Failed;
            cause = (cancelled ? "The save was cancelled." : failure.Message) + " "
                + (runs ? "The machine runs on; no file is left." : string.Join(" ", problems));
        }

        SnapshotReport report = Report(_time.GetElapsedTime(start));
        return new SnapshotOutcome(result, _phase, cause, report) { MachineRuns = runs, FileIsComplete = _published };
    }

    public void Dispose()
    {
        // ORDER: the threads first, which write to the file.
        _threads?.Dispose();
        _file?.Dispose();
    }

    private void Prepare()
    {
        Begin(SnapshotPhase.Prepare);
        PageRun[] slots = [.. _machine.Memory.Slots.Select(slot => new PageRun(slot.FirstPage, slot.PageCount))];
        string[] names = [.. _machine.Parts.Select(part => part.Name)];
        // Once: it can become longer while a device is looked at, and the layout follows from its length.
        _description = _machine.Description;
        int descriptionBytes = _description.Length;
        if (descriptionBytes > SnapshotLayout.MaximumDescriptionBytes)
        {
            throw new MigrationFailedException($"The machine's description has {descriptionBytes} bytes; a snapshot takes "
                + $"{SnapshotLayout.MaximumDescriptionBytes}.");
        }

        if (slots.Length > SnapshotLayout.MaximumSlots || names.Length > SnapshotLayout.MaximumParts)
        {
            throw new MigrationFailedException($"The machine has {slots.Length} slots of memory and {names.Length} parts; "
                + $"a snapshot takes {SnapshotLayout.MaximumSlots} and {SnapshotLayout.MaximumParts}.");
        }

        if (names.FirstOrDefault(name => System.Text.Encoding.UTF8.GetByteCount(name) > PartTable.MaximumNameBytes) is { } name)
            throw new MigrationFailedException($"The name of part {name} is longer than {PartTable.MaximumNameBytes} bytes.");
        var layout = new SnapshotLayout(descriptionBytes, slots, PartTable.Measure(names));
        if (layout.Pages > SnapshotLayout.MaximumPages)
        {
            throw new MigrationFailedException($"The machine has {layout.Pages} pages of memory; a snapshot takes "
                + $"{SnapshotLayout.MaximumPages}.");
        }

        _layout = layout;
        _file = _create();
        _file.SetLength(layout.StateOffset);
        _threads = new SnapshotThreads(_options.Threads);
        _pages = new PageWriters(_machine.Memory, _file, layout, _threads);
        _state = new StateLogWriter(_file, layout.StateOffset, _machine.Parts);
    }

    private void StartTracking()
    {
        try
        {
            _machine.StartTracking();
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"Dirty tracking could not be started: {failure.Message}", inner: failure);
        }

        _tracking = true;
        _savingBegan = true;
        foreach (IMigratable part in _machine.Parts)
            PartStep.Do(part, "begin to save", migratable => migratable.BeginSave());
    }

    private void RunPasses()
    {
        Begin(SnapshotPhase.Passes);
        PageBitmap all = _options.FindTouchedPages?.Invoke() ?? _machine.Memory.AllPages();
        SnapshotPass pass = RunPass(0, all, all.CountSet(), final: false);
        double written = 0;
        while (true)
        {
            DrainInitialState();
            _transfer += pass.Duration;
            written += pass.WrittenPages * (double)GuestPage.Size;
            double rate = written / Math.Max(_transfer.TotalSeconds, 1e-6);
            DirtyLease lease = Harvest();
            (bool stop, string reason) = SnapshotPolicy.Decide(
                lease.PageCount, pass, rate, new SnapshotLimits(_options.DowntimeLimit, _options.MaximumPasses));
            Emit(new SnapshotEvent.Decided(reason));
            if (stop)
                return;
            pass = RunPass(pass.Index + 1, lease.Pages, lease.PageCount, final: false);
            lease.Commit();
            _leases.Remove(lease);
        }
    }

    /// <summary>The stop order: workload, parts P2P, parts; then harvest, pages, state to its end.</summary>
    private void Capture()
    {
        Begin(SnapshotPhase.Stop);
        // Allocated here and not while the machine stands still.
        var pages = new PageBitmap(_machine.Memory.SpanPages);
        foreach (DirtyLease lease in _leases)
            pages.Or(lease.Pages);
        _cancel.ThrowIfCancellationRequested();
        _stopCalled = true;
        _downtime.Start();
        Do("The workload could not be stopped", _machine.StopWorkload);
        _downtime.Mark("stop workload");
        foreach (IMigratable part in _machine.Parts)
            PartStep.Do(part, "stop talking to its peers", migratable => migratable.EnterP2P());
        foreach (IMigratable part in _machine.Parts)
            PartStep.Do(part, "stop", migratable => migratable.Stop());
        _downtime.Mark("stop devices");
        pages.Or(Harvest().Pages);
        _downtime.Mark("final harvest");
        SnapshotPass final = RunPass(_passes.Count, pages, pages.CountSet(), final: true);
        _transfer += final.Duration;
        _downtime.Mark("last pages");
        for (int index = 0; index < _machine.Parts.Count; index++)
            State.Pump(index, ulong.MaxValue, _cancel);
        _downtime.Mark("device state");
        // What the devices wrote to their disks is what a copy of the disks, taken at the same time, must have.
        Do("The disks could not be flushed", _machine.FlushDisks);
        _downtime.Mark("flush disks");
        IReadOnlyList<string> runners = _machine.FindRunners();
        if (runners.Count > 0)
        {
            throw new MigrationFailedException($"The machine did not stand still while it was saved: "
                + $"{string.Join(", ", runners)}. What it wrote since would not be in the snapshot.");
        }

        foreach (DirtyLease lease in _leases)
            lease.Commit();
        _leases.Clear();
    }

    private SnapshotPass RunPass(int index, PageBitmap pages, ulong dirtyPages, bool final)
    {
        long start = _time.GetTimestamp();
        Pages.Begin(pages);
        long lastProgress = start;
        bool idle = false;
        while (!Threads.Wait(final || idle ? ProgressInterval : TimeSpan.FromMilliseconds(1), _cancel))
        {
            // State that parts have while they run is written meanwhile, so that less of it is left after the stop.
            idle = !final && PumpParts();
            if (_time.GetElapsedTime(lastProgress) < ProgressInterval)
                continue;
            lastProgress = _time.GetTimestamp();
            Emit(new SnapshotEvent.Progress(index, Pages.WrittenPages + Pages.ZeroPages, dirtyPages));
        }

        var pass = new SnapshotPass(
            index, dirtyPages, Pages.WrittenPages, Pages.ZeroPages, _time.GetElapsedTime(start), final);
        _passes.Add(pass);
        Emit(new SnapshotEvent.PassEnded(pass));
        return pass;
    }

    private bool PumpParts()
    {
        bool idle = true;
        for (int index = 0; index < _machine.Parts.Count; index++)
            idle &= State.Pump(index, PumpBytes, _cancel);
        return idle;
    }

    /// <summary>Reads what parts want read before the stop.</summary>
    private void DrainInitialState()
    {
        long start = _time.GetTimestamp();
        for (int index = 0; index < _machine.Parts.Count; index++)
        {
            IMigratable part = _machine.Parts[index];
            while (Estimate(part).InitialBytes > 0)
            {
                bool idle = State.Pump(index, PumpBytes, _cancel);
                if (_time.GetElapsedTime(start) > PartLimit)
                {
                    throw new MigrationFailedException($"The part {part.Name} still has {Estimate(part).InitialBytes} "
                        + $"initial bytes to say after {Words.Of(PartLimit)}, so it is not ready to be stopped.");
                }

                if (idle)
                    _cancel.WaitHandle.WaitOne(5);
            }
        }
    }

    private static StateEstimate Estimate(IMigratable part)
    {
        StateEstimate estimate = default;
        PartStep.Do(part, "say how much state it has", migratable => estimate = migratable.Estimate());
        return estimate;
    }

    private DirtyLease Harvest()
    {
        DirtyLease lease = default;
        Do("Dirty pages could not be harvested", () => lease = _machine.DirtyTracker.Harvest());
        _leases.Add(lease);
        return lease;
    }

    /// <summary>
    /// Tables, then everything into stable storage, then header and trailer, and the name last: whatever ends this in
    /// between leaves a file that says it is unfinished, or none of that name.
    /// </summary>
    private void Finish()
    {
        Begin(SnapshotPhase.Finish);
        long start = _time.GetTimestamp();
        SnapshotLayout layout = Layout;
        _fileBytes = layout.StateOffset + State.ByteLength + SnapshotLayout.TrailerBytes;
        _presentPages = BitmapKernels.CountSet(Pages.Present);
        var tables = new TableWriter(File, _cancel);
        var header = new SnapshotHeader
        {
            FileBytes = _fileBytes,
            SavedAt = (ulong)Math.Max(0, _time.GetUtcNow().ToUnixTimeMilliseconds()),
            SlotCount = layout.Slots.Count,
            PartCount = _machine.Parts.Count,
            Pages = layout.Pages,
            PresentPages = _presentPages,
            DescriptionBytes = layout.DescriptionBytes,
            PartsBytes = layout.PartsBytes,
            DescriptionChecksum = tables.WriteDescription(layout, _description, State.Parts),
            PresentChecksum = tables.Write(Pages.Present, layout.PresentOffset, layout.PresentBytes),
            ChecksumsChecksum = tables.Write(Pages.Checksums, layout.ChecksumsOffset, layout.ChecksumsBytes),
            MemoryOffset = layout.MemoryOffset,
            StateOffset = layout.StateOffset,
            StateBytes = State.ByteLength,
            StateChecksum = State.Checksum,
        };
        _cancel.ThrowIfCancellationRequested();
        File.Sync();
        _cancel.ThrowIfCancellationRequested();
        (byte[] page, byte[] trailer) = header.Encode();
        File.Write(trailer, _fileBytes - SnapshotLayout.TrailerBytes);
        File.Write(page, 0);
        File.Sync();
        _cancel.ThrowIfCancellationRequested();
        File.Publish();
        _published = true;
        _transfer += _time.GetElapsedTime(start);
        _phase = SnapshotPhase.Done;
    }

    /// <summary>
    /// The machine runs as before the save, from wherever that is. What does not is told in sentences. Devices run
    /// before
    /// the workload, so that nobody talks to a device that stands still.
    /// </summary>
    private List<string> LetRun()
    {
        var problems = new List<string>();
        foreach (DirtyLease lease in _leases)
            lease.Dispose();
        _leases.Clear();
        if (_savingBegan)
        {
            if (_stopCalled)
            {
                // A device that runs may talk to one that does not answer yet; so all of them answer first. One that
                // can
                // not is brought back by Recover, which follows, or that says why not.
                foreach (IMigratable part in _machine.Parts)
                    Try(part.PrepareStart, []);
            }

            foreach (IMigratable part in _machine.Parts)
                Try(part.Recover, problems, $"{part.Name} does not run");
        }

        if (_stopCalled)
        {
            Try(_machine.ResumeWorkload, problems, "The workload does not run");
            if (_phase == SnapshotPhase.Stop)
                _downtime.Mark("run again");
        }

        if (_tracking)
            Try(() => _machine.StopTracking(staysHere: true), problems, "Dirty tracking could not be ended in order");
        (_tracking, _savingBegan, _stopCalled) = (false, false, false);
        return problems;
    }

    /// <summary>The machine has been saved and ends here: what is left of the save is tidied away.</summary>
    private void EndMachine()
    {
        var problems = new List<string>();
        foreach (IMigratable part in _machine.Parts)
            Try(part.EndSave, problems, $"The part {part.Name} could not end saving");
        Try(() => _machine.StopTracking(staysHere: false), problems, "Dirty tracking could not be ended in order");
        Try(_machine.ReleaseDisks, problems, "The disks could not be released");
        foreach (string problem in problems)
            Emit(new SnapshotEvent.Decided(problem));
    }

    private static void Try(Action action, List<string> problems, string problem = "")
    {
        try
        {
            action();
        }
        catch (Exception failure)
        {
            // The others are brought back all the same; this one is named in the outcome.
            problems.Add($"{problem}: {failure.Message}");
        }
    }

    private static void Do(string problem, Action action)
    {
        try
        {
            action();
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"{problem}: {failure.Message}", inner: failure);
        }
    }

    private SnapshotReport Report(TimeSpan total) => new()
    {
        Passes = [.. _passes],
        Parts = _state?.Parts ?? [],
        FileBytes = _fileBytes,
        PresentPages = _presentPages,
        MemoryBytesMoved = _passes.Aggregate(0UL, (sum, pass) => sum + pass.WrittenPages * GuestPage.Size),
        Downtime = _downtime.Total,
        DowntimeParts = _downtime.Parts,
        TotalTime = total,
        TransferTime = _transfer,
        Lane = _file?.Lane,
        Threads = _options.Threads,
    };

    private void Begin(SnapshotPhase phase)
    {
        _cancel.ThrowIfCancellationRequested();
        _phase = phase;
        Emit(new SnapshotEvent.PhaseBegan(phase));
    }

    private void Emit(SnapshotEvent snapshotEvent)
    {
        try
        {
            _observer.OnEvent(snapshotEvent);
        }
        catch (Exception)
        {
            // Somebody who only watches; nothing of the save is affected.
        }
    }
}
