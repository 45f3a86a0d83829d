using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// One channel of the destination: a connection and a thread that puts pages into guest memory and acknowledges passes.
/// </summary>
/// <remarks>
/// <code>
/// Pages | ZeroPages of pass n ... --> PassEnd n, totals equal --> PassAck n --> pass n+1
///    anything else, a wrong checksum, an end of the connection --> link.Fail, thread ends
/// </code>
/// A frame that is one run of pages is received straight into guest memory and checked there: if the check fails, the
/// machine will never run. Frames of several runs go through the channel's buffer.
/// </remarks>
internal sealed class PageReceiver : IDisposable
{
    private readonly IConnection _connection;
    private readonly GuestMemory _memory;
    private readonly ControlLink _link;
    private readonly int _number;
    private readonly FrameWriter _writer;
    private readonly FrameReader _reader;
    private readonly byte[] _buffer =
        GC.AllocateUninitializedArray<byte>(FrameLimits.ContentPages * GuestPage.Size, pinned: true);
    private readonly byte[] _head = new byte[PageFrame.HeadBytes(FrameLimits.ZeroRuns)];
    private readonly PageRun[] _runs = new PageRun[FrameLimits.ZeroRuns];
    private readonly Thread _thread;
    private PassTotals _totals;
    private ulong _bytesReceived;
    private int _passesDone;

    public PageReceiver(IConnection connection, int number, GuestMemory memory, ControlLink link, TimeProvider time)
    {
        _connection = connection;
        _number = number;
        _memory = memory;
        _link = link;
        // A channel is silent while the machine is stopped, hashed and loaded; whether the source lives is seen on the
        // control connection, whose failure aborts this one.
        connection.IdleTimeout = Timeout.InfiniteTimeSpan;
        _writer = new FrameWriter(connection, (uint)number);
        _reader = new FrameReader(connection, (uint)number, Timeout.InfiniteTimeSpan, time);
        _thread = new Thread(Loop) { IsBackground = true, Name = $"tidemark pages {number}" };
        _thread.Start();
    }

    public int Number => _number;

    /// <summary>Passes acknowledged.</summary>
    public int PassesDone => Volatile.Read(ref _passesDone);

    public ulong BytesReceived => Volatile.Read(ref _bytesReceived);

    public void Abort() => _connection.Abort();

    public void Dispose()
    {
        _connection.Abort();
        _thread.Join();
        _connection.Dispose();
    }

    private void Loop()
    {
        try
        {
            while (_reader.TryReadHeader(out FrameHeader header))
            {
                Take(header);
                Volatile.Write(ref _bytesReceived, _reader.Offset);
            }

            _link.Fail(new ChannelFailedException(_number, new IOException("The source closed it before it was "
                + "done.")));
        }
        catch (Exception failure)
        {
            // Guest memory holds part of a pass: this machine will not run.
            _link.Fail(new ChannelFailedException(_number, failure));
        }
    }

    private void Take(FrameHeader header)
    {
        switch (header.Type)
        {
            case FrameType.Pages:
                TakePages(header);
                break;
            case FrameType.ZeroPages:
                TakeZeroPages(header);
                break;
            case FrameType.PassEnd:
                EndPass(header);
                break;
            case FrameType.Ping:
                _reader.ReadPayload(header, default);
                break;
            default:
                throw new MigrationStreamException(
                    header.Type.ToString(), _reader.Offset, "it does not belong on a connection with pages");
        }
    }

    private void TakePages(FrameHeader header)
    {
        ulong offset = _reader.Offset;
        (int runs, int pages) = ReadTable(header, FrameLimits.ContentPages, offset);
        int contentBytes = header.PayloadLength - PageFrame.HeadBytes(runs);
        if (pages > FrameLimits.ContentPages || contentBytes != pages * GuestPage.Size)
            throw new MigrationStreamException(nameof(FrameType.Pages), offset, $"{pages} pages do not have "
                + $"{contentBytes} bytes");
        Span<byte> content = runs == 1
            ? _memory.PagesSpan(_runs[0].FirstPage, pages)
            : _buffer.AsSpan(0, contentBytes);
        _reader.ReadRaw(content, FrameType.Pages);
        if (PageHash.Compute(content) != header.PayloadHash)
        {
            throw new MigrationStreamException(
                nameof(FrameType.Pages), offset, $"the hash of {pages} pages from page 0x{_runs[0].FirstPage:x} "
                    + $"on does not fit");
        }

        if (runs > 1)
        {
            foreach (PageRun run in _runs.AsSpan(0, runs))
            {
                int length = (int)run.Count * GuestPage.Size;
                content[..length].CopyTo(_memory.PagesSpan(run.FirstPage, (int)run.Count));
                content = content[length..];
            }
        }

        _totals = _totals with { Frames = _totals.Frames + 1, SentPages = _totals.SentPages + (ulong)pages };
    }

    private void TakeZeroPages(FrameHeader header)
    {
        ulong offset = _reader.Offset;
        (int runs, int pages) = ReadTable(header, FrameLimits.ZeroRuns, offset);
        if (header.PayloadLength != PageFrame.HeadBytes(runs) || header.PayloadHash != Checksum.Crc32C(_head.AsSpan(0, header.PayloadLength)))
            throw new MigrationStreamException(nameof(FrameType.ZeroPages), offset, "its table is not all of it");
        foreach (PageRun run in _runs.AsSpan(0, runs))
        {
            for (ulong index = 0; index < run.Count; index++)
            {
                // Mostly fresh memory: looking is cheaper than writing, and a page not written needs no memory of its
                // own.
                Span<byte> page = _memory.PagesSpan(run.FirstPage + index, 1);
                if (!PageKernels.IsZero(page))
                    page.Clear();
            }
        }

        _totals = _totals with { Frames = _totals.Frames + 1, ZeroPages = _totals.ZeroPages + (ulong)pages };
    }

    private (int Runs, int Pages) ReadTable(FrameHeader header, int maximumRuns, ulong offset)
    {
        string section = header.Type.ToString();
        if (header.PayloadLength < PageFrame.HeadBytes(1))
            throw new MigrationStreamException(section, offset, "it has no table");
        _reader.ReadRaw(_head.AsSpan(0, 8), header.Type);
        int runs = PageFrame.PeekRunCount(_head, header.PayloadLength, maximumRuns, section, offset);
        int headBytes = PageFrame.HeadBytes(runs);
        _reader.ReadRaw(_head.AsSpan(8, headBytes - 8), header.Type);
        int pages = PageFrame.ReadHead(
            _head.AsSpan(0, headBytes), _runs.AsSpan(0, runs), (uint)_passesDone, _memory, section, offset);
        return (runs, pages);
    }

    private void EndPass(FrameHeader header)
    {
        Span<byte> payload = stackalloc byte[Messages.PassEndBytes];
        ulong offset = _reader.Offset;
        _reader.ReadPayload(header, payload[..header.PayloadLength]);
        PassTotals stated = Messages.ReadPassEnd(
            new PayloadReader(payload[..header.PayloadLength], nameof(FrameType.PassEnd), offset));
        PassTotals counted = _totals with { Pass = (uint)_passesDone };
        if (stated != counted)
            throw new MigrationStreamException(nameof(FrameType.PassEnd), offset, $"it states {stated}, arrived "
                + $"is {counted}");
        _totals = default;
        Span<byte> acknowledgement = stackalloc byte[16];
        Messages.WritePair(acknowledgement, counted.Pass, counted.SentPages + counted.ZeroPages);
        Volatile.Write(ref _passesDone, _passesDone + 1);
        _writer.Send(FrameType.PassAck, acknowledgement);
    }
}
