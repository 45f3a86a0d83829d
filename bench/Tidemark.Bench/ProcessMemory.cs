using System.Diagnostics;

namespace Tidemark.Bench;

/// <summary>The guest memory of a machine's process, through the memfd that it holds.</summary>
internal static class ProcessMemory
{
    internal static FileStream Open(int processId, FileAccess access)
    {
        foreach (string link in Directory.EnumerateFiles($"/proc/{processId}/fd"))
        {
            if (new FileInfo(link).LinkTarget?.StartsWith("/memfd:tidemark-guest", StringComparison.Ordinal) == true)
                return new FileStream(link, FileMode.Open, access, FileShare.ReadWrite, bufferSize: 0);
        }

        throw new InvalidOperationException($"Process {processId} holds no guest memory.");
    }
}

/// <summary>Watches the guest's heartbeat from outside, at the source and then at the destination.</summary>
internal sealed class HeartbeatWatch : IDisposable
{
    private readonly FileStream _source;
    private readonly FileStream _destination;
    private readonly long _offset;
    private readonly Thread _thread;
    private readonly CancellationTokenSource _end = new();
    private double _gapMilliseconds;

    internal HeartbeatWatch(int source, int destination, ulong offset)
    {
        _source = ProcessMemory.Open(source, FileAccess.Read);
        _destination = ProcessMemory.Open(destination, FileAccess.Read);
        _offset = (long)offset;
        _thread = new Thread(Watch);
        _thread.Start();
    }

    /// <summary>From the last beat at the source to the first one that the destination made itself.</summary>
    internal double AwaitGapMilliseconds()
    {
        if (!_thread.Join(5000))
            throw new InvalidOperationException("The guest's heart does not beat at the destination.");
        return _gapMilliseconds;
    }

    public void Dispose()
    {
        _end.Cancel();
        _thread.Join();
        _end.Dispose();
        _source.Dispose();
        _destination.Dispose();
    }

    private void Watch()
    {
        ulong last = Read(_source);
        long start = Stopwatch.GetTimestamp();
        TimeSpan lastBeat = TimeSpan.Zero;
        while (!_end.IsCancellationRequested)
        {
            TimeSpan now = Stopwatch.GetElapsedTime(start);
            ulong here = Read(_source);
            if (here != last)
                (last, lastBeat) = (here, now);
            // The last page at the source has the last beat that was made there; a higher one was made here.
            else if (Read(_destination) > last)
            {
                _gapMilliseconds = (now - lastBeat).TotalMilliseconds;
                return;
            }

            Thread.Sleep(1);
        }
    }

    private ulong Read(FileStream file)
    {
        Span<byte> bytes = stackalloc byte[8];
        RandomAccess.Read(file.SafeFileHandle, bytes, _offset);
        return BitConverter.ToUInt64(bytes);
    }
}
