using System.Diagnostics;
using System.IO.MemoryMappedFiles;

namespace Tidemark.Bench;

/// <summary>
/// Watches a counter that a machine increments in its memory, from outside, at the source and at the destination: the
/// longest time in which it did not grow is how long the machine stood still for itself.
/// </summary>
/// <remarks>
/// The files are looked at four thousand times a second; a look that comes late makes a gap longer, never shorter.
/// </remarks>
internal sealed class HeartbeatWatch : IDisposable
{
    private static readonly TimeSpan Interval = TimeSpan.FromMicroseconds(250);

    private readonly MemoryMappedFile[] _files;
    private readonly MemoryMappedViewAccessor[] _views;
    private readonly Thread _thread;
    private volatile bool _ended;
    private TimeSpan _longest;

    /// <param name="memoryFiles">Paths of the memory files of both sides.</param>
    internal HeartbeatWatch(IEnumerable<string> memoryFiles, ulong offset)
    {
        _files = [.. memoryFiles.Select(path => MemoryMappedFile.CreateFromFile(
            new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite), null, 0, MemoryMappedFileAccess.Read,
            HandleInheritability.None, leaveOpen: false))];
        _views = [.. _files.Select(file => file.CreateViewAccessor((long)offset, 16, MemoryMappedFileAccess.Read))];
        _thread = new Thread(Watch) { IsBackground = true, Name = "heartbeat", Priority = ThreadPriority.Highest };
        _thread.Start();
    }

    /// <summary>The longest gap, once the watch has ended.</summary>
    internal double End()
    {
        _ended = true;
        _thread.Join();
        return _longest.TotalMilliseconds;
    }

    public void Dispose()
    {
        End();
        Array.ForEach(_views, view => view.Dispose());
        Array.ForEach(_files, file => file.Dispose());
    }

    private void Watch()
    {
        ulong highest = _views.Max(view => view.ReadUInt64(0));
        long changed = Stopwatch.GetTimestamp();
        while (!_ended)
        {
            Thread.Sleep(Interval);
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
