using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <remarks>
/// The stop order. Each arrow is one mark of the downtime clock:
/// <code>
/// workload stops -> all parts enter P2P, then all parts stop -> final harvest -> parts' state is out
///   -> last pages out: AllSent; they are acknowledged -> disks flushed -> destination has loaded
///   -> [verification, not counted] -> nothing has run since? Commit, disks released, Committed
/// </code>
/// No harvest before the last writer is quiet counts as final. AllSent does not wait for the acknowledgements: the
/// destination answers it when it has everything, and that is on the way together with them.
/// </remarks>
internal sealed partial class SourceRun
{
    private readonly DowntimeClock _downtime;

    private void Switchover()
    {
        Begin(MigrationPhase.Switchover);
        // What is in hand is in the final harvest again; given back here and not while the machine stands still.
        IReadOnlyList<DirtyCount> before = _sources;
        Carried.Dispose();
        _carried = null;
        Link.Writer.Send(FrameType.SwitchoverBegin, default);
        if ((_options.Faults & MigrationFaults.EarlyFinalHarvest) != 0)
        {
            Harvest();
            // The fault is only one if somebody writes in between.
            _cancel.WaitHandle.WaitOne(50);
        }

        StopMachine();
        Countdown partsDone = FinishParts();
        long start = _time.GetTimestamp();
        if (_carried is null)
            Harvest();
        _downtime.Mark("final harvest");
        IReadOnlyList<DirtyCount> after = _sources;
        PassWork work = BeginPass(final: true);
        AwaitChannels(work, partsDone.Done, readParts: false);
        _downtime.Mark("device state");
        AwaitChannels(work, work.Sent, readParts: false);
        SendAllSent();
        AwaitChannels(work, work.Acknowledged, readParts: false);
        PassReport pass = Describe(work, _time.GetElapsedTime(start), Sum(before, after));
        AwaitAcknowledgements(keep: 0);
        _downtime.Mark("last pages");
        FlushDisks();
        AwaitLoaded();
        EndPass(pass);
    }

    private void StopMachine()
    {
        _cancel.ThrowIfCancellationRequested();
        Link.ThrowIfFaulted();
        _stopCalled = true;
        _handover = _handover.Stop();
        _downtime.Start();
        try
        {
            _machine.StopWorkload();
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"The workload could not be stopped: {failure.Message}", inner: failure);
        }

        _downtime.Mark("stop workload");
        foreach (PartStream part in _parts)
            part.Do("stop talking to its peers", migratable => migratable.EnterP2P());
        foreach (PartStream part in _parts)
            part.Do("stop", migratable => migratable.Stop());
        _downtime.Mark("stop devices");
        _stopCost = _downtime.Total;
        _cancel.ThrowIfCancellationRequested();
    }

    /// <summary>
    /// The state of each part goes out on its channel, all channels at the same time and ahead of the last pages, so that
    /// the destination loads while those are on their way.
    /// </summary>
    private Countdown FinishParts()
    {
        var done = new Countdown(_channels.Count);
        foreach (SourceChannel channel in _channels)
            channel.Post([.. _parts.Where(part => part.Channel == channel)], done);
        return done;
    }

    private void SendAllSent()
    {
        Span<byte> payload = stackalloc byte[16];
        Messages.WritePair(payload, (ulong)_nextPass, (ulong)_parts.Count);
        Link.Writer.Send(FrameType.AllSent, payload);
    }

    private void FlushDisks()
    {
        try
        {
            _machine.FlushDisks();
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"The disks could not be flushed: {failure.Message}", inner: failure);
        }

        _downtime.Mark("flush disks");
    }

    private void AwaitLoaded()
    {
        using (ControlFrame loaded = Link.Expect(FrameType.StateLoaded, _cancel))
            _loadTimes = Messages.ReadTimes(loaded.Reader, _parts.Count);
        _downtime.Mark("load at destination");
    }

    private void CheckStopped()
    {
        if ((_options.Faults & MigrationFaults.ResumeBeforeCommit) != 0)
        {
            foreach (IMigratable part in _machine.Parts)
                PartStep.Do(part, "run again", migratable => migratable.Recover());
            _machine.ResumeWorkload();
            _cancel.WaitHandle.WaitOne(20);
        }

        IReadOnlyList<string> runners = _machine.FindRunners();
        if (runners.Count > 0)
        {
            throw new MigrationFailedException(
                $"Commit was not sent, because the machine does not stand still: {string.Join(", ", runners)}. "
                    + $"Something resumed it after the last pass; what it wrote since is not at the destination.",
                "stopped-before-commit");
        }
    }

    private void Commit()
    {
        Begin(MigrationPhase.Commit);
        Span<byte> payload = stackalloc byte[16];
        Messages.WritePair(payload, (ulong)_nextPass, 0);
        lock (_gate)
        {
            // ORDER: a cancel is either seen here, or finds the migration committed and leaves the connections alone.
            _cancel.ThrowIfCancellationRequested();
            Link.ThrowIfFaulted();
            _handover = _handover.SendCommit();
        }

        Link.Writer.Send(FrameType.Commit, payload);
        try
        {
            _machine.ReleaseDisks();
        }
        catch (Exception failure)
        {
            // The destination will say whether it got them; this side can no longer go back.
            Decided($"The disks could not be released: {failure.Message}");
        }

        using (ControlFrame committed = Link.Expect(FrameType.Committed, CancellationToken.None))
        {
            PayloadReader reader = committed.Reader;
            reader.U64();
            _destinationTimes.Add(new DowntimePart("take the disks", Messages.ReadTime(ref reader)));
            _destinationTimes.Add(new DowntimePart("start", Messages.ReadTime(ref reader)));
        }

        _handover = _handover.Learn(MachineFate.RunsThere);
        _downtime.Mark("commit and start");
        // The destination need not stay to be asked. If this is lost it stays, and nobody asks.
        Link.SayLast(FrameType.Done, CancelGrace);
    }

    private void WarnOfLateCancel()
    {
        if (_cancel.IsCancellationRequested)
            Decided("The migration was cancelled after Commit had been sent: too late, the cancel is ignored.");
    }

    /// <summary>The destination runs; what is left here is tidied away, and can change nothing any more.</summary>
    private void Finish()
    {
        WarnOfLateCancel();
        Close();
        foreach (IMigratable part in _machine.Parts)
            Tidy($"The part {part.Name} could not end saving", part.EndSave);
        Tidy("Dirty tracking could not be ended in order", () => _machine.StopTracking(staysHere: false));
        _tracking = false;
        Begin(MigrationPhase.Done);

        void Tidy(string problem, Action action)
        {
            try
            {
                action();
            }
            catch (Exception failure)
            {
                // The machine has moved; the leftover is reported and goes away with this process.
                Decided($"{problem}: {failure.Message}");
            }
        }
    }

    /// <summary>Adds up by source; one that came or went between the two counts for what it has.</summary>
    private static List<DirtyCount> Sum(IReadOnlyList<DirtyCount> first, IReadOnlyList<DirtyCount> second)
    {
        var sums = new List<DirtyCount>(first);
        foreach (DirtyCount count in second)
        {
            int at = sums.FindIndex(known => known.Source == count.Source && known.Kind == count.Kind);
            if (at < 0)
            {
                sums.Add(count);
                continue;
            }

            uint[] buckets = [.. sums[at].Buckets.Zip(count.Buckets, (left, right) => left + right)];
            sums[at] = count with { PageCount = sums[at].PageCount + count.PageCount, Buckets = buckets };
        }

        return sums;
    }
}
