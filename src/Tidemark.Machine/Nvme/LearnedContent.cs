using Tidemark.Memory;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// What a disk holds as far as it was read: the first reading of a unit is remembered as a hash, and every later one
/// must give the same, on whichever side of a move it happens.
/// </summary>
/// <remarks>
/// For disks that nobody writes and whose content is known in no other way. A first reading that is wrong is noticed at
/// the second one. One thread at a time.
/// </remarks>
internal sealed class LearnedContent
{
    /// <summary>LIMIT: units that are remembered, and so the part of the disk that is read: 512 KiB of state.</summary>
    public const ulong MaximumUnits = 1 << 16;

    private readonly Dictionary<uint, ulong> _hashes = [];

    /// <summary>Units whose content is known.</summary>
    public int Count => _hashes.Count;

    /// <summary>False: the unit held something else before.</summary>
    public bool Check(ulong unit, ReadOnlySpan<byte> content)
    {
        ulong hash = PageHash.Compute(content);
        return _hashes.TryAdd((uint)unit, hash) || _hashes[(uint)unit] == hash;
    }

    public void Save(PartStateWriter writer)
    {
        writer.U32((uint)_hashes.Count);
        foreach ((uint unit, ulong hash) in _hashes)
        {
            writer.U32(unit);
            writer.U64(hash);
        }
    }

    /// <summary>Takes the other side's knowledge. False: it is damaged.</summary>
    public bool TryLoad(ref PartStateReader reader)
    {
        _hashes.Clear();
        uint count = reader.U32();
        for (uint index = 0; index < count && !reader.Failed; index++)
        {
            uint unit = reader.U32();
            ulong hash = reader.U64();
            if (reader.Failed || unit >= MaximumUnits || !_hashes.TryAdd(unit, hash))
                return false;
        }

        return !reader.Failed;
    }
}
