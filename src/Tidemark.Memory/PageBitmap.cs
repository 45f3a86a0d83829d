using System.Numerics;

namespace Tidemark.Memory;

/// <summary>
/// One bit for each guest page. Bit k of the set is bit k%64 of word k/64, as the kernel lays bitmaps out on x86-64.
/// Invariant: bits at and above <see cref="PageCount"/> are 0. Not safe for concurrent use.
/// </summary>
public sealed class PageBitmap
{
    private readonly ulong[] _words;

    public PageBitmap(ulong pageCount)
    {
        PageCount = pageCount;
        _words = new ulong[checked((int)((pageCount + 63) / 64))];
    }

    /// <summary>Number of pages the bitmap covers.</summary>
    public ulong PageCount { get; }

    /// <summary>The bits, 64 pages a word.</summary>
    public ReadOnlySpan<ulong> Words => _words;

    public bool this[ulong page] => page < PageCount && (_words[page >> 6] >> (int)(page & 63) & 1) != 0;

    public void Set(ulong page)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(page, PageCount);
        _words[page >> 6] |= 1UL << (int)(page & 63);
    }

    public void SetRange(ulong firstPage, ulong count)
    {
        if (count == 0)
            return;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(firstPage, PageCount);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, PageCount - firstPage);
        ulong last = firstPage + count - 1;
        int firstWord = (int)(firstPage >> 6);
        int lastWord = (int)(last >> 6);
        ulong head = ulong.MaxValue << (int)(firstPage & 63);
        ulong tail = ulong.MaxValue >> (63 - (int)(last & 63));
        if (firstWord == lastWord)
        {
            _words[firstWord] |= head & tail;
            return;
        }

        _words[firstWord] |= head;
        _words.AsSpan(firstWord + 1, lastWord - firstWord - 1).Fill(ulong.MaxValue);
        _words[lastWord] |= tail;
    }

    public void Clear() => Array.Clear(_words);

    /// <summary>Adds every page of <paramref name="other"/>, which must have the same length.</summary>
    public void Or(PageBitmap other)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        BitmapKernels.Or(_words, other._words);
    }

    /// <summary>Keeps only pages of <paramref name="other"/>, which must have the same length.</summary>
    public void And(PageBitmap other)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        BitmapKernels.And(_words, other._words);
    }

    /// <summary>Takes every page of <paramref name="other"/> out, which must have the same length.</summary>
    public void AndNot(PageBitmap other)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        BitmapKernels.AndNot(_words, other._words);
    }

    /// <summary>
    /// Adds bits that the kernel reported relative to <paramref name="firstPage"/>. Bits past <see cref="PageCount"/>
    /// must be 0; words of such bits may be there.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">A bit lies past the end; the bits before it have been
    /// added.</exception>
    public void OrAt(ulong firstPage, ReadOnlySpan<ulong> bits)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(firstPage, PageCount);
        int shift = (int)(firstPage & 63);
        int word = (int)(firstPage >> 6);
        int within = Math.Min(bits.Length, _words.Length - word);
        if (shift == 0)
            BitmapKernels.Or(_words.AsSpan(word, within), bits[..within]);
        else
            OrShifted(word, shift, bits[..within]);
        bool overrun = BitmapKernels.IndexOfNonZero(bits[within..]) >= 0;
        int tail = (int)(PageCount & 63);
        if (tail != 0)
        {
            overrun |= _words[^1] >> tail != 0;
            _words[^1] &= ulong.MaxValue >> (64 - tail);
        }

        if (overrun)
            throw new ArgumentOutOfRangeException(nameof(bits), $"Bits lie past page 0x{PageCount:x}.");
    }

    private void OrShifted(int word, int shift, ReadOnlySpan<ulong> bits)
    {
        for (int index = 0; index < bits.Length; index++)
        {
            ulong value = bits[index];
            if (value == 0)
                continue;
            _words[word + index] |= value << shift;
            ulong carry = value >> (64 - shift);
            if (carry == 0)
                continue;
            if (word + index + 1 == _words.Length)
                throw new ArgumentOutOfRangeException(nameof(bits), $"Bits lie past page 0x{PageCount:x}.");
            _words[word + index + 1] |= carry;
        }
    }

    public ulong CountSet() => BitmapKernels.CountSet(_words);

    /// <summary>Set pages in each of <paramref name="bucketCount"/> equal parts of the page range.</summary>
    public uint[] CountByBucket(int bucketCount)
    {
        var buckets = new uint[bucketCount];
        if (_words.Length == 0)
            return buckets;
        for (int index = 0; index < _words.Length; index++)
        {
            if (_words[index] == 0)
                continue;
            int bucket = (int)((long)index * bucketCount / _words.Length);
            buckets[bucket] += (uint)BitOperations.PopCount(_words[index]);
        }

        return buckets;
    }

    /// <summary>
    /// Finds the next run of dirty pages at or after <paramref name="fromPage"/>.
    /// </summary>
    /// <param name="maximumCount">The run is cut at this length.</param>
    /// <returns>False when no page is set at or after <paramref name="fromPage"/>.</returns>
    public bool TryNextRun(ulong fromPage, ulong maximumCount, out PageRun run) =>
        BitmapKernels.TryNextRun(_words, PageCount, fromPage, maximumCount, out run);

    /// <summary>Planted fault <c>forget-last-word</c>: loses the bits of the last word.</summary>
    internal void ForgetLastWord()
    {
        if (_words.Length > 0)
            _words[^1] = 0;
    }
}

/// <summary>Consecutive guest pages.</summary>
public readonly record struct PageRun(ulong FirstPage, ulong Count);
