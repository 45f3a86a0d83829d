using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Machine.CpuTracking;

/// <summary>Which of the two observers of processor writes a machine has, and why.</summary>
/// <param name="Source">The observer; its owner disposes this record, not the source.</param>
/// <param name="Mechanism"><c>userfaultfd</c> or <c>write-barrier</c>, for results.</param>
/// <param name="Reason">One line for people.</param>
public sealed record CpuDirtyTracking(IDirtySource Source, string Mechanism, string Reason) : IDisposable
{
    public const string Userfaultfd = "userfaultfd";
    public const string WriteBarrier = "write-barrier";

    /// <summary>
    /// Takes the kernel's tracking where the kernel has it, else puts a write barrier into <paramref name="memory"/>.
    /// Tracking is off afterwards.
    /// </summary>
    /// <param name="forceBarrier">Takes the barrier although the kernel could do better.</param>
    public static CpuDirtyTracking Choose(IKernel kernel, GuestMemory memory, bool forceBarrier = false)
    {
        ArgumentNullException.ThrowIfNull(memory);
        string reason = "The write barrier was asked for";
        if (!forceBarrier)
        {
            UserfaultfdDirtySource? source = UserfaultfdDirtySource.TryCreate(kernel, memory, out reason);
            if (source is not null)
            {
                return new CpuDirtyTracking(
                    source, Userfaultfd,
                    "The kernel tracks processor writes (userfaultfd, asynchronous write protection).");
            }
        }

        var barrier = new WriteBarrierDirtySource(memory.SpanPages);
        memory.WriteBarrier = barrier;
        return new CpuDirtyTracking(
            barrier, WriteBarrier, $"{reason}; the workload's own writes are marked as they are made.");
    }

    /// <summary>Releases what the observer holds in the kernel. Never throws.</summary>
    public void Dispose() => (Source as IDisposable)?.Dispose();
}
