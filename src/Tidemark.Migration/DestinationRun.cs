using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>One connection of a source, from its preamble to the end. Drawn in MigrationDestination.cs.</summary>
internal sealed partial class DestinationRun : IDisposable
{
    /// <summary>LIMIT: how long somebody may hold the door without saying who it is.</summary>
    private static readonly TimeSpan PreambleLimit = TimeSpan.FromSeconds(5);

    private static readonly TimeSpan LastWordLimit = TimeSpan.FromMilliseconds(300);

    /// <summary>LIMIT: strangers that may come between a source's own connections.</summary>
    private const int StrangersLimit = 16;

    private readonly IDestinationMachine _machine;
    private readonly IAcceptor _acceptor;
    private readonly DestinationOptions _options;
    private readonly GuardedObserver _observer;
    private readonly TimeProvider _time;
    private readonly CancellationToken _cancel;
    private readonly List<DestinationChannel> _channels = [];
    private readonly List<DowntimePart> _times = [];
    private ControlLink? _link;
    private DestinationParts? _parts;
    private DestinationMemory? _memory;
    private PassFence? _fence;
    private Hello? _hello;
    private DestinationHandover _handover = new(DestinationStand.Filling);
    private MigrationPhase _phase;
    private Guid _token;
    private bool _commitIsPossible;
    private bool _closed;
    private int _passes;
    private TimeSpan _verifyTime;
    private readonly ulong[] _channelBytes = new ulong[FrameLimits.MaximumChannels + 1];
    private int _retries;

    public DestinationRun(
        IDestinationMachine machine, IAcceptor acceptor, DestinationOptions options, IMigrationObserver observer,
        TimeProvider time, CancellationToken cancel)
    {
        _machine = machine;
        _acceptor = acceptor;
        _options = options;
        _observer = new GuardedObserver(observer);
        _time = time;
        _cancel = cancel;
    }

    /// <summary>This source was turned away before anything was received; the machine is as fresh as before.</summary>
    public bool TurnedAway { get; private set; }

    /// <summary>The source may not know how it ended, and will ask.</summary>
    public HandoverWitness? Witness { get; private set; }

    private bool IsCommitted => _handover.Stand is DestinationStand.Committed or DestinationStand.Runs or DestinationStand.Broken;

    private ControlLink Link => _link ?? throw new InvariantException("The control connection is used before it "
        + "exists.");

    private TimeSpan AnswerLimit => _options.IdleTimeout > TimeSpan.Zero ? _options.IdleTimeout : TimeSpan.FromMinutes(5);

    public MigrationOutcome Execute()
    {
        MigrationResult result = MigrationResult.Completed;
        string? cause = null;
        try
        {
            Listen();
            Negotiate();
            while (!TryReceive())
                AwaitSource();
            Commit();
        }
        catch (Exception failure) when (_handover.Stand == DestinationStand.Runs)
        {
            // The machine runs; only the source could not be told, and asks.
            Decided($"The machine runs here, but the source could not be told: {failure.Message}");
        }
        catch (Exception failure)
        {
            // Nothing of this machine runs. If Commit had arrived nobody else may run it either.
            (result, cause) = Explain(failure);
        }

        if (result == MigrationResult.Completed)
        {
            if (_cancel.IsCancellationRequested)
                Decided("The receiver was cancelled after Commit had arrived: too late, the cancel is ignored.");
            Begin(MigrationPhase.Done);
        }

        Close();
        return new MigrationOutcome(result, _phase, cause, null, Report()) { Witness = Witness };
    }

    public void Dispose() => Close();

    /// <summary>Takes connections until one is a source that speaks our version.</summary>
    private void Listen()
    {
        Begin(MigrationPhase.Connect);
        while (_link is null)
        {
            IConnection connection = _acceptor.Accept(_cancel);
            if (Greet(connection) is not { } preamble)
                continue;
            if (preamble.Role == PreambleRole.Query)
            {
                // Of a migration that this process knows nothing of.
                HandoverWitness.Answer(connection, preamble, MachineFate.NotTold);
                continue;
            }

            if (preamble.Role != PreambleRole.SourceControl)
            {
                Decided($"The peer {connection.Peer} was turned away: it belongs to a migration that is not this one.");
                connection.Dispose();
                continue;
            }

            if (!preamble.SpeaksOurVersion)
            {
                TryAnswer(connection, preamble);
                connection.Dispose();
                TurnedAway = _options.AcceptAgain;
                throw new MigrationFailedException(
                    $"The source {connection.Peer} speaks version {preamble.Versions} of the migration protocol, "
                        + $"this destination version {Preamble.Version}; use releases that share a version.");
            }

            if (!TryAnswer(connection, preamble))
            {
                connection.Dispose();
                continue;
            }

            _token = preamble.Token;
            _link = new ControlLink(connection, _options.IdleTimeout, _time);
            if (preamble.Features == Preamble.Resumes)
                RefuseUnknown();
        }
    }

    /// <summary>A source that goes on with a migration of which nothing is left here, or never was anything.</summary>
    private void RefuseUnknown()
    {
        const string Why = "This receiver has nothing of that migration: it was started anew, or gave up waiting.";
        Link.Writer.Send(FrameType.Refuse, Messages.WriteReasons([Why]));
        Link.AwaitPeerEnd(TimeSpan.FromSeconds(1));
        throw new RefusedException(Why);
    }

    /// <summary>Reads a newcomer's preamble, or turns it away and returns null.</summary>
    private Preamble? Greet(IConnection connection)
    {
        using CancellationTokenRegistration registration = _cancel.Register(connection.Abort);
        try
        {
            return Preamble.Receive(connection, PreambleLimit, _time);
        }
        catch (Exception failure) when (failure is NotTidemarkException or MigrationStreamException)
        {
            // Anybody can knock; nothing of this machine was touched.
            connection.Dispose();
            _cancel.ThrowIfCancellationRequested();
            Decided($"Turned away: {failure.Message}");
            return null;
        }
    }

    private static bool TryAnswer(IConnection connection, Preamble preamble)
    {
        try
        {
            Preamble.Create(PreambleRole.Destination, preamble.Channel, preamble.Token).Send(connection);
            return true;
        }
        catch (IOException)
        {
            // It has gone already; the caller closes this end.
            return false;
        }
    }

    private void Negotiate()
    {
        Begin(MigrationPhase.Negotiate);
        Hello hello = ReceiveHello();
        List<string> obstacles = FindObstacles(hello);
        if (obstacles.Count > 0)
        {
            Link.Writer.Send(FrameType.Refuse, Messages.WriteReasons(obstacles));
            Link.AwaitPeerEnd(TimeSpan.FromSeconds(1));
            throw new RefusedException($"The machine of {Link.Peer} was refused: {string.Join(" ", obstacles)}");
        }

        _hello = hello;
        Link.Writer.Send(FrameType.Accept, default);
    }

    private Hello ReceiveHello()
    {
        using ControlFrame frame = Link.Expect(FrameType.Hello, _cancel);
        return Messages.ReadHello(frame.Reader);
    }

    private List<string> FindObstacles(Hello hello)
    {
        var obstacles = new List<string>();
        if (hello.Channels > _options.MaximumChannels)
        {
            obstacles.Add(
                $"{hello.Channels} channels are asked for and at most {_options.MaximumChannels} are allowed "
                    + $"here; ask for fewer or raise the limit.");
        }

        if (hello.Compresses && _options.Codec is null)
            obstacles.Add("Pages would come compressed with zstd, and this host has no libzstd.so.1; install libzstd1 or do not compress.");
        var slots = _machine.Memory.Slots.Select(slot => new PageRun(slot.FirstPage, slot.PageCount));
        if (hello.SpanPages != _machine.Memory.SpanPages || !hello.Slots.SequenceEqual(slots))
            obstacles.Add($"The memory layout differs: {hello.SpanPages} pages at the source, "
                + $"{_machine.Memory.SpanPages} here (or other slots).");
        if (hello.PartCount != _machine.Parts.Count)
            obstacles.Add($"The machine has {hello.PartCount} parts at the source and {_machine.Parts.Count} here.");
        obstacles.AddRange(_machine.FindObstacles(hello.Description));
        return obstacles;
    }

    /// <summary>Everything until Commit has arrived; false when the connection was lost and the source may come
    /// back.</summary>
    private bool TryReceive()
    {
        try
        {
            AcceptChannels(_hello!.Channels);
            Receive();
            return true;
        }
        catch (Exception failure) when (MayAwaitSource(failure))
        {
            Decided($"The connection was lost: {Ending.RootOf(failure).Message} What has arrived is kept for "
                + $"{Words.Of(AwaitLimit)}.");
            // Nothing runs here, and what came is only ever completed by a source that begins its last pass again.
            CloseSession();
            _handover = _handover.Reopen();
            _retries++;
            return false;
        }
    }

    private TimeSpan AwaitLimit
    {
        get
        {
            // The source tries a little less long than is waited for it.
            TimeSpan asked = _hello!.RetryFor + TimeSpan.FromSeconds(1);
            return asked < _options.AwaitSourceFor ? asked : _options.AwaitSourceFor;
        }
    }

    private bool MayAwaitSource(Exception failure) =>
        _handover.IsOpen && _hello!.RetryFor > TimeSpan.Zero && _options.AwaitSourceFor > TimeSpan.Zero
        && !_cancel.IsCancellationRequested && Ending.IsLoss(Ending.RootOf(failure))
        && _link?.AwaitPeerWord(Ending.PeerWordLimit) is null;

    /// <summary>Waits for the source to come back, and answers if it wants to know instead.</summary>
    private void AwaitSource()
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(_cancel);
        limit.CancelAfter(AwaitLimit);
        while (true)
        {
            try
            {
                while (_link is null)
                    Readmit(_acceptor.Accept(limit.Token));
                TakeHelloAgain();
                return;
            }
            catch (OperationCanceledException) when (!_cancel.IsCancellationRequested)
            {
                throw new MigrationFailedException(
                    $"The connection was lost and the source did not come back within {Words.Of(AwaitLimit)}.");
            }
            catch (Exception failure) when (MayAwaitSource(failure))
            {
                // It came back and was lost again before it could go on: the same wait goes on.
                CloseSession();
            }
        }
    }

    private void TakeHelloAgain()
    {
        Hello hello = ReceiveHello();
        if (hello.SpanPages != _hello!.SpanPages || !hello.Slots.SequenceEqual(_hello.Slots) || hello.Channels != _hello.Channels
            || !hello.Description.Span.SequenceEqual(_hello.Description.Span) || hello.FirstPass > int.MaxValue)
            throw new MigrationFailedException("The source that came back speaks of another machine than before.");
        _passes = (int)hello.FirstPass;
        Link.Writer.Send(FrameType.Accept, default);
    }

    private void Readmit(IConnection connection)
    {
        if (Greet(connection) is not { } preamble)
            return;
        if (preamble.Token == _token && preamble.Role == PreambleRole.Query)
        {
            _handover = _handover.Ask(out MachineFate fate);
            if (!HandoverWitness.Answer(connection, preamble, fate))
                Witness = new HandoverWitness(_acceptor, _token, fate);
            _commitIsPossible = false;
            throw new MigrationFailedException("The source asked what became of its machine, and was told that it never runs here.");
        }

        if (preamble.Token != _token || preamble.Role != PreambleRole.SourceControl || preamble.Features != Preamble.Resumes
            || !TryAnswer(connection, preamble))
        {
            Decided($"The peer {connection.Peer} was turned away: another migration is waited for.");
            connection.Dispose();
            return;
        }

        _link = new ControlLink(connection, _options.IdleTimeout, _time);
    }

    private void AcceptChannels(int count)
    {
        _memory ??= new DestinationMemory(_machine);
        _parts = new DestinationParts(_machine.Parts, Link, _time);
        _fence = new PassFence(count, (uint)_passes);
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(_cancel);
        limit.CancelAfter(AnswerLimit);
        // A source that fails meanwhile ends the wait; the token is the only thing Accept listens to.
        RegisteredWaitHandle onFault = ThreadPool.RegisterWaitForSingleObject(
            Link.Faulted, (_, _) => CancelUnlessOver(limit), null, Timeout.Infinite, executeOnlyOnce: true);
        try
        {
            int strangers = 0;
            while (_channels.Count < count)
            {
                IConnection connection = _acceptor.Accept(limit.Token);
                if (!TakeChannel(connection, count) && ++strangers > StrangersLimit)
                    throw new MigrationFailedException($"{strangers} strangers connected where the source's "
                        + $"channels were due.");
            }
        }
        catch (OperationCanceledException) when (!_cancel.IsCancellationRequested)
        {
            Link.ThrowIfFaulted();
            throw new MigrationFailedException(
                $"The source opened {_channels.Count} of {count} channels within {Words.Of(AnswerLimit)}.");
        }
        finally
        {
            using var unregistered = new ManualResetEvent(false);
            if (onFault.Unregister(unregistered))
                unregistered.WaitOne();
        }

        Link.Writer.Send(FrameType.Ready, default);
    }

    /// <summary>On a pool thread, which may get its turn only after the wait has ended in another way.</summary>
    private static void CancelUnlessOver(CancellationTokenSource limit)
    {
        try
        {
            limit.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // Nobody waits any more: the fault is seen by whoever uses the link next.
        }
    }

    private bool TakeChannel(IConnection connection, int count)
    {
        if (Greet(connection) is not { } preamble)
            return false;
        if (preamble.Role != PreambleRole.SourcePages || preamble.Token != _token || preamble.Channel is 0
            || preamble.Channel > count || _channels.Exists(channel => channel.Number == preamble.Channel)
            || !TryAnswer(connection, preamble))
        {
            Decided($"The peer {connection.Peer} was turned away: it is no channel of this migration.");
            connection.Dispose();
            return false;
        }

        _channels.Add(new DestinationChannel(
            connection, preamble.Channel, _memory!, _parts!, _fence!, _hello!.Compresses ? _options.Codec!() : null, Link,
            _time));
        return true;
    }

    private (MigrationResult Result, string Cause) Explain(Exception failure)
    {
        Exception root = Ending.RootOf(failure);
        if (IsCommitted)
        {
            string tragedy = $"Commit had arrived, and the machine could not be started here: {root.Message}";
            _handover = _handover.FailedToStart();
            SayLast(FrameType.Abort, tragedy);
            Witness = new HandoverWitness(_acceptor, _token, MachineFate.BrokenThere);
            return (MigrationResult.StateUnknown, $"{tragedy} It does not run at the source either; somebody must "
                + $"decide where it may.");
        }

        _handover = _handover.GiveUp();
        if (_commitIsPossible)
            Witness ??= new HandoverWitness(_acceptor, _token, MachineFate.NeverThere);
        if (_cancel.IsCancellationRequested)
        {
            SayLast(FrameType.Cancel, "Cancelled at the destination.");
            DropNeedlessWitness();
            return (MigrationResult.Cancelled, $"Cancelled in phase {_phase}. The machine never ran here.");
        }

        if (root is not (RefusedException or PeerException))
            SayLast(FrameType.Abort, root.Message);
        PeerException? word = root as PeerException
            ?? (Ending.IsLoss(root) ? _link?.AwaitPeerWord(Ending.PeerWordLimit) : null);
        DropNeedlessWitness();
        if (word is not null)
        {
            return word.Cancelled
                ? (MigrationResult.Cancelled, $"The source cancelled: {word.Message} The machine never ran here.")
                : (MigrationResult.Failed, $"The source gave up: {word.Message} The machine never ran here.");
        }

        if (_hello is null && _link is not null)
            TurnedAway = _options.AcceptAgain;
        if (TurnedAway)
            Decided($"Turned away: {root.Message}");
        return (MigrationResult.Failed, $"{root.Message} The machine never ran here.");
    }

    /// <summary>A source that gives up in words has not sent Commit and never will: it knows, and does not ask.</summary>
    private void DropNeedlessWitness()
    {
        if (_link?.AwaitPeerWord(TimeSpan.Zero) is not null)
            Witness = null;
    }

    private void SayLast(FrameType type, string reason)
    {
        if (_link is not null && _link.SayLast(type, reason, LastWordLimit))
            _link.AwaitPeerEnd(LastWordLimit);
    }

    private void Close()
    {
        if (_closed)
            return;
        _closed = true;
        CloseSession();
    }

    /// <summary>Ends all threads and connections; what has arrived in guest memory stays.</summary>
    private void CloseSession()
    {
        _fence?.Break();
        foreach (DestinationChannel channel in _channels)
            channel.Abort();
        foreach (DestinationChannel channel in _channels)
        {
            channel.Dispose();
            _channelBytes[channel.Number] += channel.BytesReceived;
        }

        _channels.Clear();
        if (_parts is not null)
        {
            _parts.Dispose();
            _reports = _parts.Reports;
            _parts = null;
        }

        _link?.Dispose();
        _link = null;
    }

    private MigrationReport Report() => new()
    {
        Parts = _reports,
        VerifyTime = _verifyTime,
        DestinationTimes = [.. _times],
        Channels = [.. Enumerable.Range(1, _hello?.Channels ?? 0)
            .Select(number => new ChannelReport(number, _channelBytes[number]))],
        Retries = _retries,
    };

    private IReadOnlyList<PartReport> _reports = [];

    private void Begin(MigrationPhase phase)
    {
        _phase = phase;
        Emit(new MigrationEvent.PhaseBegan(phase) { MigrationId = Preamble.IdOf(_token) });
    }

    private void Decided(string text) => Emit(new MigrationEvent.Decided(text));

    private void Emit(MigrationEvent migrationEvent) => _observer.OnEvent(migrationEvent);

    /// <summary>This machine can not be taken here; the source has been told.</summary>
    private sealed class RefusedException(string message) : Exception(message);
}
