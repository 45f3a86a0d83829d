namespace Tidemark.Migration.Tests;

/// <summary>The policy against simulated machines; every figure is printed, every machine has a seed.</summary>
public sealed class ConvergenceSimulationTests(ITestOutputHelper output)
{
    private static readonly WritePattern[] Even = [WritePattern.Sequential, WritePattern.Uniform];

    [Theory]
    [InlineData(WritePattern.Uniform)]
    [InlineData(WritePattern.Sequential)]
    public void A_writer_of_200_against_a_link_of_300_costs_less_than_with_Qemu(WritePattern pattern)
    {
        var ours = new List<SimulatedResult>();
        var theirs = new List<SimulatedResult>();
        var plain = new List<SimulatedResult>();
        for (int seed = 1; seed <= 8; seed++)
        {
            var simulated = new SimulatedCase(pattern, 200, 300, seed);
            ours.Add(Run(simulated));
            plain.Add(Run(simulated with { HarvestsDuringPass = false }));
            theirs.Add(new SimulatedMigration(simulated).RunLikeQemu(60));
        }

        const double Ram = 2147483648.0;
        Say($"200 against 300 MB/s, {pattern}: bytes/RAM ours {Median(ours, r => r.Bytes / Ram):0.00}"
            + $" (max {ours.Max(r => r.Bytes / Ram):0.00}), no harvest during passes {Median(plain, r => r.Bytes / Ram):0.00},"
            + $" QEMU's rule {Median(theirs, r => r.Bytes / Ram):0.00} (measured 1.42);"
            + $" passes ours {Median(ours, r => r.Passes)} (max {ours.Max(r => r.Passes)}),"
            + $" no harvest during passes {Median(plain, r => r.Passes)}, QEMU's rule {Median(theirs, r => r.Passes)} (measured 7)");
        Assert.All(ours, r => Assert.Equal(ConvergenceStep.SwitchOver, r.End));
        Assert.True(Median(ours, r => r.Bytes) <= Median(theirs, r => r.Bytes));
        Assert.True(Median(ours, r => r.Bytes / Ram) <= 1.42);
        Assert.True(Median(ours, r => r.Passes) <= Median(theirs, r => r.Passes));
        // Measured with writes at random, as the comparison on real machines is.
        if (pattern == WritePattern.Uniform)
            Assert.All(ours, r => Assert.InRange(r.Passes, 1, 5));
        Assert.All(ours, r => Assert.True(r.ActualMilliseconds <= 300, $"{r.ActualMilliseconds} ms"));
    }

    [Theory]
    [InlineData(200, 300, 1.0)]
    [InlineData(200, 50, 1.0)]
    [InlineData(800, 300, 0.95)]
    [InlineData(800, 50, 0.95)]
    public void The_limit_is_kept_and_the_downtime_is_as_predicted(double write, double limit, double share)
    {
        var all = new List<SimulatedResult>();
        var theirs = new List<SimulatedResult>();
        var known = new List<SimulatedResult>();
        int gaveUp = 0;
        for (int seed = 1; seed <= 30; seed++)
        {
            // Loopback: more bandwidth than the writer needs, and less steady than a link.
            var simulated = new SimulatedCase(seed % 2 == 0 ? WritePattern.Uniform : WritePattern.Sequential, write, 1400, seed)
            {
                LimitMilliseconds = limit,
                MemoryPages = 1 << 18,
                SetPages = 256 << 8,
                Jitter = 0.02 + 0.02 * (seed % 5),
                KnowsCosts = seed % 3 == 0,
            };
            SimulatedResult result = Run(simulated);
            theirs.Add(new SimulatedMigration(simulated).RunLikeQemu(60));
            if (result.End == ConvergenceStep.SwitchOver)
            {
                all.Add(result);
                if (simulated.KnowsCosts)
                    known.Add(result);
            }
            else
                gaveUp++;
        }

        double kept = all.Count(r => r.ActualMilliseconds <= limit) / (double)all.Count;
        double keptByQemu = theirs.Count(r => r.ActualMilliseconds > 0 && r.ActualMilliseconds <= limit) / (double)theirs.Count;
        double median = Quantile(all.Select(r => r.Error), 0.5);
        double p90 = Quantile(all.Select(r => r.Error), 0.9);
        double knownP90 = Quantile(known.Select(r => r.Error), 0.9);
        Say($"{write} MB/s, limit {limit} ms: kept in {kept:P1} of {all.Count} (QEMU's rule {keptByQemu:P1}), gave up {gaveUp}, "
            + $"error median {median:P1} p90 {p90:P1} (where stop and start were measured before: p90 {knownP90:P1}), downtime ours {Median(all, r => r.ActualMilliseconds):0} ms, "
            + $"QEMU's rule {Median(theirs, r => r.ActualMilliseconds):0} ms, passes {Median(all, r => r.Passes)} "
            + $"against {Median(theirs, r => r.Passes)}, "
            + $"bytes {Median(all, r => r.Bytes) / (1ul << 30):0.00} against {Median(theirs, r => r.Bytes) / (1ul << 30):0.00} GiB");
        Assert.Equal(0, gaveUp);
        Assert.True(kept >= share, $"kept in {kept:P1}");
        // A downtime of 10 ms is mostly the stop and the start; unmeasured, these are guesses. The simulated ones are up to
        // 6 ms away from the defaults, which no prediction can know: there the share is printed, and this is asserted.
        Assert.True(median <= 0.15 && knownP90 <= 0.30, $"error median {median:P1}, p90 where costs are known {knownP90:P1}");
        double off = Quantile(all.Select(r => Math.Min(r.Error / 0.3, Math.Abs(r.PredictedMilliseconds - r.ActualMilliseconds) / 6)), 0.9);
        Assert.True(off <= 1, $"p90 is {off:0.00} of the larger of 30 % and 6 ms");
    }

    [Theory]
    [InlineData(WritePattern.Uniform, true)]
    [InlineData(WritePattern.Sequential, true)]
    [InlineData(WritePattern.Uniform, false)]
    [InlineData(WritePattern.Sequential, false)]
    public void A_writer_of_400_against_a_link_of_300_is_told_within_three_passes(WritePattern pattern, bool harvests)
    {
        var told = new List<SimulatedResult>();
        for (int seed = 1; seed <= 8; seed++)
            told.Add(Run(new SimulatedCase(pattern, 400, 300, seed) { HarvestsDuringPass = harvests }));
        Say($"400 against 300 MB/s, {pattern}, harvests during passes {harvests}: told after "
            + $"{told.Min(r => r.ToldAfter)} to {told.Max(r => r.ToldAfter)} passes, "
            + $"{Median(told, r => r.Bytes / (2ul << 30)):0.00} x RAM (max {told.Max(r => r.Bytes / (2ul << 30)):0.00}); {told[0].Decisions[^1].Reason}");
        Assert.Empty(told.Where(r => r.End != ConvergenceStep.GiveUp || r.ToldAfter is < 1 or > 3).Select(r => r.ToldAfter));
        Assert.Contains("raise the downtime limit to at least", told[0].Decisions[^1].Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void An_idle_machine_stands_still_for_what_is_needed()
    {
        var all = new List<SimulatedResult>();
        for (int seed = 1; seed <= 24; seed++)
        {
            all.Add(Run(new SimulatedCase(WritePattern.Uniform, seed % 3 * 0.5, 1400, seed)
            {
                MemoryPages = 1 << 18,
                SetPages = 4096,
                ZeroShare = 0.5,
                StateMegabytes = 0.01,
            }));
        }

        Say($"idle: downtime median {Median(all, r => r.ActualMilliseconds):0.0} ms, max {all.Max(r => r.ActualMilliseconds):0.0}, "
            + $"passes {Median(all, r => r.Passes)} (max {all.Max(r => r.Passes)})");
        Assert.All(all, r => Assert.InRange(r.ActualMilliseconds, 0.1, 20));
        Assert.All(all, r => Assert.InRange(r.Passes, 3, 5));
    }

    /// <summary>Thousands of machines: no promise broken too often, no machine refused that could have been moved.</summary>
    [Fact]
    public void Over_the_grid_no_machine_that_converges_is_refused()
    {
        var errors = new List<double>();
        var wrong = new List<string>();
        int cases = 0, moved = 0, kept = 0, stuck = 0, toldInTime = 0, toldEven = 0, even = 0, held = 0;
        int theirMoved = 0, theirKept = 0;
        double bytes = 0, theirBytes = 0;
        long passes = 0, theirPasses = 0;
        int seed = 1;
        foreach (WritePattern pattern in Enum.GetValues<WritePattern>())
        foreach (double share in (double[])[0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 1.1, 1.3, 1.6, 2.5])
        foreach (double limit in (double[])[50, 100, 300, 1000])
        foreach (double link in (double[])[15, 50, 200])
        foreach (int set in (int[])[512, 2048, 8192])
        foreach (double jitter in (double[])[0.02, 0.08])
        {
            var simulated = new SimulatedCase(pattern, share * link, link, seed++)
            {
                MemoryPages = 16384,
                SetPages = set,
                LimitMilliseconds = limit,
                Jitter = jitter,
                BurstPeriod = 0.2,
            };
            SimulatedResult ours = Run(simulated);
            SimulatedResult theirs = new SimulatedMigration(simulated).RunLikeQemu(60);
            cases++;
            held += ours.Decisions.Any(decision => decision.HoldBackHot) ? 1 : 0;
            if (theirs.End == ConvergenceStep.SwitchOver)
            {
                theirMoved++;
                theirKept += theirs.ActualMilliseconds <= limit ? 1 : 0;
            }

            if (ours.End == ConvergenceStep.SwitchOver)
            {
                moved++;
                kept += ours.ActualMilliseconds <= limit ? 1 : 0;
                if (ours.PredictedMilliseconds > 20)
                    errors.Add(ours.Error);
                if (theirs.End == ConvergenceStep.SwitchOver)
                {
                    bytes += ours.Bytes;
                    theirBytes += theirs.Bytes;
                    passes += ours.Passes;
                    theirPasses += theirs.Passes;
                }
            }
            else
            {
                // What patience would have reached is the truth.
                SimulatedResult patient = Run(simulated, WhenStuck.Wait);
                if (patient.End == ConvergenceStep.SwitchOver)
                {
                    wrong.Add($"{pattern} {share:0.00} x {link} MB/s, set {set}, limit {limit}, jitter {jitter}, seed {simulated.Seed}: "
                        + $"told after {ours.ToldAfter}, patience moved it after {patient.Passes}; "
                        + $"Qemu {(theirs.End == ConvergenceStep.SwitchOver ? $"in {theirs.Passes}, {theirs.ActualMilliseconds:0} ms" : "never")}");
                }
                else
                {
                    stuck++;
                    bool inTime = ours.ToldAfter is > 0 and <= 3;
                    toldInTime += inTime ? 1 : 0;
                    if (Even.Contains(pattern) && share >= 1.3)
                    {
                        even++;
                        toldEven += inTime ? 1 : 0;
                    }
                }
            }
        }

        double median = Quantile(errors, 0.5);
        double p90 = Quantile(errors, 0.9);
        Say($"grid: {cases} machines, {moved} moved (QEMU's rule {theirMoved}), limit kept in {kept / (double)moved:P1} "
            + $"(QEMU's rule {theirKept / (double)theirMoved:P1}), error median {median:P1} p90 {p90:P1}, bytes "
            + $"{bytes / theirBytes:0.00} and passes {passes / (double)theirPasses:0.00} of QEMU's rule; {stuck} can not converge, "
            + $"told within 3 passes {toldInTime / (double)stuck:P1} (steady writers of 1.3 x the link and more {toldEven / (double)even:P1}); "
            + $"wrongly refused {wrong.Count}; hot pages held back in {held}");
        foreach (string line in wrong.Take(40))
            Say(line);
        Assert.Empty(wrong);
        Assert.True(kept >= 0.95 * moved);
        Assert.True(median <= 0.15 && p90 <= 0.30);
    }

    private static SimulatedResult Run(SimulatedCase simulated, WhenStuck whenStuck = WhenStuck.GiveUp) =>
        new SimulatedMigration(simulated).RunPolicy(new ConvergenceOptions
        {
            DowntimeLimit = TimeSpan.FromMilliseconds(simulated.LimitMilliseconds),
            WhenStuck = whenStuck,
        });

    private static double Median(IEnumerable<SimulatedResult> results, Func<SimulatedResult, double> figure) =>
        Quantile(results.Select(figure), 0.5);

    private static double Quantile(IEnumerable<double> figures, double share)
    {
        double[] sorted = [.. figures.Order()];
        return sorted.Length == 0 ? 0 : sorted[(int)Math.Min(sorted.Length - 1, share * sorted.Length)];
    }

    private void Say(string text) => output.WriteLine(text);
}
