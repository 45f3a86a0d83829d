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

    /// <summary>What the memory is like now; from here on the engine fills it.</summary>
    MemoryBeforeFilling BeginFilling();

    /// <summary>
    /// Gives pages memory that has these contents from the start. For pages without memory this is cheaper than writing
    /// to them, which zeroes each one first and takes a fault for it. Only speed depends on it: after false the pages are
    /// as they were, or partly filled, and the engine writes them itself. Any thread.
    /// </summary>
    /// <param name="pages">Lie in one slot.</param>
    /// <param name="content">As long as the pages.</param>
    bool TryPut(PageRun pages, ReadOnlySpan<byte> content);

    /// <summary>
    /// Takes the disks over. Called after Commit has arrived; waits a bounded time for the source to let go.
    /// </summary>
    void AcquireDisks();

    /// <summary>Runs: devices first, then the workload. Called once, after Commit.</summary>
    void Start();
}

/// <summary>What a machine's memory is like before it is filled. The bitmaps are the receiver's own.</summary>
/// <param name="Touched">Pages that may hold something else than zeros.</param>
/// <param name="Absent">Pages that have no memory of their own yet; null: all have.</param>
public readonly record struct MemoryBeforeFilling(PageBitmap Touched, PageBitmap? Absent);
