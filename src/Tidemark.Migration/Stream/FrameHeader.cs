using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Stream;

/// <summary>
/// What stands before each payload. Little-endian:
/// <code>
///  0  u16 type          2  u16 flags (1: compressed)      4  u32 channel (0: the control connection)
///  8  u32 sequence, from 0, one up with each frame of this connection and direction
/// 12  u32 payload length
/// 16  u64 payload hash: for Pages XXH3-64 over the XXH3-64 of each page (uncompressed), else the CRC-32C of the payload
/// 24  u32 reserved (0)  28  u32 CRC-32C of bytes 0..27
/// </code>
/// </summary>
internal readonly record struct FrameHeader(FrameType Type, uint Channel, uint Sequence, int PayloadLength, ulong PayloadHash)
{
    public FrameFlags Flags { get; init; }

    public const int Size = 32;

    public void Write(Span<byte> into)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(into, (ushort)Type);
        BinaryPrimitives.WriteUInt16LittleEndian(into[2..], (ushort)Flags);
        BinaryPrimitives.WriteUInt32LittleEndian(into[4..], Channel);
        BinaryPrimitives.WriteUInt32LittleEndian(into[8..], Sequence);
        BinaryPrimitives.WriteUInt32LittleEndian(into[12..], (uint)PayloadLength);
        BinaryPrimitives.WriteUInt64LittleEndian(into[16..], PayloadHash);
        BinaryPrimitives.WriteUInt32LittleEndian(into[24..], 0);
        BinaryPrimitives.WriteUInt32LittleEndian(into[28..], Checksum.Crc32C(into[..28]));
    }

    /// <exception cref="MigrationStreamException">Damaged, unknown, out of order, or longer than its type
    /// allows.</exception>
    public static FrameHeader Parse(ReadOnlySpan<byte> bytes, uint channel, uint expectedSequence, ulong offset)
    {
        if (BinaryPrimitives.ReadUInt32LittleEndian(bytes[28..]) != Checksum.Crc32C(bytes[..28]))
            throw new MigrationStreamException("a frame header", offset, "its checksum does not fit");
        var type = (FrameType)BinaryPrimitives.ReadUInt16LittleEndian(bytes);
        int limit = FrameLimits.PayloadLimit(type);
        if (limit < 0)
        {
            throw new MigrationStreamException(
                "a frame header", offset, $"frame type {(ushort)type} does not exist in version {Preamble.Version}");
        }

        string section = type.Name();
        var flags = (FrameFlags)BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]);
        if ((flags & ~(type == FrameType.Pages ? FrameFlags.Compressed : FrameFlags.None)) != 0
            || BinaryPrimitives.ReadUInt32LittleEndian(bytes[24..]) != 0)
            throw new MigrationStreamException(section, offset, "it sets flags that version 1 does not have");
        uint statedChannel = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
        if (statedChannel != channel)
            throw new MigrationStreamException(section, offset, $"it belongs to channel {statedChannel}, this is "
                + $"channel {channel}");
        uint sequence = BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]);
        if (sequence != expectedSequence)
        {
            throw new MigrationStreamException(
                section, offset, $"it has sequence number {sequence} where {expectedSequence} is due: a frame was "
                    + $"lost or repeated");
        }

        uint length = BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]);
        if (length > (uint)limit)
            throw new MigrationStreamException(section, offset, $"its payload of 0x{length:x} bytes is above the "
                + $"limit of 0x{limit:x}");
        return new FrameHeader(type, channel, sequence, (int)length, BinaryPrimitives.ReadUInt64LittleEndian(bytes[16..]))
        {
            Flags = flags,
        };
    }
}

/// <summary>Bits of a frame header. Part of the format.</summary>
[Flags]
internal enum FrameFlags : ushort
{
    None = 0,

    /// <summary>Pages: the contents are one frame of the codec that Hello names.</summary>
    Compressed = 1,
}
