using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>Receives one machine.</summary>
/// <remarks>
/// The states; the messages are drawn in MigrationSource.cs.
/// <code>
/// Listening --preamble not ours, silence--> Listening (that peer alone is turned away)
///     | preamble, Hello
///     |--other version, obstacles--> that source is told why; Listening again (AcceptAgain) or Failed
///     v
/// Negotiating --Accept, channels, Ready--> Receiving --AllSent--> Loaded --HashRequest--> Loaded
///     |                                       |                     |--Commit--> Committed --disks, start--> Completed
///     '---------- Abort, Cancel, lost --------+---------------------'                '--failure--> StateUnknown
///                        v
///              Failed or Cancelled: the machine never ran
/// </code>
/// </remarks>
public sealed class MigrationDestination
{
    private readonly IDestinationMachine _machine;
    private readonly IAcceptor _acceptor;
    private readonly DestinationOptions _options;
    private readonly IMigrationObserver _observer;
    private readonly TimeProvider _time;

    /// <exception cref="ArgumentOutOfRangeException">An option is outside its range.</exception>
    public MigrationDestination(
        IDestinationMachine machine, IAcceptor acceptor, DestinationOptions options, IMigrationObserver observer, TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.MaximumChannels, 1, nameof(options));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.MaximumChannels, FrameLimits.MaximumChannels, nameof(options));
        _machine = machine;
        _acceptor = acceptor;
        _options = options;
        _observer = observer;
        _time = time;
    }

    /// <summary>
    /// Waits for a source and receives its machine. Never throws for what the peer, the network or a part does.
    /// </summary>
    /// <returns>
    /// Completed: the machine runs here. Failed, Cancelled: it never ran here. StateUnknown: Commit arrived and the
    /// machine
    /// could not be started, so it runs nowhere until somebody decides.
    /// </returns>
    /// <param name="cancel">Ends it at any time before Commit arrives; ignored afterwards.</param>
    public MigrationOutcome Run(CancellationToken cancel)
    {
        long start = _time.GetTimestamp();
        while (true)
        {
            using var run = new DestinationRun(_machine, _acceptor, _options, _observer, _time, cancel);
            MigrationOutcome outcome = run.Execute();
            if (!run.TurnedAway || cancel.IsCancellationRequested)
                return outcome with { Report = outcome.Report with { TotalTime = _time.GetElapsedTime(start) } };
        }
    }
}
