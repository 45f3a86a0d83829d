using Tidemark.Kernel.Linux;
using Tidemark.Machine;
using Tidemark.Machine.Description;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>Memory of the kind that machines have, for probes that move or read it, and the threads that do.</summary>
internal static class ProbeMemory
{
    /// <summary>What a thread takes at a time: 1 MiB.</summary>
    internal const int ChunkPages = 256;

    internal static GuestMemoryFile Create(ulong memoryBytes, bool touched)
    {
        var machine = new MachineDescription { Name = "probe", MemoryBytes = memoryBytes };
        return GuestMemoryFile.Create(new LinuxKernel(), MemoryLayout.Plan(machine), touched);
    }

    internal static ulong[] FindChunks(GuestMemory memory) =>
    [
        .. memory.Slots.SelectMany(slot => Enumerable.Range(0, (int)(slot.PageCount / ChunkPages))
            .Select(chunk => slot.FirstPage + ((ulong)chunk * ChunkPages))),
    ];

    internal static void RunOnEach(int channels, Action<int> body)
    {
        Thread[] threads = [.. Enumerable.Range(0, channels).Select(channel => new Thread(() => body(channel)))];
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());
    }

    internal static double CpuSeconds() => Environment.CpuUsage.TotalTime.TotalSeconds;
}
