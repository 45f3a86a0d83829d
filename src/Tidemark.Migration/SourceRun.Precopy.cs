using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

internal sealed partial class SourceRun
{
    /// <summary>
    /// LIMIT: what one part may send between two looks at the pass, so that no part starves the others.
    /// </summary>
    private const ulong PumpBytes = 4 << 20;

    private static readonly TimeSpan ProgressInterval = TimeSpan.FromMilliseconds(250);

    private PassWork? _work;
    private DirtyLease? _carried;
    private TimeSpan _harvestTime;

    private bool ForgetsLastWord => (_options.Faults & MigrationFaults.ForgetLastWord) != 0;

    /// <summary>
    /// Passes while the machine runs. Ends with a harvest in <see cref="_carried"/> that fits the limit.
    /// </summary>
    private void Precopy()
    {
        Begin(MigrationPhase.Precopy);
        foreach (PartStream part in _parts)
            part.WarmUp();
        PageBitmap all = _machine.Memory.AllPages();
        var policy = new ConvergencePolicy(
            new ConvergenceOptions { DowntimeLimit = _options.DowntimeLimit, MaximumPasses = _options.MaximumPasses },
            _machine.Memory.SpanPages);
        long begin = _time.GetTimestamp();
        PassReport pass = RunPass(0, all, all.CountSet(), [], final: false);
        while (true)
        {
            DrainInitialState();
            DirtyLease lease = Harvest();
            ConvergenceDecision decision = policy.Decide(new PassFacts
            {
                Pass = pass.Index,
                DirtyPages = lease.PageCount,
                FreshPages = lease.PageCount,
                Interval = pass.Duration + _harvestTime,
                SentPages = pass.SentPages,
                ZeroPages = pass.ZeroPages,
                UnchangedPages = pass.UnchangedPages,
                Bytes = pass.Bytes,
                Duration = pass.Duration,
                HarvestTime = _harvestTime,
                StateBytes = EstimateState(),
                Elapsed = _time.GetElapsedTime(begin),
            });
            EndPass(pass with { PredictedDowntime = decision.Predicted.Total });
            if (decision.Step == ConvergenceStep.GiveUp)
                throw new MigrationFailedException(decision.Reason);
            Decided(decision.Reason);
            if (decision.Step == ConvergenceStep.SwitchOver && pass.Index + 1 < _options.MaximumPasses && !IsReadyToStop())
            {
                // A device began anew since it was asked: what was sent of it is void, and it is given another pass.
                Decided("The switchover waits: a device has new initial state to send.");
            }
            else if (decision.Step == ConvergenceStep.SwitchOver)
            {
                _carried = lease;
                return;
            }

            pass = RunPass(pass.Index + 1, lease.Pages, lease.PageCount, lease.BySource, final: false);
            lease.Commit();
            _leases.Remove(lease);
        }
    }

    private DirtyLease Harvest()
    {
        long start = _time.GetTimestamp();
        DirtyLease lease;
        try
        {
            lease = _machine.DirtyTracker.Harvest();
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"Dirty pages could not be harvested: {failure.Message}", inner: failure);
        }

        _leases.Add(lease);
        _harvestTime = _time.GetElapsedTime(start);
        return lease;
    }

    private PassReport RunPass(
        int index, PageBitmap pages, ulong dirtyPages, IReadOnlyList<DirtyCount> sources, bool final)
    {
        Span<byte> announcement = stackalloc byte[16];
        Messages.WritePair(announcement, (ulong)index, dirtyPages);
        Link.Writer.Send(FrameType.PassBegin, announcement);
        _work = new PassWork((uint)index, pages, _senders.Count, ForgetsLastWord && index > 0);
        long start = _time.GetTimestamp();
        foreach (PageSender sender in _senders)
            sender.Begin(_work);
        AwaitPass(_work, dirtyPages, readParts: !final);
        TimeSpan duration = _time.GetElapsedTime(start);
        var report = new PassReport(
            index, dirtyPages, _work.SentPages, _work.ZeroPages, _work.Bytes, duration, sources, final)
        {
            UnchangedPages = _work.UnchangedPages,
        };
        _work.Dispose();
        _work = null;
        return report;
    }

    private void AwaitPass(PassWork work, ulong dirtyPages, bool readParts)
    {
        WaitHandle[] handles = [work.Acknowledged, Link.Faulted, _cancel.WaitHandle];
        long lastProgress = _time.GetTimestamp();
        while (true)
        {
            bool idle = true;
            if (readParts)
            {
                foreach (PartStream part in _parts)
                    idle &= part.Pump(PumpBytes, _cancel);
            }

            // While parts have something to say this only looks; otherwise it waits.
            int signalled = WaitHandle.WaitAny(handles, idle ? 100 : 0);
            _cancel.ThrowIfCancellationRequested();
            Link.ThrowIfFaulted();
            if (signalled == 0)
                return;
            if (_time.GetElapsedTime(lastProgress) >= ProgressInterval)
            {
                lastProgress = _time.GetTimestamp();
                Emit(new MigrationEvent.PassProgress(
                    (int)work.Index, work.SentPages + work.ZeroPages + work.UnchangedPages, dirtyPages, work.Bytes));
            }
        }
    }

    /// <summary>Reads what parts want read before the stop; bounded by the idle timeout.</summary>
    private void DrainInitialState()
    {
        long start = _time.GetTimestamp();
        foreach (PartStream part in _parts)
        {
            while (Estimate(part).InitialBytes > 0)
            {
                bool idle = part.Pump(PumpBytes, _cancel);
                Link.ThrowIfFaulted();
                if (_time.GetElapsedTime(start) > AnswerLimit)
                {
                    throw new MigrationFailedException(
                        $"The part {part.Name} still has {Estimate(part).InitialBytes} initial bytes to send "
                            + $"after {Words.Of(AnswerLimit)}, so it is not ready to be stopped.");
                }

                if (idle)
                    _cancel.WaitHandle.WaitOne(5);
            }
        }
    }

    /// <summary>Asked right before the stop, although all was drained before: a device can begin anew at any
    /// time.</summary>
    private bool IsReadyToStop() => _parts.TrueForAll(part => Estimate(part).InitialBytes == 0);

    private ulong EstimateState()
    {
        ulong total = 0;
        foreach (PartStream part in _parts)
        {
            StateEstimate estimate = Estimate(part);
            // A part that can not tell has at least what it could be asked for now.
            total += estimate.StopBytes ?? estimate.InitialBytes + estimate.DirtyBytes;
        }

        return total;
    }

    private static StateEstimate Estimate(PartStream part)
    {
        StateEstimate estimate = default;
        PartStep.Do(part.Part, "say how much state it has", migratable => estimate = migratable.Estimate());
        return estimate;
    }

    private void EndPass(PassReport pass)
    {
        _passes.Add(pass);
        Emit(new MigrationEvent.PassEnded(pass));
    }
}
