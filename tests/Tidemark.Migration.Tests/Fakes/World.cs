namespace Tidemark.Migration.Tests;

/// <summary>A source, a destination, and a network between them.</summary>
public sealed class World : IDisposable, IMigrationObserver
{
    /// <summary>Two slots with a hole; the last word of the bitmap covers pages 128 to 159.</summary>
    public static readonly (ulong FirstPage, ulong PageCount)[] Slots = [(0, 60), (100, 60)];

    private readonly object _gate = new();

    public World()
    {
        Source.Fill(0, 24, seed: 1);
        Source.Fill(100, 24, seed: 1);
        Source.Fill(150, 10, seed: 1);
    }

    public FakeNetwork Network { get; } = new();

    public FakeSourceMachine Source { get; } = new(Slots);

    public FakeDestinationMachine Destination { get; } = new(Slots);

    public MigrationOptions Options { get; set; } = new()
    {
        Channels = 1,
        DowntimeLimit = TimeSpan.FromSeconds(2),
        IdleTimeout = TimeSpan.FromSeconds(10),
        Verify = true,
        // A lost connection ends the migration, unless a test wants it back.
        RetryFor = TimeSpan.Zero,
        QueryFor = TimeSpan.Zero,
    };

    public DestinationOptions DestinationOptions { get; set; } = new() { IdleTimeout = TimeSpan.FromSeconds(10) };

    public TimeProvider DestinationTime { get; set; } = TimeProvider.System;

    public CancellationTokenSource CancelSource { get; } = new();

    public CancellationTokenSource CancelDestination { get; } = new();

    public List<MigrationEvent> SourceEvents { get; } = [];

    public List<MigrationEvent> DestinationEvents { get; } = [];

    /// <summary>On the source's engine thread.</summary>
    public Action<MigrationEvent>? OnSourceEvent { get; set; }

    public MigrationOutcome DestinationOutcome { get; private set; } =
        new(MigrationResult.Failed, MigrationPhase.Connect, "has not run", null, new MigrationReport());

    /// <summary>
    /// Destination first, then the source on this thread; the destination is cancelled if it outlives the source.
    /// </summary>
    public MigrationOutcome Run(TimeSpan? patience = null) => Run((_, observer, run) => run(observer), patience);

    /// <summary>As above, each side inside something that watches it.</summary>
    public MigrationOutcome Run(
        Func<MigrationRole, IMigrationObserver, Func<IMigrationObserver, MigrationOutcome>, MigrationOutcome> watch,
        TimeSpan? patience = null)
    {
        Thread thread = StartDestination(watch);
        MigrationOutcome outcome = watch(MigrationRole.Source, this, observer =>
            new MigrationSource(Source, Network, Options, observer, TimeProvider.System).Run(CancelSource.Token));
        Finish(thread, patience ?? TimeSpan.FromSeconds(5));
        return outcome;
    }

    public Thread StartDestination() => StartDestination((_, observer, run) => run(observer));

    private Thread StartDestination(
        Func<MigrationRole, IMigrationObserver, Func<IMigrationObserver, MigrationOutcome>, MigrationOutcome> watch)
    {
        var collector = new Collector(DestinationEvents);
        var thread = new Thread(() => DestinationOutcome = watch(MigrationRole.Destination, collector, observer =>
            new MigrationDestination(Destination, Network, DestinationOptions, observer, DestinationTime)
                .Run(CancelDestination.Token)))
        {
            IsBackground = true,
            Name = "destination",
        };
        thread.Start();
        return thread;
    }

    public void Finish(Thread thread, TimeSpan patience)
    {
        if (thread.Join(patience))
            return;
        CancelDestination.Cancel();
        Assert.True(thread.Join(TimeSpan.FromSeconds(20)), "the destination hangs");
    }

    public void OnEvent(MigrationEvent migrationEvent)
    {
        lock (_gate)
            SourceEvents.Add(migrationEvent);
        OnSourceEvent?.Invoke(migrationEvent);
    }

    public bool MemoryEqual()
    {
        foreach ((ulong first, ulong count) in Slots)
        {
            if (!Source.Memory.PagesSpan(first, (int)count).SequenceEqual(Destination.Memory.PagesSpan(first, (int)count)))
                return false;
        }

        return true;
    }

    /// <summary>What must hold however a migration ends.</summary>
    public void CheckRunners(MigrationOutcome outcome)
    {
        Assert.False(Source.Runs && Destination.Runs, $"two runners: {outcome}");
        if (outcome.Result is MigrationResult.Failed or MigrationResult.Cancelled)
        {
            Assert.True(Source.Runs, $"the source does not run: {outcome}");
            Assert.False(Destination.Runs);
            Assert.False(Source.DirtyTracker.IsStarted);
            Assert.False(Source.DisksReleased);
        }

        if (outcome.Result == MigrationResult.Completed)
        {
            Assert.True(Destination.Runs);
            Assert.True(MemoryEqual());
        }

        if (outcome.Result == MigrationResult.StateUnknown)
            Assert.False(Source.Runs);
        Assert.Equal(Destination.Runs, DestinationOutcome.Result == MigrationResult.Completed);
    }

    public void Dispose()
    {
        Source.Dispose();
        Destination.Dispose();
        Network.Dispose();
        CancelSource.Dispose();
        CancelDestination.Dispose();
    }

    private sealed class Collector(List<MigrationEvent> events) : IMigrationObserver
    {
        public void OnEvent(MigrationEvent migrationEvent)
        {
            lock (events)
                events.Add(migrationEvent);
        }
    }
}
