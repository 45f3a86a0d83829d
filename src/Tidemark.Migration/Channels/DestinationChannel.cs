using Tidemark.Memory;
using Tidemark.Memory.Codecs;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// One channel of the destination: a connection and a thread that puts pages into guest memory, hands state to parts and
/// acknowledges.
/// </summary>
/// <remarks>
/// <code>
/// Pages | ZeroPages of pass n, Mark --> Ack (what of it must come again) ... --> PassEnd n, totals equal --> Ack --> fence --> pass n+1
/// PartState, PartEnd: to the part, whatever the pass
///    anything else, a wrong checksum, an end of the connection --> link.Fail, thread ends
/// </code>
/// Pages are received straight into guest memory and hashed there, unless they have no memory yet: then through a buffer
/// (<see cref="DestinationMemory"/>). A wrong hash is mostly a guest that wrote while the
/// page was read, and such a page comes again by itself; it is asked for all the same, so that damage on the way is
/// mended too, and told when the machine stands still.
/// </remarks>
internal sealed class DestinationChannel : IDisposable
{
    private readonly IConnection _connection;
    private readonly DestinationMemory _memory;
    private readonly DestinationParts _parts;
    private readonly PassFence _fence;
    private readonly ControlLink _link;
    private readonly int _number;
    private readonly FrameWriter _writer;
    private readonly FrameReader _reader;
    private readonly IPageCodec? _decompressor;
    private readonly byte[] _head = new byte[PageFrame.HeadBytes(FrameLimits.ZeroRuns)];
    private readonly PageRun[] _runs = new PageRun[FrameLimits.ZeroRuns];
    private readonly ulong[] _hashes = new ulong[FrameLimits.ContentPages];
    private readonly PageRun[] _again = new PageRun[FrameLimits.AgainRuns];
    private readonly byte[] _acknowledgement = new byte[Messages.AckHeadBytes + FrameLimits.AgainRuns * PageFrame.RunBytes];
    private readonly byte[] _state = GC.AllocateUninitializedArray<byte>(Messages.PartHeadBytes + FrameLimits.PartStateBytes);
    private readonly Thread _thread;
    private byte[]? _packed;
    private byte[]? _content;
    private int _againCount;
    private PassTotals _totals;
    private ulong _bytesReceived;
    private uint _pass;
    private bool _passOpen;

    public DestinationChannel(
        IConnection connection, int number, DestinationMemory memory, DestinationParts parts, PassFence fence,
        IPageCodec? decompressor, ControlLink link, TimeProvider time)
    {
        _connection = connection;
        _number = number;
        _memory = memory;
        _parts = parts;
        _fence = fence;
        _decompressor = decompressor;
        _link = link;
        _pass = fence.Current;
        // A channel is silent while the machine is stopped, hashed and loaded; whether the source lives is seen on the
        // control connection, whose failure aborts this one.
        connection.IdleTimeout = Timeout.InfiniteTimeSpan;
        _writer = new FrameWriter(connection, (uint)number);
        _reader = new FrameReader(connection, (uint)number, Timeout.InfiniteTimeSpan, time);
        _thread = new Thread(Loop) { IsBackground = true, Name = $"tidemark pages {number}" };
        _thread.Start();
    }

    public int Number => _number;

    public ulong BytesReceived => Volatile.Read(ref _bytesReceived);

    public void Abort() => _connection.Abort();

    public void Dispose()
    {
        _connection.Abort();
        _thread.Join();
        _connection.Dispose();
        _decompressor?.Dispose();
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

            _link.Fail(new ChannelFailedException(_number, new IOException("The source closed it before it was done.")));
        }
        catch (Exception failure)
        {
            // Guest memory holds part of a pass: this machine does not run before the source has sent it again.
            _link.Fail(new ChannelFailedException(_number, failure));
        }

        _fence.Break();
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
            case FrameType.Mark:
                _reader.ReadPayload(header, default);
                Acknowledge();
                break;
            case FrameType.PassEnd:
                EndPass(header);
                break;
            case FrameType.PartState:
            case FrameType.PartEnd:
                TakePart(header);
                break;
            case FrameType.Ping:
                _reader.ReadPayload(header, default);
                break;
            default:
                throw new MigrationStreamException(
                    header.Type.Name(), _reader.Offset, "it does not belong on a channel");
        }
    }

    private void TakePages(FrameHeader header)
    {
        ulong offset = _reader.Offset;
        ReadOnlySpan<PageRun> runs = ReadTable(header, FrameLimits.ContentPages, offset, out int pages);
        int contentBytes = header.PayloadLength - PageFrame.HeadBytes(runs.Length);
        bool packed = (header.Flags & FrameFlags.Compressed) != 0;
        int fullBytes = pages * GuestPage.Size;
        if (pages > FrameLimits.ContentPages || (packed ? contentBytes >= fullBytes || contentBytes <= 0 : contentBytes != fullBytes))
            throw new MigrationStreamException(nameof(FrameType.Pages), offset, $"{pages} pages do not have {contentBytes} bytes");
        ulong hash;
        if (packed || _memory.ArePut(runs))
        {
            ReadOnlySpan<byte> content = packed ? Unpack(contentBytes, fullBytes, offset) : ReadContent(fullBytes);
            hash = PageHash.Combine(_hashes.AsSpan(0, Hash(content, 0)));
            _memory.Put(runs, content);
        }
        else
        {
            _memory.Expect(runs);
            _reader.ReadPages(_memory.Guest, runs, fullBytes);
            hash = Hash(runs);
        }

        if (hash != header.PayloadHash)
            AskAgain(runs);
        _totals = _totals with { Frames = _totals.Frames + 1, SentPages = _totals.SentPages + (ulong)pages };
    }

    private Span<byte> Content(int byteLength) =>
        (_content ??= GC.AllocateUninitializedArray<byte>(FrameLimits.ContentPages * GuestPage.Size)).AsSpan(0, byteLength);

    private ReadOnlySpan<byte> ReadContent(int byteLength)
    {
        Span<byte> content = Content(byteLength);
        _reader.ReadRaw(content, FrameType.Pages);
        return content;
    }

    private ReadOnlySpan<byte> Unpack(int packedBytes, int fullBytes, ulong offset)
    {
        if (_decompressor is null)
            throw new MigrationStreamException(nameof(FrameType.Pages), offset, "it is compressed, which was not agreed on");
        _packed ??= GC.AllocateUninitializedArray<byte>(FrameLimits.ContentPages * GuestPage.Size);
        Span<byte> packed = _packed.AsSpan(0, packedBytes);
        _reader.ReadRaw(packed, FrameType.Pages);
        Span<byte> content = Content(fullBytes);
        if (!_decompressor.TryDecompress(packed, content))
            throw new MigrationStreamException(nameof(FrameType.Pages), offset, "its contents can not be decompressed");
        return content;
    }

    private ulong Hash(ReadOnlySpan<PageRun> runs)
    {
        int pages = 0;
        foreach (PageRun run in runs)
            pages = Hash(_memory.Guest.PagesSpan(run.FirstPage, (int)run.Count), pages);
        return PageHash.Combine(_hashes.AsSpan(0, pages));
    }

    /// <summary>Notes the hash of each page; returns how many are noted then.</summary>
    private int Hash(ReadOnlySpan<byte> content, int noted)
    {
        for (int at = 0; at < content.Length; at += GuestPage.Size)
            _hashes[noted++] = PageHash.Compute(content.Slice(at, GuestPage.Size));
        return noted;
    }

    private void AskAgain(ReadOnlySpan<PageRun> runs)
    {
        if (_againCount + runs.Length > _again.Length)
        {
            throw new MigrationStreamException(
                nameof(FrameType.Pages), _reader.Offset, "more pages than can be asked for again arrived with a wrong hash");
        }

        runs.CopyTo(_again.AsSpan(_againCount));
        _againCount += runs.Length;
    }

    private void TakeZeroPages(FrameHeader header)
    {
        ulong offset = _reader.Offset;
        ReadOnlySpan<PageRun> runs = ReadTable(header, FrameLimits.ZeroRuns, offset, out int pages);
        if (header.PayloadLength != PageFrame.HeadBytes(runs.Length)
            || header.PayloadHash != Checksum.Crc32C(_head.AsSpan(0, header.PayloadLength)))
            throw new MigrationStreamException(nameof(FrameType.ZeroPages), offset, "its table is not all of it");
        foreach (PageRun run in runs)
            _memory.Zero(run);
        _totals = _totals with { Frames = _totals.Frames + 1, ZeroPages = _totals.ZeroPages + (ulong)pages };
    }

    private ReadOnlySpan<PageRun> ReadTable(FrameHeader header, int maximumRuns, ulong offset, out int pages)
    {
        OpenPass();
        string section = header.Type.Name();
        if (header.PayloadLength < PageFrame.HeadBytes(1))
            throw new MigrationStreamException(section, offset, "it has no table");
        _reader.ReadRaw(_head.AsSpan(0, 8), header.Type);
        int runs = PageFrame.PeekRunCount(_head, header.PayloadLength, maximumRuns, section, offset);
        int headBytes = PageFrame.HeadBytes(runs);
        _reader.ReadRaw(_head.AsSpan(8, headBytes - 8), header.Type);
        pages = PageFrame.ReadHead(_head.AsSpan(0, headBytes), _runs.AsSpan(0, runs), _pass, _memory.Guest, section, offset);
        return _runs.AsSpan(0, runs);
    }

    /// <summary>The first frame of a pass waits until all channels have ended the pass before.</summary>
    private void OpenPass()
    {
        if (_passOpen)
            return;
        if (!_fence.Await(_pass))
            throw new IOException("Another channel failed.");
        _passOpen = true;
    }

    private void EndPass(FrameHeader header)
    {
        OpenPass();
        Span<byte> payload = stackalloc byte[Messages.PassEndBytes];
        ulong offset = _reader.Offset;
        _reader.ReadPayload(header, payload[..header.PayloadLength]);
        PassTotals stated = Messages.ReadPassEnd(
            new PayloadReader(payload[..header.PayloadLength], nameof(FrameType.PassEnd), offset));
        PassTotals counted = _totals with { Pass = _pass };
        if (stated != counted)
            throw new MigrationStreamException(nameof(FrameType.PassEnd), offset, $"it states {stated}, arrived is {counted}");
        _totals = default;
        // ORDER: the channel has ended the pass before the source can know it.
        _fence.End();
        Acknowledge();
        _pass++;
        _passOpen = false;
    }

    private void Acknowledge()
    {
        OpenPass();
        var writer = new PayloadWriter(_acknowledgement);
        writer.U32(_pass);
        writer.U32((uint)_againCount);
        foreach (PageRun run in _again.AsSpan(0, _againCount))
        {
            writer.U64(run.FirstPage);
            writer.U64(run.Count);
        }

        _againCount = 0;
        _writer.Send(FrameType.Ack, writer.Written);
    }

    private void TakePart(FrameHeader header)
    {
        ulong offset = _reader.Offset;
        Span<byte> payload = _state.AsSpan(0, header.PayloadLength);
        _reader.ReadPayload(header, payload);
        var reader = new PayloadReader(payload, header.Type.Name(), offset);
        if (header.Type == FrameType.PartState)
            _parts.TakeState(reader);
        else
            _parts.TakeEnd(reader);
    }
}
