using System.Buffers.Binary;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

/// <summary>mtty's PCI configuration space: two I/O BARs of 8 bytes, interrupt pin A, no capabilities.</summary>
internal sealed class MttyConfig
{
    /// <summary>One less than a PCI function has, as mtty has it.</summary>
    public const int ByteLength = 255;

    private const int Bar0 = 0x10;
    private const int Bar1 = 0x14;
    private const int InterruptLine = 0x3C;
    private const uint BarMask = ~7U;

    private readonly byte[] _bytes = new byte[ByteLength];
    private readonly int _ports;

    public MttyConfig(int ports)
    {
        _ports = ports;
        Span<byte> bytes = _bytes;
        Word(0x00, 0x3253_4348);
        bytes[0x04] = 0x01;
        bytes[0x07] = 0x02;
        // Revision; programming interface 16550; simple communication controller.
        bytes[0x08] = 0x10;
        bytes[0x09] = 0x02;
        bytes[0x0B] = 0x07;
        Word(Bar0, 1);
        if (ports == 2)
            Word(Bar1, 1);
        Word(0x2C, 0x3253_4348);
        bytes[0x3D] = 0x01;
        bytes[0x40] = 0x23;
        bytes[0x43] = 0x80;
        bytes[0x44] = 0x23;
        bytes[0x48] = 0x23;
        bytes[0x4C] = 0x23;
        "PCI Serial/UART"u8.CopyTo(bytes[0x60..]);
    }

    /// <summary>
    /// FIDELITY: beyond its end mtty reads whatever memory follows; here there are zeros.
    /// </summary>
    public void Read(int offset, Span<byte> into)
    {
        into.Clear();
        if (offset < ByteLength)
            _bytes.AsSpan(offset, Math.Min(into.Length, ByteLength - offset)).CopyTo(into);
    }

    /// <summary>Takes a write of 1, 2 or 4 bytes; most registers ignore it.</summary>
    public void Write(int offset, ReadOnlySpan<byte> from)
    {
        switch (offset)
        {
            case InterruptLine:
                _bytes[InterruptLine] = from[0];
                break;
            case Bar1 when _ports == 1:
            case 0x18:
            case 0x1C:
            case 0x20:
                Word(offset, 0);
                break;
            case Bar0:
            case Bar1:
                // FIDELITY: mtty takes four bytes whatever it was given; the missing ones are zeros here.
                Span<byte> whole = stackalloc byte[sizeof(uint)];
                whole.Clear();
                from.CopyTo(whole);
                uint address = BinaryPrimitives.ReadUInt32LittleEndian(whole);
                if (address == uint.MaxValue)
                    address &= BarMask;
                Word(offset, address | (_bytes[offset] & 3U));
                break;
        }
    }

    private void Word(int offset, uint value) =>
        BinaryPrimitives.WriteUInt32LittleEndian(_bytes.AsSpan(offset), value);
}
