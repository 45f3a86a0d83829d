using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>
/// The checksum of a section of any length: pieces of 1 MiB are hashed, and each hash together with what came before
/// (<c>next = XXH3(before, hash of the piece)</c>, both as 8 bytes; 0 before the first).
/// </summary>
internal struct SectionChecksum
{
    public const int PieceBytes = 1 << 20;

    public ulong Value { get; private set; }

    /// <summary>Adds the next piece, which only at the end may be shorter.</summary>
    public void Add(ReadOnlySpan<byte> piece) => AddHash(PageHash.Compute(piece));

    public void AddHash(ulong hash)
    {
        Span<byte> pair = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(pair, Value);
        BinaryPrimitives.WriteUInt64LittleEndian(pair[8..], hash);
        Value = PageHash.Compute(pair);
    }
}
