namespace Tidemark.Migration;

/// <summary>
/// Decides after each harvest whether to send its pages while the machine runs, to stop the machine, or to give up. No
/// clock and no I/O: everything it knows it was told. One object for one migration, one thread at a time.
/// </summary>
/// <remarks>
/// <code>
/// engine:   Observe(pages, interval)    for each harvest during a pass     -> DirtyModel
///           Sent(bytes, time)           now and then during a pass         -> BandwidthEstimator
///           Decide(facts)               after the harvest that ends it     -> ConvergenceDecision
///
/// Decide:   promise &lt;= limit ?  yes -> another pass gives half its time back as less downtime ?  yes -> AnotherPass
///                               |                                                            no  -> SwitchOver
///                               no  -> passes or time used up, or can not converge ?  no -> AnotherPass
///                                                                                     yes -> WhenStuck
/// </code>
/// The budget for pages is the limit less fixed costs less device state / bandwidth. A promise is made with the low
/// estimate of the bandwidth, so that it is kept; what is shown as predicted uses the mean, so that it is right.
/// </remarks>
internal sealed class ConvergencePolicy
{
    /// <summary>Passes before the stop: the full copy, and one that shows how fast the machine writes.</summary>
    public const int LeastPasses = 2;

    /// <summary>LIMIT: no harvest during a pass more often than this: each makes the machine fault its pages anew.</summary>
    private static readonly TimeSpan LeastHarvestInterval = TimeSpan.FromMilliseconds(40);

    /// <summary>During pass 0 nothing is known yet.</summary>
    private static readonly TimeSpan UsualHarvestInterval = TimeSpan.FromMilliseconds(250);

    /// <summary>Less than this is not worth a pass.</summary>
    private static readonly TimeSpan LeastSaving = TimeSpan.FromMilliseconds(1);

    /// <summary>A curve that is further off than this proves nothing.</summary>
    private const double ProofMisfit = 0.12;

    /// <summary>
    /// Passes without progress after which something is done although nothing is proved: unless what is to be done is to
    /// give up, for then patience costs less than a machine refused that could have been moved.
    /// </summary>
    private const int StalledPasses = 6;

    /// <summary>What can be reached must be this far above the limit: the link and the machine are not that steady.</summary>
    private const double ProofMargin = 1.15;

    private readonly ConvergenceOptions _options;
    private readonly DirtyModel _dirty;
    private readonly BandwidthEstimator _bandwidth = new();
    private readonly PageCost _cost = new();
    private readonly PassOverhead _overhead = new();
    private readonly RecentTimes _harvests = new();
    private bool _harvestsDuringPass;
    private bool _sampledDuringPass;
    private TimeSpan _best = TimeSpan.MaxValue;
    private int _stalled;
    private int _votes;

    public ConvergencePolicy(ConvergenceOptions options, ulong memoryPages)
    {
        options.Check();
        _options = options;
        _dirty = new DirtyModel(memoryPages);
        Limit = options.DowntimeLimit;
    }

    /// <summary>The limit now in force.</summary>
    public TimeSpan Limit { get; private set; }

    /// <summary>The throttle now in force, in percent.</summary>
    public int ThrottlePercent { get; private set; }

    /// <summary><see cref="ConvergenceDecision.HarvestEvery"/> for pass 0, which no decision precedes.</summary>
    public TimeSpan FirstHarvestEvery => AtLeast(Min(UsualHarvestInterval, Limit), LeastHarvestInterval);

    internal DirtyModel Dirty => _dirty;

    internal BandwidthEstimator Bandwidth => _bandwidth;

    /// <summary>A harvest during a pass: pages that became dirty since the harvest before it.</summary>
    public void Observe(ulong pages, TimeSpan interval)
    {
        _harvestsDuringPass = true;
        _dirty.Add(pages, interval);
    }

    /// <summary>Bytes acknowledged during a pass in this time. A pass that is never told of is taken as a whole.</summary>
    public void Sent(ulong bytes, TimeSpan duration)
    {
        _sampledDuringPass = true;
        _bandwidth.Add(bytes, duration);
    }

    /// <summary>The downtime of a switchover now.</summary>
    public DowntimePrediction Predict(in PassFacts facts) => Predict(facts, facts.DirtyPages);

    public ConvergenceDecision Decide(in PassFacts facts)
    {
        Learn(facts);
        DowntimePrediction now = Predict(facts);
        (TimeSpan? reachable, bool proved) = FindReachable(facts, now);
        int done = facts.Pass + 1;
        bool usedUp = done >= _options.MaximumPasses || (_options.Timeout is { } timeout && facts.Elapsed >= timeout);
        bool fits = now.Promised <= Limit;
        DowntimePrediction next = Predict(facts, (ulong)_dirty.Best.Pages(PassSeconds(facts, facts.DirtyPages)));
        ConvergenceVerdict verdict = Judge(facts, now, proved, fits);
        bool mustAct = verdict == ConvergenceVerdict.CanNotConverge
            || (_stalled >= StalledPasses && _options.WhenStuck is not (WhenStuck.GiveUp or WhenStuck.Wait));
        double dirtyRate = ConvergenceSentences.DirtyRate(facts);
        var figures = new ConvergenceSentences(facts, now, Limit, _bandwidth.Mean, _cost.Bytes, _dirty, reachable);
        ConvergenceDecision decision;
        if (fits && (usedUp || (done >= LeastPasses && !IsWorthAPass(facts, now, next))))
            decision = New(ConvergenceStep.SwitchOver, figures.SwitchesOver(done));
        else if (!usedUp && (fits || !mustAct))
            decision = New(ConvergenceStep.AnotherPass, figures.GoesOn(done, verdict, fits, next.Total));
        else
            decision = Stuck(facts, now, reachable, usedUp, figures, New);
        if (decision.Step == ConvergenceStep.AnotherPass)
            decision = decision with { HoldBackHot = HoldingBackPays(facts, now), HarvestEvery = HarvestEvery(facts) };
        _harvestsDuringPass = false;
        _sampledDuringPass = false;
        return decision;

        ConvergenceDecision New(ConvergenceStep step, string reason) => new(step, verdict, now, Limit, reason)
        {
            AfterNextPass = _dirty.Count > 0 ? next.Total : null,
            Reachable = reachable,
            BytesPerSecond = _bandwidth.Mean,
            LowBytesPerSecond = _bandwidth.Low,
            DirtyBytesPerSecond = dirtyRate,
        };
    }

    private void Learn(in PassFacts facts)
    {
        _dirty.Add(facts.FreshPages, facts.Interval);
        _harvests.Add(facts.QuickestHarvest ?? facts.HarvestTime);
        // A pass of pages that hardly need the wire measures how fast pages are looked at.
        bool isContent = facts.HandledPages == 0 || facts.BytesOfPages / (double)facts.HandledPages >= PageCost.WholePage / 4;
        if (!_sampledDuringPass && (isContent || !_bandwidth.IsMeasured))
            _bandwidth.Add(facts.Bytes, facts.Duration);
        _cost.Add(facts);
        _overhead.Add(facts, _cost.Seconds(_bandwidth.Mean));
    }

    private DowntimePrediction Predict(in PassFacts facts, ulong pages)
    {
        // What becomes dirty after the harvest is found by the last one; some of it is in the pass anyway.
        TimeSpan overhead = _overhead.Of(facts.Costs);
        // Before the stop the pass under way is acknowledged, and the destination is asked once more.
        double open = (facts.SinceHarvest + facts.Costs.StopOrDefault + facts.Costs.RoundTripOrDefault + overhead / 2).TotalSeconds;
        double further = _dirty.Best.Further(pages, open);
        double total = pages + further;
        double state = facts.StateBytes;
        TimeSpan start = facts.Costs.StartOrDefault + facts.Costs.RoundTripOrDefault;
        double low = _bandwidth.Low;
        double high = pages + Math.Max(further, _dirty.HighRate * open);
        // Defaults are a guess; what was measured varies less.
        TimeSpan slack = (facts.Costs.StopOrDefault * (facts.Costs.Stop is null ? 1 : 0.25))
            + (facts.Costs.StartOrDefault * (facts.Costs.Start is null ? 1 : 0.25)) + facts.HarvestTime;
        TimeSpan promised = facts.Costs.StopOrDefault + facts.HarvestTime + start + slack + overhead
            + Seconds(high * _cost.Seconds(low) + state / low);
        return new(
            facts.Costs.StopOrDefault, _harvests.LeastOr(facts.HarvestTime), Seconds(state / _bandwidth.Mean),
            overhead + Seconds(total * _cost.Seconds(_bandwidth.Mean)),
            facts.Costs.StartOrDefault + facts.Costs.LeastRoundTripOrDefault, promised)
        {
            PageCount = (ulong)total,
        };
    }

    /// <summary>
    /// The smallest promise that the passes still allowed can reach if the machine goes on writing as it does, by the curve
    /// that explains best what was seen; null when none does. Proved: even what is most hopeful stays above the limit.
    /// </summary>
    private (TimeSpan? Reachable, bool Proved) FindReachable(in PassFacts facts, in DowntimePrediction now)
    {
        // Two points are explained by any curve of two parameters.
        if (_dirty.Count < 3)
            return (null, false);
        // Judged by what is expected and not by the promise: a lucky moment on an unsteady link may be enough.
        TimeSpan enough = ProofMargin * Limit;
        bool proved = _dirty.IsSteady && Settle(facts, _dirty.AtLeast).Total > enough;
        if (_dirty.Misfit > ProofMisfit)
            return (proved ? Min(now.Promised, Settle(facts, _dirty.AtLeast).Promised) : null, proved);
        DowntimePrediction reachable = Settle(facts, _dirty.Best.Pages);
        TimeSpan hopeful = reachable.Total;
        DirtyModel.Curve other = _dirty.Best.IsRandom ? _dirty.Walking : _dirty.Random;
        if (other.Misfit <= Math.Min(ProofMisfit, 2 * _dirty.Misfit + 0.01))
            hopeful = Min(hopeful, Settle(facts, other.Pages).Total);
        return (Min(now.Promised, reachable.Promised), proved || (_dirty.IsSteady && hopeful > enough));
    }

    private DowntimePrediction Settle(in PassFacts facts, Func<double, double> pagesAfter)
    {
        double pages = facts.DirtyPages;
        double fewest = pages;
        // LIMIT: what a few hundred passes do not reach, no more of them do.
        int left = Math.Clamp(_options.MaximumPasses - facts.Pass - 1, 0, 500);
        for (int pass = 0; pass < left; pass++)
        {
            pages = pagesAfter(PassSeconds(facts, pages));
            fewest = Math.Min(fewest, pages);
        }

        return Predict(facts, (ulong)fewest);
    }

    private double PassSeconds(in PassFacts facts, double pages)
    {
        double seconds = pages * _cost.Seconds(_bandwidth.Mean);
        if (_harvestsDuringPass)
            seconds *= Math.Min(_dirty.Random.SentShare(seconds), _dirty.Walking.SentShare(seconds));
        return seconds + (facts.Costs.RoundTripOrDefault + facts.HarvestTime).TotalSeconds;
    }

    private ConvergenceVerdict Judge(
        in PassFacts facts, in DowntimePrediction now, bool proved, bool fits)
    {
        if (now.Total < 0.97 * _best)
        {
            _best = now.Total;
            _stalled = 0;
        }
        else
        {
            _stalled++;
        }

        _votes = proved && !fits ? _votes + 1 : 0;
        if (fits)
            return ConvergenceVerdict.Converging;
        // One pass may have met a burst; two in a row did not, nor did three whole ones that one curve explains.
        int needed = !_harvestsDuringPass && facts.Pass >= 2 ? 1 : 2;
        if (facts.Pass + 1 >= LeastPasses && _votes >= needed)
            return ConvergenceVerdict.CanNotConverge;
        if (facts.Pass + 1 < LeastPasses || _dirty.Count < 2)
            return ConvergenceVerdict.TooEarly;
        return _stalled >= 2 ? ConvergenceVerdict.Stalled : ConvergenceVerdict.Converging;
    }

    /// <summary>A pass is paid with time and bytes: it must give half of its time back as less downtime.</summary>
    private bool IsWorthAPass(in PassFacts facts, in DowntimePrediction now, in DowntimePrediction next)
    {
        double seconds = PassSeconds(facts, facts.DirtyPages);
        TimeSpan saved = now.Total - next.Total;
        return saved >= LeastSaving && saved.TotalSeconds >= seconds / 2;
    }

    private ConvergenceDecision Stuck(
        in PassFacts facts, in DowntimePrediction now, TimeSpan? reachable, bool usedUp, in ConvergenceSentences figures,
        Func<ConvergenceStep, string, ConvergenceDecision> make)
    {
        int done = facts.Pass + 1;
        switch (_options.WhenStuck)
        {
            case WhenStuck.SwitchOver:
                return make(ConvergenceStep.SwitchOver, figures.SwitchesOverAnyway(done));
            case WhenStuck.Wait when !usedUp:
                return make(ConvergenceStep.AnotherPass, figures.Waits(done));
            case WhenStuck.RaiseLimit:
                TimeSpan need = usedUp || reachable is null ? now.Promised : 1.1 * reachable.Value;
                if (need > now.Promised)
                    need = now.Promised;
                if (RaiseFor(need) is not { } raised)
                    return make(ConvergenceStep.GiveUp, figures.CeilingIsTooLow(done, _options.LimitCeiling));
                TimeSpan before = Limit;
                Limit = raised;
                StartAnew();
                return make(
                    now.Promised <= Limit ? ConvergenceStep.SwitchOver : ConvergenceStep.AnotherPass,
                    figures.Raises(done, before, raised)) with { NewLimit = raised };
            case WhenStuck.Throttle when !usedUp && facts.CanThrottle && ThrottlePercent < _options.ThrottleMaximum:
                ThrottlePercent = ThrottlePercent == 0 ? _options.ThrottleFirst
                    : Math.Min(ThrottlePercent + _options.ThrottleStep, _options.ThrottleMaximum);
                StartAnew();
                _dirty.Forget();
                return make(ConvergenceStep.AnotherPass, figures.Throttles(done, ThrottlePercent)) with
                {
                    ThrottlePercent = ThrottlePercent,
                };
            case WhenStuck.Throttle when !facts.CanThrottle:
                return make(ConvergenceStep.GiveUp, figures.GivesUp(
                    done, "there are no processors to throttle, since devices do the writing"));
            case WhenStuck.Throttle when ThrottlePercent > 0:
                return make(ConvergenceStep.GiveUp, figures.GivesUp(done, $"at a throttle of {ThrottlePercent} %"));
            case WhenStuck.Throttle:
            case WhenStuck.Wait:
            case WhenStuck.GiveUp:
                string? why = done >= _options.MaximumPasses ? $"these were all passes allowed"
                    : usedUp ? figures.TimeIsUp(_options.Timeout) : null;
                return make(ConvergenceStep.GiveUp, figures.GivesUp(done, why));
            default:
                throw new InvalidOperationException($"There is no strategy {_options.WhenStuck}.");
        }
    }

    /// <summary>The first step that is enough, or null when the ceiling is not.</summary>
    private TimeSpan? RaiseFor(TimeSpan need)
    {
        TimeSpan step = (_options.LimitCeiling - _options.DowntimeLimit) / _options.LimitSteps;
        for (int number = 1; number <= _options.LimitSteps; number++)
        {
            TimeSpan limit = number == _options.LimitSteps
                ? _options.LimitCeiling : _options.DowntimeLimit + (number * step);
            if (limit >= need && limit > Limit)
                return limit;
        }

        return null;
    }

    /// <summary>What was proved was proved for another limit, or another machine.</summary>
    private void StartAnew()
    {
        _votes = 0;
        _stalled = 0;
        _best = TimeSpan.MaxValue;
    }

    /// <summary>
    /// Hot pages sent now would be sent again; so they wait, when they stay hot, are more than a few, and leave at least
    /// half of the budget of the last pass to the others.
    /// </summary>
    private bool HoldingBackPays(in PassFacts facts, in DowntimePrediction now)
    {
        if (facts.HotAgain < 0.8 || facts.HotPages < facts.DirtyPages / 20 || facts.HotPages == facts.DirtyPages)
            return false;
        double seconds = facts.HotPages * _cost.Seconds(_bandwidth.Low);
        return seconds > 0 && seconds <= (Limit - now.Fixed).TotalSeconds / 2;
    }

    /// <summary>
    /// A sixteenth of the pass, or the limit if that is shorter: a machine has quiet moments that are long enough or it has
    /// not, and only intervals as short as they are can tell. At most one part in fifty of the time goes into harvests.
    /// </summary>
    private TimeSpan HarvestEvery(in PassFacts facts)
    {
        TimeSpan every = Min(Seconds(facts.DirtyPages * _cost.Seconds(_bandwidth.Mean) / 16), Limit);
        return AtLeast(AtLeast(every, 50 * facts.HarvestTime), LeastHarvestInterval);
    }

    private static TimeSpan AtLeast(TimeSpan value, TimeSpan least) => value < least ? least : value;

    private static TimeSpan Min(TimeSpan left, TimeSpan right) => left < right ? left : right;

    private static TimeSpan Seconds(double seconds) =>
        TimeSpan.FromSeconds(Math.Min(seconds, TimeSpan.FromDays(365).TotalSeconds));
}
