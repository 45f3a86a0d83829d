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
        for (int seed = 1; seed <= 12; seed++)
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
        Assert.All(ours, r => Assert.True(r.ActualMilliseconds <= 300, $"{r.ActualMilliseconds} ms"));
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
