using System.Buffers.Binary;

namespace Tidemark.Machine;

/// <summary>Writes little-endian fields after a magic number and a version.</summary>
internal sealed class PartStateWriter : IDisposable
{
    private readonly MemoryStream _bytes = new();

    public PartStateWriter(uint magic, ushort version)
    {
        U32(magic);
        U16(version);
    }

    public void U8(byte value) => _bytes.WriteByte(value);

    public void Flag(bool value) => U8(value ? (byte)1 : (byte)0);

    public void U16(ushort value)
    {
        Span<byte> bytes = stackalloc byte[sizeof(ushort)];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        _bytes.Write(bytes);
    }

    public void U32(uint value)
    {
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        _bytes.Write(bytes);
    }

    public void U64(ulong value)
    {
        Span<byte> bytes = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        _bytes.Write(bytes);
    }

    /// <summary>Length (32 bits) and bytes.</summary>
    public void Block(ReadOnlySpan<byte> bytes)
    {
        U32((uint)bytes.Length);
        _bytes.Write(bytes);
    }

    public byte[] ToArray() => _bytes.ToArray();

    public void Dispose() => _bytes.Dispose();
}

/// <summary>Reads the same. After the first read beyond the end all reads give 0 and it stays failed.</summary>
internal ref struct PartStateReader
{
    private ReadOnlySpan<byte> _rest;

    public PartStateReader(ReadOnlySpan<byte> bytes, uint magic, ushort version)
    {
        _rest = bytes;
        uint foundMagic = U32();
        ushort foundVersion = U16();
        Failed |= foundMagic != magic || foundVersion != version;
    }

    public bool Failed { get; private set; }

    /// <summary>Everything was read and nothing was missing.</summary>
    public readonly bool IsComplete => !Failed && _rest.IsEmpty;

    public byte U8() => TryTake(1, out ReadOnlySpan<byte> bytes) ? bytes[0] : (byte)0;

    /// <summary>A byte that must be 0 or 1.</summary>
    public bool Flag()
    {
        byte value = U8();
        Failed |= value > 1;
        return value == 1;
    }

    public ushort U16() =>
        TryTake(sizeof(ushort), out ReadOnlySpan<byte> bytes)
            ? BinaryPrimitives.ReadUInt16LittleEndian(bytes) : (ushort)0;

    public uint U32() =>
        TryTake(sizeof(uint), out ReadOnlySpan<byte> bytes) ? BinaryPrimitives.ReadUInt32LittleEndian(bytes) : 0;

    public ulong U64() =>
        TryTake(sizeof(ulong), out ReadOnlySpan<byte> bytes) ? BinaryPrimitives.ReadUInt64LittleEndian(bytes) : 0;

    public ReadOnlySpan<byte> Block()
    {
        uint length = U32();
        return TryTake(length, out ReadOnlySpan<byte> bytes) ? bytes : [];
    }

    private bool TryTake(uint count, out ReadOnlySpan<byte> bytes)
    {
        bytes = default;
        if (Failed || count > (uint)_rest.Length)
        {
            Failed = true;
            return false;
        }

        bytes = _rest[..(int)count];
        _rest = _rest[(int)count..];
        return true;
    }
}
