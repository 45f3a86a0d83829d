using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

/// <summary>Strategies, the timeout, estimators; one figure at a time and no simulation.</summary>
public sealed class ConvergencePolicyTests
{
    private const ulong Memory = 1 << 18;
    private const double PageBytes = 4096 + 24;

    private static readonly TimeSpan Millisecond = TimeSpan.FromMilliseconds(1);

    [Fact]
    public void A_prediction_is_the_sum_of_its_named_parts_and_the_promise_is_above_it()
    {
        var policy = new ConvergencePolicy(new ConvergenceOptions(), Memory);
        DowntimePrediction predicted = policy.Decide(Facts(0, 1000, 100) with { StateBytes = 5_000_000 }).Predicted;
        Assert.Equal(
            ["stop", "final harvest", "device state", "last pages", "load and start"], predicted.Parts.Select(part => part.Name));
        Assert.Equal(predicted.Total, predicted.Parts.Aggregate(TimeSpan.Zero, (sum, part) => sum + part.Duration));
        Assert.Equal(50, predicted.State.TotalMilliseconds, 1.0);
        Assert.Equal(1000 * PageBytes / 100_000, predicted.Pages.TotalMilliseconds, 3.0);
        Assert.True(predicted.Promised > predicted.Total);
    }

    [Fact]
    public void Measured_costs_replace_the_defaults()
    {
        var costs = new FixedCosts { Stop = 40 * Millisecond, Start = 50 * Millisecond, RoundTrip = 10 * Millisecond };
        DowntimePrediction predicted = new ConvergencePolicy(new ConvergenceOptions(), Memory)
            .Decide(Facts(0, 0, 100) with { Costs = costs }).Predicted;
        // The round trip of the last pages lies in these.
        Assert.Equal((40 * Millisecond, 60 * Millisecond), (predicted.Stop, predicted.Start));
    }

    [Fact]
    public void The_pause_is_expected_to_be_as_undisturbed_as_the_quietest_moment_and_promised_as_the_last_one()
    {
        PassFacts busy = Facts(0, 0, 100) with
        {
            HarvestTime = 20 * Millisecond,
            Costs = new FixedCosts { RoundTrip = 30 * Millisecond },
        };
        DowntimePrediction quiet = new ConvergencePolicy(new ConvergenceOptions(), Memory).Decide(busy with
        {
            QuickestHarvest = 2 * Millisecond,
            Costs = busy.Costs with { LeastRoundTrip = 3 * Millisecond },
        }).Predicted;
        DowntimePrediction loud = new ConvergencePolicy(new ConvergenceOptions(), Memory).Decide(busy).Predicted;
        Assert.Equal((2 * Millisecond, 20 * Millisecond), (quiet.FinalHarvest, loud.FinalHarvest));
        Assert.Equal(27 * Millisecond, loud.Start - quiet.Start);
        Assert.Equal(27.0, (loud.Pages - quiet.Pages).TotalMilliseconds, 0.1);
        // The way of the last pages is a guess that counts for both; the others are as long as they were just now.
        Assert.Equal(27.0, (loud.Promised - quiet.Promised).TotalMilliseconds, 0.1);
    }

    [Fact]
    public void A_page_costs_what_was_sent_of_it_and_not_what_was_acknowledged_in_time()
    {
        DowntimePrediction After(PassFacts second)
        {
            var policy = new ConvergencePolicy(new ConvergenceOptions(), Memory);
            policy.Decide(Facts(0, 10_000, 1000));
            return policy.Decide(second).Predicted;
        }

        PassFacts whole = Facts(1, 6000, 6000) with { SentPages = 6000, Bytes = (ulong)(6000 * PageBytes) };
        // Half of it in half of the time: the link is as fast, and the rest was on its way.
        PassFacts half = whole with { Bytes = whole.Bytes / 2, SentBytes = whole.Bytes, Duration = whole.Duration / 2 };
        Assert.Equal(After(whole).PageCount, After(half).PageCount);
        Assert.Equal(1.0, After(half).Pages / After(whole).Pages, 0.1);
    }

    [Fact]
    public void The_first_guess_of_stop_and_start_grows_with_the_parts_of_devices()
    {
        DowntimePrediction Predict(int parts) => new ConvergencePolicy(new ConvergenceOptions(), Memory)
            .Decide(Facts(0, 0, 100) with { Costs = new FixedCosts { DeviceParts = parts } }).Predicted;
        Assert.True(Predict(6).Stop > Predict(0).Stop);
        Assert.True(Predict(6).Start > Predict(0).Start);
        var measured = new FixedCosts { Stop = 40 * Millisecond, Start = 50 * Millisecond };
        Assert.Equal(measured.StopOrDefault, (measured with { DeviceParts = 6 }).StopOrDefault);
        Assert.Equal(measured.StartOrDefault, (measured with { DeviceParts = 6 }).StartOrDefault);
    }

    [Fact]
    public void A_harvest_that_met_a_busy_moment_is_not_expected_again_and_not_forgotten_in_the_promise()
    {
        var policy = new ConvergencePolicy(new ConvergenceOptions(), Memory);
        policy.Decide(Facts(0, 100, 100) with { HarvestTime = 2 * Millisecond });
        DowntimePrediction predicted = policy.Decide(Facts(1, 100, 100) with { HarvestTime = 9 * Millisecond }).Predicted;
        Assert.Equal(2 * Millisecond, predicted.FinalHarvest);
        Assert.True(predicted.Promised - predicted.Total >= 7 * Millisecond, $"{predicted}");
    }

    [Fact]
    public void What_short_passes_took_beside_their_pages_is_expected_of_the_last_one_and_the_least_of_it_counts()
    {
        // 500 pages at 100 bytes a microsecond are 21 ms; what is beyond that is no page's.
        TimeSpan pages = 500 * PageBytes / 100_000 * Millisecond;
        Assert.Equal(30, LastPages(30, 45), 0.5);
        Assert.Equal(25, LastPages(45, 25), 0.5);
        // A long pass says nothing of it, and then a default stands: 1.5 ms and the way there and back. One that is mostly pages
        // can only make it smaller.
        Assert.Equal(2.5, LastPages(400, 500), 0.1);
        Assert.Equal(2.5, LastPages(4, 4), 0.1);
        Assert.Equal(1, LastPages(1, 4), 0.5);

        double LastPages(params int[] beside)
        {
            var policy = new ConvergencePolicy(new ConvergenceOptions(), Memory);
            policy.Sent((ulong)(1e5 * 1000), 1000 * Millisecond);
            policy.Decide(Facts(0, 0, 100));
            DowntimePrediction predicted = default;
            for (int pass = 1; pass <= beside.Length; pass++)
            {
                policy.Sent((ulong)(1e5 * 1000), 1000 * Millisecond);
                predicted = policy.Decide(Facts(pass, 0, 100) with
                {
                    SentPages = 500, Bytes = (ulong)(500 * PageBytes), Duration = pages + (beside[pass - 1] * Millisecond),
                }).Predicted;
            }

            return predicted.Pages.TotalMilliseconds;
        }
    }

    [Fact]
    public void What_fits_is_stopped_and_the_sentence_has_the_figures()
    {
        ConvergenceDecision decision = Play(new ConvergenceOptions(), Facts(0, 100, 100), Facts(1, 4, 100))[^1];
        Assert.Equal((ConvergenceStep.SwitchOver, ConvergenceVerdict.Converging), (decision.Step, decision.Verdict));
        foreach (string figure in (string[])["after 2 passes", "4 pages dirty", "0 bytes of state", "95.4 MiB/s", "300 ms allowed"])
            Assert.Contains(figure, decision.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_with_too_much_state_is_named_as_the_cause()
    {
        ConvergenceDecision decision = Play(
            new ConvergenceOptions(), [.. Stuck(3).Select(facts => facts with { StateBytes = 80_000_000, StateUnknown = true })])[^1];
        Assert.Equal(ConvergenceStep.GiveUp, decision.Step);
        Assert.Contains("at least 80000000 bytes of state take 8", decision.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void By_default_a_stuck_machine_is_given_up_within_three_passes_with_cause_and_remedy()
    {
        List<ConvergenceDecision> decisions = Play(new ConvergenceOptions(), Stuck(60));
        ConvergenceDecision last = decisions[^1];
        Assert.InRange(decisions.Count, 2, 3);
        Assert.Equal((ConvergenceStep.GiveUp, ConvergenceVerdict.CanNotConverge), (last.Step, last.Verdict));
        foreach (string figure in (string[])["MiB/s against a bandwidth of 95.4 MiB/s", "100000 pages", "300 ms are allowed", "raise the downtime limit to at least"])
            Assert.Contains(figure, last.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Who_waits_goes_on_until_the_passes_are_used_up()
    {
        List<ConvergenceDecision> decisions =
            Play(new ConvergenceOptions { WhenStuck = WhenStuck.Wait, MaximumPasses = 9 }, Stuck(60));
        Assert.Equal(9, decisions.Count);
        Assert.Contains("as asked for", decisions[4].Reason, StringComparison.Ordinal);
        Assert.Equal(ConvergenceStep.GiveUp, decisions[^1].Step);
        Assert.Contains("9 passes (these were all passes allowed)", decisions[^1].Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_timeout_ends_it_and_is_named()
    {
        List<ConvergenceDecision> decisions = Play(
            new ConvergenceOptions { WhenStuck = WhenStuck.Wait, Timeout = TimeSpan.FromSeconds(30) }, Stuck(60));
        Assert.Equal(ConvergenceStep.GiveUp, decisions[^1].Step);
        Assert.Contains("the time of 30 s is used up after", decisions[^1].Reason, StringComparison.Ordinal);
        Assert.InRange(decisions.Count, 4, 10);
    }

    [Fact]
    public void A_timeout_stops_a_machine_that_fits_rather_than_giving_up()
    {
        ConvergenceDecision decision = Play(
            new ConvergenceOptions { Timeout = TimeSpan.FromSeconds(1) }, Facts(0, 10, 100) with { Elapsed = TimeSpan.FromSeconds(2) })[^1];
        Assert.Equal(ConvergenceStep.SwitchOver, decision.Step);
    }

    [Fact]
    public void The_limit_is_raised_by_steps_to_what_is_needed_and_then_kept()
    {
        var options = new ConvergenceOptions
        {
            WhenStuck = WhenStuck.RaiseLimit, LimitCeiling = TimeSpan.FromSeconds(8.3), LimitSteps = 8,
        };
        List<ConvergenceDecision> decisions = Play(options, Stuck(60));
        ConvergenceDecision raised = decisions.First(decision => decision.NewLimit is not null);
        // 100000 pages are 4.1 s; steps are whole seconds above 0.3 s.
        Assert.Contains(raised.NewLimit!.Value.TotalSeconds, (double[])[4.3, 5.3, 6.3]);
        Assert.Contains("raised from 300 ms to", raised.Reason, StringComparison.Ordinal);
        Assert.Equal(ConvergenceStep.SwitchOver, decisions[^1].Step);
        Assert.True(decisions[^1].Predicted.Promised <= decisions[^1].NewLimit);
    }

    [Fact]
    public void A_ceiling_that_is_too_low_is_named_with_what_would_do()
    {
        var options = new ConvergenceOptions { WhenStuck = WhenStuck.RaiseLimit, LimitCeiling = TimeSpan.FromSeconds(1) };
        ConvergenceDecision last = Play(options, Stuck(60))[^1];
        Assert.Equal(ConvergenceStep.GiveUp, last.Step);
        Assert.Contains("the ceiling of 1000 ms", last.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Processors_are_throttled_by_steps_and_each_step_is_measured_before_the_next()
    {
        List<ConvergenceDecision> decisions = Play(
            new ConvergenceOptions { WhenStuck = WhenStuck.Throttle },
            [.. Stuck(60).Select(facts => facts with { CanThrottle = true })]);
        int[] steps = [.. decisions.Where(decision => decision.ThrottlePercent is not null).Select(decision => decision.ThrottlePercent!.Value)];
        Assert.Equal([20, 30, 40, 50, 60, 70, 80, 90, 99], steps);
        int[] at = [.. decisions.Index().Where(item => item.Item.ThrottlePercent is not null).Select(item => item.Index)];
        Assert.All(at.Zip(at.Skip(1)), pair => Assert.True(pair.Second - pair.First >= 2));
        Assert.Contains("throttled by 20 %", decisions[at[0]].Reason, StringComparison.Ordinal);
        Assert.Contains("at a throttle of 99 %", decisions[^1].Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Nothing_is_throttled_where_only_devices_write()
    {
        ConvergenceDecision last = Play(new ConvergenceOptions { WhenStuck = WhenStuck.Throttle }, Stuck(60))[^1];
        Assert.Equal(ConvergenceStep.GiveUp, last.Step);
        Assert.Contains("there are no processors to throttle", last.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Who_asks_for_it_is_moved_anyway_and_told_what_it_costs()
    {
        ConvergenceDecision last = Play(new ConvergenceOptions { WhenStuck = WhenStuck.SwitchOver }, Stuck(60))[^1];
        Assert.Equal(ConvergenceStep.SwitchOver, last.Step);
        Assert.True(last.Predicted.Total > last.Limit);
        Assert.Contains("although the limit will be exceeded", last.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Small_passes_and_buffers_do_not_fool_the_bandwidth()
    {
        var bandwidth = new BandwidthEstimator();
        bandwidth.Add(100_000, Millisecond);
        Assert.False(bandwidth.IsMeasured);
        bandwidth.Add(1_000_000_000, TimeSpan.FromSeconds(10));
        bandwidth.Add(4096, TimeSpan.FromMilliseconds(0.001));
        bandwidth.Add(4096, TimeSpan.FromSeconds(1));
        Assert.Equal(100e6, bandwidth.Mean, 1.0);
        double alone = bandwidth.Low;
        for (int sample = 0; sample < 20; sample++)
            bandwidth.Add(sample % 2 == 0 ? 80_000_000ul : 120_000_000, TimeSpan.FromSeconds(1));
        Assert.InRange(bandwidth.Mean, 90e6, 110e6);
        Assert.True(bandwidth.Low < alone);
        Assert.InRange(bandwidth.Low, 50e6, 80e6);
    }

    [Fact]
    public void Pages_that_need_not_be_sent_make_a_dirty_page_cheap()
    {
        var policy = new ConvergencePolicy(new ConvergenceOptions(), Memory);
        policy.Decide(Facts(0, 50_000, 100));
        PassFacts unchanged = Facts(1, 50_000, 100) with
        {
            SentPages = 500, UnchangedPages = 49_500, Bytes = 500 * 4120, Duration = TimeSpan.FromMilliseconds(100),
        };
        ConvergenceDecision decision = policy.Decide(unchanged);
        Assert.InRange(decision.Predicted.Pages.TotalMilliseconds, 90, 130);
        Assert.Equal(100e6, decision.BytesPerSecond, 1e6);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_model_finds_rate_and_working_set(bool random)
    {
        var truth = new DirtyModel.Curve(random, 50_000, 30_000, 0);
        var model = new DirtyModel(Memory);
        foreach (double seconds in (double[])[8, 1.5, 1, 0.5, 0.25])
            model.Add((ulong)truth.Pages(seconds), TimeSpan.FromSeconds(seconds));
        Assert.Equal(random, model.Best.IsRandom);
        Assert.InRange(model.Best.Rate, 27_000, 33_000);
        Assert.InRange(model.Best.Set, 45_000, 55_000);
        Assert.InRange(model.AtLeast(0.7), 0, truth.Pages(0.7) + 1);
        Assert.True(model.IsSteady);
        // A quiet moment: no longer steady, and the lower bound knows it.
        model.Add(10, TimeSpan.FromSeconds(0.25));
        Assert.False(model.IsSteady);
        Assert.InRange(model.AtLeast(0.25), 0, 10);
    }

    [Fact]
    public void Hot_pages_are_those_of_two_harvests_and_nothing_is_allocated()
    {
        var hot = new HotPages(300);
        hot.Add(Pages(300, 1, 2, 299));
        Assert.Equal(0ul, hot.Count);
        hot.Add(Pages(300, 2, 3, 299));
        Assert.Equal(2ul, hot.Count);
        PageBitmap third = Pages(300, 2, 5);
        PageBitmap pass = Pages(300, 2, 5);
        long before = GC.GetAllocatedBytesForCurrentThread();
        hot.Add(third);
        ulong left = hot.HoldBack(pass);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        Assert.Equal((1ul, 0.5, 1ul), (hot.Count, hot.Again, left));
        Assert.True(pass[5] && !pass[2]);
    }

    [Theory]
    [InlineData(900, 1.0, true)]
    [InlineData(900, 0.2, false)]
    [InlineData(10_000, 1.0, false)]
    [InlineData(50, 1.0, false)]
    public void Hot_pages_are_held_back_when_they_stay_hot_are_many_and_fit_the_last_pass(ulong pages, double again, bool held)
    {
        PassFacts facts = Facts(0, 15_000, 100) with { HotPages = pages, HotAgain = again };
        Assert.Equal(held, Play(new ConvergenceOptions(), facts)[0].HoldBackHot);
    }

    private static PageBitmap Pages(ulong count, params ulong[] set)
    {
        var pages = new PageBitmap(count);
        foreach (ulong page in set)
            pages.Set(page);
        return pages;
    }

    /// <summary>The same number of pages again and again, however short the pass.</summary>
    private static PassFacts[] Stuck(int passes) =>
        [.. Enumerable.Range(0, passes).Select(pass => Facts(pass, 100_000, 100) with { Elapsed = TimeSpan.FromSeconds(4.1 * (pass + 3)) })];

    /// <summary>A pass of all memory or of as many pages as this harvest has, at so many MB/s.</summary>
    private static PassFacts Facts(int pass, ulong dirty, double megabytes)
    {
        ulong sent = pass == 0 ? Memory : dirty;
        double seconds = sent * PageBytes / (megabytes * 1e6);
        return new PassFacts
        {
            Pass = pass, DirtyPages = dirty, FreshPages = dirty, Interval = TimeSpan.FromSeconds(seconds),
            SentPages = sent, Bytes = (ulong)(sent * PageBytes), Duration = TimeSpan.FromSeconds(seconds),
            HarvestTime = TimeSpan.FromMilliseconds(0.5), Elapsed = TimeSpan.FromSeconds(seconds * (pass + 1)),
        };
    }

    private static List<ConvergenceDecision> Play(ConvergenceOptions options, params PassFacts[] harvests)
    {
        var policy = new ConvergencePolicy(options, Memory);
        var decisions = new List<ConvergenceDecision>();
        foreach (PassFacts facts in harvests)
        {
            decisions.Add(policy.Decide(facts));
            if (decisions[^1].Step != ConvergenceStep.AnotherPass)
                break;
        }

        return decisions;
    }
}
