namespace Tidemark.Migration;

/// <summary>Something that happened during a migration and that a user wants to see while it runs.</summary>
public abstract record MigrationEvent
{
    private MigrationEvent()
    {
    }

    /// <summary>A phase began.</summary>
    public sealed record PhaseBegan(MigrationPhase Phase) : MigrationEvent
    {
        /// <summary>The same on both sides of one migration and no secret; null while nobody is connected.</summary>
        public string? MigrationId { get; init; }
    }

    /// <summary>A pass goes on; at most a few times a second.</summary>
    public sealed record PassProgress(int Index, ulong PagesDone, ulong PagesTotal, ulong Bytes) : MigrationEvent;

    /// <summary>A pass ended.</summary>
    public sealed record PassEnded(PassReport Pass) : MigrationEvent;

    /// <summary>What the figures of a pass led to.</summary>
    public sealed record Convergence(int Pass, ConvergenceDecision Decision) : MigrationEvent;

    /// <summary>The machine could be stopped now; the moment is reserved (MigrationOptions.SwitchoverGate).</summary>
    public sealed record WaitingForSwitchover : MigrationEvent;

    /// <summary>The engine decided something, with the numbers that made it decide.</summary>
    public sealed record Decided(string Text) : MigrationEvent;
}

/// <summary>Sees the events of a migration, on the engine's thread: be quick, do not throw.</summary>
public interface IMigrationObserver
{
    void OnEvent(MigrationEvent migrationEvent);
}
