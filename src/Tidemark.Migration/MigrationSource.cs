using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>Moves a running machine to a destination.</summary>
/// <remarks>
/// One control connection and <see cref="MigrationOptions.Channels"/> connections with pages. The format, to the byte:
/// docs/reference/stream-format.md.
/// <code>
///        source                                                    destination
/// Connect     preamble (versions, token) --------->
///             &lt;--------------------------------- preamble            another version, not Tidemark: end
/// Negotiate   Hello (description, slots, channels) ->
///             &lt;-------------- Accept | Refuse (reasons)
///             page connections, preambles with the token -->
///             &lt;---------------------------------- Ready              all channels there, parts take state
/// Track       tracking on, parts begin to save
/// Precopy     PassBegin n; on each channel Pages, ZeroPages, PassEnd ->
///             PartState (what parts say while they run) ------>
///             &lt;----------- Ack for each Mark and PassEnd            only now do pages leave the lease of their pass;
///             harvest, estimate, and again                            pass n+1 follows without a gap
/// Switchover  SwitchoverBegin; workload stops, P2P, devices stop, final harvest, last pass,
///             PartState..., PartEnd for each part, all out: AllSent -------->
///             &lt;------------ Acks, and StateLoaded                   when all has arrived; disks flushed meanwhile
/// Verify      HashRequest --->  &lt;--- Hashes... (both sides hash at the same time)
/// Commit      nothing runs here any more?   Commit ---------------->  point of no return
///             disks released                                         takes the disks, starts
///             &lt;------------------------------ Committed
/// Done
///
/// before Commit:  Abort | Cancel from either side -> devices run, then the workload; Failed, Cancelled
///                 a lost connection -> they run, and all is taken up again while RetryFor lasts; then Failed
/// after Commit:   no Committed -> the destination is asked (Query, Fate); no answer -> StateUnknown, the source stays stopped
/// </code>
/// Both sides ping on the control connection once a second, so that a long harvest or verification is not taken for
/// death.
/// </remarks>
public sealed class MigrationSource
{
    private readonly ISourceMachine _machine;
    private readonly IConnector _connector;
    private readonly MigrationOptions _options;
    private readonly IMigrationObserver _observer;
    private readonly TimeProvider _time;

    /// <exception cref="ArgumentOutOfRangeException">An option is outside its range.</exception>
    public MigrationSource(
        ISourceMachine machine, IConnector connector, MigrationOptions options, IMigrationObserver observer, TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Channels, 1, nameof(options));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.Channels, FrameLimits.MaximumChannels, nameof(options));
        ArgumentOutOfRangeException.ThrowIfLessThan(options.MaximumPasses, 1, nameof(options));
        _machine = machine;
        _connector = connector;
        _options = options;
        _observer = observer;
        _time = time;
    }

    /// <summary>
    /// Moves the machine. Never throws for what the peer, the network or a part of the machine does: there is always an
    /// outcome, and it says on which side the machine runs.
    /// </summary>
    /// <param name="cancel">Gives up within about a second, at any time before Commit; ignored afterwards.</param>
    public MigrationOutcome Run(CancellationToken cancel)
    {
        var run = new SourceRun(_machine, _connector, _options, _observer, _time, cancel);
        MigrationOutcome outcome = run.Execute();
        // A machine whose state is unknown may still come back: PendingHandover has the run.
        run.Dispose();
        return outcome;
    }
}
