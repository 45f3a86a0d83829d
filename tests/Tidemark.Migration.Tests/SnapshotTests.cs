using Tidemark.Memory;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Migration.Tests;

public sealed class SnapshotTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void A_machine_that_writes_is_saved_and_restored_with_equal_memory(int threads)
    {
        using var world = new SnapshotWorld();
        world.Options = new SnapshotSaveOptions { Threads = threads, StopsMachine = true };
        world.RestoreOptions = new SnapshotRestoreOptions { Threads = threads };
        world.Source.HotPages = [3, 30, 59, 100, 140, 159];
        world.Source.StartWriting();

        SnapshotOutcome saved = world.Save();

        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        Assert.True(saved.FileIsComplete);
        Assert.False(saved.MachineRuns);
        Assert.False(world.Source.Runs);
        Assert.True(world.File.Published);
        Assert.True(saved.Report.Passes[^1].Final);
        Assert.Equal(saved.Report.Downtime, saved.Report.DowntimeParts.Aggregate(TimeSpan.Zero, (sum, part) => sum + part.Duration));
        SnapshotOutcome restored = world.Restore();
        Assert.True(restored.Result == SnapshotResult.Completed, restored.Cause);
        Assert.True(world.Destination.Runs);
        Assert.True(world.MemoryEqual());
        Assert.Equal([8000UL, 500UL], restored.Report.Parts.Select(part => part.StateBytes));
        Assert.Equal(8000, world.Destination.Device.BytesLoaded);
    }

    [Fact]
    public void A_saved_machine_runs_on_and_was_stopped_in_order()
    {
        using var world = new SnapshotWorld();
        SnapshotOutcome saved = world.Save();
        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        Assert.True(saved.MachineRuns);
        Assert.True(world.Source.Runs);
        Assert.False(world.Source.DirtyTracker.IsStarted);
        Assert.False(world.Source.DisksReleased);
        Assert.Equal(
            [
                "nvme0.BeginSave", "workload.BeginSave", "StopWorkload", "nvme0.EnterP2P", "workload.EnterP2P", "nvme0.Stop",
                "workload.Stop", "FlushDisks", "nvme0.Recover", "workload.Recover", "ResumeWorkload",
            ],
            world.Source.Journal);
        Assert.Equal(SnapshotResult.Completed, world.Restore().Result);
        Assert.True(world.MemoryEqual());
    }

    [Fact]
    public void What_is_written_after_pass_0_and_what_becomes_zero_is_in_the_file_in_its_place()
    {
        using var world = new SnapshotWorld();
        world.OnEvent = happened =>
        {
            if (happened is not SnapshotEvent.PassEnded { Pass.Index: 0 })
                return;
            world.Source.Memory.Write(new GuestPhysicalAddress(3 << GuestPage.Shift), new byte[GuestPage.Size]);
            world.Source.Fill(40, 3, seed: 2);
        };
        world.Source.OnLastWrite = () => world.Source.Fill(159, 1, seed: 3);
        world.Options = world.Options with { StopsMachine = true };
        SnapshotOutcome saved = world.Save();
        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        // A page has one place: written twice is written over.
        Assert.Contains(((1UL << 20) + 3 * GuestPage.Size, (int)GuestPage.Size), world.File.PageWrites);
        Assert.Equal(58UL + 3, saved.Report.PresentPages);
        Assert.Equal(SnapshotResult.Completed, world.Restore().Result);
        Assert.True(world.MemoryEqual());
        Assert.True(PageKernels.IsZero(world.Destination.Memory.PagesSpan(3, 1)));
    }

    [Fact]
    public void Pages_that_were_never_touched_are_not_looked_at_and_those_that_are_zero_not_written()
    {
        using var world = new SnapshotWorld();
        var touched = new PageBitmap(world.Source.Memory.SpanPages);
        touched.SetRange(0, 30);
        touched.SetRange(100, 60);
        world.Options = world.Options with { FindTouchedPages = () => touched };
        SnapshotOutcome saved = world.Save();
        Assert.Equal((90UL, 58UL, 32UL),
            (saved.Report.Passes[0].DirtyPages, saved.Report.Passes[0].WrittenPages, saved.Report.Passes[0].ZeroPages));
        Assert.Equal(58 * (int)GuestPage.Size, world.File.PageWrites.Sum(write => write.Length));
        Assert.Equal(SnapshotResult.Completed, world.Restore().Result);
        Assert.True(world.MemoryEqual());
    }

    [Fact]
    public void What_a_device_wrote_before_the_restore_is_zero_again()
    {
        using var world = new SnapshotWorld();
        world.Save();
        world.Destination.Memory.PagesSpan(30, 2).Fill(7);
        var touched = new PageBitmap(world.Source.Memory.SpanPages);
        touched.SetRange(30, 2);
        world.RestoreOptions = world.RestoreOptions with { FindTouchedPages = () => touched };
        Assert.Equal(SnapshotResult.Completed, world.Restore().Result);
        Assert.True(world.MemoryEqual());
    }

    [Fact]
    public void A_machine_that_writes_without_end_is_stopped_when_passes_no_longer_shrink_the_rest()
    {
        var before = new SnapshotPass(1, 1000, 1000, 0, TimeSpan.FromSeconds(1), false);
        var limits = new SnapshotLimits(TimeSpan.FromMilliseconds(300), 10);
        Assert.False(SnapshotPolicy.Decide(700, before, 1 << 20, limits).Stop);
        Assert.True(SnapshotPolicy.Decide(760, before, 1 << 20, limits).Stop);
        Assert.True(SnapshotPolicy.Decide(30, before, 1 << 20, limits).Stop);
        Assert.False(SnapshotPolicy.Decide(100_000, before with { Index = 0 }, 1 << 20, limits).Stop);
        Assert.True(SnapshotPolicy.Decide(1, before with { Index = 9 }, 1, limits).Stop);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Whatever_file_call_fails_the_machine_runs_on_and_no_file_is_left(bool stopsMachine)
    {
        int calls;
        using (var world = new SnapshotWorld())
        {
            world.Options = world.Options with { StopsMachine = stopsMachine };
            world.Save();
            calls = world.File.Calls;
        }

        Assert.True(calls > 15);
        for (int failAt = 1; failAt <= calls; failAt++)
        {
            using var world = new SnapshotWorld();
            world.Options = world.Options with { StopsMachine = stopsMachine };
            world.File = new FakeSnapshotFile { FailAt = failAt };
            SnapshotOutcome outcome = world.Save();
            Assert.Equal(SnapshotResult.Failed, outcome.Result);
            Assert.Contains("ENOSPC", outcome.Cause, StringComparison.Ordinal);
            world.CheckRunsOn(outcome);
            Assert.True(world.File.Disposed);
            // And the next one, with room on the disk, is whole.
            world.File = new FakeSnapshotFile();
            Assert.Equal(SnapshotResult.Completed, world.Save().Result);
            Assert.Equal(SnapshotResult.Completed, world.Restore().Result);
            Assert.True(world.MemoryEqual());
        }
    }

    [Fact]
    public void A_cancel_at_any_file_call_lets_the_machine_run_on_and_leaves_no_file()
    {
        int calls;
        using (var world = new SnapshotWorld())
        {
            world.Save();
            calls = world.File.Calls;
        }

        // The last one gives the file its name: after that there is nothing left to cancel.
        for (int cancelAt = 1; cancelAt < calls; cancelAt++)
        {
            using var world = new SnapshotWorld();
            int at = cancelAt;
            world.File.OnCall = call =>
            {
                if (call == at)
                    world.Cancel.Cancel();
            };
            SnapshotOutcome outcome = world.Save();
            Assert.True(outcome.Result == SnapshotResult.Cancelled, $"call {at}: {outcome.Result} {outcome.Cause}");
            world.CheckRunsOn(outcome);
        }
    }

    [Theory]
    [InlineData("BeginSave")]
    [InlineData("ReadState")]
    [InlineData("EnterP2P")]
    [InlineData("Stop")]
    public void A_part_that_fails_is_named_and_the_machine_runs_on(string member)
    {
        using var world = new SnapshotWorld();
        world.Source.Device.FailAt = member;
        SnapshotOutcome outcome = world.Save();
        Assert.Equal(SnapshotResult.Failed, outcome.Result);
        Assert.Contains("nvme0", outcome.Cause, StringComparison.Ordinal);
        world.CheckRunsOn(outcome);
    }

    [Theory]
    [InlineData("StopWorkload")]
    [InlineData("FlushDisks")]
    public void A_machine_that_can_not_be_stopped_in_order_runs_on(string member)
    {
        using var world = new SnapshotWorld();
        world.Source.FailAt = member;
        SnapshotOutcome outcome = world.Save();
        Assert.Equal(SnapshotResult.Failed, outcome.Result);
        world.CheckRunsOn(outcome);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void A_harvest_that_fails_during_a_save_lets_the_machine_run_on(int harvest)
    {
        using var world = new SnapshotWorld();
        world.Source.Dirty.FailHarvest = harvest;
        SnapshotOutcome outcome = world.Save();
        Assert.Equal(SnapshotResult.Failed, outcome.Result);
        world.CheckRunsOn(outcome);
    }

    [Fact]
    public void A_machine_that_can_not_run_again_keeps_its_complete_file_and_is_told()
    {
        using var world = new SnapshotWorld();
        world.Source.Device.FailAt = "Recover";
        SnapshotOutcome outcome = world.Save();
        Assert.Equal(SnapshotResult.Failed, outcome.Result);
        Assert.True(outcome.FileIsComplete);
        Assert.False(outcome.MachineRuns);
        Assert.Contains("The snapshot is complete, but the machine does not run as before: nvme0", outcome.Cause, StringComparison.Ordinal);
        Assert.Equal(SnapshotResult.Completed, world.Restore().Result);
    }

    [Fact]
    public void Every_difference_is_told_before_memory_is_read()
    {
        using var world = new SnapshotWorld();
        world.Save();
        world.Destination.Obstacles.AddRange(["One.", "Two."]);
        SnapshotOutcome outcome = world.Restore();
        Assert.Equal((SnapshotResult.Failed, SnapshotPhase.Prepare), (outcome.Result, outcome.Phase));
        Assert.Contains("One. Two.", outcome.Cause, StringComparison.Ordinal);
        Assert.Empty(world.Destination.Journal);
        Assert.True(PageKernels.IsZero(world.Destination.Memory.PagesSpan(0, 60)));
        using var other = new FakeDestinationMachine((0, 61), (100, 60));
        outcome = new SnapshotRestore(other, world.File, world.RestoreOptions, world, TimeProvider.System).Run(CancellationToken.None);
        Assert.Contains("Guest memory has", outcome.Cause, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("AcquireDisks")]
    [InlineData("Start")]
    public void A_machine_that_can_not_start_does_not_run(string member)
    {
        using var world = new SnapshotWorld();
        world.Save();
        world.Destination.FailAt = member;
        SnapshotOutcome outcome = world.Restore();
        Assert.Equal(SnapshotResult.Failed, outcome.Result);
        Assert.False(world.Destination.Runs);
        Assert.Equal(member == "Start", world.Destination.Journal.Contains("Start"));
        Assert.True(member == "Start" || PageKernels.IsZero(world.Destination.Memory.PagesSpan(0, 60)));
    }
}
