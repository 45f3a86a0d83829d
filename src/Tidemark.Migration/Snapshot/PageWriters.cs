using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>Writes passes over guest memory to their places in a file, and remembers which pages are there.</summary>
/// <remarks>
/// A page that is zero and was never written stays a hole; one that was written is written again when it is zero, so
/// that the memory section is what the guest's memory is. A page that changes while it is hashed and written has been
/// written by somebody, so it is dirty, and the pass after that brings it; the last pass comes after the last writer.
/// </remarks>
internal sealed class PageWriters
{
    private readonly GuestMemory _memory;
    private readonly INewSnapshotFile _file;
    private readonly SnapshotLayout _layout;
    private readonly SnapshotThreads _threads;
    private readonly ulong[] _present;
    private readonly ulong[] _checksums;
    private PageBitmap? _pages;
    private long _cursor;
    private ulong _writtenPages;
    private ulong _zeroPages;

    public PageWriters(GuestMemory memory, INewSnapshotFile file, SnapshotLayout layout, SnapshotThreads threads)
    {
        _memory = memory;
        _file = file;
        _layout = layout;
        _threads = threads;
        _present = new ulong[layout.Pages / 64];
        _checksums = new ulong[layout.Pages];
    }

    public ulong WrittenPages => Volatile.Read(ref _writtenPages);

    public ulong ZeroPages => Volatile.Read(ref _zeroPages);

    /// <summary>Bit by bit, which file pages are present.</summary>
    public ReadOnlySpan<ulong> Present => _present;

    /// <summary>The checksums of file pages.</summary>
    public ReadOnlySpan<ulong> Checksums => _checksums;

    /// <summary>Begins a pass; <see cref="SnapshotThreads.Wait"/> tells when it has ended.</summary>
    public void Begin(PageBitmap pages)
    {
        _pages = pages;
        _cursor = -1;
        _writtenPages = 0;
        _zeroPages = 0;
        _threads.Begin(_ => Work(pages));
    }

    private void Work(PageBitmap pages)
    {
        ulong windows = _layout.Windows;
        ulong window;
        while (!_threads.IsStopping && (window = (ulong)Interlocked.Increment(ref _cursor)) < windows)
            WriteWindow(pages, window);
    }

    private void WriteWindow(PageBitmap pages, ulong window)
    {
        PageRun whole = _layout.FindWindow(window);
        ulong end = whole.FirstPage + whole.Count;
        ReadOnlySpan<ulong> words = pages.Words[..(int)((end + 63) / 64)];
        ulong firstFilePage = window * SnapshotLayout.WindowPages;
        ulong at = whole.FirstPage;
        while (at < end && BitmapKernels.TryNextRun(words, end, at, end - at, out PageRun run))
        {
            ulong count = Math.Min(run.Count, end - run.FirstPage);
            WriteRun(run.FirstPage, (int)count, firstFilePage + (run.FirstPage - whole.FirstPage));
            at = run.FirstPage + count;
        }
    }

    private void WriteRun(ulong firstPage, int count, ulong filePage)
    {
        ReadOnlySpan<byte> bytes = _memory.PagesSpan(firstPage, count);
        int begun = -1;
        int written = 0;
        for (int page = 0; page < count; page++)
        {
            ReadOnlySpan<byte> content = bytes.Slice(page * SnapshotLayout.PageBytes, SnapshotLayout.PageBytes);
            if (Remember(filePage + (ulong)page, content))
            {
                written++;
                if (begun < 0)
                    begun = page;
            }
            else if (begun >= 0)
            {
                Write(bytes, begun, page, filePage);
                begun = -1;
            }
        }

        if (begun >= 0)
            Write(bytes, begun, count, filePage);
        Interlocked.Add(ref _writtenPages, (ulong)written);
        Interlocked.Add(ref _zeroPages, (ulong)(count - written));
    }

    private void Write(ReadOnlySpan<byte> bytes, int begin, int end, ulong filePage) => _file.WritePages(
        bytes[(begin * SnapshotLayout.PageBytes)..(end * SnapshotLayout.PageBytes)],
        _layout.OffsetOf(filePage + (ulong)begin));

    /// <summary>
    /// False for a page that stays a hole. A window has whole words and one thread, so nothing is shared.
    /// </summary>
    private bool Remember(ulong filePage, ReadOnlySpan<byte> content)
    {
        ref ulong word = ref _present[filePage >> 6];
        ulong bit = 1UL << (int)(filePage & 63);
        if ((word & bit) == 0)
        {
            if (PageKernels.IsZero(content))
                return false;
            word |= bit;
        }

        _checksums[filePage] = PageHash.Compute(content);
        return true;
    }
}
