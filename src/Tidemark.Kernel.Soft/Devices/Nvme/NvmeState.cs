using System.Buffers.Binary;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>Kinds of records in a controller's state stream.</summary>
internal enum NvmeRecord : ushort
{
    Identity = 1,
    Registers = 2,
    PciConfig = 3,
    Msix = 4,
    Queues = 5,
    Commands = 6,
    Features = 7,
    Events = 8,
    ControllerMemory = 9,
    Counters = 10,
    End = 0xffff,
}

/// <summary>Writes records: type (16 bits), length (32 bits), payload; all little-endian.</summary>
internal sealed class NvmeStateWriter
{
    public const int RecordHeaderBytes = 6;

    private byte[] _bytes = new byte[4096];
    private int _length;
    private int _recordStart = -1;

    public void Begin(NvmeRecord record)
    {
        U16((ushort)record);
        U32(0);
        _recordStart = _length;
    }

    public void EndRecord() =>
        BinaryPrimitives.WriteUInt32LittleEndian(_bytes.AsSpan(_recordStart - 4), (uint)(_length - _recordStart));

    /// <summary>The head of a last record, whose payload is not written here.</summary>
    public void BeginLong(NvmeRecord record, int byteLength)
    {
        U16((ushort)record);
        U32((uint)byteLength);
    }

    public void U8(byte value) => Reserve(1)[0] = value;

    public void Flag(bool value) => U8(value ? (byte)1 : (byte)0);

    public void U16(ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(Reserve(2), value);

    public void U32(uint value) => BinaryPrimitives.WriteUInt32LittleEndian(Reserve(4), value);

    public void U64(ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(Reserve(8), value);

    public void U128(UInt128 value) => BinaryPrimitives.WriteUInt128LittleEndian(Reserve(16), value);

    public void Raw(ReadOnlySpan<byte> bytes) => bytes.CopyTo(Reserve(bytes.Length));

    public byte[] ToArray() => _bytes[.._length];

    public Span<byte> Reserve(int count)
    {
        if (_bytes.Length - _length < count)
            Array.Resize(ref _bytes, Math.Max(_bytes.Length * 2, _length + count));
        _length += count;
        return _bytes.AsSpan(_length - count, count);
    }
}

/// <summary>
/// Reads fields of a payload. After the first read beyond the end all reads give 0 and it stays failed.
/// </summary>
internal ref struct NvmeStateReader(ReadOnlySpan<byte> bytes)
{
    private ReadOnlySpan<byte> _rest = bytes;

    public bool Failed { get; private set; }

    /// <summary>Everything was read and nothing was missing.</summary>
    public readonly bool IsComplete => !Failed && _rest.IsEmpty;

    public byte U8() => Raw(1)[0];

    /// <summary>A byte that must be 0 or 1.</summary>
    public bool Flag()
    {
        byte value = U8();
        Failed |= value > 1;
        return value == 1;
    }

    public ushort U16() => BinaryPrimitives.ReadUInt16LittleEndian(Raw(2));

    public uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Raw(4));

    public ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Raw(8));

    public UInt128 U128() => BinaryPrimitives.ReadUInt128LittleEndian(Raw(16));

    public ReadOnlySpan<byte> Raw(int count)
    {
        if (Failed || count > _rest.Length)
        {
            Failed = true;
            return new byte[Math.Min(count, 1 << 16)];
        }

        ReadOnlySpan<byte> taken = _rest[..count];
        _rest = _rest[count..];
        return taken;
    }

    /// <summary>Takes the next record. False: a header or payload is cut short.</summary>
    public bool TryRecord(out NvmeRecord record, out ReadOnlySpan<byte> payload)
    {
        record = default;
        payload = default;
        if (_rest.Length < NvmeStateWriter.RecordHeaderBytes)
            return false;
        record = (NvmeRecord)U16();
        uint length = U32();
        if (length > _rest.Length)
            return false;
        payload = Raw((int)length);
        return true;
    }
}
