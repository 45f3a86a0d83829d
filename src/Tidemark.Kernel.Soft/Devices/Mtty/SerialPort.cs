using System.Buffers.Binary;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

/// <summary>
/// A serial port that receives what it sends. Its whole state is the record that migrates, so the two can not differ.
/// </summary>
/// <remarks>
/// <code>
/// 0 registers[8] | 8 fifo[16] | 24 head | 25 tail | 26 count | 27 DLAB | 28 overrun | 29 - | 30 divisor (u16)
/// 32 FIFO control | 33 FIFO size | 34 trigger level | 35 -
/// </code>
/// A FIFO that is full to its 16 bytes counts as empty, because head and tail are then equal: so does mtty.
/// </remarks>
internal sealed class SerialPort
{
    public const int RecordLength = 36;

    /// <summary>Registers, as bytes of I/O space.</summary>
    public const int RegisterCount = 8;

    private const byte FifoCapacity = 16;
    private const int Fifo = 8;
    private const int Divisor = 30;

    private readonly byte[] _state = new byte[RecordLength];
    private readonly Action _interrupt;

    /// <param name="interrupt">Called when the port wants attention.</param>
    public SerialPort(Action interrupt)
    {
        _interrupt = interrupt;
        FifoSize = FifoCapacity;
    }

    private enum Register
    {
        Data = 0,
        InterruptEnable = 1,

        /// <summary>Read: what interrupts. Write: FIFO control.</summary>
        Identification = 2,
        LineControl = 3,
        ModemControl = 4,
        LineStatus = 5,
        ModemStatus = 6,
        Scratch = 7,
    }

    [Flags]
    private enum Interrupts : byte
    {
        Receive = 1,
        TransmitEmpty = 2,
        LineStatus = 4,
        ModemStatus = 8,
    }

    private ref byte Head => ref _state[24];

    private ref byte Tail => ref _state[25];

    private ref byte Count => ref _state[26];

    private ref byte DivisorLatch => ref _state[27];

    private ref byte Overrun => ref _state[28];

    private ref byte FifoControl => ref _state[32];

    private ref byte FifoSize => ref _state[33];

    private ref byte TriggerLevel => ref _state[34];

    private Interrupts Enabled => (Interrupts)_state[(int)Register.InterruptEnable];

    private byte Modem => _state[(int)Register.ModemControl];

    private bool IsEmpty => Head == Tail;

    /// <summary>The state, as it migrates.</summary>
    public ReadOnlySpan<byte> Record => _state;

    public void Load(ReadOnlySpan<byte> record) => record[..RecordLength].CopyTo(_state);

    /// <summary>Reads one register; any other offset reads as 0.</summary>
    public byte Read(int offset)
    {
        switch ((Register)offset)
        {
            case Register.Data when DivisorLatch != 0:
                return _state[Divisor];
            case Register.Data:
                return Receive();
            case Register.InterruptEnable when DivisorLatch != 0:
                return _state[Divisor + 1];
            case Register.InterruptEnable:
                return (byte)(_state[offset] & 0x0F);
            case Register.Identification:
                return Identify();
            case Register.LineStatus:
                return (byte)((IsEmpty ? 0x60 : 1) | (Overrun != 0 ? 2 : 0));
            case Register.ModemStatus:
                // Clear to send, unless flow control is on and the FIFO is full.
                bool clear = (Modem & 0x20) == 0 || Count < FifoSize;
                return (byte)(0xA2 | (clear ? 0x11 : 0));
            case Register.LineControl:
            case Register.ModemControl:
            case Register.Scratch:
                return _state[offset];
            default:
                return 0;
        }
    }

    /// <summary>Writes one register; any other offset is ignored.</summary>
    public void Write(int offset, byte value)
    {
        switch ((Register)offset)
        {
            case Register.Data when DivisorLatch != 0:
                // The latch only gains bits until it is opened again: as mtty has it.
                _state[Divisor] |= value;
                break;
            case Register.Data:
                Transmit(value);
                break;
            case Register.InterruptEnable when DivisorLatch != 0:
                _state[Divisor + 1] |= value;
                break;
            case Register.InterruptEnable:
                _state[offset] = value;
                RaiseWhen(IsEmpty, Interrupts.TransmitEmpty);
                break;
            case Register.Identification:
                SetFifo(value);
                break;
            case Register.LineControl:
                if ((value & 0x80) != 0)
                    BinaryPrimitives.WriteUInt16LittleEndian(_state.AsSpan(Divisor), 0);
                DivisorLatch = (byte)(value >> 7);
                _state[offset] = value;
                break;
            case Register.ModemControl:
                _state[offset] = value;
                RaiseWhen((value & 0x08) != 0, Interrupts.ModemStatus);
                RaiseWhen((value & 0x03) != 0, Interrupts.ModemStatus);
                break;
            case Register.Scratch:
                _state[offset] = value;
                break;
        }
    }

    private static byte Next(byte index) => (byte)((index + 1) & (FifoCapacity - 1));

    private void RaiseWhen(bool condition, Interrupts kind)
    {
        if (condition && (Enabled & kind) != 0)
            _interrupt();
    }

    private void Transmit(byte value)
    {
        if (Count >= FifoSize)
        {
            Overrun = 1;
            RaiseWhen(true, Interrupts.LineStatus);
            return;
        }

        // FIDELITY: a loaded state may hold any index; mtty stores beside the FIFO then, here it wraps.
        _state[Fifo + (Head & (FifoCapacity - 1))] = value;
        Count++;
        Head = Next(Head);
        Overrun = 0;
        RaiseWhen(Count == TriggerLevel, Interrupts.Receive);
    }

    private byte Receive()
    {
        byte value = 0;
        if (!IsEmpty)
        {
            value = _state[Fifo + (Tail & (FifoCapacity - 1))];
            Count = unchecked((byte)(Count - 1));
            Tail = Next(Tail);
        }

        RaiseWhen(IsEmpty, Interrupts.TransmitEmpty);
        return value;
    }

    private byte Identify()
    {
        int value = 0;
        if (Enabled.HasFlag(Interrupts.LineStatus) && Overrun != 0)
            value |= 6;
        if (Enabled.HasFlag(Interrupts.Receive) && Count >= TriggerLevel)
            value |= 4;
        if (Enabled.HasFlag(Interrupts.TransmitEmpty) && IsEmpty)
            value |= 2;
        // The modem's interrupt has the number 0: it reads as "none", whatever the modem does.
        return (byte)((value == 0 ? 1 : value) | 0xC0);
    }

    private void SetFifo(byte value)
    {
        FifoControl = value;
        if ((value & 6) != 0)
            Head = Tail = Count = 0;
        // There is no timer for a slow last byte, so every byte reaches the trigger level.
        TriggerLevel = 1;
        FifoSize = (value & 1) != 0 ? FifoCapacity : (byte)1;
    }
}
