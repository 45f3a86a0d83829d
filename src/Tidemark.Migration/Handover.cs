using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>What became of a machine at its destination, as the destination says when it is asked.</summary>
public enum MachineFate
{
    /// <summary>Nobody answered, or the one who did knows nothing of this migration.</summary>
    NotTold = 0,

    /// <summary>It runs there.</summary>
    RunsThere = 1,

    /// <summary>It never ran there, and never will: the destination takes no Commit of this migration any more.</summary>
    NeverThere = 2,

    /// <summary>Commit had arrived and the start failed half way: its devices may have run.</summary>
    BrokenThere = 3,
}

/// <summary>Where the source of a migration stands.</summary>
internal enum SourceStand
{
    Runs,
    Stopped,

    /// <summary>Commit may have arrived.</summary>
    CommitSent,

    /// <summary>Commit was sent, and nobody says what became of it.</summary>
    Unknown,

    /// <summary>The machine is the destination's.</summary>
    Gone,
}

/// <summary>Where the destination of a migration stands.</summary>
internal enum DestinationStand
{
    Filling,
    Loaded,

    /// <summary>Commit has arrived; the machine is being started.</summary>
    Committed,
    Runs,

    /// <summary>It never ran and never will.</summary>
    Dead,

    /// <summary>The start failed half way.</summary>
    Broken,
}

/// <summary>
/// Who may run: the source's half of the hand-over, without any machine or network. The engine asks it before each step
/// that matters, and tests explore it with every message lost, late or doubled and either side killed anywhere.
/// </summary>
/// <remarks>
/// <code>
///   source                                                destination
///   Runs --Stop--> Stopped --Commit sent--> CommitSent    Filling --all state--> Loaded --Commit--> Committed --> Runs
///     ^               |                        |             ^                     |                    '------> Broken
///     '---Resume------'                        |             '--connection anew----'
///                     ^                        |          Filling, Loaded --asked, gives up--> Dead
///                     |                        |--Committed, "runs there"--> Gone
///                     |--"never there"---------|--connection lost--> Unknown
///                     |                                                |--"runs there", let go by the operator--> Gone
///                     '--"never there", taken back by the operator-----'
/// </code>
/// Only Runs runs. Commit is sent once in the life of a token: after "never there" the destination is Dead, and a new
/// migration has a new token. That is why a late Commit can not start a second machine.
/// </remarks>
internal readonly record struct SourceHandover(SourceStand Stand)
{
    public bool MayRun => Stand == SourceStand.Runs;

    /// <summary>Commit has been sent: this side decides nothing by itself any more.</summary>
    public bool IsCommitted => Stand is SourceStand.CommitSent or SourceStand.Unknown or SourceStand.Gone;

    public SourceHandover Stop() => From(SourceStand.Runs, SourceStand.Stopped);

    public SourceHandover Resume() => Stand == SourceStand.Runs ? this : From(SourceStand.Stopped, SourceStand.Runs);

    public SourceHandover SendCommit() => From(SourceStand.Stopped, SourceStand.CommitSent);

    public SourceHandover Lose() => Stand == SourceStand.CommitSent ? new(SourceStand.Unknown) : this;

    /// <summary>The destination has said what became of the machine.</summary>
    public SourceHandover Learn(MachineFate fate) => (Stand, fate) switch
    {
        (SourceStand.CommitSent or SourceStand.Unknown, MachineFate.RunsThere) => new(SourceStand.Gone),
        (SourceStand.CommitSent or SourceStand.Unknown, MachineFate.NeverThere) => new(SourceStand.Stopped),
        (SourceStand.CommitSent, MachineFate.BrokenThere) => new(SourceStand.Unknown),
        _ => this,
    };

    /// <summary>The operator has made sure that it does not run there.</summary>
    public SourceHandover TakeBack() => From(SourceStand.Unknown, SourceStand.Stopped);

    /// <summary>The operator has seen it run there.</summary>
    public SourceHandover LetGo() => From(SourceStand.Unknown, SourceStand.Gone);

    private SourceHandover From(SourceStand expected, SourceStand next)
    {
        Invariant.Require(Stand == expected, $"The source of a migration is {Stand} where {expected} was needed to become {next}.");
        return new SourceHandover(next);
    }
}

/// <summary>The destination's half; drawn at <see cref="SourceHandover"/>.</summary>
internal readonly record struct DestinationHandover(DestinationStand Stand)
{
    public bool MayRun => Stand is DestinationStand.Committed or DestinationStand.Runs;

    /// <summary>Commit can still be taken, now or after more has come.</summary>
    public bool IsOpen => Stand is DestinationStand.Filling or DestinationStand.Loaded;

    public DestinationHandover Load() => Stand == DestinationStand.Filling ? new(DestinationStand.Loaded) : this;

    /// <summary>The source begins again after a lost connection: what was loaded is void.</summary>
    public DestinationHandover Reopen() => IsOpen ? new(DestinationStand.Filling) : this;

    /// <summary>Whether this Commit is the one that starts the machine; a second one, or one that comes too late, is
    /// not.</summary>
    public DestinationHandover Commit(out bool starts)
    {
        starts = Stand == DestinationStand.Loaded;
        return starts ? new DestinationHandover(DestinationStand.Committed) : this;
    }

    public DestinationHandover Started() => Stand == DestinationStand.Committed ? new(DestinationStand.Runs) : this;

    public DestinationHandover FailedToStart() => Stand == DestinationStand.Committed ? new(DestinationStand.Broken) : this;

    public DestinationHandover GiveUp() => IsOpen ? new(DestinationStand.Dead) : this;

    /// <summary>
    /// The source asks what became of its machine. The answer binds: who says "never there" takes no Commit afterwards.
    /// While the start is under way there is no answer yet.
    /// </summary>
    public DestinationHandover Ask(out MachineFate fate)
    {
        DestinationHandover next = GiveUp();
        fate = next.Stand switch
        {
            DestinationStand.Runs => MachineFate.RunsThere,
            DestinationStand.Dead => MachineFate.NeverThere,
            DestinationStand.Broken => MachineFate.BrokenThere,
            _ => MachineFate.NotTold,
        };
        return next;
    }
}
