using System.Security.Cryptography;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// One migration seen from the source: connecting, undoing, and the outcome. The phases in between are in the files
/// beside
/// this one. Drawn in MigrationSource.cs.
/// </summary>
internal sealed partial class SourceRun : IDisposable
{
    /// <summary>LIMIT: how long a hung peer may delay a cancelled migration.</summary>
    private static readonly TimeSpan CancelGrace = TimeSpan.FromMilliseconds(300);

    private static readonly TimeSpan FirstPause = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan LongestPause = TimeSpan.FromSeconds(2);

    /// <summary>LIMIT: how long a destination may take to say one word about a machine.</summary>
    private static readonly TimeSpan QueryLimit = TimeSpan.FromSeconds(2);

    private readonly ISourceMachine _machine;
    private readonly IConnector _connector;
    private readonly MigrationOptions _options;
    private readonly GuardedObserver _observer;
    private readonly TimeProvider _time;
    private readonly CancellationToken _cancel;
    private readonly CancellationTokenRegistration _onCancel;
    private readonly Lock _gate = new();
    private readonly Guid _token = new(RandomNumberGenerator.GetBytes(16));
    private readonly List<IConnection> _connections = [];
    private readonly List<SourceChannel> _channels = [];
    private readonly List<PassWork> _passesUnderWay = [];
    private readonly List<PartStream> _parts = [];
    private readonly List<PassReport> _passes = [];
    private readonly List<ulong> _firstLostPages = [];
    private readonly ulong[] _stateBytes;
    private readonly List<DowntimePart> _destinationTimes = [];
    private IReadOnlyList<TimeSpan> _saveTimes = [];
    private IReadOnlyList<TimeSpan> _loadTimes = [];
    private Timer? _cancelTimer;
    private ControlLink? _link;
    private SentPages? _sent;
    private SourceHandover _handover = new(SourceStand.Runs);
    private MigrationPhase _phase;
    private ulong? _lostPages;
    private ulong _bytesSent;
    private bool _tracking;
    private bool _savingBegan;
    private bool _stopCalled;
    private bool _closed;

    public SourceRun(
        ISourceMachine machine, IConnector connector, MigrationOptions options, IMigrationObserver observer, TimeProvider time,
        CancellationToken cancel)
    {
        _machine = machine;
        _connector = connector;
        _options = options;
        _observer = new GuardedObserver(observer);
        _time = time;
        _cancel = cancel;
        _downtime = new DowntimeClock(time);
        _hot = new HotPages(machine.Memory.SpanPages);
        _policy = new ConvergencePolicy(options.Convergence, machine.Memory.SpanPages);
        _stateBytes = new ulong[machine.Parts.Count];
        _onCancel = cancel.Register(OnCancel);
    }

    private ControlLink Link => _link ?? throw new InvariantException("The control connection is used before it "
        + "exists.");

    private bool Compresses => _options.Compression != Compression.Off && _options.Codec is not null;

    private TimeSpan AnswerLimit => _options.IdleTimeout > TimeSpan.Zero ? _options.IdleTimeout : TimeSpan.FromMinutes(5);

    public MigrationOutcome Execute()
    {
        long start = _time.GetTimestamp();
        MigrationResult result = MigrationResult.Completed;
        string? cause = null;
        string? caughtBy = null;
        try
        {
            Connect(features: 0);
            Negotiate();
            StartTracking();
            while (!TryMove())
                TakeUpAgain();
            Commit();
            Finish();
        }
        catch (Exception failure) when (_handover.IsCommitted)
        {
            // Commit may have arrived: from here on this machine stays stopped unless the destination says otherwise.
            (result, cause) = AskForFate(failure);
            WarnOfLateCancel();
        }
        catch (Exception failure)
        {
            // Commit was not sent: everything is undone, and the machine runs here.
            (result, cause, caughtBy) = Undo(failure);
        }

        Close();
        return new MigrationOutcome(result, _phase, cause, caughtBy, Report() with { TotalTime = _time.GetElapsedTime(start) })
        {
            Pending = result == MigrationResult.StateUnknown ? new PendingHandover(this) : null,
        };
    }

    public void Dispose()
    {
        _onCancel.Dispose();
        Close();
        _cancelTimer?.Dispose();
    }

    private void Connect(ulong features)
    {
        Begin(MigrationPhase.Connect);
        IConnection control = Open(PreambleRole.SourceControl, 0, features);
        _link = new ControlLink(control, _options.IdleTimeout, _time);
    }

    private IConnection Open(PreambleRole role, int channel, ulong features = 0)
    {
        _cancel.ThrowIfCancellationRequested();
        IConnection connection = _connector.Connect(_cancel);
        lock (_gate)
            _connections.Add(connection);
        Preamble.Create(role, channel, _token, features).Send(connection);
        Preamble answer = Preamble.Receive(connection, AnswerLimit, _time);
        if (!answer.SpeaksOurVersion)
        {
            throw new MigrationFailedException(
                $"The destination {connection.Peer} speaks version {answer.Versions} of the migration protocol, "
                    + $"this source version {Preamble.Version}; use releases that share a version.");
        }

        if (answer.Role != PreambleRole.Destination || answer.Token != _token || answer.Channel != channel)
            throw new MigrationStreamException("preamble", 0, "it is not a destination's answer to this source");
        return connection;
    }

    private void Negotiate()
    {
        Begin(MigrationPhase.Negotiate);
        if (_machine.Description.Length > FrameLimits.DescriptionBytes)
        {
            throw new MigrationFailedException(
                $"The machine's description has {_machine.Description.Length} bytes; "
                    + $"{FrameLimits.DescriptionBytes} can be sent.");
        }

        var slots = _machine.Memory.Slots.Select(slot => new PageRun(slot.FirstPage, slot.PageCount)).ToArray();
        if (slots.Length > FrameLimits.Slots)
            throw new MigrationFailedException($"The machine's memory has {slots.Length} slots; "
                + $"{FrameLimits.Slots} can be sent.");
        Link.Writer.Send(FrameType.Hello, Messages.WriteHello(new Hello(
            _options.Channels, _options.Verify, _machine.Memory.SpanPages, slots, _machine.Parts.Count, _machine.Description)
        {
            FirstPass = (uint)_nextPass,
            RetryFor = _options.RetryFor,
            Compresses = Compresses,
        }));
        using (ControlFrame answer = Link.Receive(_cancel))
        {
            if (answer.Type == FrameType.Refuse)
            {
                throw new MigrationFailedException(
                    $"The destination {Link.Peer} refused the machine: "
                        + $"{string.Join(" ", Messages.ReadReasons(answer.Reader))}");
            }

            if (answer.Type != FrameType.Accept)
                throw answer.Reader.Bad("Accept or Refuse is due here");
        }

        if (_machine.ReportsUnchangedPages)
            _sent ??= new SentPages(_machine.Memory.SpanPages);
        var options = new SourceChannelOptions(_sent, _options.IdleTimeout, _options.BatchBytes, _time, _cancel)
        {
            Compression = Compresses ? () => new PageCompressor(_options.Codec!(), _options.Compression == Compression.Always, _time) : null,
        };
        for (int number = 1; number <= _options.Channels; number++)
        {
            IConnection connection = Open(PreambleRole.SourcePages, number);
            _channels.Add(new SourceChannel(
                connection, number, _machine.Memory, options, Link, SendAgain, _time));
        }

        Link.Expect(FrameType.Ready, _cancel).Dispose();
    }

    /// <summary>On a channel's thread.</summary>
    private void SendAgain(PageRun run)
    {
        _sent?.Forget(run.FirstPage, run.Count);
        _machine.DirtyTracker.AddPending(run);
    }

    private void StartTracking()
    {
        Begin(MigrationPhase.Track);
        try
        {
            _machine.StartTracking();
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"Dirty tracking could not be started: {failure.Message}", inner: failure);
        }

        _tracking = true;
        // The first pass is a harvest like any other, of everything: what a cut leaves of it comes with the next one.
        _machine.DirtyTracker.AddPending(_machine.Memory.AllPages());
    }

    private void BeginSaving()
    {
        _savingBegan = true;
        for (int index = 0; index < _machine.Parts.Count; index++)
        {
            PartStep.Do(_machine.Parts[index], "begin to save", part => part.BeginSave());
            _parts.Add(new PartStream(_machine.Parts[index], index, _channels[index % _channels.Count]));
        }
    }

    /// <summary>Everything before Commit; false when a connection was lost and it is worth trying again.</summary>
    private bool TryMove()
    {
        try
        {
            BeginSaving();
            Precopy();
            Switchover();
            VerifyMemory();
            CheckStopped();
            return true;
        }
        catch (Exception failure) when (MayTakeUpAgain(failure))
        {
            // Nothing has happened that GoBack can not undo.
            GoBack(failure);
            return false;
        }
    }

    /// <summary>A connection was lost, and the destination does not say that it has given up.</summary>
    private bool MayTakeUpAgain(Exception failure)
    {
        Exception root = Ending.RootOf(failure);
        return _options.RetryFor > TimeSpan.Zero && !_cancel.IsCancellationRequested && Ending.IsLoss(root)
            && _link?.AwaitPeerWord(Ending.PeerWordLimit) is null;
    }

    /// <summary>The machine runs here as before; what was acknowledged stays at the destination.</summary>
    private void GoBack(Exception failure)
    {
        Decided($"The connection was lost: {Ending.RootOf(failure).Message}");
        CloseSession();
        List<string> problems = RecoverMachine();
        if (problems.Count > 0)
            throw new MigrationFailedException($"{Ending.RootOf(failure).Message} {string.Join(" ", problems)}", inner: failure);
        _savingBegan = false;
        _downtime.Forget();
    }

    /// <summary>Connects again and goes on where it was, or gives up when the time is over.</summary>
    private void TakeUpAgain()
    {
        long start = _time.GetTimestamp();
        TimeSpan pause = FirstPause;
        while (true)
        {
            try
            {
                Connect(Preamble.Resumes);
                Negotiate();
                Decided($"The connection is there again after {Words.Of(_time.GetElapsedTime(start))}; "
                    + $"{_machine.DirtyTracker.CountPending()} pages are still to be sent.");
                return;
            }
            catch (Exception failure) when (Ending.IsLoss(Ending.RootOf(failure)) && !_cancel.IsCancellationRequested)
            {
                // Still nobody there: what there is of a session is closed, and the machine runs here meanwhile.
                CloseSession();
                if (_time.GetElapsedTime(start) + pause > _options.RetryFor)
                {
                    throw new MigrationFailedException(
                        $"The connection was lost and did not come back within {Words.Of(_options.RetryFor)}: "
                            + $"{Ending.RootOf(failure).Message}", inner: failure);
                }
            }

            _cancel.WaitHandle.WaitOne(pause);
            _cancel.ThrowIfCancellationRequested();
            pause = pause * 2 < LongestPause ? pause * 2 : LongestPause;
        }
    }

    private (MigrationResult Result, string Cause, string? CaughtBy) Undo(Exception failure)
    {
        Exception root = Ending.RootOf(failure);
        string? caughtBy = (root as MigrationFailedException)?.CaughtBy;
        bool cancelled = _cancel.IsCancellationRequested && caughtBy is null;
        bool told = root is not PeerException && _link is not null
            && _link.SayLast(
                cancelled ? FrameType.Cancel : FrameType.Abort, cancelled ? "Cancelled at the source." : root.Message, CancelGrace);
        // ORDER: the channels read parts and guest memory; they end before anything is undone.
        CloseChannels();
        List<string> problems = RunHereAgain();
        PeerException? word = AwaitWord(root, cancelled);
        if (told)
            _link!.AwaitPeerEnd(CancelGrace);
        MigrationResult result = cancelled || word is { Cancelled: true } ? MigrationResult.Cancelled : MigrationResult.Failed;
        string cause = cancelled ? $"Cancelled in phase {_phase}."
            : word is { Cancelled: true } ? $"The destination cancelled: {word.Message}"
            : word is not null ? $"The destination gave up: {word.Message}"
            : root.Message;
        return (result, $"{cause} {WhereItRuns(problems)}", caughtBy);
    }

    private static string WhereItRuns(List<string> problems) =>
        problems.Count == 0 ? "The machine runs here." : string.Join(" ", problems);

    /// <summary>For good: the machine runs and is not tracked any more. What does not work is told, a sentence
    /// each.</summary>
    private List<string> RunHereAgain()
    {
        List<string> problems = RecoverMachine();
        if (!_tracking)
            return problems;
        _tracking = false;
        try
        {
            _machine.StopTracking(staysHere: true);
        }
        catch (Exception failure)
        {
            // Tracking is off all the same.
            problems.Add($"Dirty tracking could not be ended in order: {failure.Message}");
        }

        return problems;
    }

    /// <summary>A lost connection is often only the echo of a failure that the peer has put in words.</summary>
    private PeerException? AwaitWord(Exception root, bool cancelled) => root as PeerException
        ?? (!cancelled && Ending.IsLoss(root) ? _link?.AwaitPeerWord(Ending.PeerWordLimit) : null);

    /// <summary>Devices run before the workload, so that nobody talks to a device that stands still.</summary>
    private List<string> RecoverMachine()
    {
        var problems = new List<string>();
        foreach (PassWork work in _passesUnderWay)
            work.Dispose();
        _passesUnderWay.Clear();
        _carried?.Dispose();
        _carried = null;
        _handover = _handover.Resume();
        if (_throttled)
            Try(() => _machine.Throttle(0), "The processors are still throttled");
        _throttled = false;
        if (_savingBegan)
        {
            if (_stopCalled)
            {
                // A device that runs may talk to one that does not answer yet; so all of them answer first.
                foreach (IMigratable part in _machine.Parts)
                    TryFirst(part.PrepareStart);
            }

            foreach (IMigratable part in _machine.Parts)
                Try(part.Recover, $"{part.Name} does not run");
        }

        if (_stopCalled)
            Try(_machine.ResumeWorkload, "The workload does not run");
        _stopCalled = false;
        return problems;

        static void TryFirst(Action action)
        {
            try
            {
                action();
            }
            catch (Exception)
            {
                // Recover, which follows, brings the part back by its own means, or says why not.
            }
        }

        void Try(Action action, string problem)
        {
            try
            {
                action();
            }
            catch (Exception failure)
            {
                // The others must still be brought back; this one is named in the outcome.
                problems.Add($"{problem}: {failure.Message}");
            }
        }
    }

    /// <summary>
    /// Commit was sent and nothing came back. The destination is asked, for a while, over a connection of its own; its
    /// answer binds both sides.
    /// </summary>
    private (MigrationResult Result, string? Cause) AskForFate(Exception failure)
    {
        Exception root = Ending.RootOf(failure);
        CloseSession();
        MachineFate fate = root is PeerException ? MachineFate.BrokenThere : Query(_options.QueryFor);
        _handover = _handover.Lose().Learn(fate);
        switch (fate)
        {
            case MachineFate.RunsThere:
                Decided("The acknowledgement of Commit was lost; the destination says that the machine runs there.");
                Finish();
                return (MigrationResult.Completed, null);
            case MachineFate.NeverThere:
                return (MigrationResult.Failed,
                    $"Commit did not arrive ({root.Message}), and the destination says that it never ran the machine. "
                        + WhereItRuns(RunHereAgain()));
            default:
                return (MigrationResult.StateUnknown, DescribeUnknown(root));
        }
    }

    /// <summary>Asks the destination what became of the machine, again and again for so long.</summary>
    public MachineFate Query(TimeSpan limit)
    {
        long start = _time.GetTimestamp();
        TimeSpan pause = FirstPause;
        while (limit > TimeSpan.Zero)
        {
            try
            {
                if (QueryOnce() is not MachineFate.NotTold and var fate)
                    return fate;
            }
            catch (Exception failure) when (failure is IOException or NotTidemarkException or MigrationStreamException
                or MigrationFailedException or OperationCanceledException)
            {
                // Nobody there who knows; nothing has changed.
            }

            if (_time.GetElapsedTime(start) + pause > limit)
                return MachineFate.NotTold;
            Thread.Sleep(pause);
            pause = pause * 2 < LongestPause ? pause * 2 : LongestPause;
        }

        return MachineFate.NotTold;
    }

    private MachineFate QueryOnce()
    {
        using IConnection connection = _connector.Connect(CancellationToken.None);
        Preamble.Create(PreambleRole.Query, 0, _token).Send(connection);
        Preamble answer = Preamble.Receive(connection, QueryLimit, _time);
        if (answer.Role != PreambleRole.Destination || answer.Token != _token || !answer.SpeaksOurVersion)
            return MachineFate.NotTold;
        connection.IdleTimeout = QueryLimit;
        var reader = new FrameReader(connection, 0, QueryLimit, _time);
        return reader.TryReadHeader(out FrameHeader header) && header.Type == FrameType.Fate
            ? Messages.ReadFate(reader, header)
            : MachineFate.NotTold;
    }

    private static string DescribeUnknown(Exception root)
    {
        string lost = root switch
        {
            PeerException { Cancelled: true } => $"The destination had cancelled when Commit was sent: {root.Message}",
            PeerException => $"The destination failed after Commit had been sent: {root.Message}",
            _ => $"Commit was sent and its acknowledgement did not arrive: {root.Message}",
        };
        return $"{lost} The machine stays stopped here, because it may run at the destination. Look there, then end this with "
            + "`tidemark resolve`: it asks the destination, and takes the machine back or lets it go.";
    }

    /// <summary>For <see cref="PendingHandover"/>: the destination's answer, and what follows from it.</summary>
    public MachineFate Settle(TimeSpan limit)
    {
        MachineFate fate = Query(limit);
        _handover = _handover.Learn(fate);
        return fate;
    }

    /// <summary>For <see cref="PendingHandover"/>: the machine runs here again. What does not work is told.</summary>
    public IReadOnlyList<string> TakeBack()
    {
        if (_handover.Stand == SourceStand.Unknown)
            _handover = _handover.TakeBack();
        return RunHereAgain();
    }

    /// <summary>For <see cref="PendingHandover"/>: it is the destination's.</summary>
    public void LetGo()
    {
        if (_handover.Stand == SourceStand.Unknown)
            _handover = _handover.LetGo();
        Finish();
    }

    private void OnCancel()
    {
        lock (_gate)
        {
            if (!_handover.IsCommitted && !_closed)
                _cancelTimer ??= new Timer(_ => AbortConnections(), null, CancelGrace, Timeout.InfiniteTimeSpan);
        }
    }

    private void AbortConnections()
    {
        lock (_gate)
        {
            if (_handover.IsCommitted || _closed)
                return;
            foreach (IConnection connection in _connections)
                connection.Abort();
        }
    }

    private void Close()
    {
        lock (_gate)
        {
            if (_closed)
                return;
            _closed = true;
        }

        CloseSession();
    }

    /// <summary>Ends the channels and their threads. What they had in hand is as it was.</summary>
    private void CloseChannels()
    {
        foreach (SourceChannel channel in _channels)
            channel.Abort();
        foreach (SourceChannel channel in _channels)
        {
            channel.Dispose();
            _bytesSent += channel.BytesSent;
        }

        _channels.Clear();
        if (_parts.Count == 0)
            return;
        for (int index = 0; index < _parts.Count; index++)
            _stateBytes[index] = _parts[index].BytesSent;
        _saveTimes = [.. _parts.Select(part => part.SaveTime)];
        _parts.Clear();
    }

    /// <summary>Ends all threads and connections to the destination.</summary>
    private void CloseSession()
    {
        CloseChannels();
        _bytesSent += _link?.Writer.BytesSent ?? 0;
        _link?.Dispose();
        _link = null;
        IConnection[] connections;
        lock (_gate)
        {
            connections = [.. _connections];
            _connections.Clear();
        }

        _bytesSent += (ulong)(connections.Length * Preamble.Size);
        // Connections that never got a reader of their own; for the others this is the second time and does nothing.
        foreach (IConnection connection in connections)
            connection.Dispose();
    }

    private MigrationReport Report() => new()
    {
        Passes = [.. _passes],
        Parts = [.. _machine.Parts.Select((part, index) => new PartReport(part.Name, _stateBytes[index])
        {
            SaveTime = index < _saveTimes.Count ? _saveTimes[index] : default,
            LoadTime = index < _loadTimes.Count ? _loadTimes[index] : default,
        })],
        DestinationTimes = [.. _destinationTimes],
        Downtime = _downtime.Total,
        DowntimeParts = _downtime.Parts,
        VerifyTime = _downtime.LeftOut,
        BytesSent = _bytesSent,
        LostPages = _lostPages,
        FirstLostPages = [.. _firstLostPages],
        LostRuns = [.. _lostRuns],
    };

    private void Begin(MigrationPhase phase)
    {
        if (!_handover.IsCommitted)
            _cancel.ThrowIfCancellationRequested();
        _phase = phase;
        Emit(new MigrationEvent.PhaseBegan(phase));
    }

    private void Decided(string text) => Emit(new MigrationEvent.Decided(text));

    private void Emit(MigrationEvent migrationEvent) => _observer.OnEvent(migrationEvent);
}
