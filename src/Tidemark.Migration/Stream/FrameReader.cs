namespace Tidemark.Migration.Stream;

/// <summary>
/// Takes frames off one connection. One thread. Nothing it reads is trusted before its checksum was checked.
/// </summary>
internal sealed class FrameReader(IConnection connection, uint channel, TimeSpan idleTimeout, TimeProvider time)
{
    private uint _sequence;

    /// <summary>Bytes consumed since the preamble.</summary>
    public ulong Offset { get; private set; }

    /// <summary>Reads the next header; false when the peer closed in order between two frames.</summary>
    public bool TryReadHeader(out FrameHeader header)
    {
        header = default;
        Span<byte> bytes = stackalloc byte[FrameHeader.Size];
        ulong offset = Offset;
        if (!TryFill(bytes, "a frame header", mayEnd: true))
            return false;
        header = FrameHeader.Parse(bytes, channel, _sequence, offset);
        unchecked
        {
            _sequence++;
        }

        return true;
    }

    /// <summary>Fills the buffer from the payload; the caller checks it against a hash before use.</summary>
    public void ReadRaw(Span<byte> into, FrameType section) => TryFill(into, section.ToString(), mayEnd: false);

    /// <summary>Reads a whole payload that is protected by the header's CRC.</summary>
    public void ReadPayload(FrameHeader header, Span<byte> into)
    {
        ulong offset = Offset;
        ReadRaw(into, header.Type);
        if (header.PayloadHash != Checksum.Crc32C(into))
            throw new MigrationStreamException(header.Type.ToString(), offset, "the checksum of its payload does "
                + "not fit");
    }

    private bool TryFill(Span<byte> into, string section, bool mayEnd)
    {
        int have = 0;
        while (have < into.Length)
        {
            long start = time.GetTimestamp();
            int count;
            try
            {
                count = connection.Receive(into[have..]);
            }
            catch (IOException failure) when (idleTimeout > TimeSpan.Zero && time.GetElapsedTime(start) >= idleTimeout * 0.9)
            {
                throw new IOException(
                    $"The peer {connection.Peer} sent nothing for {Words.Of(idleTimeout)} (idle timeout).", failure);
            }

            if (count == 0)
            {
                if (have == 0 && mayEnd)
                    return false;
                throw new MigrationStreamException(section, Offset, "the peer closed the connection in the middle "
                    + "of it");
            }

            have += count;
            Offset += (ulong)count;
        }

        return true;
    }
}
