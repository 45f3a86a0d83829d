using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <remarks>
/// The ways back: everything undone before Commit, and what becomes of a Commit whose answer was lost. Who may run is
/// decided by <see cref="SourceHandover"/>.
/// </remarks>
internal sealed partial class SourceRun
{
    /// <summary>LIMIT: how long a destination may take to say one word about a machine.</summary>
    private static readonly TimeSpan QueryLimit = TimeSpan.FromSeconds(2);

    private (MigrationResult Result, string Cause, string? CaughtBy) Undo(Exception failure)
    {
        Exception root = Ending.RootOf(failure);
        string? caughtBy = (root as MigrationFailedException)?.CaughtBy;
        bool cancelled = _cancel.IsCancellationRequested && caughtBy is null;
        // Also to a destination that has given up: it must not wait for a question about a Commit that was never sent.
        bool told = _link is not null
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
        // Also a destination that gave up in words is asked: it may have done so just before Commit came.
        MachineFate fate = Query(_options.QueryFor);
        if (fate == MachineFate.NotTold && root is PeerException { Cancelled: false })
            fate = MachineFate.BrokenThere;
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
}
