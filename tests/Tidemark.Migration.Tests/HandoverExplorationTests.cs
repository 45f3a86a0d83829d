namespace Tidemark.Migration.Tests;

/// <summary>
/// Walks through every state that the hand-over can get into: each message lost, late, doubled or overtaken, each side
/// killed at any moment, the connection lost and taken up again. The engine's own two state machines decide; this file is
/// only the network and the clumsy hand.
/// </summary>
public sealed class HandoverExplorationTests
{
    [Fact]
    public void There_are_never_two_runners_and_before_commit_the_source_runs_or_can()
    {
        Exploration walk = new Exploration(new Rules()).Walk();
        Assert.Empty(walk.Violations);
        // The walk is only worth something if it got everywhere.
        Assert.Equal(Enum.GetValues<SourceStand>().Order(), walk.Seen.Select(world => world.Source.Stand).Distinct().Order());
        Assert.Equal(Enum.GetValues<DestinationStand>().Order(), walk.Seen.Select(world => world.Destination.Stand).Distinct().Order());
        Assert.Contains(walk.Seen, world => world.Source.Stand == SourceStand.Gone && world.Destination.Stand == DestinationStand.Runs);
        Assert.Contains(walk.Seen, world => world.Source.MayRun && world.Destination.Stand == DestinationStand.Dead && world.CommitWasSent);
        Assert.True(walk.Seen.Count > 5_000, $"Only {walk.Seen.Count} states were seen.");
        TestContext.Current.TestOutputHelper?.WriteLine($"hand-over: {walk.Seen.Count} states, {walk.Steps} steps");
    }

    [Fact]
    public void Who_is_in_doubt_has_an_answer_as_soon_as_the_network_is_there_again()
    {
        foreach (World world in new Exploration(new Rules()).Walk().Seen)
        {
            if (world is not { Source.Stand: SourceStand.Unknown, SourceLives: true, DestinationLives: true })
                continue;
            DestinationHandover there = world.Destination;
            if (there.Stand == DestinationStand.Committed)
                there = there.Started();
            there = there.Ask(out MachineFate fate);
            SourceHandover here = world.Source.Learn(fate);
            if (there.Stand == DestinationStand.Broken)
                Assert.Equal(SourceStand.Unknown, here.Stand);
            else
                Assert.True(there.MayRun ? here.Stand == SourceStand.Gone : here.Stand == SourceStand.Stopped, $"{world} -> {here} {there}");
        }
    }

    [Theory]
    [InlineData(nameof(Rules.SourceResumesAfterALostCommit))]
    [InlineData(nameof(Rules.AnswerDoesNotBind))]
    [InlineData(nameof(Rules.CommitIsTakenWithoutState))]
    [InlineData(nameof(Rules.CommitIsSentBeforeTheStop))]
    public void A_rule_that_is_broken_makes_two_runners(string rule)
    {
        var rules = new Rules();
        typeof(Rules).GetProperty(rule)!.SetValue(rules, true);
        Assert.NotEmpty(new Exploration(rules).Walk().Violations);
    }

    /// <summary>Ways in which an engine could be wrong; none of them in the walk that counts.</summary>
    private sealed class Rules
    {
        public bool SourceResumesAfterALostCommit { get; set; }

        public bool AnswerDoesNotBind { get; set; }

        public bool CommitIsTakenWithoutState { get; set; }

        public bool CommitIsSentBeforeTheStop { get; set; }
    }

    private enum Kind
    {
        AllSent,
        StateLoaded,
        Commit,
        Committed,
        Query,
        Fate,
    }

    /// <summary>On its way. A connection's messages die with it, but may also still be in the peer's hands.</summary>
    private readonly record struct Message(Kind Kind, int Session, MachineFate Fate);

    private sealed record World(
        SourceHandover Source, DestinationHandover Destination, bool SourceLives, bool DestinationLives, int SourceSession,
        int DestinationSession, bool CommitWasSent, int Queries, bool Over, string Wire)
    {
        public static readonly World Start = new(
            new SourceHandover(SourceStand.Runs), new DestinationHandover(DestinationStand.Filling), true, true, 0, 0, false, 0, false, "");

        public bool TwoRunners => SourceLives && DestinationLives && Source.MayRun && Destination.MayRun;
    }

    private sealed class Exploration(Rules rules)
    {
        // LIMIT: two connections one after the other, two questions, and two copies of a message show every order.
        private const int Sessions = 2;
        private const int MaximumQueries = 2;
        private const int MaximumOnWire = 4;

        private readonly Queue<(World World, Message[] Wire)> _open = new();

        public HashSet<World> Seen { get; } = [];

        public List<World> Violations { get; } = [];

        public long Steps { get; private set; }

        public Exploration Walk()
        {
            Visit(World.Start, []);
            while (_open.TryDequeue(out (World World, Message[] Wire) item) && Violations.Count == 0)
                Step(item.World, item.Wire);
            return this;
        }

        private void Visit(World world, Message[] wire)
        {
            Steps++;
            if (wire.Length > MaximumOnWire)
                return;
            Message[] sorted = [.. wire.OrderBy(message => (message.Kind, message.Session, message.Fate))];
            world = world with { Wire = string.Join(",", sorted.Select(message => $"{message.Kind}{message.Session}{(int)message.Fate}")) };
            if (!Seen.Add(world))
                return;
            if (world.TwoRunners || (world is { SourceLives: true, CommitWasSent: false, Source.Stand: not (SourceStand.Runs or SourceStand.Stopped) }))
                Violations.Add(world);
            _open.Enqueue((world, sorted));
        }

        private void Step(World world, Message[] wire)
        {
            if (world.SourceLives)
            {
                Visit(world with { SourceLives = false }, wire);
                StepSource(world, wire);
            }

            if (world.DestinationLives)
            {
                Visit(world with { DestinationLives = false }, wire);
                StepDestination(world, wire);
            }

            for (int index = 0; index < wire.Length; index++)
            {
                Message message = wire[index];
                Message[] rest = [.. wire.Where((_, other) => other != index)];
                // Lost; doubled; delivered. That another one is delivered first is its being late.
                Visit(world, rest);
                if (wire.Count(other => other == message) < 2)
                    Visit(world, [.. wire, message]);
                bool toSource = message.Kind is Kind.StateLoaded or Kind.Committed or Kind.Fate;
                if (toSource && world.SourceLives)
                    DeliverToSource(world, rest, message);
                else if (!toSource && world.DestinationLives)
                    DeliverToDestination(world, rest, message);
            }
        }

        private void StepSource(World world, Message[] wire)
        {
            switch (world.Source.Stand)
            {
                case SourceStand.Runs when !world.Over:
                    if (rules.CommitIsSentBeforeTheStop)
                        Visit(world with { CommitWasSent = true }, [.. wire, new Message(Kind.Commit, world.SourceSession, default)]);
                    Visit(world with { Source = world.Source.Stop() }, [.. wire, new Message(Kind.AllSent, world.SourceSession, default)]);
                    break;
                case SourceStand.Stopped:
                    // Whatever fails before Commit: it runs on, and the migration is over or goes on over a new connection.
                    Visit(world with { Source = world.Source.Resume(), Over = true }, wire);
                    if (!world.CommitWasSent && world.SourceSession + 1 < Sessions)
                        Visit(world with { Source = world.Source.Resume(), SourceSession = world.SourceSession + 1 }, wire);
                    break;
                case SourceStand.CommitSent:
                    if (rules.SourceResumesAfterALostCommit)
                        Visit(world with { Source = new SourceHandover(SourceStand.Runs), Over = true }, wire);
                    Visit(world with { Source = world.Source.Lose() }, wire);
                    Ask(world, wire);
                    break;
                case SourceStand.Unknown:
                    Ask(world, wire);
                    // The operator, who has seen with their own eyes that nobody is there.
                    if (!world.DestinationLives || world.Destination.Stand == DestinationStand.Dead)
                        Visit(world with { Source = world.Source.TakeBack().Resume(), Over = true }, wire);
                    if (world.DestinationLives && world.Destination.Stand == DestinationStand.Runs)
                        Visit(world with { Source = world.Source.LetGo() }, wire);
                    break;
                default:
                    break;
            }
        }

        private void Ask(World world, Message[] wire)
        {
            if (world.Queries < MaximumQueries)
                Visit(world with { Queries = world.Queries + 1 }, [.. wire, new Message(Kind.Query, world.SourceSession, default)]);
        }

        private void StepDestination(World world, Message[] wire)
        {
            switch (world.Destination.Stand)
            {
                case DestinationStand.Committed:
                    Visit(world with { Destination = world.Destination.Started() },
                        [.. wire, new Message(Kind.Committed, world.DestinationSession, default)]);
                    Visit(world with { Destination = world.Destination.FailedToStart() },
                        [.. wire, new Message(Kind.Fate, world.DestinationSession, MachineFate.BrokenThere)]);
                    break;
                case DestinationStand.Filling or DestinationStand.Loaded:
                    Visit(world with { Destination = world.Destination.GiveUp() }, wire);
                    if (world.DestinationSession < world.SourceSession)
                        Visit(world with { Destination = world.Destination.Reopen(), DestinationSession = world.SourceSession }, wire);
                    break;
                default:
                    break;
            }
        }

        private void DeliverToSource(World world, Message[] rest, Message message)
        {
            switch (message.Kind)
            {
                case Kind.StateLoaded when world.Source.Stand == SourceStand.Stopped && message.Session == world.SourceSession
                    && !world.CommitWasSent:
                    Visit(world with { Source = world.Source.SendCommit(), CommitWasSent = true },
                        [.. rest, new Message(Kind.Commit, world.SourceSession, default)]);
                    break;
                case Kind.Committed:
                    Visit(world with { Source = world.Source.Learn(MachineFate.RunsThere) }, rest);
                    break;
                case Kind.Fate:
                    Visit(world with { Source = world.Source.Learn(message.Fate) }, rest);
                    break;
                default:
                    Visit(world, rest);
                    break;
            }
        }

        private void DeliverToDestination(World world, Message[] rest, Message message)
        {
            switch (message.Kind)
            {
                case Kind.AllSent when message.Session == world.DestinationSession && world.Destination.Stand == DestinationStand.Filling:
                    Visit(world with { Destination = world.Destination.Load() },
                        [.. rest, new Message(Kind.StateLoaded, world.DestinationSession, default)]);
                    break;
                case Kind.Commit:
                    DestinationHandover next = world.Destination.Commit(out bool starts);
                    if (!starts && rules.CommitIsTakenWithoutState && world.Destination.Stand is DestinationStand.Filling or DestinationStand.Dead)
                        next = new DestinationHandover(DestinationStand.Committed);
                    Visit(world with { Destination = next }, rest);
                    break;
                case Kind.Query:
                    DestinationHandover asked = world.Destination.Ask(out MachineFate fate);
                    if (rules.AnswerDoesNotBind && fate == MachineFate.NeverThere)
                        asked = world.Destination;
                    Visit(world with { Destination = asked },
                        fate == MachineFate.NotTold ? rest : [.. rest, new Message(Kind.Fate, world.SourceSession, fate)]);
                    break;
                default:
                    Visit(world, rest);
                    break;
            }
        }
    }
}
