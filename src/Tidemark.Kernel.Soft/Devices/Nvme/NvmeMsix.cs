using System.Buffers.Binary;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>MSI-X: the table, the pending bits, and what each vector does.</summary>
/// <remarks>
/// The host's kernel owns a real device's table: giving a vector an action is its programming and unmasking the
/// vector, and
/// taking the action away is masking it. An interrupt of a masked vector stays pending until it is unmasked.
/// Actions exist only while MSI-X is enabled, so nothing here looks at the bit.
/// </remarks>
internal sealed class NvmeMsix
{
    private readonly Action?[] _actions;
    private readonly byte[] _table;
    private UInt128 _pending;

    public NvmeMsix(uint vectors)
    {
        _actions = new Action?[vectors];
        _table = new byte[vectors * MsixCapability.EntryByteLength];
        Reset();
    }

    public int TableByteLength => _table.Length;

    public ReadOnlySpan<byte> Table => _table;

    public UInt128 Pending => _pending;

    /// <summary>Table and pending bits to their initial values; the actions belong to the host and stay.</summary>
    public void Reset()
    {
        Array.Clear(_table);
        _pending = 0;
        for (uint vector = 0; vector < _actions.Length; vector++)
            SetMask(vector, Volatile.Read(ref _actions[vector]) is null);
    }

    public void SetAction(uint vector, Action? raise)
    {
        Volatile.Write(ref _actions[vector], raise);
        SetMask(vector, raise is null);
    }

    public void Raise(uint vector)
    {
        Action? action = Volatile.Read(ref _actions[vector]);
        if (action is null || IsMasked(vector))
        {
            _pending |= UInt128.One << (int)vector;
            return;
        }

        _pending &= ~(UInt128.One << (int)vector);
        action();
    }

    /// <summary>Raises what is pending and no longer masked.</summary>
    public void RaisePending()
    {
        for (uint vector = 0; vector < _actions.Length && _pending != 0; vector++)
        {
            if ((_pending & UInt128.One << (int)vector) != 0)
                Raise(vector);
        }
    }

    public void ReadTable(int offset, Span<byte> into) => ReadPadded(_table, offset, into);

    public void WriteTable(int offset, ReadOnlySpan<byte> from)
    {
        if (offset < _table.Length)
            from[..Math.Min(from.Length, _table.Length - offset)].CopyTo(_table.AsSpan(offset));
    }

    public void ReadPending(int offset, Span<byte> into)
    {
        Span<byte> bits = stackalloc byte[2 * sizeof(ulong)];
        BinaryPrimitives.WriteUInt128LittleEndian(bits, _pending);
        ReadPadded(bits, offset, into);
    }

    /// <summary>Takes another side's table. Masks follow the actions that exist on this side.</summary>
    public void Load(ReadOnlySpan<byte> table, UInt128 pending)
    {
        table.CopyTo(_table);
        _pending = pending;
        for (uint vector = 0; vector < _actions.Length; vector++)
            SetMask(vector, Volatile.Read(ref _actions[vector]) is null);
    }

    private static void ReadPadded(ReadOnlySpan<byte> source, int offset, Span<byte> into)
    {
        into.Clear();
        if (offset < source.Length)
            source[offset..Math.Min(source.Length, offset + into.Length)].CopyTo(into);
    }

    private bool IsMasked(uint vector) => (_table[ControlOf(vector)] & 1) != 0;

    private void SetMask(uint vector, bool masked)
    {
        ref byte control = ref _table[ControlOf(vector)];
        control = (byte)(masked ? control | 1 : control & ~1);
    }

    private static int ControlOf(uint vector) =>
        (int)vector * MsixCapability.EntryByteLength + MsixCapability.EntryControlOffset;
}
