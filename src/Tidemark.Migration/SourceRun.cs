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
    private readonly ulong[] _channelBytes;
    private int _retries;
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
        _channelBytes = new ulong[options.Channels + 1];
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
        // What was sent and not acknowledged did not arrive: nothing is known to be there any more.
        _sent = null;
        _retries++;
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
            _channelBytes[channel.Number] += channel.BytesSent;
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
        // What no channel sent, the control connection did.
        Channels = [.. _channelBytes.Select((bytes, number) => new ChannelReport(
            number, number == 0 ? _bytesSent - _channelBytes.Aggregate((sum, next) => sum + next) : bytes))],
        Retries = _retries,
        LostPages = _lostPages,
        FirstLostPages = [.. _firstLostPages],
        LostRuns = [.. _lostRuns],
    };

    private void Begin(MigrationPhase phase)
    {
        if (!_handover.IsCommitted)
            _cancel.ThrowIfCancellationRequested();
        _phase = phase;
        Emit(new MigrationEvent.PhaseBegan(phase) { MigrationId = Preamble.IdOf(_token) });
    }

    private void Decided(string text) => Emit(new MigrationEvent.Decided(text));

    private void Emit(MigrationEvent migrationEvent) => _observer.OnEvent(migrationEvent);
}
