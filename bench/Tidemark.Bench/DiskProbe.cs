using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Machine;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>The disk alone: bytes that nobody looks at, written to a new file and read from it past the page cache.</summary>
internal static class DiskProbe
{
    /// <summary>
    /// Seconds, with so many threads of a request of 1 MiB each: until the file is in stable storage, and until all is read.
    /// </summary>
    /// <param name="folder">On the disk that is meant.</param>
    /// <exception cref="KernelException">The file system does not take it, or the disk is full.</exception>
    internal static (double Write, double Read) Measure(string folder, ulong byteLength, int threads)
    {
        string path = Path.Combine(folder, "probe");
        var kernel = new LinuxKernel();
        ulong chunkBytes = (ulong)ProbeMemory.ChunkPages * GuestPage.Size;
        using GuestMemoryFile memory = ProbeMemory.Create((ulong)threads * chunkBytes, touched: true);
        ulong[] buffers = ProbeMemory.FindChunks(memory.Memory);
        var random = new Random(1);
        foreach (ulong buffer in buffers)
            random.NextBytes(memory.Memory.PagesSpan(buffer, ProbeMemory.ChunkPages));
        try
        {
            File.WriteAllBytes(path, []);
            SyscallResult opened = kernel.Open(path, OpenFlags.ReadWrite | OpenFlags.Direct | OpenFlags.CloseOnExec);
            opened.ThrowIfFailed($"Opening {path} for direct I/O");
            using var file = new KernelFd(kernel, (int)opened.Value);
            kernel.Ftruncate(file.Number, byteLength).ThrowIfFailed($"Setting the length of {path}");
            long start = Stopwatch.GetTimestamp();
            OnEachChunk((bytes, offset) => kernel.Pwrite(file.Number, bytes, offset));
            kernel.Fsync(file.Number).ThrowIfFailed($"Putting {path} into stable storage");
            double write = Stopwatch.GetElapsedTime(start).TotalSeconds;
            start = Stopwatch.GetTimestamp();
            OnEachChunk((bytes, offset) => kernel.Pread(file.Number, bytes, offset));
            return (write, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        finally
        {
            File.Delete(path);
        }

        void OnEachChunk(ChunkRequest request)
        {
            KernelException? failure = null;
            ulong next = 0;
            ProbeMemory.RunOnEach(threads, thread =>
            {
                while (failure is null && Interlocked.Add(ref next, chunkBytes) is var end && end <= byteLength)
                {
                    SyscallResult done = request(memory.Memory.PagesSpan(buffers[thread], ProbeMemory.ChunkPages), end - chunkBytes);
                    if (done.Succeeded && (ulong)done.Value == chunkBytes)
                        continue;
                    failure = new KernelException(
                        $"A request of {chunkBytes} bytes to {path}", done.Succeeded ? Errno.EIO : done.Errno,
                        "TMPDIR takes another disk, --memory less of it.");
                }
            });
            if (failure is not null)
                throw failure;
        }
    }

    private delegate SyscallResult ChunkRequest(Span<byte> bytes, ulong offset);
}
