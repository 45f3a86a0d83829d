using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

public sealed class CompletedTests
{
    [Theory]
    [InlineData(1, false)]
    [InlineData(1, true)]
    [InlineData(2, true)]
    [InlineData(8, true)]
    public void A_machine_moves_and_its_memory_is_equal(int channels, bool verify)
    {
        using var world = new World();
        world.Options = world.Options with { Channels = channels, Verify = verify };
        MigrationOutcome outcome = world.Run();

        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.True(world.DestinationOutcome.Result == MigrationResult.Completed, world.DestinationOutcome.Cause);
        world.CheckRunners(outcome);
        Assert.False(world.Source.Runs);
        Assert.Equal(verify ? 0ul : null, outcome.Report.LostPages);
        Assert.Equal([8000ul, 500ul], outcome.Report.Parts.Select(part => part.StateBytes));
        Assert.Equal([8000ul, 500ul], world.DestinationOutcome.Report.Parts.Select(part => part.StateBytes));
        Assert.True(outcome.Report.Passes.Count >= 3);
        Assert.True(outcome.Report.Passes[^1].Final);
        Assert.Null(outcome.Report.Passes[^1].PredictedDowntime);
        Assert.All(outcome.Report.Passes.SkipLast(1), pass => Assert.NotNull(pass.PredictedDowntime));
        Assert.Equal(
            outcome.Report.Downtime, outcome.Report.DowntimeParts.Aggregate(TimeSpan.Zero, (sum, part) => sum + part.Duration));
    }

    [Fact]
    public void Zero_pages_are_told_and_not_sent()
    {
        using var world = new World();
        MigrationOutcome outcome = world.Run();
        Assert.Equal((120ul, 58ul, 62ul),
            (outcome.Report.Passes[0].DirtyPages, outcome.Report.Passes[0].SentPages, outcome.Report.Passes[0].ZeroPages));
    }

    [Fact]
    public void A_page_that_becomes_zero_is_zero_at_the_destination()
    {
        using var world = new World();
        world.OnSourceEvent = happened =>
        {
            if (happened is MigrationEvent.Decided && world.SourceEvents.OfType<MigrationEvent.PassEnded>().Count() == 1)
                world.Source.Memory.Write(new GuestPhysicalAddress(3 << GuestPage.Shift), new byte[GuestPage.Size]);
        };
        MigrationOutcome outcome = world.Run();
        world.CheckRunners(outcome);
        Assert.Equal(MigrationResult.Completed, outcome.Result);
        Assert.True(outcome.Report.Passes.Skip(1).Sum(pass => (long)pass.ZeroPages) > 0);
        Assert.True(PageKernels.IsZero(world.Destination.Memory.PagesSpan(3, 1)));
    }

    [Fact]
    public void A_part_that_begins_anew_right_before_the_stop_gets_another_pass()
    {
        int Passes(int beginAnewAt, out bool waited)
        {
            using var world = new World();
            world.Source.Device.BeginAnewAt = beginAnewAt;
            MigrationOutcome outcome = world.Run();
            Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
            waited = world.SourceEvents.OfType<MigrationEvent.Decided>()
                .Any(decided => decided.Text.Contains("new initial state", StringComparison.Ordinal));
            return outcome.Report.Passes.Count;
        }

        int usual = Passes(0, out bool waitedFor);
        Assert.False(waitedFor);
        // Which estimate is the one right before the stop is the engine's affair: one of the first dozen is.
        Assert.Contains(Enumerable.Range(1, 12), at => Passes(at, out bool waited) == usual + 1 && waited);
    }

    [Fact]
    public void Pages_that_count_as_written_and_were_not_are_not_sent_again()
    {
        using var world = new World();
        world.Source.ReportsUnchangedPages = true;
        var third = new GuestPhysicalAddress(3 << GuestPage.Shift);
        byte[] content = world.Source.Memory.PagesSpan(3, 1).ToArray();
        Assert.False(PageKernels.IsZero(content));
        int round = 0;
        void WriteOnce(byte[] toThird)
        {
            // Everything counts as written; page 50 is.
            world.Source.Dirty.MarkAll();
            world.Source.Fill(50, 1, seed: 100 + round++);
            world.Source.Memory.Write(third, toThird);
        }

        // Page 3 goes from its content to zeros, which pass 1 sends, and back to just that content: what was sent first
        // is not what the destination has then.
        world.Source.Device.OnEstimate = () =>
        {
            if (round == 0)
                WriteOnce(new byte[GuestPage.Size]);
        };
        world.OnSourceEvent = happened =>
        {
            if (happened is MigrationEvent.PassEnded { Pass.Index: 1 })
                WriteOnce(content);
        };
        MigrationOutcome outcome = world.Run();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        world.CheckRunners(outcome);
        Assert.Equal(0ul, outcome.Report.LostPages);
        Assert.True(round >= 2);
        // Pass 0 sent 58 pages with content; of all pages that count as written later only the written two are sent.
        PassReport[] whole = [.. outcome.Report.Passes.Skip(1).Where(pass => pass.DirtyPages == world.Source.Memory.SpanPages)];
        Assert.NotEmpty(whole);
        Assert.All(whole, pass => Assert.True(pass.UnchangedPages >= 56 && pass.SentPages <= 2, $"{pass}"));
    }

    [Fact]
    public void Pages_written_between_passes_arrive()
    {
        using var world = new World();
        int round = 0;
        world.OnSourceEvent = happened =>
        {
            if (happened is MigrationEvent.Decided && world.Source.WorkloadRuns)
                world.Source.Fill(50, 8, seed: 100 + round++);
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Completed, outcome.Result);
        Assert.True(round >= 2);
        Assert.True(outcome.Report.Passes.Skip(1).Sum(pass => (long)pass.SentPages) >= 8);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_machine_that_writes_all_the_time_moves()
    {
        using var world = new World();
        world.Options = world.Options with { Channels = 2 };
        world.Source.HotPages = [1, 7, 30, 59, 100, 130, 158, 159];
        world.Source.StartWriting();
        MigrationOutcome outcome = world.Run();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Equal("cpu (fake)", outcome.Report.Passes[^1].Sources.Single().Source);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void The_stop_order_is_kept()
    {
        using var world = new World();
        world.Run();
        Assert.Equal(
            [
                "nvme0.BeginSave", "workload.BeginSave", "StopWorkload", "nvme0.EnterP2P", "workload.EnterP2P", "nvme0.Stop",
                "workload.Stop", "FlushDisks", "ReleaseDisks", "nvme0.EndSave", "workload.EndSave",
            ],
            world.Source.Journal);
        Assert.Equal(
            [
                "nvme0.BeginLoad", "workload.BeginLoad", "AcquireDisks", "Start", "nvme0.Start", "workload.Start",
            ],
            world.Destination.Journal.Where(step => !step.EndsWith("EndLoad", StringComparison.Ordinal)));
        // Parts are loaded side by side: which one is done first is nobody's promise.
        Assert.Equal(
            ["nvme0.EndLoad", "workload.EndLoad"], world.Destination.Journal.Skip(2).Take(2).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Parts_say_what_they_can_before_the_stop()
    {
        using var world = new World();
        int before = 0;
        world.OnSourceEvent = happened =>
        {
            if (happened is MigrationEvent.PhaseBegan { Phase: MigrationPhase.Switchover })
                before = (int)world.Source.Device.Estimate().InitialBytes;
        };
        Assert.Equal(MigrationResult.Completed, world.Run().Result);
        Assert.Equal(0, before);
    }
}
