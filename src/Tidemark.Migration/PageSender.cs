using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// One channel of the source: a connection and a thread that sends its share of each pass and waits for the
/// acknowledgement.
/// </summary>
/// <remarks>
/// <code>
/// Waiting --Begin(pass)--> Sending: Pages | ZeroPages ... PassEnd --> Acknowledging: PassAck --> Waiting
///    any --failure--> link.Fail, thread ends        Waiting --Dispose--> thread ends
/// </code>
/// A page is copied once into the channel's buffer, hashed there and sent from there, so hash and content can not
/// differ
/// although the machine goes on writing. A page found zero may be written right after the look: it is then dirty, and a
/// later pass has it, because tracking was on before.
/// </remarks>
internal sealed class PageSender : IDisposable
{
    // The head of a frame ends where the contents begin, so that both leave in one send.
    private const int ContentOffset = GuestPage.Size;

    // LIMIT: keeps the pages of a full frame of zero runs countable in 31 bits, as the receiver demands.
    private const ulong LongestRun = 1 << 18;

    private readonly object _gate = new();
    private readonly IConnection _connection;
    private readonly GuestMemory _memory;
    private readonly SentPages? _sent;
    private readonly ControlLink _link;
    private readonly int _number;
    private readonly FrameWriter _writer;
    private readonly FrameReader _reader;
    private readonly byte[] _buffer =
        GC.AllocateUninitializedArray<byte>(ContentOffset + FrameLimits.ContentPages * GuestPage.Size, pinned: true);
    private readonly byte[] _zeroBuffer = new byte[PageFrame.HeadBytes(FrameLimits.ZeroRuns)];
    private readonly PageRun[] _runs = new PageRun[FrameLimits.ContentPages];
    private readonly PageRun[] _zeroRuns = new PageRun[FrameLimits.ZeroRuns];
    private readonly Thread _thread;
    private PassWork? _next;
    private bool _stopping;
    private int _runCount;
    private int _pageCount;
    private int _zeroRunCount;
    private ulong _zeroPageCount;
    private PassTotals _totals;

    /// <param name="number">1 for the first channel.</param>
    /// <param name="sent">What the destination has, when comparing pays; else null.</param>
    public PageSender(
        IConnection connection, int number, GuestMemory memory, SentPages? sent, ControlLink link,
        TimeSpan idleTimeout, TimeProvider time)
    {
        _sent = sent;
        _connection = connection;
        _number = number;
        _memory = memory;
        _link = link;
        connection.IdleTimeout = idleTimeout;
        _writer = new FrameWriter(connection, (uint)number);
        _reader = new FrameReader(connection, (uint)number, idleTimeout, time);
        _thread = new Thread(Loop) { IsBackground = true, Name = $"tidemark pages {number}" };
        _thread.Start();
    }

    public ulong BytesSent => _writer.BytesSent;

    /// <summary>Starts this channel's share; the pass before it has been acknowledged.</summary>
    public void Begin(PassWork work)
    {
        lock (_gate)
        {
            _next = work;
            Monitor.PulseAll(_gate);
        }
    }

    public void Abort() => _connection.Abort();

    /// <summary>Breaks the connection and joins the thread.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _stopping = true;
            Monitor.PulseAll(_gate);
        }

        _connection.Abort();
        _thread.Join();
        _connection.Dispose();
    }

    private void Loop()
    {
        try
        {
            while (WaitForWork() is { } work)
            {
                SendShare(work);
                AwaitAcknowledgement(work);
                work.ChannelDone();
            }
        }
        catch (Exception failure)
        {
            // The share is incomplete and stays unacknowledged, so the lease of this pass will be returned.
            _link.Fail(new ChannelFailedException(_number, failure));
        }
    }

    private PassWork? WaitForWork()
    {
        lock (_gate)
        {
            while (_next is null && !_stopping)
                Monitor.Wait(_gate);
            PassWork? work = _stopping ? null : _next;
            _next = null;
            return work;
        }
    }

    private void SendShare(PassWork work)
    {
        _totals = new PassTotals(work.Index, 0, 0, 0);
        while (work.TryTake(out ulong position, out ulong end))
        {
            while (work.TryNextRun(position, end, out PageRun run))
            {
                AddRun(work, run);
                position = run.FirstPage + run.Count;
            }
        }

        FlushPages(work);
        FlushZeroPages(work);
        Span<byte> payload = stackalloc byte[Messages.PassEndBytes];
        var writer = new PayloadWriter(payload);
        Messages.WritePassEnd(ref writer, _totals);
        _writer.Send(FrameType.PassEnd, payload);
        work.Count(0, 0, (ulong)(FrameHeader.Size + payload.Length));
    }

    private void AddRun(PassWork work, PageRun run)
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
            AddPages(work, slot.FirstPage, page, (int)count);
            page += count;
        }
    }

    private void AddPages(PassWork work, ulong slotFirst, ulong first, int count)
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

                AddZeroPages(work, slotFirst, first + (ulong)from, index - from);
                continue;
            }

            int limit = Math.Min(count, index + FrameLimits.ContentPages - _pageCount);
            while (++index < limit && !IsZero(pages, index))
            {
            }

            AddContent(work, slotFirst, first + (ulong)from, pages[(from * GuestPage.Size)..(index * GuestPage.Size)]);
            if (_pageCount == FrameLimits.ContentPages)
                FlushPages(work);
        }
    }

    private static bool IsZero(ReadOnlySpan<byte> pages, int index) =>
        PageKernels.IsZero(pages.Slice(index * GuestPage.Size, GuestPage.Size));

    private void AddContent(PassWork work, ulong slotFirst, ulong first, ReadOnlySpan<byte> content)
    {
        if (_sent is not null)
        {
            AddChanged(work, _sent, slotFirst, first, content);
            return;
        }

        content.CopyTo(_buffer.AsSpan(ContentOffset + _pageCount * GuestPage.Size));
        int count = content.Length / GuestPage.Size;
        _pageCount += count;
        Append(_runs, ref _runCount, slotFirst, new PageRun(first, (ulong)count));
    }

    /// <summary>
    /// Only what the destination does not have. The copy is compared, not the page: the machine goes on writing.
    /// </summary>
    private void AddChanged(PassWork work, SentPages sent, ulong slotFirst, ulong first, ReadOnlySpan<byte> content)
    {
        ulong unchanged = 0;
        for (int offset = 0; offset < content.Length; offset += GuestPage.Size, first++)
        {
            Span<byte> copy = _buffer.AsSpan(ContentOffset + _pageCount * GuestPage.Size, GuestPage.Size);
            content.Slice(offset, GuestPage.Size).CopyTo(copy);
            if (sent.IsThere(first, copy))
            {
                unchanged++;
                continue;
            }

            _pageCount++;
            Append(_runs, ref _runCount, slotFirst, new PageRun(first, 1));
        }

        if (unchanged > 0)
            work.CountUnchanged(unchanged);
    }

    private void AddZeroPages(PassWork work, ulong slotFirst, ulong first, int count)
    {
        _sent?.Forget(first, (ulong)count);
        Append(_zeroRuns, ref _zeroRunCount, slotFirst, new PageRun(first, (ulong)count));
        _zeroPageCount += (ulong)count;
        if (_zeroRunCount == _zeroRuns.Length)
            FlushZeroPages(work);
    }

    /// <summary>Appends a run, or lengthens the last one when it goes on in the same slot.</summary>
    private static void Append(PageRun[] runs, ref int count, ulong slotFirst, PageRun run)
    {
        if (count > 0)
        {
            PageRun last = runs[count - 1];
            if (last.FirstPage >= slotFirst && last.FirstPage + last.Count == run.FirstPage && last.Count < LongestRun)
            {
                runs[count - 1] = last with { Count = last.Count + run.Count };
                return;
            }
        }

        runs[count++] = run;
    }

    private void FlushPages(PassWork work)
    {
        if (_pageCount == 0)
            return;
        int headBytes = PageFrame.HeadBytes(_runCount);
        int contentBytes = _pageCount * GuestPage.Size;
        int start = ContentOffset - headBytes - FrameHeader.Size;
        PageFrame.WriteHead(_buffer.AsSpan(ContentOffset - headBytes, headBytes), work.Index, _runs.AsSpan(0, _runCount));
        ulong hash = PageHash.Compute(_buffer.AsSpan(ContentOffset, contentBytes));
        Span<byte> frame = _buffer.AsSpan(start, FrameHeader.Size + headBytes + contentBytes);
        _writer.SendInPlace(FrameType.Pages, frame, hash);
        work.Count((ulong)_pageCount, 0, (ulong)frame.Length);
        _totals = _totals with { Frames = _totals.Frames + 1, SentPages = _totals.SentPages + (ulong)_pageCount };
        _runCount = 0;
        _pageCount = 0;
    }

    private void FlushZeroPages(PassWork work)
    {
        if (_zeroRunCount == 0)
            return;
        Span<byte> payload = _zeroBuffer.AsSpan(0, PageFrame.HeadBytes(_zeroRunCount));
        PageFrame.WriteHead(payload, work.Index, _zeroRuns.AsSpan(0, _zeroRunCount));
        _writer.Send(FrameType.ZeroPages, payload);
        work.Count(0, _zeroPageCount, (ulong)(FrameHeader.Size + payload.Length));
        _totals = _totals with { Frames = _totals.Frames + 1, ZeroPages = _totals.ZeroPages + _zeroPageCount };
        _zeroRunCount = 0;
        _zeroPageCount = 0;
    }

    private void AwaitAcknowledgement(PassWork work)
    {
        FrameHeader header;
        do
        {
            if (!_reader.TryReadHeader(out header))
                throw new IOException($"The peer {_connection.Peer} closed the connection before it acknowledged "
                    + $"pass {work.Index}.");
            if (header.Type is not (FrameType.PassAck or FrameType.Ping))
                throw new MigrationStreamException(header.Type.ToString(), _reader.Offset, "PassAck is due here");
        }
        while (header.Type == FrameType.Ping);

        Span<byte> payload = stackalloc byte[FrameLimits.PayloadLimit(FrameType.PassAck)];
        ulong offset = _reader.Offset;
        _reader.ReadPayload(header, payload[..header.PayloadLength]);
        var reader = new PayloadReader(payload[..header.PayloadLength], nameof(FrameType.PassAck), offset);
        (ulong pass, ulong pages) = Messages.ReadPair(reader);
        if (pass != work.Index || pages != _totals.SentPages + _totals.ZeroPages)
        {
            throw new MigrationStreamException(nameof(FrameType.PassAck), offset,
                $"it acknowledges {pages} pages of pass {pass}, sent were {_totals.SentPages + _totals.ZeroPages} "
                    + $"of pass {work.Index}");
        }
    }
}
