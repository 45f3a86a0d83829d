namespace Tidemark.Machine.Handover;

/// <summary>
/// A device's driver in this process that helps its device to move: for devices whose VFIO driver has no migration
/// states (plain <c>vfio-pci</c>). What moves is the driver's state; the device itself is set up again on the other
/// side.
/// </summary>
/// <remarks>
/// <code>
/// source        Working --Quiesce--> Quiet --Halt--> Halted --SaveState--> Halted, for good once Commit was sent
///                  ^                   |               |
///                  '----- Resume ------'---- Resume ---'        a failure or cancel before Commit
/// destination   Fresh --Prepare--> Known (halted) --LoadState--> Loaded (halted) --TakeOver--> Working
///
/// engine                 driver                        why in this order
/// workload stops         (nobody submits any more)
/// parts enter P2P        Quiesce                       what is in flight completes, once, and its submitter knows
/// parts stop             Halt, bus master off          no DMA from here on; only now the last writer is quiet
/// final harvest, last pages
/// state to its end       SaveState
/// destination loads      LoadState                     another disk is refused while the source can still run
/// Commit
/// destination starts     TakeOver                      writes to guest memory, so not before Commit
/// </code>
/// Calls come from one thread at a time, and while the owner of the driver submits nothing. A member that throws leaves
/// the driver where <see cref="Resume"/> can bring it back to Working (on the source).
/// </remarks>
public interface IHandoverDriver
{
    /// <summary>
    /// What the device on the other side must be, as names and values for comparison and messages: for a disk its
    /// capacity, and what else makes it the same. Empty before the device was set up once.
    /// </summary>
    IReadOnlyList<KeyValuePair<string, string>> Identity { get; }

    /// <summary>Why the driver does not agree to a hand-over now, as a sentence; null: it agrees.</summary>
    string? FindObstacle();

    /// <summary>Returns when no command is in flight: each has completed once and was reported.</summary>
    /// <param name="limit">How long commands may take.</param>
    /// <exception cref="TimeoutException">Some did not complete. They are still in flight, and nothing was given
    /// up.</exception>
    void Quiesce(TimeSpan limit);

    /// <summary>
    /// Keeps the device idle for a moment while it goes on being used: nothing is in flight and nothing is submitted until
    /// the result is disposed. For a change under it that it may notice, as of its page table: Linux's VT-d driver (7.3)
    /// refuses DMA that comes in the middle of it. Any thread, which is also the one that disposes the result; also while the
    /// owner stands still.
    /// </summary>
    /// <param name="limit">How long it may take in all.</param>
    /// <returns>Null when it could not be had in time. The default: a driver that can not.</returns>
    /// <exception cref="Exception">The device answered what it must not. As after null, everything is as before.</exception>
    IDisposable? TryStandStill(TimeSpan limit) => null;

    /// <summary>
    /// Makes what was written durable and stops the device: when it returns the device starts no DMA, and every write
    /// of it is visible in memory.
    /// </summary>
    void Halt();

    /// <summary>Everything the driver on the other side needs to go on. While halted.</summary>
    byte[] SaveState();

    /// <summary>Works again here, from any state of the source. Idempotent.</summary>
    void Resume();

    /// <summary>
    /// Sets the device up once, learns what it is, and halts it. Before guest memory arrives: what the device writes to
    /// memory meanwhile is overwritten. Idempotent.
    /// </summary>
    void Prepare();

    /// <summary>Takes the source's state; touches neither device nor guest memory.</summary>
    /// <exception cref="InvalidDataException">The bytes are damaged, or the device here is another one than there: each
    /// difference is named.</exception>
    void LoadState(ReadOnlySpan<byte> state);

    /// <summary>Sets the device up for what was loaded; its owner may submit then. After Commit.</summary>
    void TakeOver();
}
