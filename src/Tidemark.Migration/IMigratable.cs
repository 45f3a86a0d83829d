namespace Tidemark.Migration;

/// <summary>
/// A part of a machine whose state moves with it: an assigned device, or the processors (or the workload in their
/// place).
/// </summary>
/// <remarks>
/// State is one byte stream per part: what <see cref="ReadState"/> yields on the source is fed in order to
/// <see cref="WriteState"/> on the destination. Calls come from one thread at a time.
/// Contract on failure: paused on success, resumed on failure. Every member may throw; the engine then calls
/// <see cref="Recover"/> on all parts.
/// <code>
/// source:       Running --BeginSave--> Saving --EnterP2P--> (P2P) --Stop--> Stopped, state readable to its end --EndSave--> Stopped
///               any --Recover--> Running (a device that can not be made to run is reset, and says so by throwing)
/// destination:  Fresh --BeginLoad--> Loading --EndLoad--> Stopped --PrepareStart--> (P2P) --Start--> Running
/// </code>
/// </remarks>
public interface IMigratable
{
    /// <summary>Unique within the machine and equal on both sides.</summary>
    string Name { get; }

    /// <summary>
    /// Begins saving while the part runs (VFIO: PRE_COPY where the device can, else nothing changes).
    /// </summary>
    void BeginSave();

    /// <summary>What is left to read, in bytes.</summary>
    StateEstimate Estimate();

    /// <summary>
    /// Reads the next bytes of the state stream. While the part runs: what is available now (0: nothing at the moment).
    /// After <see cref="Stop"/>: until 0, which is the end.
    /// </summary>
    int ReadState(Span<byte> buffer);

    /// <summary>
    /// First phase of stopping, done for all parts before the second: no new DMA to peers. Nothing for a part without
    /// peers.
    /// </summary>
    void EnterP2P();

    /// <summary>Second phase: when it returns the part writes no more, and every write it made is visible.</summary>
    void Stop();

    /// <summary>
    /// Ends saving after the state was read; outside the downtime where possible. The part stays stopped.
    /// </summary>
    void EndSave();

    /// <summary>
    /// Makes the part run again after a failed or cancelled migration, from any of the states above. Idempotent.
    /// </summary>
    void Recover();

    /// <summary>
    /// Prepares to take state. After a lost connection it is called again, in the middle of a stream or after its end:
    /// what had come is then void.
    /// </summary>
    void BeginLoad();

    /// <summary>Takes the next bytes of the stream. Throws when the device refuses them.</summary>
    void WriteState(ReadOnlySpan<byte> bytes);

    /// <summary>The stream is complete: the part checks it and is then stopped, ready to start.</summary>
    void EndLoad();

    /// <summary>
    /// First phase of starting, done for all parts before the second: the part answers its peers and begins no DMA of
    /// its own. Nothing for a part without peers. Called after Commit, and before <see cref="Recover"/> of a machine that
    /// was stopped.
    /// </summary>
    void PrepareStart();

    /// <summary>Runs on the destination. Called for all parts after <see cref="PrepareStart"/>.</summary>
    void Start();
}

/// <summary>What a part still has to say.</summary>
/// <param name="InitialBytes">Left of what should be read before the switchover.</param>
/// <param name="DirtyBytes">Changed since it was read; grows while the part runs.</param>
/// <param name="StopBytes">Left to read after the stop; null when the part can not tell.</param>
public readonly record struct StateEstimate(ulong InitialBytes, ulong DirtyBytes, ulong? StopBytes);
