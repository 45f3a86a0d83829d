using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <remarks>
/// Passes follow each other without a gap:
/// <code>
/// pass n     |--- channels send ------------------|          acknowledged ...... lease n committed
/// harvest               (its own length before) |-----|
/// decision                                           |
/// pass n+1                                           |--- channels send ----------------|
/// </code>
/// A harvest begins as long before the end of a pass as the last one took. What the pass has not read by then is read
/// after the harvest, so it leaves the harvest again (<see cref="PassWork.TakeOver"/>).
/// </remarks>
internal sealed partial class SourceRun
{
    /// <summary>
    /// LIMIT: what one part may send between two looks at the pass, so that no part starves the others.
    /// </summary>
    private const ulong PumpBytes = 4 << 20;

    /// <summary>
    /// A pass with less than this on the wire measures latency, not bandwidth: it can only raise the estimate.
    /// </summary>
    private const ulong MeasurableBytes = 8 << 20;

    private static readonly TimeSpan ProgressInterval = TimeSpan.FromMilliseconds(250);

    /// <summary>The harvest in hand: taken, and not given to a pass yet. Whatever fails, it goes back.</summary>
    private DirtyLease? _carried;

    private PageBitmap? _holes;
    private TimeSpan _harvestTime;
    private double _bytesPerSecond;
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
        Harvest();
        int passesHere = 0;
        while (true)
        {
            long start = _time.GetTimestamp();
            IReadOnlyList<DirtyCount> sources = _nextPass == 0 ? [] : Carried.BySource;
            PassWork work = BeginPass(final: false);
            HarvestBeforeItEnds(work, start);
            AwaitChannels(work, work.Sent, readParts: true);
            PassReport pass = Describe(work, _time.GetElapsedTime(start), sources);
            DrainInitialState();
            passesHere++;
            ulong dirty = Carried.Pages.CountSet();
            var facts = new ConvergenceFacts(
                Math.Max(passesHere, Math.Min(_nextPass, ConvergencePolicy.LeastPasses)), dirty, pass.DirtyPages, pass.Duration,
                _bytesPerSecond, EstimateState(), _harvestTime)
            {
                ComparesPages = _sent is not null && pass.Index > 0,
            };
            ConvergenceDecision decision = ConvergencePolicy.Decide(facts, _options.DowntimeLimit, _options.MaximumPasses);
            EndPass(pass with { PredictedDowntime = decision.Predicted });
            if (decision.Step == ConvergenceStep.GiveUp)
                throw new MigrationFailedException(decision.Reason);
            Decided(decision.Reason);
            if (decision.Step == ConvergenceStep.SwitchOver)
            {
                AwaitAcknowledgements(keep: 0);
                if (IsReadyToStop(passesHere))
                    return;
            }

            // At most the pass that is being sent and the one before are not acknowledged.
            AwaitAcknowledgements(keep: 1);
        }
    }

    /// <summary>Whether parts on both sides agree to the stop; if not, another pass follows.</summary>
    private bool IsReadyToStop(int passesHere)
    {
        if (passesHere < _options.MaximumPasses && !_parts.TrueForAll(part => part.Estimate().InitialBytes == 0))
        {
            // A device began anew since it was asked: what was sent of it is void, and it is given another pass.
            Decided("The switchover waits: a device has new initial state to send.");
            return false;
        }

        Link.Writer.Send(FrameType.SwitchoverRequest, default);
        Link.Expect(FrameType.SwitchoverReady, _cancel).Dispose();
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

        _harvestTime = _time.GetElapsedTime(start);
    }

    /// <summary>Harvests so early that the channels need not wait for it.</summary>
    private void HarvestBeforeItEnds(PassWork work, long start)
    {
        while (work.UntakenPages > 0)
        {
            double share = 1 - (work.UntakenPages / (double)Math.Max(1, work.DirtyPages));
            double elapsed = _time.GetElapsedTime(start).TotalSeconds;
            if (share > 0.02 && elapsed / share * (1 - share) <= _harvestTime.TotalSeconds)
                break;
            Look(work, work.Sent, readParts: true);
            if (work.Sent.WaitOne(0))
                break;
        }

        Harvest();
        work.TakeOver(Carried.Pages);
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

    private PassReport Describe(PassWork work, TimeSpan duration, IReadOnlyList<DirtyCount> sources)
    {
        // What fits the buffers on the way is out at once and says nothing: what was acknowledged says how fast the way is.
        ulong acknowledged = work.AcknowledgedBytes;
        double seconds = Math.Max(duration.TotalSeconds, 1e-6);
        if (acknowledged >= MeasurableBytes)
            _bytesPerSecond = acknowledged / seconds;
        else
            _bytesPerSecond = Math.Max(work.Bytes / seconds, _bytesPerSecond);
        return new PassReport(
            (int)work.Index, work.DirtyPages, work.SentPages, work.ZeroPages, work.Bytes, duration, sources, work.IsFinal)
        {
            UnchangedPages = work.UnchangedPages,
            RepeatedPages = work.RepeatedPages,
        };
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

    private ulong EstimateState()
    {
        ulong total = 0;
        foreach (PartStream part in _parts)
        {
            StateEstimate estimate = part.Estimate();
            // A part that can not tell has at least what it could be asked for now.
            total += estimate.StopBytes ?? estimate.InitialBytes + estimate.DirtyBytes;
        }

        return total;
    }

    private void EndPass(PassReport pass)
    {
        _passes.Add(pass);
        Emit(new MigrationEvent.PassEnded(pass));
    }
}
