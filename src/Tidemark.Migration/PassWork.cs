using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>
/// The pages of one pass, handed out in windows to the channels, and what they did. All members: any thread.
/// </summary>
internal sealed class PassWork : IDisposable
{
    /// <summary>Guest pages in one window: a whole number of bitmap words and of frames.</summary>
    private const ulong WindowPages = 1024;

    private readonly Lock _gate = new();
    private readonly PageBitmap _pages;
    private readonly ulong _end;
    private readonly CountdownEvent _channelsLeft;
    private ulong _cursor;
    private ulong _sentPages;
    private ulong _zeroPages;
    private ulong _unchangedPages;
    private ulong _bytes;

    /// <param name="forgetLastWord">Planted fault: the last 64 pages are not looked at.</param>
    public PassWork(uint index, PageBitmap pages, int channels, bool forgetLastWord)
    {
        Index = index;
        _pages = pages;
        _end = forgetLastWord && pages.PageCount > 0 ? (pages.PageCount - 1) & ~63UL : pages.PageCount;
        _channelsLeft = new CountdownEvent(channels);
    }

    public uint Index { get; }

    public ulong SentPages => Volatile.Read(ref _sentPages);

    public ulong ZeroPages => Volatile.Read(ref _zeroPages);

    /// <summary>Pages that were not sent, because the destination has them as they are.</summary>
    public ulong UnchangedPages => Volatile.Read(ref _unchangedPages);

    public ulong Bytes => Volatile.Read(ref _bytes);

    /// <summary>Set when every channel's share has been acknowledged.</summary>
    public WaitHandle Acknowledged => _channelsLeft.WaitHandle;

    /// <summary>Takes the next window that has a page in it.</summary>
    public bool TryTake(out ulong firstPage, out ulong endPage)
    {
        lock (_gate)
        {
            firstPage = endPage = 0;
            if (_cursor >= _end || !_pages.TryNextRun(_cursor, 1, out PageRun run) || run.FirstPage >= _end)
            {
                _cursor = _end;
                return false;
            }

            firstPage = run.FirstPage;
            endPage = Math.Min(_end, (firstPage & ~(WindowPages - 1)) + WindowPages);
            _cursor = endPage;
            return true;
        }
    }

    /// <summary>The next run inside a window; looks at no page outside it.</summary>
    public bool TryNextRun(ulong fromPage, ulong endPage, out PageRun run)
    {
        ReadOnlySpan<ulong> words = _pages.Words[..(int)((endPage + 63) / 64)];
        if (!BitmapKernels.TryNextRun(words, endPage, fromPage, endPage - Math.Min(fromPage, endPage), out run))
            return false;
        run = new PageRun(run.FirstPage, Math.Min(run.Count, endPage - run.FirstPage));
        return true;
    }

    public void Count(ulong sentPages, ulong zeroPages, ulong bytes)
    {
        Interlocked.Add(ref _sentPages, sentPages);
        Interlocked.Add(ref _zeroPages, zeroPages);
        Interlocked.Add(ref _bytes, bytes);
    }

    public void CountUnchanged(ulong pages) => Interlocked.Add(ref _unchangedPages, pages);

    public void ChannelDone() => _channelsLeft.Signal();

    public void Dispose() => _channelsLeft.Dispose();
}
