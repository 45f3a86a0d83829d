using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <remarks>
/// Passes follow each other without a gap:
/// <code>
/// pass n      |--- channels send -----------------------------|      acknowledged ...... lease n committed
/// harvests             |-|          |-|                  |-----|
/// decision                                                     |
/// pass n+1                                                     |--- channels send ----------------|
/// </code>
/// Harvests during a pass find pages that were written again before they were read: those are left to the next pass
/// (<see cref="PassWork.Skip"/>). The last one begins as long before the end of the pass as the one before took.
/// </remarks>
internal sealed partial class SourceRun
{
    /// <summary>
    /// LIMIT: what one part may send between two looks at the pass, so that no part starves the others.
    /// </summary>
    private const ulong PumpBytes = 4 << 20;

    /// <summary>
    /// A pass with less than this on the wire is soon acknowledged, and only then says something about the link.
    /// </summary>
    private const ulong MeasurableBytes = 8 << 20;

    private static readonly TimeSpan ProgressInterval = TimeSpan.FromMilliseconds(250);

    /// <summary>How often a machine that may be stopped any time, and is to wait for it, is harvested.</summary>
    private static readonly TimeSpan WaitingInterval = TimeSpan.FromMilliseconds(500);

    /// <summary>The harvest in hand: taken, and not given to a pass yet. Whatever fails, it goes back.</summary>
    private DirtyLease? _carried;

    private readonly HotPages _hot;
    private readonly ConvergencePolicy _policy;
    private PageBitmap? _holes;
    private IReadOnlyList<DirtyCount> _sources = [];
    private TimeSpan _harvestTime;
    private readonly List<TimeSpan> _harvests = [];
    private TimeSpan _harvestEvery;
    private long _lastHarvest;
    private long _moveBegan;
    private int _nextPass;

    private bool ForgetsLastWord => (_options.Faults & MigrationFaults.ForgetLastWord) != 0;

    /// <summary>
    /// Passes while the machine runs. Ends with a harvest in hand that fits the limit, and everything before it
    /// acknowledged.
    /// </summary>
    private void Precopy()
    {
        Begin(MigrationPhase.Precopy);
        foreach (PartStream part in _parts)
            part.WarmUp();
        if (_moveBegan == 0)
            _moveBegan = _time.GetTimestamp();
        // Nothing else is on the link yet, and nothing will be in the pause.
        MeasureRoundTrip();
        _harvestEvery = _policy.FirstHarvestEvery;
        Harvest();
        if (_nextPass == 0)
            _holes = FindHoles();
        while (true)
        {
            IReadOnlyList<DirtyCount> sources = _nextPass == 0 ? [] : _sources;
            long start = _time.GetTimestamp();
            long intervalBegan = _lastHarvest;
            PassWork work = BeginPass(final: false);
            HarvestWhile(work, start);
            AwaitChannels(work, work.Sent, readParts: true);
            // Of what goes out in one batch on each channel, nothing is acknowledged before all of it is.
            if (work.Bytes < MeasurableBytes || work.AcknowledgedBytes < work.Bytes / 2)
                AwaitAcknowledgements(keep: 0);
            TimeSpan duration = _time.GetElapsedTime(start);
            DrainInitialState();
            PassReport pass = Describe(work, duration, sources);
            ConvergenceDecision decision = Decide(pass, work, _time.GetElapsedTime(intervalBegan, _lastHarvest));
            EndPass(pass with { PredictedDowntime = decision.Predicted.Total });
            Emit(new MigrationEvent.Convergence(pass.Index, decision));
            if (decision.Step == ConvergenceStep.GiveUp)
                throw new MigrationFailedException(decision.Reason);
            Decided(decision.Reason);
            Obey(decision);
            if (decision.Step == ConvergenceStep.SwitchOver)
            {
                AwaitAcknowledgements(keep: 0);
                if (MayStopNow() && IsReadyToStop(pass.Index))
                    return;
            }

            // At most the pass that is being sent and the one before are not acknowledged.
            AwaitAcknowledgements(keep: 1);
        }
    }

    /// <summary>
    /// Pages that were never touched. ORDER: after the harvest that becomes pass 0. What is touched later is in the next
    /// harvest; what was touched between an earlier look and that harvest would count as a hole in the only pass that has it.
    /// </summary>
    private PageBitmap FindHoles()
    {
        PageBitmap holes = _machine.Memory.AllPages();
        holes.AndNot(_machine.FindTouchedPages());
        return holes;
    }

    private ConvergenceDecision Decide(PassReport pass, PassWork work, TimeSpan interval)
    {
        ulong dirty = Carried.Pages.CountSet();
        _hot.Add(Carried.Pages);
        (ulong state, bool unknown) = EstimateState();
        return _policy.Decide(new PassFacts
        {
            Pass = pass.Index,
            DirtyPages = dirty,
            FreshPages = dirty,
            Interval = interval,
            SinceHarvest = _time.GetElapsedTime(_lastHarvest),
            SentPages = pass.SentPages,
            ZeroPages = pass.ZeroPages,
            UnchangedPages = pass.UnchangedPages,
            SkippedPages = work.SkippedPages,
            // What fits the buffers on the way is out at once and says nothing: what was acknowledged says how fast it is.
            Bytes = work.AcknowledgedBytes,
            SentBytes = work.Bytes,
            Duration = pass.Duration,
            HarvestTime = _harvestTime,
            StateBytes = state,
            StateUnknown = unknown,
            HotPages = _hot.Count,
            HotAgain = _hot.Again,
            QuickestHarvest = pass.Harvests.Min(),
            Costs = new FixedCosts
            {
                RoundTrip = MeasureRoundTrip(),
                LeastRoundTrip = _leastRoundTrip,
                Stop = _stopCost,
                DeviceParts = Math.Max(0, _machine.Parts.Count - 1),
            },
            Elapsed = _time.GetElapsedTime(_moveBegan),
            CanThrottle = _machine.CanThrottle,
        });
    }

    private void Obey(ConvergenceDecision decision)
    {
        _harvestEvery = decision.HarvestEvery;
        if (decision.ThrottlePercent is { } percent)
        {
            _throttled = true;
            _machine.Throttle(percent);
        }

        if (decision.Step != ConvergenceStep.AnotherPass || !decision.HoldBackHot)
            return;
        // ORDER: pending before they leave the harvest in hand.
        _machine.DirtyTracker.AddPending(_hot.Hot);
        Carried.Pages.AndNot(_hot.Hot);
    }

    private TimeSpan? _stopCost;
    private TimeSpan? _leastRoundTrip;
    private bool _throttled;

    /// <summary>The control connection's there and back, asked for what it is asked before a stop anyway.</summary>
    private TimeSpan MeasureRoundTrip()
    {
        long start = _time.GetTimestamp();
        AskDestination();
        TimeSpan took = _time.GetElapsedTime(start);
        if (_leastRoundTrip is null || took < _leastRoundTrip)
            _leastRoundTrip = took;
        return took;
    }

    private void AskDestination()
    {
        Link.Writer.Send(FrameType.SwitchoverRequest, default);
        Link.Expect(FrameType.SwitchoverReady, _cancel).Dispose();
    }

    /// <summary>Whether whoever reserved the moment of the stop has given it free; if not, a while passes.</summary>
    private bool MayStopNow()
    {
        if (_options.SwitchoverGate is not { } gate || gate.IsSet)
            return true;
        Emit(new MigrationEvent.WaitingForSwitchover());
        WaitHandle.WaitAny([gate.WaitHandle, Link.Faulted, _cancel.WaitHandle], WaitingInterval);
        _cancel.ThrowIfCancellationRequested();
        Link.ThrowIfFaulted();
        return false;
    }

    /// <summary>Whether parts on both sides agree to the stop; if not, another pass follows.</summary>
    private bool IsReadyToStop(int pass)
    {
        if (pass + 1 < _options.Convergence.MaximumPasses && !_parts.TrueForAll(part => part.Estimate().InitialBytes == 0))
        {
            // A device began anew since it was asked: what was sent of it is void, and it is given another pass.
            Decided("The switchover waits: a device has new initial state to send.");
            return false;
        }

        AskDestination();
        return true;
    }

    private DirtyLease Carried => _carried ?? throw new InvariantException("There is no harvest in hand.");

    private void Harvest()
    {
        Invariant.Require(_carried is null, "A harvest is taken while another is in hand.");
        long start = _time.GetTimestamp();
        try
        {
            _carried = _machine.DirtyTracker.Harvest();
        }
        catch (Exception failure)
        {
            throw new MigrationFailedException($"Dirty pages could not be harvested: {failure.Message}", inner: failure);
        }

        _lastHarvest = _time.GetTimestamp();
        _harvestTime = _time.GetElapsedTime(start, _lastHarvest);
        _harvests.Add(_harvestTime);
        _sources = Carried.BySource;
    }

    /// <summary>As <see cref="Harvest"/>, together with what is in hand already.</summary>
    private void HarvestMore()
    {
        IReadOnlyList<DirtyCount> before = _sources;
        if (_carried is { } inHand)
        {
            inHand.Dispose();
            _carried = null;
        }
        else
        {
            before = [];
        }

        Harvest();
        _sources = Sum(before, _sources);
    }

    /// <summary>Harvests now and then while the pass goes on, the last time so early that the channels need not wait for
    /// it.</summary>
    private void HarvestWhile(PassWork work, long start)
    {
        ulong observed = 0;
        while (work.UntakenPages > 0)
        {
            double share = 1 - (work.UntakenPages / (double)Math.Max(1, work.DirtyPages - work.SkippedPages));
            double elapsed = _time.GetElapsedTime(start).TotalSeconds;
            if (share > 0.02 && elapsed / share * (1 - share) <= _harvestTime.TotalSeconds)
                break;
            if (Look(work, work.Sent, readParts: true))
                break;
            TimeSpan since = _time.GetElapsedTime(_lastHarvest);
            if (_harvestEvery > TimeSpan.Zero && since >= _harvestEvery)
            {
                HarvestMore();
                work.Skip(Carried.Pages);
                // Counts grow with each harvest that is added to the one in hand.
                ulong all = _sources.Aggregate(0UL, (sum, source) => sum + source.PageCount);
                _policy.Observe(all - observed, since);
                observed = all;
            }
        }

        HarvestMore();
        work.Skip(Carried.Pages);
    }

    /// <summary>The harvest in hand becomes a pass.</summary>
    private PassWork BeginPass(bool final)
    {
        var work = new PassWork(
            (uint)_nextPass, Carried, _nextPass == 0 ? _holes : null, _channels.Count, final, ForgetsLastWord && _nextPass > 0);
        _passesUnderWay.Add(work);
        _carried = null;
        _nextPass++;
        Span<byte> announcement = stackalloc byte[16];
        Messages.WritePair(announcement, work.Index, work.DirtyPages);
        Link.Writer.Send(FrameType.PassBegin, announcement);
        foreach (SourceChannel channel in _channels)
            channel.Post(work);
        return work;
    }

    private PassReport Describe(PassWork work, TimeSpan duration, IReadOnlyList<DirtyCount> sources) =>
        new(
            (int)work.Index, work.DirtyPages, work.SentPages, work.ZeroPages, work.Bytes, duration, sources, work.IsFinal)
        {
            UnchangedPages = work.UnchangedPages,
            RepeatedPages = work.RepeatedPages,
            SkippedPages = work.SkippedPages,
            Harvests = TakeHarvests(),
        };

    private TimeSpan[] TakeHarvests()
    {
        TimeSpan[] harvests = [.. _harvests];
        _harvests.Clear();
        return harvests;
    }

    /// <summary>Commits what is acknowledged, and waits until no more than so many passes are not.</summary>
    private void AwaitAcknowledgements(int keep)
    {
        while (_passesUnderWay.Count > 0)
        {
            PassWork oldest = _passesUnderWay[0];
            if (_passesUnderWay.Count > keep)
            {
                AwaitChannels(oldest, oldest.Acknowledged, readParts: true);
                // An acknowledgement can be faster than the thread that sent what it is for.
                AwaitChannels(oldest, oldest.Sent, readParts: false);
            }
            else if (!oldest.IsAcknowledged)
                return;
            oldest.Commit();
            oldest.Dispose();
            _passesUnderWay.RemoveAt(0);
        }
    }

    private void AwaitChannels(PassWork work, WaitHandle until, bool readParts)
    {
        while (!Look(work, until, readParts))
        {
        }
    }

    /// <summary>Waits a moment for the event; meanwhile parts are read, failures seen, and progress is told.</summary>
    private bool Look(PassWork work, WaitHandle until, bool readParts)
    {
        bool idle = true;
        if (readParts)
        {
            foreach (PartStream part in _parts)
                idle &= part.Pump(PumpBytes, _cancel);
        }

        // While parts have something to say this only looks; otherwise it waits.
        int signalled = WaitHandle.WaitAny([until, Link.Faulted, _cancel.WaitHandle], idle ? 20 : 0);
        _cancel.ThrowIfCancellationRequested();
        Link.ThrowIfFaulted();
        if (signalled != 0 && _time.GetElapsedTime(_lastProgress) >= ProgressInterval)
        {
            _lastProgress = _time.GetTimestamp();
            Emit(new MigrationEvent.PassProgress(
                (int)work.Index, work.SentPages + work.ZeroPages + work.UnchangedPages, work.DirtyPages, work.Bytes));
        }

        return signalled == 0;
    }

    private long _lastProgress;

    /// <summary>Reads what parts want read before the stop; bounded by the idle timeout.</summary>
    private void DrainInitialState()
    {
        long start = _time.GetTimestamp();
        foreach (PartStream part in _parts)
        {
            while (part.Estimate().InitialBytes > 0)
            {
                bool idle = part.Pump(PumpBytes, _cancel);
                Link.ThrowIfFaulted();
                if (_time.GetElapsedTime(start) > AnswerLimit)
                {
                    throw new MigrationFailedException(
                        $"The part {part.Name} still has {part.Estimate().InitialBytes} initial bytes to send "
                            + $"after {Words.Of(AnswerLimit)}, so it is not ready to be stopped.");
                }

                if (idle)
                    _cancel.WaitHandle.WaitOne(5);
            }
        }
    }

    private (ulong Bytes, bool Unknown) EstimateState()
    {
        ulong total = 0;
        bool unknown = false;
        foreach (PartStream part in _parts)
        {
            StateEstimate estimate = part.Estimate();
            unknown |= estimate.StopBytes is null;
            // A part that can not tell has at least what it could be asked for now.
            total += estimate.StopBytes ?? estimate.InitialBytes + estimate.DirtyBytes;
        }

        return (total, unknown);
    }

    private void EndPass(PassReport pass)
    {
        _passes.Add(pass);
        Emit(new MigrationEvent.PassEnded(pass));
    }
}
