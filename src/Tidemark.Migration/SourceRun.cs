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

    private readonly ISourceMachine _machine;
    private readonly IConnector _connector;
    private readonly MigrationOptions _options;
    private readonly GuardedObserver _observer;
    private readonly TimeProvider _time;
    private readonly CancellationToken _cancel;
    private readonly CancellationTokenRegistration _onCancel;
    private readonly Lock _gate = new();
    private readonly List<IConnection> _connections = [];
    private readonly List<PageSender> _senders = [];
    private readonly List<DirtyLease> _leases = [];
    private readonly List<PartStream> _parts = [];
    private readonly List<PassReport> _passes = [];
    private readonly List<ulong> _firstLostPages = [];
    private Timer? _cancelTimer;
    private ControlLink? _link;
    private MigrationPhase _phase;
    private ulong? _lostPages;
    private bool _tracking;
    private bool _comparesPages;
    private bool _savingBegan;
    private bool _stopCalled;
    private bool _committed;
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
        _onCancel = cancel.Register(OnCancel);
    }

    private ControlLink Link => _link ?? throw new InvariantException("The control connection is used before it "
        + "exists.");

    private TimeSpan AnswerLimit => _options.IdleTimeout > TimeSpan.Zero ? _options.IdleTimeout : TimeSpan.FromMinutes(5);

    public MigrationOutcome Execute()
    {
        long start = _time.GetTimestamp();
        MigrationResult result = MigrationResult.Completed;
        string? cause = null;
        string? caughtBy = null;
        try
        {
            Connect();
            Negotiate();
            StartTracking();
            Precopy();
            Switchover();
            VerifyMemory();
            CheckStopped();
            Commit();
            Finish();
        }
        catch (Exception failure) when (_committed)
        {
            // Commit may have arrived: from here on this machine stays stopped, whatever happened.
            (result, cause) = (MigrationResult.StateUnknown, DescribeUnknown(failure));
            WarnOfLateCancel();
        }
        catch (Exception failure)
        {
            // Commit was not sent: everything is undone, and the machine runs here.
            (result, cause, caughtBy) = Undo(failure);
        }

        Close();
        return new MigrationOutcome(result, _phase, cause, caughtBy, Report() with { TotalTime = _time.GetElapsedTime(start) });
    }

    public void Dispose()
    {
        _onCancel.Dispose();
        Close();
        _cancelTimer?.Dispose();
        _work?.Dispose();
    }

    private void Connect()
    {
        Begin(MigrationPhase.Connect);
        Guid token = new(RandomNumberGenerator.GetBytes(16));
        IConnection control = Open(PreambleRole.SourceControl, 0, token);
        _link = new ControlLink(control, _options.IdleTimeout, _time);
        _token = token;
    }

    private Guid _token;

    private IConnection Open(PreambleRole role, int channel, Guid token)
    {
        _cancel.ThrowIfCancellationRequested();
        IConnection connection = _connector.Connect(_cancel);
        lock (_gate)
            _connections.Add(connection);
        Preamble.Create(role, channel, token).Send(connection);
        Preamble answer = Preamble.Receive(connection, AnswerLimit, _time);
        if (!answer.SpeaksOurVersion)
        {
            throw new MigrationFailedException(
                $"The destination {connection.Peer} speaks version {answer.Versions} of the migration protocol, "
                    + $"this source version {Preamble.Version}; use releases that share a version.");
        }

        if (answer.Role != PreambleRole.Destination || answer.Token != token || answer.Channel != channel)
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
            _options.Channels, _options.Verify, _machine.Memory.SpanPages, slots, _machine.Parts.Count, _machine.Description)));
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

        SentPages? sent = _machine.ReportsUnchangedPages ? new SentPages(_machine.Memory.SpanPages) : null;
        _comparesPages = sent is not null;
        for (int number = 1; number <= _options.Channels; number++)
        {
            IConnection connection = Open(PreambleRole.SourcePages, number, _token);
            _senders.Add(new PageSender(connection, number, _machine.Memory, sent, Link, _options.IdleTimeout, _time));
        }

        Link.Expect(FrameType.Ready, _cancel).Dispose();
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
        _savingBegan = true;
        var buffer = new byte[PartStream.BufferBytes];
        for (int index = 0; index < _machine.Parts.Count; index++)
        {
            PartStep.Do(_machine.Parts[index], "begin to save", part => part.BeginSave());
            _parts.Add(new PartStream(_machine.Parts[index], index, Link.Writer, buffer));
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
        List<string> problems = RecoverMachine();
        // A lost connection is often only the echo of a failure that the peer has put in words.
        PeerException? word = root as PeerException
            ?? (!cancelled && Ending.IsLoss(root) ? _link?.AwaitPeerWord(Ending.PeerWordLimit) : null);
        if (told)
            _link!.AwaitPeerEnd(CancelGrace);
        MigrationResult result = cancelled || word is { Cancelled: true } ? MigrationResult.Cancelled : MigrationResult.Failed;
        string cause = cancelled ? $"Cancelled in phase {_phase}."
            : word is { Cancelled: true } ? $"The destination cancelled: {word.Message}"
            : word is not null ? $"The destination gave up: {word.Message}"
            : root.Message;
        string where = problems.Count == 0 ? "The machine runs here." : string.Join(" ", problems);
        return (result, $"{cause} {where}", caughtBy);
    }

    /// <summary>Devices run before the workload, so that nobody talks to a device that stands still.</summary>
    private List<string> RecoverMachine()
    {
        var problems = new List<string>();
        foreach (DirtyLease lease in _leases)
            lease.Dispose();
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
        if (_tracking)
            Try(() => _machine.StopTracking(staysHere: true), "Dirty tracking could not be ended in order");
        _tracking = false;
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

    private static string DescribeUnknown(Exception failure)
    {
        Exception root = Ending.RootOf(failure);
        string lost = root switch
        {
            PeerException { Cancelled: true } => $"The destination had cancelled when Commit was sent: {root.Message}",
            PeerException => $"The destination failed after Commit had been sent: {root.Message}",
            _ => $"Commit was sent and its acknowledgement did not arrive: {root.Message}",
        };
        return $"{lost} The machine stays stopped here, because it may run at the destination. Look there: if it runs, "
            + "end this one with `tidemark stop`; if it does not, nobody runs it, and this process still has all of it.";
    }

    private void OnCancel()
    {
        lock (_gate)
        {
            if (!_committed && !_closed)
                _cancelTimer ??= new Timer(_ => AbortConnections(), null, CancelGrace, Timeout.InfiniteTimeSpan);
        }
    }

    private void AbortConnections()
    {
        lock (_gate)
        {
            if (_committed || _closed)
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

        foreach (PageSender sender in _senders)
            sender.Abort();
        foreach (PageSender sender in _senders)
            sender.Dispose();
        _bytesSent = (_link?.Writer.BytesSent ?? 0) + (ulong)(_connections.Count * Preamble.Size);
        foreach (PageSender sender in _senders)
            _bytesSent += sender.BytesSent;
        _link?.Dispose();
        // Connections that never got a reader of their own; for the others this is the second time and does nothing.
        foreach (IConnection connection in _connections)
            connection.Dispose();
    }

    private MigrationReport Report() => new()
    {
        Passes = [.. _passes],
        Parts = [.. _parts.Select(part => new PartReport(part.Name, part.BytesSent))],
        Downtime = _downtime.Total,
        DowntimeParts = _downtime.Parts,
        VerifyTime = _downtime.LeftOut,
        BytesSent = _bytesSent,
        LostPages = _lostPages,
        FirstLostPages = [.. _firstLostPages],
        LostRuns = [.. _lostRuns],
    };

    private ulong _bytesSent;

    private void Begin(MigrationPhase phase)
    {
        if (!_committed)
            _cancel.ThrowIfCancellationRequested();
        _phase = phase;
        Emit(new MigrationEvent.PhaseBegan(phase));
    }

    private void Decided(string text) => Emit(new MigrationEvent.Decided(text));

    private void Emit(MigrationEvent migrationEvent) => _observer.OnEvent(migrationEvent);
}
