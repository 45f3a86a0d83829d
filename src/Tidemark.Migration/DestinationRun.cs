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
    private readonly List<PageReceiver> _receivers = [];
    private readonly List<(ulong Bytes, uint Frames, bool Ended)> _parts = [];
    private ControlLink? _link;
    private MigrationPhase _phase;
    private Guid _token;
    private bool _accepted;
    private bool _committed;
    private bool _running;
    private bool _closed;
    private int _passes;
    private TimeSpan _verifyTime;
    private ulong _bytesReceived;

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
            Hello hello = Negotiate();
            AcceptChannels(hello.Channels);
            Receive();
            Commit();
        }
        catch (Exception failure) when (_running)
        {
            // The machine runs; only the source could not be told, and says so itself.
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
        return new MigrationOutcome(result, _phase, cause, null, Report());
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

            _token = preamble.Token;
            if (TryAnswer(connection, preamble))
                _link = new ControlLink(connection, _options.IdleTimeout, _time);
            else
                connection.Dispose();
        }
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

    private Hello Negotiate()
    {
        Begin(MigrationPhase.Negotiate);
        Hello hello;
        using (ControlFrame frame = Link.Expect(FrameType.Hello, _cancel))
            hello = Messages.ReadHello(frame.Reader);
        var obstacles = new List<string>();
        if (hello.Channels > _options.MaximumChannels)
        {
            obstacles.Add(
                $"{hello.Channels} channels are asked for and at most {_options.MaximumChannels} are allowed "
                    + $"here; ask for fewer or raise the limit.");
        }

        var slots = _machine.Memory.Slots.Select(slot => new PageRun(slot.FirstPage, slot.PageCount));
        if (hello.SpanPages != _machine.Memory.SpanPages || !hello.Slots.SequenceEqual(slots))
            obstacles.Add($"The memory layout differs: {hello.SpanPages} pages at the source, "
                + $"{_machine.Memory.SpanPages} here (or other slots).");
        if (hello.PartCount != _machine.Parts.Count)
            obstacles.Add($"The machine has {hello.PartCount} parts at the source and {_machine.Parts.Count} here.");
        obstacles.AddRange(_machine.FindObstacles(hello.Description));
        if (obstacles.Count > 0)
        {
            Link.Writer.Send(FrameType.Refuse, Messages.WriteReasons(obstacles));
            Link.AwaitPeerEnd(TimeSpan.FromSeconds(1));
            throw new RefusedException($"The machine of {Link.Peer} was refused: {string.Join(" ", obstacles)}");
        }

        _accepted = true;
        Link.Writer.Send(FrameType.Accept, default);
        return hello;
    }

    private void AcceptChannels(int count)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(_cancel);
        limit.CancelAfter(AnswerLimit);
        // A source that fails meanwhile ends the wait; the token is the only thing Accept listens to.
        RegisteredWaitHandle onFault = ThreadPool.RegisterWaitForSingleObject(
            Link.Faulted, (_, _) => CancelUnlessOver(limit), null, Timeout.Infinite, executeOnlyOnce: true);
        try
        {
            int strangers = 0;
            while (_receivers.Count < count)
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
                $"The source opened {_receivers.Count} of {count} channels within {Words.Of(AnswerLimit)}.");
        }
        finally
        {
            using var unregistered = new ManualResetEvent(false);
            if (onFault.Unregister(unregistered))
                unregistered.WaitOne();
        }

        foreach (IMigratable part in _machine.Parts)
        {
            PartStep.Do(part, "prepare to take state", migratable => migratable.BeginLoad());
            _parts.Add(default);
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
            || preamble.Channel > count || _receivers.Exists(receiver => receiver.Number == preamble.Channel)
            || !TryAnswer(connection, preamble))
        {
            Decided($"The peer {connection.Peer} was turned away: it is no channel of this migration.");
            connection.Dispose();
            return false;
        }

        _receivers.Add(new PageReceiver(connection, preamble.Channel, _machine.Memory, Link, _time));
        return true;
    }

    private (MigrationResult Result, string Cause) Explain(Exception failure)
    {
        Exception root = Ending.RootOf(failure);
        if (_committed)
        {
            string tragedy = $"Commit had arrived, and the machine could not be started here: {root.Message}";
            SayLast(FrameType.Abort, tragedy);
            return (MigrationResult.StateUnknown, $"{tragedy} It does not run at the source either; somebody must "
                + $"decide where it may.");
        }

        if (_cancel.IsCancellationRequested)
        {
            SayLast(FrameType.Cancel, "Cancelled at the destination.");
            return (MigrationResult.Cancelled, $"Cancelled in phase {_phase}. The machine never ran here.");
        }

        if (root is not (RefusedException or PeerException))
            SayLast(FrameType.Abort, root.Message);
        PeerException? word = root as PeerException
            ?? (Ending.IsLoss(root) ? _link?.AwaitPeerWord(Ending.PeerWordLimit) : null);
        if (word is not null)
        {
            return word.Cancelled
                ? (MigrationResult.Cancelled, $"The source cancelled: {word.Message} The machine never ran here.")
                : (MigrationResult.Failed, $"The source gave up: {word.Message} The machine never ran here.");
        }

        if (!_accepted && _link is not null)
            TurnedAway = _options.AcceptAgain;
        if (TurnedAway)
            Decided($"Turned away: {root.Message}");
        return (MigrationResult.Failed, $"{root.Message} The machine never ran here.");
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
        foreach (PageReceiver receiver in _receivers)
            receiver.Abort();
        foreach (PageReceiver receiver in _receivers)
        {
            receiver.Dispose();
            _bytesReceived += receiver.BytesReceived;
        }

        _link?.Dispose();
    }

    private MigrationReport Report() => new()
    {
        Parts = [.. _parts.Select((part, index) => new PartReport(_machine.Parts[index].Name, part.Bytes))],
        VerifyTime = _verifyTime,
    };

    private void Begin(MigrationPhase phase)
    {
        _phase = phase;
        Emit(new MigrationEvent.PhaseBegan(phase));
    }

    private void Decided(string text) => Emit(new MigrationEvent.Decided(text));

    private void Emit(MigrationEvent migrationEvent) => _observer.OnEvent(migrationEvent);

    /// <summary>This machine can not be taken here; the source has been told.</summary>
    private sealed class RefusedException(string message) : Exception(message);
}
