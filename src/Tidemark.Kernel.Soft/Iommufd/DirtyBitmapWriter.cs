using System.Numerics;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// Sets bits of dirty leaves in the caller's bitmap: bit 0 is the request's first address, bits are only ever set, and
/// what can not be written is lost without a word, as in Linux.
/// </summary>
/// <remarks>
/// Bits are gathered in a buffer that covers a stretch of the bitmap and ORed into the caller's memory stretch by
/// stretch; leaves come in ascending order, so each is written about once. Kernel behaviour that is kept: a leaf that
/// ends beyond the request sets bits beyond the bitmap, up to the end of the bitmap's last page; a leaf that begins
/// before the request sets none.
/// </remarks>
internal ref struct DirtyBitmapWriter : IDirtyLeafVisitor
{
    /// <summary>LIMIT: bytes of bitmap gathered before they are written.</summary>
    public const int BufferBytes = 1024;

    private readonly UserMemory _user;
    private readonly Span<byte> _buffer;
    private readonly ulong _address;
    private readonly ulong _base;
    private readonly int _shift;
    private readonly ulong _lastBit;

    /// <summary>Where the buffer lies in the bitmap, in bytes; and how much of it is used.</summary>
    private ulong _start;
    private int _used;

    /// <param name="buffer">Zeroed, <see cref="BufferBytes"/> long.</param>
    /// <param name="pageSize">Bytes per bit. Only its lowest set bit counts, as in Linux.</param>
    public DirtyBitmapWriter(
        UserMemory user, Span<byte> buffer, ulong address, ulong iova, ulong byteLength, ulong pageSize)
    {
        _user = user;
        _buffer = buffer;
        _address = address;
        _base = iova;
        _shift = BitOperations.TrailingZeroCount(pageSize);
        ulong bitmapBytes = ((byteLength - 1) >> _shift) / 8 + 1;
        ulong inLastPage = unchecked(address + bitmapBytes) % GuestPage.Size;
        ulong byteLimit = bitmapBytes + (inLastPage == 0 ? 0 : GuestPage.Size - inLastPage);
        // A bit for each byte of nearly the whole space has a limit beyond 64 bits.
        _lastBit = byteLimit > ulong.MaxValue / 8 ? ulong.MaxValue : byteLimit * 8 - 1;
    }

    public void OnDirtyLeaf(ulong iova, ulong byteLength)
    {
        if (iova < _base)
            return;
        ulong bit = (iova - _base) >> _shift;
        ulong lastBit = Math.Min((iova - _base + (byteLength - 1)) >> _shift, _lastBit);
        while (bit <= lastBit)
        {
            ulong at = bit / 8;
            if (at < _start || at - _start >= BufferBytes)
            {
                Flush();
                _start = at;
            }

            int index = (int)(at - _start);
            ulong bitsHere = Math.Min(8 - bit % 8, lastBit - bit + 1);
            _buffer[index] |= (byte)(((1 << (int)bitsHere) - 1) << (int)(bit % 8));
            _used = Math.Max(_used, index + 1);
            bit += bitsHere;
        }
    }

    /// <summary>Writes what was gathered. Call once more at the end.</summary>
    public void Flush()
    {
        if (_used == 0)
            return;
        Span<byte> bits = _buffer[.._used];
        ulong to = unchecked(_address + _start);
        // FIDELITY: what lies beyond the top of the address space is lost like every other bad address.
        while (!bits.IsEmpty)
        {
            int part = (int)Math.Min((ulong)bits.Length, GuestPage.Size - to % GuestPage.Size);
            _user.TryOr(to, bits[..part]);
            to = unchecked(to + (ulong)part);
            bits = bits[part..];
        }

        _buffer[.._used].Clear();
        _used = 0;
    }
}
