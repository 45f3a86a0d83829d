namespace Tidemark.Migration.Tests;

public sealed class PlantedFaultTests
{
    [Fact]
    public void The_control_without_a_fault_passes()
    {
        using World world = Busy(MigrationFaults.None);
        MigrationOutcome outcome = world.Run();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData(MigrationFaults.ForgetLastWord, "memory-verification", MigrationPhase.Verify)]
    [InlineData(MigrationFaults.EarlyFinalHarvest, "memory-verification", MigrationPhase.Verify)]
    [InlineData(MigrationFaults.ResumeBeforeCommit, "stopped-before-commit", MigrationPhase.Verify)]
    public void A_planted_fault_is_caught(MigrationFaults fault, string caughtBy, MigrationPhase phase)
    {
        using World world = Busy(fault);
        MigrationOutcome outcome = world.Run();
        Assert.Equal((MigrationResult.Failed, caughtBy, phase), (outcome.Result, outcome.CaughtBy, outcome.Phase));
        Assert.Equal(caughtBy == "memory-verification", outcome.Report.LostPages > 0);
        Assert.Equal(outcome.Report.LostPages > 0, outcome.Report.FirstLostPages.Count > 0);
        Assert.NotEqual(MigrationResult.Completed, world.DestinationOutcome.Result);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void Without_verification_a_forgotten_word_goes_unseen_so_the_check_is_what_catches_it()
    {
        using World world = Busy(MigrationFaults.ForgetLastWord);
        world.Options = world.Options with { Verify = false };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Completed, outcome.Result);
        Assert.False(world.MemoryEqual());
    }

    private static World Busy(MigrationFaults faults)
    {
        var world = new World();
        world.Options = world.Options with { Faults = faults, Channels = 2 };
        world.Source.HotPages = [.. Enumerable.Range(0, 30).Select(index => (ulong)(130 + index)), 2, 40, 110];
        world.Source.StartWriting();
        // However the threads are scheduled: the last word is written during a pass, and something just before the
        // stop.
        int round = 0;
        world.OnSourceEvent = happened =>
        {
            if (happened is MigrationEvent.Decided && world.Source.WorkloadRuns)
                world.Source.Fill(157, 2, seed: 10 + round++);
        };
        world.Source.OnLastWrite = () => world.Source.Fill(20, 1, seed: 99);
        return world;
    }
}
