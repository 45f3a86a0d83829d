using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Tidemark.Machine;

namespace Tidemark.Bench;

/// <summary>
/// The yardstick: every byte loaded once, in the widest registers, four streams deep, and nothing decided.
/// </summary>
internal static unsafe class ReadBandwidth
{
    /// <summary>Zeros in memory as a machine has it, touched, read once by so many threads: what finding them takes at least.</summary>
    internal static Transfer OfZeros(ulong memoryBytes, int threads)
    {
        FreeMemory.Warm(memoryBytes);
        using GuestMemoryFile file = ProbeMemory.Create(memoryBytes, touched: true);
        ulong[] chunks = ProbeMemory.FindChunks(file.Memory);
        var sums = new ulong[threads];
        double cpuBefore = ProbeMemory.CpuSeconds();
        long start = Stopwatch.GetTimestamp();
        ProbeMemory.RunOnEach(threads, thread =>
        {
            for (int index = thread; index < chunks.Length; index += threads)
            {
                Span<byte> chunk = file.Memory.PagesSpan(chunks[index], ProbeMemory.ChunkPages);
                fixed (byte* bytes = chunk)
                    sums[thread] |= Sweep(bytes, (ulong)chunk.Length);
            }
        });
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return sums.All(sum => sum == 0)
            ? new Transfer(memoryBytes, seconds, ProbeMemory.CpuSeconds() - cpuBefore, "")
            : throw new InvalidOperationException("New memory is not zero.");
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    internal static ulong Sweep(byte* bytes, ulong byteLength)
    {
        byte* end = bytes + byteLength;
        if (Vector512.IsHardwareAccelerated)
        {
            Vector512<ulong> a = default, b = default, c = default, d = default;
            for (byte* at = bytes; at < end; at += 256)
            {
                a |= Vector512.Load((ulong*)at);
                b |= Vector512.Load((ulong*)(at + 64));
                c |= Vector512.Load((ulong*)(at + 128));
                d |= Vector512.Load((ulong*)(at + 192));
            }

            return Vector512.Sum(a | b | c | d);
        }

        Vector256<ulong> e = default, f = default, g = default, h = default;
        for (byte* at = bytes; at < end; at += 128)
        {
            e |= Vector256.Load((ulong*)at);
            f |= Vector256.Load((ulong*)(at + 32));
            g |= Vector256.Load((ulong*)(at + 64));
            h |= Vector256.Load((ulong*)(at + 96));
        }

        return Vector256.Sum(e | f | g | h);
    }
}
