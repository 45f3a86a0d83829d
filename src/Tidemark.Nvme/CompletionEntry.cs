using System.Buffers.Binary;

namespace Tidemark.Nvme;

/// <summary>A completion: 16 bytes of a completion queue. NVM Express 1.4 section 4.6, figure 121.</summary>
public readonly record struct CompletionEntry
{
    public const int ByteLength = 16;

    /// <summary>
    /// Offset of the dword that holds CID, phase and status: the last one, so it announces the others.
    /// </summary>
    public const int LastDwordOffset = 12;

    /// <summary>Dword 0, command specific.</summary>
    public uint Result { get; init; }

    /// <summary>SQHD.</summary>
    public ushort SubmissionHead { get; init; }

    /// <summary>SQID.</summary>
    public ushort SubmissionQueue { get; init; }

    /// <summary>CID.</summary>
    public ushort CommandId { get; init; }

    /// <summary>P: inverted each time the queue wraps; 1 in the first round.</summary>
    public bool Phase { get; init; }

    /// <summary>SF, without the phase: 15 bits.</summary>
    public NvmeStatus Status { get; init; }

    /// <summary>The phase bit of an entry's last dword.</summary>
    public static bool PhaseOf(uint lastDword) => (lastDword & 1u << 16) != 0;

    /// <param name="from">At least <see cref="ByteLength"/> bytes. A copy: not memory that somebody else
    /// writes.</param>
    public static CompletionEntry Parse(ReadOnlySpan<byte> from)
    {
        from = from[..ByteLength];
        ushort status = BinaryPrimitives.ReadUInt16LittleEndian(from[14..]);
        return new CompletionEntry
        {
            Result = BinaryPrimitives.ReadUInt32LittleEndian(from),
            SubmissionHead = BinaryPrimitives.ReadUInt16LittleEndian(from[8..]),
            SubmissionQueue = BinaryPrimitives.ReadUInt16LittleEndian(from[10..]),
            CommandId = BinaryPrimitives.ReadUInt16LittleEndian(from[12..]),
            Phase = (status & 1) != 0,
            Status = new NvmeStatus((ushort)(status >> 1)),
        };
    }

    /// <param name="into">At least <see cref="ByteLength"/> bytes; reserved bytes become 0.</param>
    public void Format(Span<byte> into)
    {
        into = into[..ByteLength];
        into.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(into, Result);
        BinaryPrimitives.WriteUInt16LittleEndian(into[8..], SubmissionHead);
        BinaryPrimitives.WriteUInt16LittleEndian(into[10..], SubmissionQueue);
        BinaryPrimitives.WriteUInt16LittleEndian(into[12..], CommandId);
        BinaryPrimitives.WriteUInt16LittleEndian(
            into[14..], (ushort)((Status.Value & 0x7fff) << 1 | (Phase ? 1 : 0)));
    }
}
