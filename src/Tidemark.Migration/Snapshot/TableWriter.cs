using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>Writes the sections before the memory, and gives their checksums.</summary>
internal sealed class TableWriter(INewSnapshotFile file, CancellationToken cancel)
{
    private readonly byte[] _piece = new byte[SectionChecksum.PieceBytes];

    public ulong WriteDescription(
        SnapshotLayout layout, ReadOnlyMemory<byte> description, IReadOnlyList<SavedPart> parts)
    {
        var bytes = new byte[layout.DescriptionSectionBytes];
        description.Span.CopyTo(bytes);
        for (int index = 0; index < layout.Slots.Count; index++)
        {
            Span<byte> slot = bytes.AsSpan(layout.SlotsAt + index * SnapshotLayout.SlotBytes);
            BinaryPrimitives.WriteUInt64LittleEndian(slot, layout.Slots[index].FirstPage);
            BinaryPrimitives.WriteUInt64LittleEndian(slot[8..], layout.Slots[index].Count);
        }

        PartTable.Write(bytes.AsSpan(layout.PartsAt), parts);
        file.Write(bytes, SnapshotLayout.DescriptionOffset);
        var checksum = new SectionChecksum();
        for (int done = 0; done < bytes.Length; done += SectionChecksum.PieceBytes)
            checksum.Add(bytes.AsSpan(done, Math.Min(SectionChecksum.PieceBytes, bytes.Length - done)));
        return checksum.Value;
    }

    /// <summary>Writes words, and zero up to the section's length; pieces that are zero are left holes.</summary>
    public ulong Write(ReadOnlySpan<ulong> words, ulong offset, ulong byteLength)
    {
        var checksum = new SectionChecksum();
        for (ulong done = 0; done < byteLength; done += SectionChecksum.PieceBytes)
        {
            cancel.ThrowIfCancellationRequested();
            Span<byte> piece = _piece.AsSpan(0, (int)Math.Min(SectionChecksum.PieceBytes, byteLength - done));
            piece.Clear();
            int first = (int)(done / sizeof(ulong));
            ReadOnlySpan<ulong> part = words[first..Math.Min(words.Length, first + piece.Length / sizeof(ulong))];
            for (int index = 0; index < part.Length; index++)
                BinaryPrimitives.WriteUInt64LittleEndian(piece[(index * sizeof(ulong))..], part[index]);
            if (!PageKernels.IsZero(piece))
                file.Write(piece, offset + done);
            checksum.Add(piece);
        }

        return checksum.Value;
    }
}
