using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>
/// Reads the pages that a file has, straight into guest memory or only to look at them, on several threads, and checks
/// each by its checksum.
/// </summary>
/// <remarks>
/// The tables are read twice: once whole, to check them, and then piece by piece where they are used, so that a file
/// makes this process allocate nothing that its size decides. A page is good when its content has its checksum, so a
/// file that changes in between is found out.
/// </remarks>
internal sealed class PageReaders
{
    /// <summary>Windows that a thread takes at a time, so that the tables are read in pieces of 8 KiB.</summary>
    private const int BatchWindows = 4;

    private const int BatchPages = BatchWindows * SnapshotLayout.WindowPages;

    private static readonly TimeSpan ProgressInterval = TimeSpan.FromMilliseconds(250);

    private readonly ISnapshotFile _file;
    private readonly SnapshotHeader _header;
    private readonly SnapshotLayout _layout;
    private readonly SnapshotThreads _threads;
    private long _cursor = -1;
    private ulong _pagesRead;
    private ulong _tablePages;

    public PageReaders(ISnapshotFile file, SnapshotContents contents, SnapshotThreads threads)
    {
        _file = file;
        _header = contents.Header;
        _layout = contents.Layout;
        _threads = threads;
    }

    /// <summary>Pages read so far.</summary>
    public ulong PagesRead => Volatile.Read(ref _pagesRead);

    /// <param name="memory">Filled; null: pages are only looked at.</param>
    /// <param name="touched">Pages of memory that may not be zero although the file does not have them.</param>
    /// <exception cref="SnapshotFileException">The first thing found that is not as it was written.</exception>
    public void Run(GuestMemory? memory, PageBitmap? touched, Action<ulong> progress, CancellationToken cancel)
    {
        var tables = new TableReader(_file, cancel);
        _tablePages = tables.Check(
            _layout.PresentOffset, _layout.PresentBytes, _header.PresentChecksum, "its table of present pages");
        if (_tablePages != _header.PresentPages)
        {
            throw SnapshotContents.Bad(
                _file, $"{_tablePages} pages are present where its header says {_header.PresentPages}");
        }

        tables.Check(
            _layout.ChecksumsOffset, _layout.ChecksumsBytes, _header.ChecksumsChecksum, "its table of checksums");
        _threads.Begin(_ => Work(memory, touched));
        try
        {
            while (!_threads.Wait(ProgressInterval, cancel))
                progress(PagesRead);
        }
        catch (OperationCanceledException)
        {
            // Nobody reads any more when the threads are disposed, which whoever made them does.
            _threads.Stop();
            throw;
        }

        if (PagesRead != _header.PresentPages)
            throw SnapshotContents.Bad(_file, "its table of present pages changed while it was read");
    }

    private void Work(GuestMemory? memory, PageBitmap? touched)
    {
        Span<byte> present = stackalloc byte[BatchPages / 8];
        var checksums = new byte[BatchPages * 8];
        // Only looked at: then a buffer of this thread's stands in for guest memory.
        byte[]? buffer = memory is null ? new byte[SnapshotLayout.WindowPages * SnapshotLayout.PageBytes] : null;
        ulong batches = (_layout.Windows + (BatchWindows - 1)) / BatchWindows;
        ulong batch;
        while (!_threads.IsStopping && (batch = (ulong)Interlocked.Increment(ref _cursor)) < batches)
        {
            ulong firstPage = batch * BatchPages;
            int pages = (int)Math.Min(BatchPages, _layout.Pages - firstPage);
            _file.Read(present[..(pages / 8)], _layout.PresentOffset + firstPage / 8);
            _file.Read(checksums.AsSpan(0, pages * 8), _layout.ChecksumsOffset + firstPage * 8);
            for (int window = 0; window < pages / SnapshotLayout.WindowPages && !_threads.IsStopping; window++)
            {
                const int WindowBytes = SnapshotLayout.WindowPages / 8;
                ReadWindow(
                    memory, touched, buffer, firstPage / SnapshotLayout.WindowPages + (ulong)window,
                    present.Slice(window * WindowBytes, WindowBytes),
                    checksums.AsSpan(window * SnapshotLayout.WindowPages * 8, SnapshotLayout.WindowPages * 8));
            }
        }
    }

    private void ReadWindow(
        GuestMemory? memory, PageBitmap? touched, byte[]? buffer, ulong window, ReadOnlySpan<byte> present,
        ReadOnlySpan<byte> checksums)
    {
        PageRun pages = _layout.FindWindow(window);
        for (int page = (int)pages.Count; page < SnapshotLayout.WindowPages; page++)
        {
            if (IsPresent(present, page))
                throw SnapshotContents.Bad(_file, "it has pages that belong to no guest memory");
        }

        int at = 0;
        while (at < (int)pages.Count)
        {
            int end = at + 1;
            bool isPresent = IsPresent(present, at);
            while (end < (int)pages.Count && IsPresent(present, end) == isPresent)
                end++;
            ulong guestPage = pages.FirstPage + (ulong)at;
            if (isPresent)
            {
                Span<byte> into = memory is not null
                    ? memory.PagesSpan(guestPage, end - at)
                    : buffer.AsSpan(0, (end - at) * SnapshotLayout.PageBytes);
                ulong offset = _layout.OffsetOf(window * SnapshotLayout.WindowPages + (ulong)at);
                if (memory is not null)
                    _file.ReadPages(into, offset);
                else
                    _file.Read(into, offset);
                Check(into, guestPage, checksums[(at * 8)..]);
                Interlocked.Add(ref _pagesRead, (ulong)(end - at));
            }
            else if (memory is not null)
            {
                ClearTouched(memory, touched, guestPage, guestPage + (ulong)(end - at));
            }

            at = end;
        }
    }

    private void Check(ReadOnlySpan<byte> pages, ulong firstPage, ReadOnlySpan<byte> checksums)
    {
        for (int page = 0; page * SnapshotLayout.PageBytes < pages.Length; page++)
        {
            ulong hash = PageHash.Compute(pages.Slice(page * SnapshotLayout.PageBytes, SnapshotLayout.PageBytes));
            if (hash != BinaryPrimitives.ReadUInt64LittleEndian(checksums[(page * 8)..]))
            {
                throw SnapshotContents.Bad(
                    _file, $"guest page 0x{firstPage + (ulong)page:x} does not match its checksum");
            }
        }
    }

    /// <summary>What the file does not have is zero; a device that was set up may have written there before.</summary>
    private static void ClearTouched(GuestMemory memory, PageBitmap? touched, ulong page, ulong end)
    {
        for (; page < end; page++)
        {
            if (touched is not null && !touched[page])
                continue;
            Span<byte> content = memory.PagesSpan(page, 1);
            if (!PageKernels.IsZero(content))
                content.Clear();
        }
    }

    private static bool IsPresent(ReadOnlySpan<byte> present, int page) => (present[page >> 3] >> (page & 7) & 1) != 0;
}

/// <summary>Checks whole sections against the header, in pieces.</summary>
internal sealed class TableReader(ISnapshotFile file, CancellationToken cancel)
{
    private readonly byte[] _piece = new byte[SectionChecksum.PieceBytes];

    /// <summary>The number of bits that are set.</summary>
    public ulong Check(ulong offset, ulong byteLength, ulong expected, string name)
    {
        var checksum = new SectionChecksum();
        ulong bits = 0;
        for (ulong done = 0; done < byteLength; done += SectionChecksum.PieceBytes)
        {
            cancel.ThrowIfCancellationRequested();
            Span<byte> piece = _piece.AsSpan(0, (int)Math.Min(SectionChecksum.PieceBytes, byteLength - done));
            file.Read(piece, offset + done);
            checksum.Add(piece);
            for (int at = 0; at < piece.Length; at += 8)
                bits += ulong.PopCount(BinaryPrimitives.ReadUInt64LittleEndian(piece[at..]));
        }

        return checksum.Value == expected
            ? bits
            : throw SnapshotContents.Bad(file, $"{name} does not match its checksum");
    }
}
