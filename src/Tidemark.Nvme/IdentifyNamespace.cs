using System.Buffers.Binary;

namespace Tidemark.Nvme;

/// <summary>
/// The fields of the Identify Namespace structure (4096 bytes) that this library uses. NVM Express 1.4 section
/// 5.15.2.1,
/// figure 245.
/// </summary>
public sealed record IdentifyNamespace
{
    public const int ByteLength = 4096;

    /// <summary>NSZE (and NCAP and NUSE): logical blocks.</summary>
    public ulong BlockCount { get; init; }

    /// <summary>LBADS of the format in use: log2 of a block's size.</summary>
    public byte BlockShift { get; init; }

    /// <summary>MS of the format in use: bytes of metadata that go with each block.</summary>
    public ushort MetadataBytes { get; init; }

    /// <summary>NSATTR bit 0.</summary>
    public bool WriteProtected { get; init; }

    /// <param name="into">At least 4096 bytes; all of them are written.</param>
    public void Format(Span<byte> into)
    {
        into = into[..ByteLength];
        into.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(into, BlockCount);
        BinaryPrimitives.WriteUInt64LittleEndian(into[8..], BlockCount);
        BinaryPrimitives.WriteUInt64LittleEndian(into[16..], BlockCount);
        into[99] = (byte)(WriteProtected ? 1 : 0);
        // NLBAF 0: one format. FLBAS 0: it is in use.
        BinaryPrimitives.WriteUInt16LittleEndian(into[128..], MetadataBytes);
        into[130] = BlockShift;
    }

    /// <param name="from">At least 4096 bytes. A copy.</param>
    public static IdentifyNamespace Parse(ReadOnlySpan<byte> from)
    {
        from = from[..ByteLength];
        int format = from[26] & 0xf;
        return new IdentifyNamespace
        {
            BlockCount = BinaryPrimitives.ReadUInt64LittleEndian(from),
            BlockShift = from[128 + 4 * format + 2],
            MetadataBytes = BinaryPrimitives.ReadUInt16LittleEndian(from[(128 + 4 * format)..]),
            WriteProtected = (from[99] & 1) != 0,
        };
    }
}
