using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>A running machine, as the engine that moves it away sees it.</summary>
public interface ISourceMachine
{
    GuestMemory Memory { get; }

    /// <summary>All writers' dirty sources; off when a migration begins.</summary>
    DirtyTracker DirtyTracker { get; }

    /// <summary>The assigned devices, then the workload; the order in which state is sent and loaded.</summary>
    IReadOnlyList<IMigratable> Parts { get; }

    /// <summary>
    /// What the destination must match, as UTF-8 JSON (memory layout, parts, their kinds). At most 64 KiB.
    /// </summary>
    ReadOnlyMemory<byte> Description { get; }

    /// <summary>
    /// Whether the sources report pages that were not written: large units, or writers that nobody tracks. Then it pays
    /// to compare pages with what was sent. Asked before tracking begins.
    /// </summary>
    bool ReportsUnchangedPages { get; }

    /// <summary>Starts <see cref="DirtyTracker"/>, after what makes it report small units.</summary>
    /// <exception cref="Exception">Tracking is off, as before.</exception>
    void StartTracking();

    /// <summary>Stops <see cref="DirtyTracker"/>. Idempotent.</summary>
    /// <param name="staysHere">The machine runs on here: what <see cref="StartTracking"/> changed is changed
    /// back. Otherwise tracking may also end with what is tracked.</param>
    /// <exception cref="Exception">A source failed; tracking is off all the same.</exception>
    void StopTracking(bool staysHere);

    /// <summary>
    /// Pages that may hold something else than zeros. The others were never touched: they are not read, because a look
    /// would give them memory. Asked when tracking is on, after the harvest that pass 0 is made of.
    /// </summary>
    PageBitmap FindTouchedPages();

    /// <summary>Whether there are processors that <see cref="Throttle"/> slows down.</summary>
    bool CanThrottle { get; }

    /// <summary>Takes so much of the processors' time away, in percent; 0 gives it back.</summary>
    void Throttle(int percent);

    /// <summary>Stops the processors (or workload): when it returns they write no more. Idempotent.</summary>
    void StopWorkload();

    /// <summary>Undoes <see cref="StopWorkload"/>. Idempotent.</summary>
    void ResumeWorkload();

    /// <summary>
    /// Names whatever runs, or has run since it was stopped, although nothing may: the check before Commit. Empty when
    /// the whole machine stands still.
    /// </summary>
    IReadOnlyList<string> FindRunners();

    /// <summary>Puts written data of all disks into stable storage.</summary>
    void FlushDisks();

    /// <summary>Gives up the disks so that the destination can take them. Called when Commit has been sent.</summary>
    void ReleaseDisks();
}
