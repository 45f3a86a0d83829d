using System.Numerics;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A dirty bitmap in the caller's memory. Bit k of it (bit k%8 of byte k/8) stands for the page at first + k*pageSize.
/// Bits are only ever added; bytes without a bit to add are not touched. Bits are gathered in a window and written by
/// <see cref="Flush"/>.
/// </summary>
/// <param name="first">The request's first IOVA.</param>
/// <param name="last">The request's last IOVA, included; nothing after it is reported.</param>
internal sealed class UserBitmap(IVfioHost kernel, ulong address, ulong first, ulong last, ulong pageSize)
{
    private const int WindowBytes = 4096;

    private readonly int _shift = BitOperations.TrailingZeroCount(pageSize);
    private readonly byte[] _window = new byte[WindowBytes];
    private readonly byte[] _present = new byte[WindowBytes];
    private ulong _windowStart;
    private int _low = WindowBytes;
    private int _high = -1;

    public ulong First => first;

    public ulong Last => last;

    /// <summary>Adds the pages that overlap a range of IOVAs, which overlaps the request. False: EFAULT.</summary>
    public bool TrySet(ulong rangeFirst, ulong rangeLast)
    {
        ulong bit = (Math.Max(rangeFirst, first) - first) >> _shift;
        ulong lastBit = (Math.Min(rangeLast, last) - first) >> _shift;
        while (true)
        {
            ulong start = bit / 8 / WindowBytes * WindowBytes;
            if (start != _windowStart && !Flush())
                return false;
            _windowStart = start;
            ulong end = Math.Min(lastBit, ((start + WindowBytes) * 8) - 1);
            for (; bit <= end; bit++)
            {
                int index = (int)((bit / 8) - start);
                _window[index] |= (byte)(1 << (int)(bit & 7));
                _low = Math.Min(_low, index);
                _high = Math.Max(_high, index);
            }

            if (bit > lastBit)
                return true;
        }
    }

    /// <summary>
    /// Writes the gathered bits. False: the memory is not the caller's to read and write; they stay gathered.
    /// </summary>
    public bool Flush()
    {
        if (_high < 0)
            return true;
        ulong target = unchecked(address + _windowStart + (ulong)_low);
        Span<byte> added = _window.AsSpan(_low, _high - _low + 1);
        Span<byte> present = _present.AsSpan(0, added.Length);
        if (!kernel.TryReadUser(target, present))
            return false;
        for (int index = 0; index < added.Length; index++)
            present[index] |= added[index];
        if (!kernel.TryWriteUser(target, present))
            return false;
        Discard();
        return true;
    }

    /// <summary>Forgets the gathered bits.</summary>
    public void Discard()
    {
        if (_high < 0)
            return;
        _window.AsSpan(_low, _high - _low + 1).Clear();
        (_low, _high) = (WindowBytes, -1);
    }
}
