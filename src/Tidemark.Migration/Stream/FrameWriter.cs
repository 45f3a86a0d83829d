using Tidemark.Memory;

namespace Tidemark.Migration.Stream;

/// <summary>Puts frames on one connection. Safe for several threads; a frame goes out whole.</summary>
internal sealed class FrameWriter(IConnection connection, uint channel)
{
    private static readonly int LongestHead = FrameHeader.Size + PageFrame.HeadBytes(FrameLimits.ContentPages);

    private readonly Lock _gate = new();
    private uint _sequence;
    private ulong _bytesSent;

    /// <summary>Bytes put on the wire here, headers counted.</summary>
    public ulong BytesSent => Volatile.Read(ref _bytesSent);

    /// <exception cref="IOException">The connection is gone.</exception>
    public void Send(FrameType type, ReadOnlySpan<byte> payload)
    {
        lock (_gate)
            SendLocked(type, payload);
    }

    /// <summary>
    /// As <see cref="Send"/>, but gives up when another thread is sending: its frame says as much as a ping.
    /// </summary>
    public void SendUnlessBusy(FrameType type)
    {
        if (!_gate.TryEnter())
            return;
        try
        {
            SendLocked(type, default);
        }
        finally
        {
            _gate.Exit();
        }
    }

    /// <summary>A last word, if the connection is free within the limit.</summary>
    public bool TrySend(FrameType type, ReadOnlySpan<byte> payload, TimeSpan limit)
    {
        if (!_gate.TryEnter(limit))
            return false;
        try
        {
            SendLocked(type, payload);
            return true;
        }
        catch (IOException)
        {
            // The peer can not be told; the connection is given up in any case.
            return false;
        }
        finally
        {
            _gate.Exit();
        }
    }

    /// <summary>Sends a Pages frame whose contents go out of guest memory as they are.</summary>
    /// <param name="head">The table of <paramref name="runs"/>.</param>
    public void SendPages(ReadOnlySpan<byte> head, GuestMemory memory, ReadOnlySpan<PageRun> runs, int contentBytes, ulong hash)
    {
        lock (_gate)
        {
            Span<byte> buffer = stackalloc byte[LongestHead];
            connection.SendWithPages(WriteHead(buffer, head, contentBytes, FrameFlags.None, hash), memory, runs);
            Volatile.Write(ref _bytesSent, _bytesSent + (ulong)(FrameHeader.Size + head.Length + contentBytes));
        }
    }

    /// <summary>Sends a Pages frame whose contents were copied or compressed.</summary>
    /// <param name="hash">Of the pages before they were compressed.</param>
    public void SendContent(ReadOnlySpan<byte> head, ReadOnlySpan<byte> content, FrameFlags flags, ulong hash)
    {
        lock (_gate)
        {
            Span<byte> buffer = stackalloc byte[LongestHead];
            connection.Send(WriteHead(buffer, head, content.Length, flags, hash));
            connection.Send(content);
            Volatile.Write(ref _bytesSent, _bytesSent + (ulong)(FrameHeader.Size + head.Length + content.Length));
        }
    }

    /// <summary>The header and the table of a Pages frame, in one piece.</summary>
    private ReadOnlySpan<byte> WriteHead(Span<byte> buffer, ReadOnlySpan<byte> head, int contentBytes, FrameFlags flags, ulong hash)
    {
        new FrameHeader(FrameType.Pages, channel, unchecked(_sequence++), head.Length + contentBytes, hash) { Flags = flags }
            .Write(buffer);
        head.CopyTo(buffer[FrameHeader.Size..]);
        return buffer[..(FrameHeader.Size + head.Length)];
    }

    private void SendLocked(FrameType type, ReadOnlySpan<byte> payload)
    {
        // Small frames go out in one send, so that a peer gets them in one piece; of large ones the header goes ahead.
        const int OnePiece = 512;
        Span<byte> buffer = stackalloc byte[FrameHeader.Size + OnePiece];
        new FrameHeader(type, channel, unchecked(_sequence++), payload.Length, Checksum.Crc32C(payload)).Write(buffer);
        if (payload.Length <= OnePiece)
        {
            payload.CopyTo(buffer[FrameHeader.Size..]);
            connection.Send(buffer[..(FrameHeader.Size + payload.Length)]);
        }
        else
        {
            connection.Send(buffer[..FrameHeader.Size]);
            connection.Send(payload);
        }

        Volatile.Write(ref _bytesSent, _bytesSent + (ulong)(FrameHeader.Size + payload.Length));
    }
}
