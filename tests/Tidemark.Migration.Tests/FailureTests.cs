using System.Diagnostics;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Tests;

public sealed class FailureTests
{
    [Theory]
    [InlineData("BeginSave")]
    [InlineData("ReadState")]
    [InlineData("EnterP2P")]
    [InlineData("Stop")]
    public void A_part_that_fails_at_the_source_lets_the_machine_run_on(string member)
    {
        using var world = new World();
        world.Source.Device.FailAt = member;
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains("nvme0", outcome.Cause, StringComparison.Ordinal);
        Assert.Contains("nvme0", world.DestinationOutcome.Cause, StringComparison.Ordinal);
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData("BeginLoad")]
    [InlineData("WriteState")]
    [InlineData("EndLoad")]
    public void A_part_that_fails_at_the_destination_lets_the_machine_run_on_and_the_source_knows_why(string member)
    {
        using var world = new World();
        world.Destination.Device.FailAt = member;
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains($"{member} failed as planned", outcome.Cause, StringComparison.Ordinal);
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData("StopWorkload")]
    [InlineData("FlushDisks")]
    public void A_machine_that_fails_lets_the_machine_run_on(string member)
    {
        using var world = new World();
        world.Source.FailAt = member;
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void Devices_run_again_before_the_workload()
    {
        using var world = new World();
        world.Source.FailAt = "FlushDisks";
        world.Run();
        Assert.Equal(["FlushDisks", "nvme0.Recover", "workload.Recover", "ResumeWorkload"], world.Source.Journal[^4..]);
    }

    [Fact]
    public void A_part_that_can_not_be_brought_back_is_named_and_the_others_run()
    {
        using var world = new World();
        world.Source.FailAt = "FlushDisks";
        world.Source.Device.FailAt = "Recover";
        MigrationOutcome outcome = world.Run();
        Assert.Contains("nvme0 does not run", outcome.Cause, StringComparison.Ordinal);
        Assert.Equal(FakePartState.Running, world.Source.Processors.State);
        Assert.True(world.Source.WorkloadRuns);
    }

    [Theory]
    [InlineData("AcquireDisks")]
    [InlineData("Start")]
    public void After_commit_a_failure_of_the_destination_leaves_both_stopped(string member)
    {
        using var world = new World();
        world.Destination.FailAt = member;
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.StateUnknown, outcome.Result);
        Assert.Equal(MigrationResult.StateUnknown, world.DestinationOutcome.Result);
        Assert.Contains($"{member} failed as planned", outcome.Cause, StringComparison.Ordinal);
        Assert.False(world.Source.Runs);
        Assert.False(world.Destination.Runs);
    }

    [Fact]
    public void A_lost_acknowledgement_of_commit_leaves_the_source_stopped()
    {
        using var world = new World();
        world.Destination.OnStart = () =>
        {
            foreach ((int connection, FakeConnection source, _) in world.Network.Made)
            {
                if (connection == 0)
                    source.Abort();
            }
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal((MigrationResult.StateUnknown, MigrationPhase.Commit), (outcome.Result, outcome.Phase));
        Assert.False(world.Source.Runs);
        Assert.Equal(MigrationResult.Completed, world.DestinationOutcome.Result);
        Assert.True(world.Destination.Runs);
    }

    [Fact]
    public void Pages_of_a_pass_that_was_not_acknowledged_are_pending_again()
    {
        using var world = new World();
        int round = 0;
        world.OnSourceEvent = happened =>
        {
            if (happened is not MigrationEvent.Decided)
                return;
            world.Source.Fill(50, 5, seed: round++);
            // The second pass after the full copy: harvested, not acknowledged.
            if (round == 2)
                world.Network.Made.Single(made => made.Connection == 1).Destination.Abort();
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Equal(5ul, world.Source.DirtyTracker.CountPending());
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void A_harvest_that_fails_lets_the_machine_run_on(int number)
    {
        using var world = new World();
        world.Source.Dirty.FailHarvest = number;
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains("harvest", outcome.Cause, StringComparison.Ordinal);
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData(0, true, 300)]
    [InlineData(0, false, 150)]
    [InlineData(1, true, 5000)]
    [InlineData(1, false, 60)]
    public void A_peer_that_falls_silent_ends_the_migration_on_both_sides(int connection, bool toDestination, long at)
    {
        using var world = new World();
        world.Options = world.Options with { IdleTimeout = TimeSpan.FromMilliseconds(400) };
        world.DestinationOptions = world.DestinationOptions with { IdleTimeout = TimeSpan.FromMilliseconds(400) };
        world.Network.Plan(connection, toDestination, new WireFault { HangAt = at });
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Equal(MigrationResult.Failed, world.DestinationOutcome.Result);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void What_the_last_word_overtook_is_waited_for()
    {
        using var world = new World();
        world.Options = world.Options with { Channels = ChannelWithoutParts };
        bool answered = false;
        FakePipe? held = null;
        world.OnSourceEvent = happened => held ??= HoldFromSwitchover(world, happened, toDestination: true, (pipe, sees) =>
        {
            // Long enough for an answer that does not wait; a slow host makes this test see less, and never fail.
            answered = sees(TimeSpan.FromMilliseconds(300));
            pipe.Release();
        });
        MigrationOutcome outcome = world.Run();
        Assert.NotNull(held);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.False(Volatile.Read(ref answered), "StateLoaded came before all pages");
        world.CheckRunners(outcome);
    }

    [Fact]
    public void The_destination_answers_the_last_word_before_its_acknowledgements_are_there()
    {
        using var world = new World();
        bool answered = false;
        FakePipe? held = null;
        world.OnSourceEvent = happened => held ??= HoldFromSwitchover(world, happened, toDestination: false, (pipe, sees) =>
        {
            answered = sees(world.Options.IdleTimeout / 2);
            pipe.Release();
        });
        MigrationOutcome outcome = world.Run();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.True(Volatile.Read(ref answered), "StateLoaded waited for the acknowledgements");
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_part_whose_end_never_comes_is_named_although_the_peer_lives()
    {
        var time = new HastyTime(200);
        using FakeConnection connection = new("fake:source", Pipe(), Pipe());
        using var link = new ControlLink(connection, TimeSpan.FromSeconds(10), time);
        using var parts = new DestinationParts([new FakePart("nvme0", 0, 10, [])], link, time);
        IOException failure = Assert.Throws<IOException>(() => parts.AwaitLoaded(CancellationToken.None));
        Assert.Contains("the end of the state of nvme0 did not arrive", failure.Message, StringComparison.Ordinal);

        FakePipe Pipe() => new(new WireFault(), () => { });
    }

    [Fact]
    public void What_never_comes_after_the_last_word_ends_the_migration_although_the_peer_lives()
    {
        using var world = new World();
        // The destination waits 30 times its idle timeout, 300 s, and has a clock that runs 200 times as fast; the source would
        // give up an acknowledgement after 10 s.
        world.DestinationTime = new HastyTime(200);
        world.Options = world.Options with { Channels = ChannelWithoutParts };
        FakePipe? held = null;
        world.OnSourceEvent = happened => held ??= HoldFromSwitchover(world, happened, toDestination: true, (_, _) => { });
        MigrationOutcome outcome = world.Run();
        Assert.NotNull(held);
        Assert.Equal((MigrationResult.Failed, MigrationPhase.Switchover), (outcome.Result, outcome.Phase));
        Assert.Contains("has sent all, but a part of the last pass did not arrive", outcome.Cause, StringComparison.Ordinal);
        world.CheckRunners(outcome);
    }

    private sealed class HastyTime(long times) : TimeProvider
    {
        public override long GetTimestamp() => base.GetTimestamp() * times;
    }

    /// <summary>The machine has two parts, so the third channel carries nothing but pages.</summary>
    private const int ChannelWithoutParts = 3;

    /// <summary>From the switchover on, what goes one way on the last channel stays on its way.</summary>
    /// <param name="meanwhile">
    /// On a thread of its own, with what is held, and whether the destination answers on control within a time.
    /// </param>
    private static FakePipe? HoldFromSwitchover(
        World world, MigrationEvent happened, bool toDestination, Action<FakePipe, Func<TimeSpan, bool>> meanwhile)
    {
        if (happened is not MigrationEvent.PhaseBegan { Phase: MigrationPhase.Switchover })
            return null;
        (_, FakeConnection source, FakeConnection destination) =
            world.Network.Made.Single(made => made.Connection == world.Options.Channels);
        FakePipe held = (toDestination ? source : destination).Outgoing;
        held.Hold();
        FakePipe control = world.Network.Made.Single(made => made.Connection == 0).Destination.Outgoing;
        long before = control.Written;
        // Pings are headers and nothing else; StateLoaded is not.
        new Thread(() => meanwhile(
            held, limit => SpinWait.SpinUntil(() => (control.Written - before) % FrameHeader.Size != 0, limit))).Start();
        return held;
    }

    [Fact]
    public void A_machine_that_writes_too_fast_is_not_moved_and_the_message_says_what_to_do()
    {
        using var world = new World();
        world.Options = world.Options with { DowntimeLimit = TimeSpan.FromTicks(1), MaximumPasses = 4 };
        MigrationOutcome outcome = world.Run();
        Assert.Equal((MigrationResult.Failed, MigrationPhase.Precopy), (outcome.Result, outcome.Phase));
        Assert.Contains("raise the downtime limit", outcome.Cause, StringComparison.Ordinal);
        // Told before the passes are used up when it can be proved.
        Assert.InRange(outcome.Report.Passes.Count, 2, 4);
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData(MigrationPhase.Connect)]
    [InlineData(MigrationPhase.Negotiate)]
    [InlineData(MigrationPhase.Track)]
    [InlineData(MigrationPhase.Precopy)]
    [InlineData(MigrationPhase.Switchover)]
    [InlineData(MigrationPhase.Verify)]
    [InlineData(MigrationPhase.Commit)]
    public void A_cancel_in_any_phase_before_commit_lets_the_machine_run_on(MigrationPhase phase)
    {
        using var world = new World();
        world.OnSourceEvent = happened =>
        {
            if (happened is MigrationEvent.PhaseBegan began && began.Phase == phase)
                world.CancelSource.Cancel();
        };
        MigrationOutcome outcome = world.Run(TimeSpan.FromMilliseconds(500));
        Assert.Equal(MigrationResult.Cancelled, outcome.Result);
        Assert.Equal(MigrationResult.Cancelled, world.DestinationOutcome.Result);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_cancel_after_commit_is_ignored_and_said_to_be()
    {
        using var world = new World();
        world.Destination.OnStart = world.CancelSource.Cancel;
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Completed, outcome.Result);
        Assert.Contains(world.SourceEvents.OfType<MigrationEvent.Decided>(),
            decided => decided.Text.Contains("too late", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(0, true, 40)]
    [InlineData(0, false, 40)]
    [InlineData(0, false, 100)]
    [InlineData(1, true, 20)]
    [InlineData(1, true, 5000)]
    [InlineData(1, false, 60)]
    public void A_cancel_gets_through_although_the_peer_hangs(int connection, bool toDestination, long at)
    {
        using var world = new World();
        world.Options = world.Options with { IdleTimeout = TimeSpan.FromMinutes(10) };
        world.Network.Plan(connection, toDestination, new WireFault { HangAt = at });
        world.CancelSource.CancelAfter(200);
        long start = Stopwatch.GetTimestamp();
        MigrationOutcome outcome = world.Run(TimeSpan.FromMilliseconds(100));
        Assert.Equal(MigrationResult.Cancelled, outcome.Result);
        // Not a measurement: the alternative is the idle timeout of ten minutes.
        Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromMinutes(1));
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_cancel_at_the_destination_lets_the_machine_run_on()
    {
        using var world = new World();
        world.OnSourceEvent = happened =>
        {
            if (happened is MigrationEvent.PhaseBegan { Phase: MigrationPhase.Switchover })
                world.CancelDestination.Cancel();
        };
        using var never = new ManualResetEventSlim();
        world.Destination.Device.BlockAt = ("EndLoad", never);
        world.CancelDestination.Token.Register(never.Set);
        MigrationOutcome outcome = world.Run();
        Assert.Equal((MigrationResult.Cancelled, MigrationResult.Cancelled), (outcome.Result, world.DestinationOutcome.Result));
        world.CheckRunners(outcome);
    }
}
