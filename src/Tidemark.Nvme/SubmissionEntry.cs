using System.Buffers.Binary;

namespace Tidemark.Nvme;

/// <summary>A command: 64 bytes of a submission queue. NVM Express 1.4 section 4.2, figure 105.</summary>
public readonly record struct SubmissionEntry
{
    public const int ByteLength = 64;

    /// <summary>Bits 7:0 of dword 0.</summary>
    public byte Opcode { get; init; }

    /// <summary>Bits 15:8 of dword 0: FUSE in 1:0, PSDT in 7:6 (0: PRPs).</summary>
    public byte Flags { get; init; }

    /// <summary>CID.</summary>
    public ushort CommandId { get; init; }

    /// <summary>NSID.</summary>
    public uint NamespaceId { get; init; }

    /// <summary>MPTR, bytes 23:16.</summary>
    public ulong MetadataPointer { get; init; }

    /// <summary>PRP1, bytes 31:24.</summary>
    public ulong Prp1 { get; init; }

    /// <summary>PRP2, bytes 39:32.</summary>
    public ulong Prp2 { get; init; }

    public uint Dword10 { get; init; }

    public uint Dword11 { get; init; }

    public uint Dword12 { get; init; }

    public uint Dword13 { get; init; }

    public uint Dword14 { get; init; }

    public uint Dword15 { get; init; }

    /// <summary>SLBA of Read and Write. Section 6.9.</summary>
    public ulong StartingBlock => Dword10 | (ulong)Dword11 << 32;

    /// <summary>NLB of Read and Write, as a count: 1 to 65536. Section 6.9.</summary>
    public uint BlockCount => (Dword12 & 0xffff) + 1;

    /// <summary>FUA of Read and Write. Section 6.9.</summary>
    public bool ForceUnitAccess => (Dword12 & 1u << 30) != 0;

    /// <summary>A Read, Write or Flush.</summary>
    /// <param name="blockCount">1 to 65536; ignored for Flush.</param>
    public static SubmissionEntry CreateIo(
        NvmOpcode opcode, ushort commandId, uint namespaceId, ulong startingBlock, uint blockCount) =>
        opcode == NvmOpcode.Flush
            ? new() { Opcode = (byte)opcode, CommandId = commandId, NamespaceId = namespaceId }
            : new()
            {
                Opcode = (byte)opcode,
                CommandId = commandId,
                NamespaceId = namespaceId,
                Dword10 = (uint)(startingBlock & uint.MaxValue),
                Dword11 = (uint)(startingBlock >> 32),
                Dword12 = (blockCount - 1) & 0xffff,
            };

    /// <param name="from">At least <see cref="ByteLength"/> bytes. A copy: not memory that somebody else
    /// writes.</param>
    public static SubmissionEntry Parse(ReadOnlySpan<byte> from)
    {
        from = from[..ByteLength];
        return new SubmissionEntry
        {
            Opcode = from[0],
            Flags = from[1],
            CommandId = BinaryPrimitives.ReadUInt16LittleEndian(from[2..]),
            NamespaceId = BinaryPrimitives.ReadUInt32LittleEndian(from[4..]),
            MetadataPointer = BinaryPrimitives.ReadUInt64LittleEndian(from[16..]),
            Prp1 = BinaryPrimitives.ReadUInt64LittleEndian(from[24..]),
            Prp2 = BinaryPrimitives.ReadUInt64LittleEndian(from[32..]),
            Dword10 = BinaryPrimitives.ReadUInt32LittleEndian(from[40..]),
            Dword11 = BinaryPrimitives.ReadUInt32LittleEndian(from[44..]),
            Dword12 = BinaryPrimitives.ReadUInt32LittleEndian(from[48..]),
            Dword13 = BinaryPrimitives.ReadUInt32LittleEndian(from[52..]),
            Dword14 = BinaryPrimitives.ReadUInt32LittleEndian(from[56..]),
            Dword15 = BinaryPrimitives.ReadUInt32LittleEndian(from[60..]),
        };
    }

    /// <param name="into">At least <see cref="ByteLength"/> bytes; reserved bytes become 0.</param>
    public void Format(Span<byte> into)
    {
        into = into[..ByteLength];
        into.Clear();
        into[0] = Opcode;
        into[1] = Flags;
        BinaryPrimitives.WriteUInt16LittleEndian(into[2..], CommandId);
        BinaryPrimitives.WriteUInt32LittleEndian(into[4..], NamespaceId);
        BinaryPrimitives.WriteUInt64LittleEndian(into[16..], MetadataPointer);
        BinaryPrimitives.WriteUInt64LittleEndian(into[24..], Prp1);
        BinaryPrimitives.WriteUInt64LittleEndian(into[32..], Prp2);
        BinaryPrimitives.WriteUInt32LittleEndian(into[40..], Dword10);
        BinaryPrimitives.WriteUInt32LittleEndian(into[44..], Dword11);
        BinaryPrimitives.WriteUInt32LittleEndian(into[48..], Dword12);
        BinaryPrimitives.WriteUInt32LittleEndian(into[52..], Dword13);
        BinaryPrimitives.WriteUInt32LittleEndian(into[56..], Dword14);
        BinaryPrimitives.WriteUInt32LittleEndian(into[60..], Dword15);
    }
}
