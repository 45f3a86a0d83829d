using Tidemark.Memory;

namespace Tidemark.Migration.Stream;

/// <summary>
/// Takes frames off one connection. One thread. Nothing it reads is trusted before its checksum was checked.
/// </summary>
internal sealed class FrameReader(IConnection connection, uint channel, TimeSpan idleTimeout, TimeProvider time)
{
    /// <summary>
    /// A header and the table of a frame that is one run of pages: with most frames, everything before the contents
    /// comes in one system call.
    /// </summary>
    private readonly byte[] _ahead = new byte[FrameHeader.Size + PageFrame.HeadBytes(1)];

    private int _aheadStart;
    private int _aheadEnd;
    private uint _sequence;

    /// <summary>Bytes consumed since the preamble.</summary>
    public ulong Offset { get; private set; }

    /// <summary>Reads the next header; false when the peer closed in order between two frames.</summary>
    public bool TryReadHeader(out FrameHeader header)
    {
        header = default;
        Span<byte> bytes = stackalloc byte[FrameHeader.Size];
        ulong offset = Offset;
        if (!TryFill(bytes, "a frame header", isHeader: true))
            return false;
        header = FrameHeader.Parse(bytes, channel, _sequence, offset);
        unchecked
        {
            _sequence++;
        }

        return true;
    }

    /// <summary>Fills the buffer from the payload; the caller checks it against a hash before use.</summary>
    public void ReadRaw(Span<byte> into, FrameType section) => TryFill(into, section.Name(), isHeader: false);

    /// <summary>Receives the contents of a Pages frame straight into guest memory.</summary>
    public void ReadPages(GuestMemory memory, ReadOnlySpan<PageRun> runs, int contentBytes)
    {
        // Never read ahead: see TryFill.
        Invariant.Require(_aheadStart == _aheadEnd, "Page contents lie in the look-ahead of a channel.");
        connection.ReceivePages(memory, runs);
        Offset += (ulong)contentBytes;
    }

    /// <summary>Reads a whole payload that is protected by the header's CRC.</summary>
    public void ReadPayload(FrameHeader header, Span<byte> into)
    {
        ulong offset = Offset;
        ReadRaw(into, header.Type);
        if (header.PayloadHash != Checksum.Crc32C(into))
            throw new MigrationStreamException(header.Type.Name(), offset, "the checksum of its payload does "
                + "not fit");
    }

    /// <summary>
    /// Fills the buffer, first from what was read ahead. Only for a header, which alone may meet the end of the
    /// connection, more is received than was asked for.
    /// </summary>
    private bool TryFill(Span<byte> into, string section, bool isHeader)
    {
        int have = 0;
        while (have < into.Length)
        {
            if (_aheadStart < _aheadEnd)
            {
                int taken = Math.Min(into.Length - have, _aheadEnd - _aheadStart);
                _ahead.AsSpan(_aheadStart, taken).CopyTo(into[have..]);
                _aheadStart += taken;
                have += taken;
                Offset += (ulong)taken;
                continue;
            }

            long start = time.GetTimestamp();
            int count;
            try
            {
                // LIMIT: of a frame with pages not more than its shortest table comes along, and none of its contents.
                count = connection.Receive(
                    isHeader ? _ahead.AsSpan(0, into.Length - have + PageFrame.HeadBytes(1)) : into[have..]);
            }
            catch (IOException failure) when (idleTimeout > TimeSpan.Zero && time.GetElapsedTime(start) >= idleTimeout * 0.9)
            {
                throw new IOException(
                    $"The peer {connection.Peer} sent nothing for {Words.Of(idleTimeout)} (idle timeout).", failure);
            }

            if (count == 0)
            {
                if (have == 0 && isHeader)
                    return false;
                throw new IOException(
                    $"The peer {connection.Peer} closed the connection in the middle of {section}, at byte 0x{Offset:x}.");
            }

            if (isHeader)
            {
                (_aheadStart, _aheadEnd) = (0, count);
                continue;
            }

            have += count;
            Offset += (ulong)count;
        }

        return true;
    }
}
