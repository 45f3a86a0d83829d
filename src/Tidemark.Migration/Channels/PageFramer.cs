using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// Turns runs of guest pages into frames of one channel: zero pages by name, others with their contents. One thread.
/// </summary>
/// <remarks>
/// Contents go from guest memory to the connection without a copy in between. The hash of a frame is of what was there
/// right before; if the guest writes meanwhile, hash and contents differ, the destination asks for the pages again, and
/// they are dirty anyway, because tracking was on before. A page found zero may be written right after the look: it is
/// then dirty as well.
/// Where pages are compared with what was sent, or compressed, they are copied first, so that what is hashed is what goes
/// out.
/// </remarks>
internal sealed class PageFramer : IDisposable
{
    // LIMIT: keeps the pages of a full frame of zero runs countable in 31 bits, as the receiver demands.
    private const ulong LongestRun = 1 << 18;

    private readonly FrameWriter _writer;
    private readonly GuestMemory _memory;
    private readonly SentPages? _sent;
    private readonly PageCompressor? _compressor;
    private readonly byte[]? _copy;
    private bool _copies;
    private readonly byte[] _head = new byte[PageFrame.HeadBytes(FrameLimits.ZeroRuns)];
    private readonly ulong[] _hashes = new ulong[FrameLimits.ContentPages];
    private readonly PageRun[] _runs = new PageRun[FrameLimits.ContentPages];
    private readonly PageRun[] _zeroRuns = new PageRun[FrameLimits.ZeroRuns];
    private PassWork? _work;
    private int _runCount;
    private int _pageCount;
    private int _zeroRunCount;
    private ulong _zeroPageCount;
    private ulong _bytesSinceMark;
    private PassTotals _totals;

    public PageFramer(FrameWriter writer, GuestMemory memory, SourceChannelOptions options)
    {
        _writer = writer;
        _memory = memory;
        _sent = options.Sent;
        _compressor = options.Compression?.Invoke();
        if (_sent is not null || _compressor is not null)
            _copy = GC.AllocateUninitializedArray<byte>(FrameLimits.ContentPages * GuestPage.Size, pinned: true);
    }

    public ulong BytesSinceMark => _bytesSinceMark;

    private PassWork Work => _work ?? throw new InvariantException("Pages are framed outside a pass.");

    public void BeginPass(PassWork work)
    {
        _work = work;
        _totals = new PassTotals(work.Index, 0, 0, 0);
    }

    public ulong TakeBytesSinceMark()
    {
        ulong bytes = _bytesSinceMark;
        _bytesSinceMark = 0;
        return bytes;
    }

    public void Add(PageRun run)
    {
        ulong page = run.FirstPage;
        ulong end = page + run.Count;
        while (page < end)
        {
            MemorySlot? slot = _memory.FindSlot(new GuestPhysicalAddress(page << GuestPage.Shift), GuestPage.Size);
            if (slot is null)
            {
                // Marked, but no memory there: nothing exists that could be sent.
                page++;
                continue;
            }

            ulong count = Math.Min(end, slot.FirstPage + slot.PageCount) - page;
            AddAround(slot.FirstPage, page, count);
            page += count;
        }
    }

    /// <summary>Everything collected goes out.</summary>
    public void Flush()
    {
        FlushPages();
        FlushZeroPages();
    }

    public void SendPassEnd()
    {
        Span<byte> payload = stackalloc byte[Messages.PassEndBytes];
        var writer = new PayloadWriter(payload);
        Messages.WritePassEnd(ref writer, _totals);
        _writer.Send(FrameType.PassEnd, payload);
        Work.Count(0, 0, (ulong)payload.Length);
    }

    public void Dispose() => _compressor?.Dispose();

    /// <summary>Pages of one slot: holes are told without a look, because a look would give them memory.</summary>
    private void AddAround(ulong slotFirst, ulong first, ulong count)
    {
        if (Work.Holes is not { } holes)
        {
            AddPages(slotFirst, first, (int)count);
            return;
        }

        ulong end = first + count;
        while (first < end)
        {
            bool found = holes.TryNextRun(first, end - first, out PageRun hole) && hole.FirstPage < end;
            ulong until = found ? hole.FirstPage : end;
            if (until > first)
                AddPages(slotFirst, first, (int)(until - first));
            if (!found)
                return;
            ulong length = Math.Min(hole.Count, end - hole.FirstPage);
            AddZeroPages(slotFirst, hole.FirstPage, length);
            first = hole.FirstPage + length;
        }
    }

    private void AddPages(ulong slotFirst, ulong first, int count)
    {
        ReadOnlySpan<byte> pages = _memory.PagesSpan(first, count);
        int index = 0;
        while (index < count)
        {
            int from = index;
            if (IsZero(pages, index))
            {
                while (++index < count && IsZero(pages, index))
                {
                }

                AddZeroPages(slotFirst, first + (ulong)from, (ulong)(index - from));
                continue;
            }

            int limit = Math.Min(count, index + FrameLimits.ContentPages - _pageCount);
            while (++index < limit && !IsZero(pages, index))
            {
            }

            AddContent(slotFirst, first + (ulong)from, pages[(from * GuestPage.Size)..(index * GuestPage.Size)]);
            if (_pageCount == FrameLimits.ContentPages)
                FlushPages();
        }
    }

    private static bool IsZero(ReadOnlySpan<byte> pages, int index) =>
        PageKernels.IsZero(pages.Slice(index * GuestPage.Size, GuestPage.Size));

    private void AddContent(ulong slotFirst, ulong first, ReadOnlySpan<byte> content)
    {
        if (_pageCount == 0)
            _copies = (_compressor?.Wants() ?? false) || _sent is not null;
        if (_copies)
        {
            AddCopies(slotFirst, first, content);
            return;
        }

        for (int offset = 0; offset < content.Length; offset += GuestPage.Size)
            _hashes[_pageCount++] = PageHash.Compute(content.Slice(offset, GuestPage.Size));
        Append(_runs, ref _runCount, slotFirst, new PageRun(first, (ulong)(content.Length / GuestPage.Size)));
    }

    /// <summary>
    /// Only what the destination does not have. The copy is compared, not the page: the machine goes on writing.
    /// </summary>
    private void AddCopies(ulong slotFirst, ulong first, ReadOnlySpan<byte> content)
    {
        ulong unchanged = 0;
        for (int offset = 0; offset < content.Length; offset += GuestPage.Size, first++)
        {
            Span<byte> copy = _copy.AsSpan(_pageCount * GuestPage.Size, GuestPage.Size);
            content.Slice(offset, GuestPage.Size).CopyTo(copy);
            ulong hash = PageHash.Compute(copy);
            if (_sent is not null && _sent.IsThere(first, hash))
            {
                unchanged++;
                continue;
            }

            _hashes[_pageCount++] = hash;
            Append(_runs, ref _runCount, slotFirst, new PageRun(first, 1));
        }

        if (unchanged > 0)
            Work.CountUnchanged(unchanged);
    }

    private void AddZeroPages(ulong slotFirst, ulong first, ulong count)
    {
        _sent?.Forget(first, count);
        while (count > 0)
        {
            ulong piece = Math.Min(count, LongestRun);
            Append(_zeroRuns, ref _zeroRunCount, slotFirst, new PageRun(first, piece));
            _zeroPageCount += piece;
            first += piece;
            count -= piece;
            if (_zeroRunCount == _zeroRuns.Length)
                FlushZeroPages();
        }
    }

    /// <summary>Appends a run, or lengthens the last one when it goes on in the same slot.</summary>
    private static void Append(PageRun[] runs, ref int count, ulong slotFirst, PageRun run)
    {
        if (count > 0)
        {
            PageRun last = runs[count - 1];
            if (last.FirstPage >= slotFirst && last.FirstPage + last.Count == run.FirstPage
                && last.Count + run.Count <= LongestRun)
            {
                runs[count - 1] = last with { Count = last.Count + run.Count };
                return;
            }
        }

        runs[count++] = run;
    }

    private void FlushPages()
    {
        if (_pageCount == 0)
            return;
        ReadOnlySpan<PageRun> runs = _runs.AsSpan(0, _runCount);
        ulong hash = PageHash.Combine(_hashes.AsSpan(0, _pageCount));
        Span<byte> head = _head.AsSpan(0, PageFrame.HeadBytes(_runCount));
        PageFrame.WriteHead(head, Work.Index, runs);
        int contentBytes = _pageCount * GuestPage.Size;
        int sentBytes = contentBytes;
        if (_copies)
        {
            ReadOnlySpan<byte> content = _copy.AsSpan(0, contentBytes);
            ReadOnlySpan<byte> packed = default;
            bool pays = _compressor is not null && _compressor.TryCompress(content, out packed);
            _writer.SendContent(head, pays ? packed : content, pays ? FrameFlags.Compressed : FrameFlags.None, hash);
            sentBytes = pays ? packed.Length : contentBytes;
        }
        else
        {
            _writer.SendPages(head, _memory, runs, contentBytes, hash);
        }

        _compressor?.Sent(contentBytes, sentBytes);
        Account((ulong)_pageCount, 0, FrameHeader.Size + head.Length + sentBytes);
        _runCount = 0;
        _pageCount = 0;
    }

    private void FlushZeroPages()
    {
        if (_zeroRunCount == 0)
            return;
        Span<byte> payload = _head.AsSpan(0, PageFrame.HeadBytes(_zeroRunCount));
        PageFrame.WriteHead(payload, Work.Index, _zeroRuns.AsSpan(0, _zeroRunCount));
        _writer.Send(FrameType.ZeroPages, payload);
        Account(0, _zeroPageCount, FrameHeader.Size + payload.Length);
        _zeroRunCount = 0;
        _zeroPageCount = 0;
    }

    private void Account(ulong sentPages, ulong zeroPages, int bytes)
    {
        Work.Count(sentPages, zeroPages, (ulong)bytes);
        _bytesSinceMark += (ulong)bytes;
        _totals = _totals with
        {
            Frames = _totals.Frames + 1,
            SentPages = _totals.SentPages + sentPages,
            ZeroPages = _totals.ZeroPages + zeroPages,
        };
    }
}
