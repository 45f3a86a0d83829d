using System.Runtime.InteropServices;

namespace Tidemark.Bench;

/// <summary>
/// What a thread needs that must look at something often while both processors are busy: the runtime sleeps whole
/// milliseconds (less is a yield, and so a busy processor), and its thread priorities mean nothing on Linux.
/// </summary>
internal static unsafe partial class RealTime
{
    private const int SchedFifo = 1; // SCHED_FIFO, linux/sched.h

    /// <summary>The calling thread runs before every ordinary one. False where that is not permitted: it stays ordinary.</summary>
    internal static bool TryBecomeFirst()
    {
        int priority = 1;

        // SAFETY: struct sched_param of sched.h is one int, read by the call; thread 0 is the caller.
        return SchedSetScheduler(0, SchedFifo, &priority) == 0;
    }

    /// <param name="interval">Under a second.</param>
    internal static void Sleep(TimeSpan interval)
    {
        Timespec request = new(0, (long)interval.TotalNanoseconds);

        // SAFETY: the call reads one struct timespec, which is two longs on 64-bit Linux, and is asked for no remainder.
        _ = NanoSleep(&request, null);
    }

    // SAFETY: for both: the signatures are those of sched.h and time.h.
    [LibraryImport("libc", EntryPoint = "sched_setscheduler")]
    private static partial int SchedSetScheduler(int thread, int policy, int* parameter);

    [LibraryImport("libc", EntryPoint = "nanosleep")]
    private static partial int NanoSleep(Timespec* request, Timespec* remainder);

    private readonly record struct Timespec(long Seconds, long Nanoseconds);
}
