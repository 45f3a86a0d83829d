using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>A machine that exists but has not run yet, as the engine that fills it sees it.</summary>
public interface IDestinationMachine
{
    GuestMemory Memory { get; }

    /// <summary>The same parts in the same order as at the source.</summary>
    IReadOnlyList<IMigratable> Parts { get; }

    /// <summary>
    /// Everything that stands against taking this machine: differences in the description, memory or limits that will
    /// not suffice, disks that can not be opened. Each is one sentence with cause, evidence and remedy. Asked before
    /// pass 0.
    /// </summary>
    IReadOnlyList<string> FindObstacles(ReadOnlyMemory<byte> sourceDescription);

    /// <summary>Pages that may hold something else than zeros, before anything has arrived.</summary>
    PageBitmap FindTouchedPages();

    /// <summary>Gives pages memory of their own, ahead of their contents. Only speed depends on it; it does not
    /// throw.</summary>
    void Populate(PageRun pages);

    /// <summary>
    /// Takes the disks over. Called after Commit has arrived; waits a bounded time for the source to let go.
    /// </summary>
    void AcquireDisks();

    /// <summary>Runs: devices first, then the workload. Called once, after Commit.</summary>
    void Start();
}
