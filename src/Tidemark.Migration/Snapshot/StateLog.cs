using System.Buffers.Binary;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Snapshot;

/// <summary>
/// The state of a machine's parts in a file: chunks in the order in which they were read, from all parts mixed.
/// </summary>
/// <remarks>
/// <code>
/// chunk:  0 8 XXH3 of all that follows   8 4 part   12 4 bytes   16 .. the bytes, then zero up to a multiple of 8
/// </code>
/// The section's checksum is taken over the checksums of its chunks, so that none can be missing or out of order.
/// </remarks>
internal static class StateLog
{
    public const int HeadBytes = 16;

    /// <summary>LIMIT: as for a migration; what one chunk takes of this process.</summary>
    public const int MaximumChunkBytes = FrameLimits.PartStateBytes;

    public const int BufferBytes = HeadBytes + MaximumChunkBytes;

    public static int Pad(int byteLength) => (byteLength + 7) & ~7;
}

/// <summary>Appends what parts say.</summary>
internal sealed class StateLogWriter(INewSnapshotFile file, ulong offset, IReadOnlyList<IMigratable> parts)
{
    private readonly byte[] _buffer = new byte[StateLog.BufferBytes];
    private readonly ulong[] _bytes = new ulong[parts.Count];
    private SectionChecksum _checksum;

    /// <summary>Bytes of the section so far.</summary>
    public ulong ByteLength { get; private set; }

    public ulong Checksum => _checksum.Value;

    public IReadOnlyList<SavedPart> Parts => [.. parts.Select((part, index) => new SavedPart(part.Name, _bytes[index]))];

    /// <summary>
    /// Saves what the part has now, or until <paramref name="maximumBytes"/> are reached; true when it had nothing
    /// more.
    /// </summary>
    public bool Pump(int index, ulong maximumBytes, CancellationToken cancel)
    {
        ulong saved = 0;
        while (saved < maximumBytes)
        {
            cancel.ThrowIfCancellationRequested();
            int count = 0;
            PartStep.Do(parts[index], "say its state", part =>
                count = part.ReadState(_buffer.AsSpan(StateLog.HeadBytes, StateLog.MaximumChunkBytes)));
            if (count == 0)
                return true;
            Append(index, count);
            saved += (ulong)count;
        }

        return false;
    }

    private void Append(int index, int count)
    {
        int padded = StateLog.Pad(count);
        Span<byte> chunk = _buffer.AsSpan(0, StateLog.HeadBytes + padded);
        chunk[(StateLog.HeadBytes + count)..].Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(chunk[8..], (uint)index);
        BinaryPrimitives.WriteUInt32LittleEndian(chunk[12..], (uint)count);
        ulong checksum = PageHash.Compute(chunk[8..]);
        BinaryPrimitives.WriteUInt64LittleEndian(chunk, checksum);
        file.Write(chunk, offset + ByteLength);
        ByteLength += (ulong)chunk.Length;
        _checksum.AddHash(checksum);
        _bytes[index] += (ulong)count;
    }
}

/// <summary>Reads the chunks back, each checked before anybody sees it.</summary>
internal sealed class StateLogReader(ISnapshotFile file, SnapshotHeader header, IReadOnlyList<SavedPart> parts)
{
    private readonly byte[] _buffer = new byte[StateLog.BufferBytes];

    /// <param name="take">Gets the part's index and its next bytes.</param>
    /// <exception cref="SnapshotFileException">The section is not as it was written; what was taken before is not to be
    /// used.</exception>
    public void ReadAll(Action<int, ReadOnlyMemory<byte>> take, CancellationToken cancel)
    {
        var bytes = new ulong[parts.Count];
        var checksum = new SectionChecksum();
        ulong done = 0;
        while (done < header.StateBytes)
        {
            cancel.ThrowIfCancellationRequested();
            ulong left = header.StateBytes - done;
            if (left < StateLog.HeadBytes)
                throw Bad(done, "a chunk is cut");
            file.Read(_buffer.AsSpan(0, StateLog.HeadBytes), header.StateOffset + done);
            uint index = BinaryPrimitives.ReadUInt32LittleEndian(_buffer.AsSpan(8));
            uint count = BinaryPrimitives.ReadUInt32LittleEndian(_buffer.AsSpan(12));
            if (index >= parts.Count || count is 0 or > StateLog.MaximumChunkBytes
                || (ulong)StateLog.Pad((int)count) > left - StateLog.HeadBytes)
                throw Bad(done, "a chunk's head can not be");
            int padded = StateLog.Pad((int)count);
            file.Read(_buffer.AsSpan(StateLog.HeadBytes, padded), header.StateOffset + done + StateLog.HeadBytes);
            ulong hash = PageHash.Compute(_buffer.AsSpan(8, StateLog.HeadBytes - 8 + padded));
            if (hash != BinaryPrimitives.ReadUInt64LittleEndian(_buffer))
                throw Bad(done, "a chunk does not match its checksum");
            checksum.AddHash(hash);
            take((int)index, _buffer.AsMemory(StateLog.HeadBytes, (int)count));
            bytes[index] += count;
            done += (ulong)(StateLog.HeadBytes + padded);
        }

        if (checksum.Value != header.StateChecksum)
            throw Bad(done, "its chunks are not those that were written");
        for (int index = 0; index < parts.Count; index++)
        {
            if (bytes[index] != parts[index].StateBytes)
            {
                throw Bad(done, $"{parts[index].Name} has {bytes[index]} bytes of state where "
                    + $"{parts[index].StateBytes} were written");
            }
        }
    }

    private SnapshotFileException Bad(ulong at, string evidence) => new(SnapshotHeader.Damaged(
        file, $"in the state of the machine's parts, at byte {header.StateOffset + at}, {evidence}"));
}
