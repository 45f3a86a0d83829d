using Tidemark.Machine.LiveUpdate;

namespace Tidemark.Machine.Tests;

/// <summary>
/// Walks through every state that a live update can get into: either process killed at each step, each step late, the new one
/// failing, the old one calling back at any moment. The product's own two state machines decide; this file is only the socket
/// and the clumsy hand.
/// </summary>
public sealed class UpdateExplorationTests
{
    [Fact]
    public void A_machine_never_runs_in_both_processes_nor_in_one_after_it_ran_in_the_other()
    {
        Exploration walk = new Exploration(new Rules()).Walk();
        Assert.Empty(walk.Violations);
        // The walk is only worth something if it got everywhere.
        Assert.Equal(Enum.GetValues<GiverStand>().Order(), walk.Seen.Select(world => world.Giver.Stand).Distinct().Order());
        Assert.Equal(Enum.GetValues<TakerStand>().Order(), walk.Seen.Select(world => world.Taker.Stand).Distinct().Order());
        Assert.Contains(walk.Seen, world => !world.GiverLives && world.Taker.MayRun && world.GiverKilledAt == GiverStand.Offered);
        Assert.Contains(walk.Seen, world => !world.TakerLives && world.Giver.MayRun && world.TakerKilledAt == TakerStand.Ready);
        Assert.True(walk.Seen.Count > 150, $"Only {walk.Seen.Count} states were seen.");
        TestContext.Current.TestOutputHelper?.WriteLine($"live update: {walk.Seen.Count} states, {walk.Steps} steps");
    }

    /// <summary>Where nothing can happen any more, exactly one process runs the machine, unless the one that ran it (or was
    /// about to, after "back") was killed, or neither is left in order.</summary>
    [Fact]
    public void Whoever_is_killed_while_the_machine_is_not_its_own_the_other_process_runs_it()
    {
        Exploration walk = new Exploration(new Rules()).Walk();
        World[] ends = [.. walk.Ends];
        Assert.NotEmpty(ends);
        int judged = 0;
        foreach (World end in ends)
        {
            bool runnerDied = end.TakerKilledAt == TakerStand.Runs || end.GiverKilledAt is GiverStand.Runs or GiverStand.CallsBack;
            bool bothBroke = end.GiverKilledAt is not null && (end.TakerKilledAt is not null || end.TakerFailed);
            if (runnerDied || bothBroke)
                continue;
            judged++;
            Assert.True(end.Runners == 1, $"{end}");
        }

        Assert.True(judged > 10, $"Only {judged} ends were judged.");
        TestContext.Current.TestOutputHelper?.WriteLine($"live update: {ends.Length} ends, {judged} judged");
    }

    [Theory]
    [InlineData(nameof(Rules.GiverRunsOnWithoutSayingBack))]
    [InlineData(nameof(Rules.GiverLeavesTheDoorOpen))]
    [InlineData(nameof(Rules.GiverDoesNotLookBehindTheDoor))]
    [InlineData(nameof(Rules.TakerRunsBeforeItSaysSo))]
    [InlineData(nameof(Rules.TakerDoesNotLookForBack))]
    [InlineData(nameof(Rules.SocketLosesWhatItTook))]
    public void A_rule_that_is_broken_makes_two_runners(string rule)
    {
        var rules = new Rules();
        typeof(Rules).GetProperty(rule)!.SetValue(rules, true);
        Assert.NotEmpty(new Exploration(rules).Walk().Violations);
    }

    /// <summary>Ways in which a live update could be wrong; none of them in the walk that counts.</summary>
    private sealed class Rules
    {
        public bool GiverRunsOnWithoutSayingBack { get; set; }

        public bool GiverLeavesTheDoorOpen { get; set; }

        public bool GiverDoesNotLookBehindTheDoor { get; set; }

        public bool TakerRunsBeforeItSaysSo { get; set; }

        public bool TakerDoesNotLookForBack { get; set; }

        /// <summary>The kernel's part: on a Unix socket this does not happen.</summary>
        public bool SocketLosesWhatItTook { get; set; }
    }

    private sealed record World
    {
        public GiverHandover Giver { get; init; } = new(GiverStand.Runs);

        public TakerHandover Taker { get; init; } = new(TakerStand.Waits);

        public GiverStand? GiverKilledAt { get; init; }

        public TakerStand? TakerKilledAt { get; init; }

        public bool TakerFailed { get; init; }

        /// <summary>The giver has closed its end; over for it.</summary>
        public bool GiverClosed { get; init; }

        public bool TakerClosed { get; init; }

        public bool DoorShut { get; init; }

        public bool OfferIsThere { get; init; }

        public bool BackIsThere { get; init; }

        public bool RunsIsThere { get; init; }

        public bool OfferWasMade { get; init; }

        public bool TakerRan { get; init; }

        /// <summary>It has run before it said so, and is about to say it.</summary>
        public bool TakerHastens { get; init; }

        public bool GiverRanAgain { get; init; }

        public bool GiverLives => GiverKilledAt is null;

        public bool TakerLives => TakerKilledAt is null;

        public int Runners => (GiverLives && Giver.MayRun ? 1 : 0) + (TakerLives && (Taker.MayRun || TakerHastens) ? 1 : 0);
    }

    private sealed class Exploration(Rules rules)
    {
        private readonly Queue<World> _open = new();

        public HashSet<World> Seen { get; } = [];

        public List<World> Violations { get; } = [];

        /// <summary>Worlds in which nobody does anything any more, but for being killed.</summary>
        public List<World> Ends { get; } = [];

        public long Steps { get; private set; }

        public Exploration Walk()
        {
            Visit(new World());
            while (_open.TryDequeue(out World? world) && Violations.Count == 0)
            {
                long before = Steps;
                if (world.GiverLives)
                    StepGiver(world);
                if (world.TakerLives)
                    StepTaker(world);
                if (Steps == before)
                    Ends.Add(world);
                if (world.GiverLives)
                    Visit(world with { GiverKilledAt = world.Giver.Stand, GiverClosed = true });
                if (world.TakerLives)
                    Visit(world with { TakerKilledAt = world.Taker.Stand, TakerClosed = true });
            }

            return this;
        }

        private void Visit(World world)
        {
            Steps++;
            world = world with
            {
                TakerRan = world.TakerRan || world.Taker.MayRun || world.TakerHastens,
                GiverRanAgain = world.GiverRanAgain || (world.OfferWasMade && world.Giver.MayRun),
            };
            if (!Seen.Add(world))
                return;
            if (world.Runners > 1 || (world.TakerRan && world.GiverRanAgain))
                Violations.Add(world);
            _open.Enqueue(world);
        }

        private void StepGiver(World world)
        {
            switch (world.Giver.Stand)
            {
                case GiverStand.Runs when !world.OfferWasMade:
                    // An offer to a closed socket is refused by it; then the machine never stood still for long.
                    if (world.TakerClosed)
                        Close(world);
                    else
                        Visit(world with { Giver = world.Giver.Offer(), OfferWasMade = true, OfferIsThere = true });
                    break;
                case GiverStand.Offered:
                    if (world.RunsIsThere)
                        Visit(world with { Giver = world.Giver.Learn() });
                    // Refused, the end of the socket, the time over, told to stop: at any moment, for this walk.
                    if (rules.GiverRunsOnWithoutSayingBack)
                        Visit(world with { Giver = new GiverHandover(GiverStand.Runs) });
                    Visit(world with { Giver = world.Giver.CallBack(), BackIsThere = !world.TakerClosed });
                    break;
                case GiverStand.CallsBack when !world.DoorShut:
                    if (rules.GiverLeavesTheDoorOpen)
                        Visit(world with { Giver = world.Giver.Shut(world.RunsIsThere) });
                    Visit(world with { DoorShut = true });
                    break;
                case GiverStand.CallsBack:
                    Visit(world with { Giver = world.Giver.Shut(world.RunsIsThere && !rules.GiverDoesNotLookBehindTheDoor) });
                    break;
                default:
                    Close(world);
                    break;
            }
        }

        private void Close(World world)
        {
            if (!world.GiverClosed)
                Visit(world with { GiverClosed = true });
        }

        private void StepTaker(World world)
        {
            switch (world.Taker.Stand)
            {
                case TakerStand.Waits when world.OfferIsThere:
                    Visit(world with { Taker = world.Taker.Hold(), OfferIsThere = false });
                    break;
                case TakerStand.Waits:
                    if (world.GiverClosed)
                        Visit(world with { Taker = world.Taker.GiveUp() });
                    break;
                case TakerStand.Holds:
                    Fail(world);
                    if (world.BackIsThere)
                        Visit(world with { Taker = world.Taker.GiveUp() });
                    Visit(world with { Taker = world.Taker.Prepare() });
                    break;
                case TakerStand.Ready:
                    Fail(world);
                    if (rules.TakerRunsBeforeItSaysSo && !world.TakerHastens)
                        Visit(world with { TakerHastens = true });
                    bool taken = !world.GiverClosed && !world.DoorShut;
                    Visit(world with
                    {
                        Taker = world.Taker.Say(taken), TakerHastens = false, RunsIsThere = taken && !rules.SocketLosesWhatItTook,
                    });
                    break;
                case TakerStand.Doubts:
                    if (rules.TakerDoesNotLookForBack)
                        Visit(world with { Taker = world.Taker.Look(back: false) });
                    else if (world.BackIsThere || world.GiverClosed)
                        Visit(world with { Taker = world.Taker.Look(world.BackIsThere) });
                    break;
                case TakerStand.Dead when !world.TakerClosed:
                    Visit(world with { TakerClosed = true });
                    break;
                default:
                    break;
            }
        }

        private void Fail(World world) => Visit(world with { Taker = world.Taker.GiveUp(), TakerFailed = true });
    }
}
