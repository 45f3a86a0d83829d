using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Tests;

/// <summary>Connections that are lost before Commit and come back, and questions about a Commit whose answer was lost.</summary>
public sealed class ResumeTests
{
    public static TheoryData<int, bool, long> Cuts()
    {
        var data = new TheoryData<int, bool, long>();
        foreach (bool toDestination in new[] { true, false })
        {
            foreach (long at in (long[])[0, 47, 48, 60, 100, 200, 330])
                data.Add(0, toDestination, at);
            foreach (long at in (long[])[0, 47, 48, 60, 5_000, 100_000, 230_000])
                data.Add(1, toDestination, at);
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(Cuts))]
    public void A_migration_goes_on_after_a_cut_anywhere_before_commit(int connection, bool toDestination, long at)
    {
        using var world = new World();
        world.Options = world.Options with { RetryFor = TimeSpan.FromSeconds(10) };
        world.Source.HotPages = [3, 101];
        world.Source.StartWriting();
        world.Network.Plan(connection, toDestination, new WireFault { CutAt = at });
        MigrationOutcome outcome = world.Run(TimeSpan.FromSeconds(1));
        world.CheckRunners(outcome);
        // Before there is a migration there is nothing to go on with.
        bool early = outcome is { Result: MigrationResult.Failed, Phase: MigrationPhase.Connect or MigrationPhase.Negotiate };
        Assert.True(outcome.Result == MigrationResult.Completed || early, $"{outcome.Result}: {outcome.Cause}");
    }

    [Theory]
    [InlineData(true, 10)]
    [InlineData(true, 48)]
    [InlineData(true, 60)]
    [InlineData(true, 200)]
    [InlineData(false, 47)]
    [InlineData(false, 48)]
    [InlineData(false, 60)]
    public void A_migration_goes_on_after_a_cut_while_it_was_being_taken_up_again(bool toDestination, long at)
    {
        using var world = new World();
        world.Options = world.Options with { RetryFor = TimeSpan.FromSeconds(10) };
        int cuts = 0;
        world.OnSourceEvent = migrationEvent =>
        {
            if (migrationEvent is not MigrationEvent.PhaseBegan began)
                return;
            if (began.Phase == MigrationPhase.Precopy && cuts == 0)
            {
                cuts++;
                Cut(world);
            }
            else if (began.Phase == MigrationPhase.Connect && cuts == 1)
            {
                cuts++;
                // Counted from now: the control connection that is made next.
                world.Network.Plan(world.Network.Made.Count, toDestination, new WireFault { CutAt = at });
            }
        };
        MigrationOutcome outcome = world.Run(TimeSpan.FromSeconds(1));
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Equal(2, cuts);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_cut_in_the_switchover_lets_the_machine_run_until_the_connection_is_back()
    {
        using var world = new World();
        world.Options = world.Options with { RetryFor = TimeSpan.FromSeconds(10) };
        bool cut = false;
        bool ranMeanwhile = false;
        world.OnSourceEvent = migrationEvent =>
        {
            if (migrationEvent is MigrationEvent.PhaseBegan { Phase: MigrationPhase.Verify } && !cut)
            {
                cut = true;
                foreach (var made in world.Network.Made)
                    made.Source.Abort();
            }

            ranMeanwhile |= cut && migrationEvent is MigrationEvent.PhaseBegan { Phase: MigrationPhase.Connect } && world.Source.Runs;
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Completed, outcome.Result);
        Assert.True(cut && ranMeanwhile);
        world.CheckRunners(outcome);
        Assert.Equal(2, world.Source.Journal.Count(entry => entry == "StopWorkload"));
    }

    [Fact]
    public void What_was_acknowledged_before_a_cut_is_not_sent_again()
    {
        // Sixteen windows of pages with content, acknowledged one by one.
        (ulong, ulong)[] slots = [(0, 16 * 1024)];
        using var source = new FakeSourceMachine(slots);
        using var destination = new FakeDestinationMachine(slots);
        using var network = new FakeNetwork();
        source.Fill(0, 16 * 1024, seed: 5);
        const long Content = 16L * 1024 * GuestPage.Size;
        network.Plan(1, true, new WireFault { CutAt = Content / 2 });
        MigrationOutcome received = null!;
        var thread = new Thread(() => received = new MigrationDestination(
            destination, network, new DestinationOptions(), new Silent(), TimeProvider.System).Run(CancellationToken.None));
        thread.Start();
        MigrationOutcome outcome = new MigrationSource(
            source, network, new MigrationOptions { Channels = 1, Verify = true, BatchBytes = 1 }, new Silent(), TimeProvider.System)
            .Run(CancellationToken.None);
        thread.Join();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Equal(MigrationResult.Completed, received.Result);
        long sent = network.Made.Sum(made => made.Source.Outgoing.Written);
        // The window under way and those in the buffers, not the half that had arrived.
        Assert.InRange(sent, Content, Content + (3 * 1024 * GuestPage.Size));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void What_was_sent_and_lost_with_the_connection_is_not_taken_for_unchanged(int channels)
    {
        (ulong, ulong)[] slots = [(0, 16 * 1024)];
        using var source = new FakeSourceMachine(slots) { ReportsUnchangedPages = true };
        using var destination = new FakeDestinationMachine(slots);
        using var network = new FakeNetwork();
        source.Fill(0, 16 * 1024, seed: 6);
        network.Plan(1, true, new WireFault { CutAt = 8L * 1024 * GuestPage.Size / channels });
        MigrationOutcome received = null!;
        var thread = new Thread(() => received = new MigrationDestination(
            destination, network, new DestinationOptions(), new Silent(), TimeProvider.System).Run(CancellationToken.None));
        thread.Start();
        MigrationOutcome outcome = new MigrationSource(
            source, network, new MigrationOptions { Channels = channels, Verify = true }, new Silent(), TimeProvider.System)
            .Run(CancellationToken.None);
        thread.Join();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Equal(MigrationResult.Completed, received.Result);
        Assert.Equal(1, outcome.Report.Retries);
    }

    [Fact]
    public void A_source_whose_destination_does_not_come_back_runs_on_and_says_how_long_it_waited()
    {
        using var world = new World();
        world.Options = world.Options with { RetryFor = TimeSpan.FromMilliseconds(300) };
        world.OnSourceEvent = migrationEvent =>
        {
            if (migrationEvent is not MigrationEvent.PhaseBegan { Phase: MigrationPhase.Precopy })
                return;
            world.CancelDestination.Cancel();
        };
        MigrationOutcome outcome = world.Run();
        Assert.NotEqual(MigrationResult.Completed, outcome.Result);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_receiver_gives_up_by_itself_when_the_source_does_not_come_back()
    {
        using var world = new World();
        world.DestinationOptions = world.DestinationOptions with { AwaitSourceFor = TimeSpan.FromMilliseconds(200) };
        world.Options = world.Options with { RetryFor = TimeSpan.FromSeconds(2), IdleTimeout = TimeSpan.FromSeconds(1) };
        // The source dies: its connections break and it never connects again.
        world.OnSourceEvent = migrationEvent =>
        {
            if (migrationEvent is MigrationEvent.PhaseBegan { Phase: MigrationPhase.Precopy })
            {
                foreach (var made in world.Network.Made)
                    made.Source.Abort();
                Thread.Sleep(1500);
            }
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, world.DestinationOutcome.Result);
        Assert.Contains("did not come back within 200 ms", world.DestinationOutcome.Cause, StringComparison.Ordinal);
        world.CheckRunners(outcome);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Nobody_waits_for_a_question_when_both_sides_know_that_commit_was_never_sent(bool atSource)
    {
        using var world = new World();
        world.OnSourceEvent = migrationEvent =>
        {
            // The machine is complete at the destination.
            if (migrationEvent is MigrationEvent.PhaseBegan { Phase: MigrationPhase.Verify })
                (atSource ? world.CancelSource : world.CancelDestination).Cancel();
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Cancelled, outcome.Result);
        Assert.Equal(MigrationResult.Cancelled, world.DestinationOutcome.Result);
        Assert.Null(world.DestinationOutcome.Witness);
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_source_that_lost_the_answer_to_commit_asks_and_learns_that_it_runs_there()
    {
        using var world = new World();
        world.Options = world.Options with { QueryFor = TimeSpan.FromSeconds(5) };
        world.Destination.OnStart = () => Cut(world);
        Thread? witness = null;
        Thread receiver = world.StartDestination();
        var asker = new Thread(() =>
        {
            receiver.Join();
            world.DestinationOutcome.Witness!.Run(TimeProvider.System, CancellationToken.None);
        });
        witness = asker;
        witness.Start();
        MigrationOutcome outcome = new MigrationSource(
            world.Source, world.Network, world.Options, world, TimeProvider.System).Run(CancellationToken.None);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.True(witness.Join(TimeSpan.FromSeconds(10)));
        world.CheckRunners(outcome);
    }

    [Fact]
    public void A_channel_that_is_seen_to_close_before_the_last_word_does_not_hide_it()
    {
        FakePipe there = new(new WireFault(), () => { });
        FakePipe back = new(new WireFault(), () => { });
        using var source = new FakeConnection("the destination", back, there);
        using var link = new ControlLink(new FakeConnection("the source", there, back), TimeSpan.FromSeconds(10), TimeProvider.System);
        link.Fail(new IOException("Channel 1 failed: The source closed it before it was done."));
        Assert.False(link.AwaitLast(FrameType.Done, TimeSpan.FromSeconds(10), TimeSpan.FromMilliseconds(50)));
        new FrameWriter(source, 0).Send(FrameType.Done, default);
        Assert.True(link.AwaitLast(FrameType.Done, TimeSpan.FromSeconds(10), TimeSpan.FromSeconds(10)));
        source.Abort();
        Assert.False(link.AwaitLast(FrameType.Done, TimeSpan.FromSeconds(10), TimeSpan.FromSeconds(10)));
    }

    [Fact]
    public void A_commit_that_never_arrived_is_taken_back_when_the_destination_says_so()
    {
        long commitAt;
        using (var control = new World())
        {
            Assert.Equal(MigrationResult.Completed, control.Run().Result);
            // Commit and Done are the last two frames.
            commitAt = control.Network.Made.Single(made => made.Connection == 0).Source.Outgoing.Written - 48 - 32;
        }

        using var world = new World();
        world.Options = world.Options with { QueryFor = TimeSpan.FromSeconds(5), RetryFor = TimeSpan.FromSeconds(5) };
        world.DestinationOptions = world.DestinationOptions with { IdleTimeout = TimeSpan.FromMilliseconds(500) };
        world.Network.Plan(0, true, new WireFault { HangAt = commitAt });
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains("never ran the machine", outcome.Cause, StringComparison.Ordinal);
        Assert.True(world.Source.Runs);
        Assert.False(world.Destination.Runs);
    }

    [Fact]
    public void An_operator_takes_back_what_nobody_knows_of()
    {
        using var world = new World();
        world.Destination.OnStart = () => Cut(world);
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.StateUnknown, outcome.Result);
        Assert.False(world.Source.Runs);
        PendingHandover pending = outcome.Pending!;
        Assert.Equal(MachineFate.NotTold, pending.Ask(TimeSpan.Zero));
        Assert.Empty(pending.TakeBack());
        Assert.True(world.Source.Runs);
        Assert.False(world.Source.DirtyTracker.IsStarted);
    }

    [Fact]
    public void A_source_that_goes_on_with_a_receiver_that_was_started_anew_is_told_so()
    {
        using var world = new World();
        world.Options = world.Options with { RetryFor = TimeSpan.FromSeconds(10) };
        world.DestinationOptions = world.DestinationOptions with { AwaitSourceFor = TimeSpan.Zero };
        Thread? second = null;
        world.OnSourceEvent = migrationEvent =>
        {
            if (migrationEvent is not MigrationEvent.PhaseBegan { Phase: MigrationPhase.Precopy } || second is not null)
                return;
            Cut(world);
            while (world.DestinationOutcome.Cause == "has not run")
                Thread.Sleep(5);
            second = world.StartDestination();
        };
        MigrationOutcome outcome = world.Run();
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Contains("started anew", outcome.Cause, StringComparison.Ordinal);
        second!.Join();
        Assert.True(world.Source.Runs);
        Assert.False(world.Destination.Runs);
    }

    private static void Cut(World world)
    {
        // The control connection first: nobody can say a last word.
        foreach (var made in world.Network.Made.OrderBy(made => made.Connection))
        {
            made.Source.Abort();
            made.Destination.Abort();
        }
    }

    private sealed class Silent : IMigrationObserver
    {
        public void OnEvent(MigrationEvent migrationEvent)
        {
        }
    }
}
