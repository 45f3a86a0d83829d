using System.Diagnostics;
using System.IO.MemoryMappedFiles;

namespace Tidemark.Bench;

/// <summary>
/// Watches a counter that a machine increments in its memory, from outside, at the source and at the destination: the
/// longest time in which it did not grow is how long the machine stood still for itself.
/// </summary>
/// <remarks>
/// The files are looked at four thousand times a second; a look that comes late makes a gap longer, never shorter. So
/// that it does not come late, the thread runs before every ordinary one where that is permitted.
/// </remarks>
internal sealed class HeartbeatWatch : IDisposable
{
    private static readonly TimeSpan Interval = TimeSpan.FromMicroseconds(250);

    private static readonly TimeSpan LastLook = TimeSpan.FromMilliseconds(50);

    private readonly MemoryMappedFile[] _files;
    private readonly MemoryMappedViewAccessor[] _views;
    private readonly Thread _thread;
    private volatile bool _ended;
    private TimeSpan _longest;

    /// <param name="memoryFiles">The memory of both sides; they are this object's.</param>
    internal HeartbeatWatch(IEnumerable<FileStream> memoryFiles, ulong offset)
    {
        _files = [.. memoryFiles.Select(file => MemoryMappedFile.CreateFromFile(
            file, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: false))];
        _views = [.. _files.Select(file => file.CreateViewAccessor((long)offset, 16, MemoryMappedFileAccess.Read))];
        _thread = new Thread(Watch) { IsBackground = true, Name = "heartbeat" };
        _thread.Start();
    }

    /// <summary>Ends the watch when the machine has had time to beat again; the longest gap in milliseconds.</summary>
    internal double End()
    {
        Thread.Sleep(LastLook);
        Stop();
        return _longest.TotalMilliseconds;
    }

    private void Stop()
    {
        _ended = true;
        _thread.Join();
    }

    public void Dispose()
    {
        Stop();
        Array.ForEach(_views, view => view.Dispose());
        Array.ForEach(_files, file => file.Dispose());
    }

    private void Watch()
    {
        _ = RealTime.TryBecomeFirst();
        ulong highest = _views.Max(view => view.ReadUInt64(0));
        long changed = Stopwatch.GetTimestamp();
        while (!_ended)
        {
            RealTime.Sleep(Interval);
            // The destination's counter changes whenever its page arrives: it beats when it goes beyond the source's.
            ulong value = _views.Max(view => view.ReadUInt64(0));
            if (value <= highest)
                continue;
            highest = value;
            long now = Stopwatch.GetTimestamp();
            TimeSpan gap = Stopwatch.GetElapsedTime(changed, now);
            if (gap > _longest)
                _longest = gap;
            changed = now;
        }
    }
}
