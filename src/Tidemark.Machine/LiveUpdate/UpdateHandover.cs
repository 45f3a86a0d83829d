using Tidemark.Memory;

namespace Tidemark.Machine.LiveUpdate;

/// <summary>Where the process stands that gives its machine away.</summary>
internal enum GiverStand
{
    Runs,

    /// <summary>The machine stands still, and all of it is with the taker too.</summary>
    Offered,

    /// <summary>It has said "back" and has not shut its door yet.</summary>
    CallsBack,

    /// <summary>The machine is the taker's.</summary>
    Gone,
}

/// <summary>Where the process stands that takes a machine over.</summary>
internal enum TakerStand
{
    Waits,

    /// <summary>All of the machine is here, and stands still.</summary>
    Holds,

    /// <summary>Charged for its pages, interrupts connected, threads there: nothing is left that can fail.</summary>
    Ready,

    /// <summary>It said "runs" and found the door shut: the giver has called the machine back, or is dead.</summary>
    Doubts,

    Runs,

    /// <summary>It never ran and never will.</summary>
    Dead,
}

/// <summary>
/// Who may run when a machine goes from one process of a host to another: the giver's half, without any machine or socket.
/// <see cref="UpdateGiver"/> and <see cref="UpdateTaker"/> ask it before each step that matters; a test explores it with
/// either side killed anywhere.
/// </summary>
/// <remarks>
/// <code>
///   giver                                               taker
///   Runs --stands still, offer--&gt; Offered               Waits --offer--&gt; Holds --charged, connected--&gt; Ready
///     ^                             | |                             |                               |    |
///     |     "runs" is in the inbox  | | refused, end of the socket, |  fails, or "back" is there    |    |
///     |               .-------------' | time over, told to stop     '--------&gt; Dead &lt;--.            |    |
///     |               v               v                                              |"back" there|    | "runs" is taken
///     |             Gone &lt;------- CallsBack ("back" is said)                          '--- Doubts &lt;-'    v by the socket
///     |                  door shut,   |                              end of the socket,      |  door   Runs
///     |                  "runs" was   | door shut,                   no "back": giver dead   '-shut----&gt;^
///     |                  there before | no "runs"
///     '-------------------------------'
/// </code>
/// What decides is one fact, and the kernel decides it for both: whether "runs" got into the giver's inbox before the giver
/// shut the door (shutdown of its receiving side). A Unix socket takes a message or refuses it, never both and never
/// neither, and keeps what it took when the sender dies. So there is no message whose loss must be survived, only deaths:
/// <list type="bullet">
/// <item>The taker is killed before "runs": its end of the socket closes, the giver calls back, finds nothing, runs.</item>
/// <item>The giver is killed while the machine is offered: the taker finds the door shut and no "back", and runs. The
/// offer is one message with everything in it, and the machine stood still when it was made.</item>
/// <item>A side that hangs is no dead side: the giver calls back after a while, and a taker that wakes up finds "back".</item>
/// <item>The one that runs is killed (the taker from "runs" on, the giver from "back" on): that ends the machine, as it ends
/// any machine whose process is killed.</item>
/// </list>
/// </remarks>
internal readonly record struct GiverHandover(GiverStand Stand)
{
    public bool MayRun => Stand == GiverStand.Runs;

    public GiverHandover Offer() => From(GiverStand.Runs, GiverStand.Offered);

    /// <summary>"runs" was read.</summary>
    public GiverHandover Learn() => From(GiverStand.Offered, GiverStand.Gone);

    /// <summary>"back" is in the taker's inbox, or the taker has closed the socket and never reads again.</summary>
    public GiverHandover CallBack() => From(GiverStand.Offered, GiverStand.CallsBack);

    /// <summary>Nothing can come any more.</summary>
    /// <param name="runs">Whether "runs" had.</param>
    public GiverHandover Shut(bool runs) => From(GiverStand.CallsBack, runs ? GiverStand.Gone : GiverStand.Runs);

    private GiverHandover From(GiverStand expected, GiverStand next)
    {
        Invariant.Require(Stand == expected, $"The process that gives a machine away is {Stand} where {expected} was needed to become {next}.");
        return new GiverHandover(next);
    }
}

/// <summary>The taker's half; drawn at <see cref="GiverHandover"/>.</summary>
internal readonly record struct TakerHandover(TakerStand Stand)
{
    public bool MayRun => Stand == TakerStand.Runs;

    public TakerHandover Hold() => From(TakerStand.Waits, TakerStand.Holds);

    public TakerHandover Prepare() => From(TakerStand.Holds, TakerStand.Ready);

    /// <summary>"runs" was said.</summary>
    /// <param name="taken">Whether the giver's socket took it.</param>
    public TakerHandover Say(bool taken) => From(TakerStand.Ready, taken ? TakerStand.Runs : TakerStand.Doubts);

    /// <summary>The inbox was read up to "back" or to its end.</summary>
    public TakerHandover Look(bool back) => From(TakerStand.Doubts, back ? TakerStand.Dead : TakerStand.Runs);

    /// <summary>Something failed, or "back" was found early.</summary>
    public TakerHandover GiveUp()
    {
        Invariant.Require(!MayRun, "The process that took a machine over gives it up while it runs it.");
        return new TakerHandover(TakerStand.Dead);
    }

    private TakerHandover From(TakerStand expected, TakerStand next)
    {
        Invariant.Require(Stand == expected, $"The process that takes a machine over is {Stand} where {expected} was needed to become {next}.");
        return new TakerHandover(next);
    }
}
