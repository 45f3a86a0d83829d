using System.Numerics;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A range of IOVAs under log: one bit for each device page, rounded outwards to whole pages. Marked by the device's
/// thread while a report takes bits, hence only with interlocked operations.
/// </summary>
internal sealed class LoggedRange
{
    /// <summary>Words whose bits are taken before they are known to have reached the caller.</summary>
    private const int ChunkWords = 512;

    private readonly int _shift;
    private readonly ulong _pageCount;
    private readonly ulong[] _words;

    /// <param name="byteLength">Above 0; the range ends below 2^64.</param>
    public LoggedRange(ulong iova, ulong byteLength, ulong pageSize)
    {
        _shift = BitOperations.TrailingZeroCount(pageSize);
        ulong firstPage = iova >> _shift;
        ulong lastPage = (iova + (byteLength - 1)) >> _shift;
        _pageCount = lastPage - firstPage + 1;
        First = firstPage << _shift;
        Last = (lastPage << _shift) | (pageSize - 1);
        _words = new ulong[(_pageCount + 63) / 64];
    }

    public ulong First { get; }

    /// <summary>The last address, included.</summary>
    public ulong Last { get; }

    /// <summary>Marks the pages of a write that overlaps the range.</summary>
    public void Mark(ulong first, ulong last)
    {
        ulong firstPage = (Math.Max(first, First) - First) >> _shift;
        ulong lastPage = (Math.Min(last, Last) - First) >> _shift;
        for (ulong word = firstPage >> 6; word <= lastPage >> 6; word++)
            Interlocked.Or(ref _words[word], WordMask(word, firstPage, lastPage));
    }

    /// <summary>
    /// Moves the bits of the request to the caller. False: the caller's bitmap can not be written; those bits are kept.
    /// </summary>
    public bool Report(UserBitmap bitmap)
    {
        if (bitmap.Last < First || bitmap.First > Last)
            return true;
        ulong firstPage = (Math.Max(bitmap.First, First) - First) >> _shift;
        ulong lastPage = (Math.Min(bitmap.Last, Last) - First) >> _shift;
        var taken = new ulong[ChunkWords];
        for (ulong word = firstPage >> 6; word <= lastPage >> 6; word += ChunkWords)
        {
            int count = (int)Math.Min(ChunkWords, (lastPage >> 6) - word + 1);
            bool delivered = true;
            for (int index = 0; index < count; index++)
            {
                taken[index] = Take(bitmap, word + (ulong)index, firstPage, lastPage);
                if (taken[index] != 0)
                    delivered = delivered && Deliver(bitmap, word + (ulong)index, taken[index]);
            }

            if (delivered && bitmap.Flush())
                continue;
            bitmap.Discard();
            for (int index = 0; index < count; index++)
                Interlocked.Or(ref _words[word + (ulong)index], taken[index]);
            return false;
        }

        return true;
    }

    private static ulong WordMask(ulong word, ulong firstPage, ulong lastPage)
    {
        ulong mask = ulong.MaxValue;
        if (word == firstPage >> 6)
            mask &= ulong.MaxValue << (int)(firstPage & 63);
        if (word == lastPage >> 6)
            mask &= ulong.MaxValue >> (63 - (int)(lastPage & 63));
        return mask;
    }

    /// <summary>The bits of one word that the request covers; cleared where it covers the page whole.</summary>
    private ulong Take(UserBitmap bitmap, ulong word, ulong firstPage, ulong lastPage)
    {
        ulong mask = WordMask(word, firstPage, lastPage);
        if ((Volatile.Read(ref _words[word]) & mask) == 0)
            return 0;
        ulong cleared = mask;
        if (bitmap.First > PageStart(firstPage) && word == firstPage >> 6)
            cleared &= ~(1UL << (int)(firstPage & 63));
        if (bitmap.Last < PageLast(lastPage) && word == lastPage >> 6)
            cleared &= ~(1UL << (int)(lastPage & 63));
        return Interlocked.And(ref _words[word], ~cleared) & mask;
    }

    private bool Deliver(UserBitmap bitmap, ulong word, ulong bits)
    {
        while (bits != 0)
        {
            int first = BitOperations.TrailingZeroCount(bits);
            int count = BitOperations.TrailingZeroCount(~(bits >> first));
            ulong page = (word << 6) + (ulong)first;
            if (!bitmap.TrySet(PageStart(page), PageLast(page + (ulong)(count - 1))))
                return false;
            if (first + count >= 64)
                break;
            bits &= ulong.MaxValue << (first + count);
        }

        return true;
    }

    private ulong PageStart(ulong page) => First + (page << _shift);

    private ulong PageLast(ulong page) => First + (page << _shift) + ((1UL << _shift) - 1);
}
