using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>
/// The pages of one pass, handed out in windows to the channels, and what became of them. All members: any thread.
/// </summary>
/// <remarks>
/// <code>
/// window: untaken --TryTake--> a channel sends it --Acknowledge--> its pages leave the lease
/// pass:   all taken, each channel has ended its share --> Sent --each share acknowledged--> Acknowledged, lease committed
/// </code>
/// A pass that fails leaves in its lease just what was not acknowledged, so that this goes back and nothing else.
/// </remarks>
internal sealed class PassWork : IDisposable
{
    /// <summary>Guest pages in one window: a whole number of bitmap words and of frames.</summary>
    private const ulong WindowPages = 1024;

    private readonly Lock _gate = new();
    private readonly DirtyLease _lease;
    private readonly PageBitmap _pages;
    private readonly ulong _end;
    private readonly Countdown _channelsToSend;
    private readonly Countdown _channelsToAcknowledge;
    private ulong _cursor;
    private ulong _untakenPages;
    private ulong _skippedPages;
    private ulong _sentPages;
    private ulong _zeroPages;
    private ulong _unchangedPages;
    private ulong _bytes;
    private ulong _acknowledgedBytes;
    private ulong _repeatedPages;

    /// <param name="holes">Pages that were never touched and need not be read to be known as zero, or null.</param>
    /// <param name="final">The machine stands still: what was read can not change on its way.</param>
    /// <param name="forgetLastWord">Planted fault: the last 64 pages are not looked at.</param>
    public PassWork(uint index, DirtyLease lease, PageBitmap? holes, int channels, bool final, bool forgetLastWord)
    {
        Index = index;
        _lease = lease;
        _pages = lease.Pages;
        Holes = holes;
        IsFinal = final;
        DirtyPages = _pages.CountSet();
        _untakenPages = DirtyPages;
        _end = forgetLastWord && _pages.PageCount > 0 ? (_pages.PageCount - 1) & ~63UL : _pages.PageCount;
        _channelsToSend = new Countdown(channels);
        _channelsToAcknowledge = new Countdown(channels);
    }

    public uint Index { get; }

    public PageBitmap? Holes { get; }

    public bool IsFinal { get; }

    public ulong DirtyPages { get; }

    public ulong UntakenPages => Volatile.Read(ref _untakenPages);

    /// <summary>Pages that were left to the next pass.</summary>
    public ulong SkippedPages => Volatile.Read(ref _skippedPages);

    public ulong SentPages => Volatile.Read(ref _sentPages);

    public ulong ZeroPages => Volatile.Read(ref _zeroPages);

    /// <summary>Pages that were not sent, because the destination has them as they are.</summary>
    public ulong UnchangedPages => Volatile.Read(ref _unchangedPages);

    /// <summary>Pages that changed on their way and will be sent again.</summary>
    public ulong RepeatedPages => Volatile.Read(ref _repeatedPages);

    public ulong Bytes => Volatile.Read(ref _bytes);

    public ulong AcknowledgedBytes => Volatile.Read(ref _acknowledgedBytes);

    /// <summary>Set when every channel has sent its share.</summary>
    public WaitHandle Sent => _channelsToSend.Done;

    /// <summary>Set when every channel's share has been acknowledged.</summary>
    public WaitHandle Acknowledged => _channelsToAcknowledge.Done;

    public bool IsAcknowledged => _channelsToAcknowledge.IsDone && _channelsToSend.IsDone;

    /// <summary>Takes the next window that has a page in it.</summary>
    public bool TryTake(out ulong firstPage, out ulong endPage)
    {
        lock (_gate)
        {
            firstPage = endPage = 0;
            if (_cursor >= _end || !_pages.TryNextRun(_cursor, 1, out PageRun run) || run.FirstPage >= _end)
            {
                _cursor = _end;
                _untakenPages = 0;
                return false;
            }

            firstPage = run.FirstPage;
            endPage = Math.Min(_end, (firstPage & ~(WindowPages - 1)) + WindowPages);
            _cursor = endPage;
            int firstWord = (int)(firstPage >> 6);
            _untakenPages -= BitmapKernels.CountSet(_pages.Words[firstWord..(int)((endPage + 63) >> 6)]);
            return true;
        }
    }

    /// <summary>
    /// Leaves out what no channel has read yet and a harvest made meanwhile found written again: the harvest has it, and it
    /// would most likely be sent twice.
    /// </summary>
    public void Skip(PageBitmap harvest)
    {
        lock (_gate)
        {
            // A cursor inside a word is at the end.
            if (_cursor >= _end)
                return;
            ulong from = (_cursor + 63) & ~63UL;
            _pages.AndNot(harvest, from);
            ulong left = BitmapKernels.CountSet(_pages.Words[(int)Math.Min(from >> 6, (ulong)_pages.Words.Length)..]);
            _skippedPages += _untakenPages - left;
            _untakenPages = left;
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

    public void CountRepeated(ulong pages) => Interlocked.Add(ref _repeatedPages, pages);

    /// <summary>The destination has these windows.</summary>
    public void Acknowledge(List<PageRun> windows, ulong bytes)
    {
        foreach (PageRun window in windows)
            _lease.Acknowledge(window.FirstPage, window.Count);
        Interlocked.Add(ref _acknowledgedBytes, bytes);
    }

    public void ChannelSent() => _channelsToSend.Signal();

    public void ChannelAcknowledged() => _channelsToAcknowledge.Signal();

    /// <summary>Every page of the pass is at the destination.</summary>
    public void Commit() => _lease.Commit();

    /// <summary>What was not acknowledged goes back, unless the pass was committed.</summary>
    public void Dispose() => _lease.Dispose();
}
