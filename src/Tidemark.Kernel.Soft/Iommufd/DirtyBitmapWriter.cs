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
/// Linux pins a stretch of the bitmap when it meets a leaf that the last one does not hold, and sets a leaf's bits as
/// far as the pinned pages go, wherever the bitmap ends:
/// <code>
/// page          |                  |                  |                  |
/// bitmap                   [== bytes of the request ==]
/// pinned from the leaf's byte on: what is left in pages, and one more if that byte is not the first of its page
///                              |-- leaf's byte
///                        [............................ set without a question .....]
/// </code>
/// So a leaf that ends beyond the request sets bits beyond the bitmap; a leaf that begins before it sets none; and a page
/// that can not be pinned takes with it what follows of the same leaf.
/// Bits are gathered in a buffer and ORed into the caller's memory stretch by stretch; leaves come in ascending order,
/// so each is written about once.
/// </remarks>
internal ref struct DirtyBitmapWriter : IDirtyLeafVisitor
{
    /// <summary>LIMIT: bytes of bitmap gathered before they are written.</summary>
    public const int BufferBytes = 1024;

    /// <summary>LIMIT: Linux keeps the addresses of the pinned pages in one page.</summary>
    private const ulong PagesOfWindow = 512;
    private const ulong BitsPerPage = GuestPage.Size * 8UL;

    private readonly UserMemory _user;
    private readonly Span<byte> _buffer;
    private readonly ulong _address;
    private readonly ulong _base;
    private readonly ulong _last;
    private readonly int _shift;
    private readonly ulong _bitmapBytes;

    /// <summary>The pinned pages: where they begin, how many (0: none), and the IOVAs whose bits they hold.</summary>
    private ulong _windowAddress;
    private ulong _windowPages;
    private ulong _windowFirst;
    private ulong _windowLast;

    /// <summary>What bit <see cref="_windowFirst"/> has in the first page.</summary>
    private ulong _windowBit;

    /// <summary>Where the buffer lies in the caller's memory, and how much of it is used.</summary>
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
        _last = iova + (byteLength - 1);
        _shift = BitOperations.TrailingZeroCount(pageSize);
        _bitmapBytes = ((byteLength - 1) >> _shift) / 8 + 1;
    }

    public void OnDirtyLeaf(ulong iova, ulong byteLength)
    {
        unchecked
        {
            while (true)
            {
                ulong last = iova + (byteLength - 1);
                bool isPinned = _windowPages != 0 && iova >= _windowFirst && last <= _windowLast;
                if (!isPinned && !TryPin(iova))
                    return;
                ulong bit = ((iova - _windowFirst) >> _shift) + _windowBit;
                ulong lastBit = ((last - _windowFirst) >> _shift) + _windowBit;
                ulong end = _windowPages * BitsPerPage;
                Set(bit, Math.Min(lastBit, end - 1));
                if (lastBit < end)
                    return;
                ulong left = (lastBit - end + 1) << _shift;
                iova += byteLength - left;
                byteLength = left;
            }
        }
    }

    /// <summary>Writes what was gathered. Call once more at the end.</summary>
    public void Flush()
    {
        if (_used == 0)
            return;
        Span<byte> bits = _buffer[.._used];
        ulong to = _start;
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

    /// <summary>Pins from the byte of an address on. False: beyond the bitmap, or not the caller's memory.</summary>
    private bool TryPin(ulong iova)
    {
        unchecked
        {
            ulong at = ((iova - _base) >> _shift) / 8;
            if (at >= _bitmapBytes)
                return false;
            ulong address = _address + at;
            ulong inPage = address % GuestPage.Size;
            ulong wanted = (_bitmapBytes - at + (GuestPage.Size - 1)) / GuestPage.Size + (inPage == 0 ? 0UL : 1UL);
            _windowAddress = address - inPage;
            _windowPages = _user.CountPinnablePages(
                _windowAddress, Math.Min(wanted, PagesOfWindow), write: true);
            if (_windowPages == 0)
                return false;
            _windowBit = inPage * 8;
            ulong bytes = Math.Min(_bitmapBytes - at, _windowPages * GuestPage.Size - inPage);
            _windowFirst = _base + ((at * 8) << _shift);
            _windowLast = _windowFirst + ((bytes * 8) << _shift) - 1;
            if (_windowLast < _windowFirst || _windowLast > _last)
                _windowLast = _last;
            return true;
        }
    }

    private void Set(ulong bit, ulong lastBit)
    {
        while (bit <= lastBit)
        {
            ulong at = unchecked(_windowAddress + bit / 8);
            if (_used == 0 || at < _start || at - _start >= BufferBytes)
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
}
