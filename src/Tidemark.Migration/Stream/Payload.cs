using System.Buffers.Binary;

namespace Tidemark.Migration.Stream;

/// <summary>Writes a payload's fields into a buffer that is large enough by the frame's limits.</summary>
internal ref struct PayloadWriter(Span<byte> buffer)
{
    private readonly Span<byte> _buffer = buffer;

    public int Length { get; private set; }

    public readonly ReadOnlySpan<byte> Written => _buffer[..Length];

    public void U32(uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_buffer[Length..], value);
        Length += 4;
    }

    public void U64(ulong value)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(_buffer[Length..], value);
        Length += 8;
    }

    public void Bytes(ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(_buffer[Length..]);
        Length += bytes.Length;
    }
}

/// <summary>
/// Reads a payload's fields; every read is checked against what is left, and at the end nothing may be.
/// </summary>
internal ref struct PayloadReader(ReadOnlySpan<byte> payload, string section, ulong offset)
{
    private readonly string _section = section;
    private readonly ulong _offset = offset;
    private ReadOnlySpan<byte> _left = payload;

    public readonly int Left => _left.Length;

    public uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(4));

    public ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Bytes(8));

    public ReadOnlySpan<byte> Bytes(uint count)
    {
        if (count > (uint)_left.Length)
            throw Bad($"it ends {count - (uint)_left.Length} bytes too early");
        ReadOnlySpan<byte> bytes = _left[..(int)count];
        _left = _left[(int)count..];
        return bytes;
    }

    public readonly void End()
    {
        if (_left.Length != 0)
            throw Bad($"{_left.Length} bytes follow its end");
    }

    public readonly MigrationStreamException Bad(string problem) => new(_section, _offset, problem);
}
