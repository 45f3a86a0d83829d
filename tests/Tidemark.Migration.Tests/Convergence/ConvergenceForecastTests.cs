namespace Tidemark.Migration.Tests;

public sealed class ConvergenceForecastTests
{
    [Theory]
    [InlineData(WritePattern.Uniform)]
    [InlineData(WritePattern.Sequential)]
    public void A_forecast_from_harvests_is_what_the_migration_then_does(WritePattern pattern)
    {
        var simulated = new SimulatedCase(pattern, 200, 300, 7) { HarvestsDuringPass = false, Jitter = 0 };
        MigrationForecast forecast = MigrationForecast.Make(Measure(simulated, 300), new ConvergenceOptions());
        SimulatedResult real = new SimulatedMigration(simulated).RunPolicy(new ConvergenceOptions());
        Assert.True(forecast.Converges, forecast.Reason);
        Assert.InRange(forecast.Passes.Count, real.Passes - 1, real.Passes + 1);
        Assert.InRange(forecast.Bytes / real.Bytes, 0.85, 1.15);
        Assert.InRange(forecast.Duration.TotalSeconds / real.Seconds, 0.85, 1.2);
        Assert.Contains($"Would take {forecast.Passes.Count} passes, {forecast.Bytes >> 20} MiB", forecast.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_forecast_that_does_not_converge_says_what_would_do()
    {
        ForecastFacts facts = Measure(new SimulatedCase(WritePattern.Uniform, 400, 300, 7), 300);
        MigrationForecast forecast = MigrationForecast.Make(facts, new ConvergenceOptions());
        Assert.False(forecast.Converges);
        Assert.Contains("Will not converge at 286.1 MiB/s within 300 ms: needs at least", forecast.Reason, StringComparison.Ordinal);
        Assert.Contains("or a limit of", forecast.Reason, StringComparison.Ordinal);
        Assert.InRange(forecast.NeedsBytesPerSecond!.Value, 301e6, 450e6);
        // What it says would do, does.
        double enough = forecast.NeedsBytesPerSecond.Value * 1.02;
        Assert.True(MigrationForecast.Make(facts with { BytesPerSecond = enough }, new ConvergenceOptions()).Converges);
        var raised = new ConvergenceOptions { DowntimeLimit = 1.1 * forecast.Decision.Reachable!.Value };
        Assert.True(MigrationForecast.Make(facts, raised).Converges);
    }

    [Fact]
    public void State_that_no_bandwidth_makes_small_enough_is_said()
    {
        ForecastFacts facts = Measure(new SimulatedCase(WritePattern.Uniform, 1, 300, 7), 300) with
        {
            Costs = new FixedCosts { Stop = TimeSpan.FromMilliseconds(900) },
        };
        MigrationForecast forecast = MigrationForecast.Make(facts, new ConvergenceOptions());
        Assert.False(forecast.Converges);
        Assert.Contains("no bandwidth would do, it needs a limit of", forecast.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Zero_pages_and_an_idle_machine_cost_next_to_nothing()
    {
        var facts = new ForecastFacts
        {
            MemoryPages = 1 << 20, Intervals = [new(3, TimeSpan.FromSeconds(1))], BytesPerSecond = 1e9, NonZeroShare = 0.1,
        };
        MigrationForecast forecast = MigrationForecast.Make(facts, new ConvergenceOptions());
        Assert.True(forecast.Converges);
        Assert.InRange(forecast.Duration.TotalSeconds, 0.4, 0.5);
        Assert.InRange(forecast.Downtime.Total.TotalMilliseconds, 1, 15);
    }

    private static ForecastFacts Measure(SimulatedCase simulated, double linkMegabytes)
    {
        var machine = new SimulatedMachine(simulated);
        var intervals = new List<ForecastInterval>();
        foreach (double seconds in (double[])[2, 0.1, 0.25, 0.5, 1])
        {
            machine.Advance(seconds);
            intervals.Add(new((ulong)machine.Harvest().Length, TimeSpan.FromSeconds(seconds)));
        }

        return new ForecastFacts
        {
            MemoryPages = (ulong)simulated.MemoryPages, Intervals = intervals, BytesPerSecond = linkMegabytes * 1e6,
            HarvestTime = TimeSpan.FromMilliseconds(0.6),
        };
    }
}
