using System.Numerics;

namespace Tidemark.Memory;

/// <summary>
/// One bit for each guest page. Bit k of the set is bit k%64 of word k/64, as the kernel lays bitmaps out on x86-64.
/// Invariant: bits at and above <see cref="PageCount"/> are 0. Not safe for concurrent use.
/// </summary>
/// <remarks>
/// The bitmap of a <see cref="DirtyLease"/> is lent: when the lease has ended its bits belong to another harvest, and
/// every use of it but <see cref="PageCount"/> is an <see cref="InvariantException"/>.
/// </remarks>
public sealed class PageBitmap
{
    private ulong[]? _lent;

    public PageBitmap(ulong pageCount)
        : this(pageCount, new ulong[WordsFor(pageCount)])
    {
    }

    internal PageBitmap(ulong pageCount, ulong[] words)
    {
        PageCount = pageCount;
        _lent = words;
    }

    /// <summary>Number of pages the bitmap covers.</summary>
    public ulong PageCount { get; }

    /// <summary>The bits, 64 pages a word.</summary>
    public ReadOnlySpan<ulong> Words => Live;

    internal Span<ulong> Bits => Live;

    private ulong[] Live
    {
        get
        {
            ulong[]? words = _lent;
            Invariant.Require(words is not null, "The bitmap of a dirty lease was used after the lease had ended.");
            return words;
        }
    }

    public bool this[ulong page] => page < PageCount && (Live[page >> 6] >> (int)(page & 63) & 1) != 0;

    public void Set(ulong page)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(page, PageCount);
        Live[page >> 6] |= 1UL << (int)(page & 63);
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
            Live[firstWord] |= head & tail;
            return;
        }

        Live[firstWord] |= head;
        Live.AsSpan(firstWord + 1, lastWord - firstWord - 1).Fill(ulong.MaxValue);
        Live[lastWord] |= tail;
    }

    public void Clear() => Array.Clear(Live);

    public void ClearRange(ulong firstPage, ulong count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(firstPage, PageCount);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, PageCount - firstPage);
        BitmapKernels.ClearRange(Live, firstPage, count);
    }

    /// <summary>Adds every page of <paramref name="other"/>, which must have the same length.</summary>
    public void Or(PageBitmap other)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        BitmapKernels.Or(Live, other.Live);
    }

    internal void Or(ReadOnlySpan<ulong> words) => BitmapKernels.Or(Live, words);

    /// <summary>Keeps only pages of <paramref name="other"/>, which must have the same length.</summary>
    public void And(PageBitmap other)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        BitmapKernels.And(Live, other.Live);
    }

    /// <summary>Takes every page of <paramref name="other"/> out, which must have the same length.</summary>
    /// <param name="fromPage">Pages before this one stay; it begins a word of 64 pages.</param>
    public void AndNot(PageBitmap other, ulong fromPage = 0)
    {
        ArgumentNullException.ThrowIfNull(other);
        ArgumentOutOfRangeException.ThrowIfNotEqual(other.PageCount, PageCount);
        ArgumentOutOfRangeException.ThrowIfNotEqual(fromPage & 63, 0UL);
        int word = (int)Math.Min(fromPage >> 6, (ulong)Live.Length);
        BitmapKernels.AndNot(Live.AsSpan(word), other.Live.AsSpan(word));
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
        int within = Math.Min(bits.Length, Live.Length - word);
        if (shift == 0)
            BitmapKernels.Or(Live.AsSpan(word, within), bits[..within]);
        else
            OrShifted(word, shift, bits[..within]);
        bool overrun = BitmapKernels.IndexOfNonZero(bits[within..]) >= 0;
        int tail = (int)(PageCount & 63);
        if (tail != 0)
        {
            overrun |= Live[^1] >> tail != 0;
            Live[^1] &= ulong.MaxValue >> (64 - tail);
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
            Live[word + index] |= value << shift;
            ulong carry = value >> (64 - shift);
            if (carry == 0)
                continue;
            if (word + index + 1 == Live.Length)
                throw new ArgumentOutOfRangeException(nameof(bits), $"Bits lie past page 0x{PageCount:x}.");
            Live[word + index + 1] |= carry;
        }
    }

    public ulong CountSet() => BitmapKernels.CountSet(Live);

    /// <summary>Set pages in each of <paramref name="bucketCount"/> equal parts of the page range.</summary>
    public uint[] CountByBucket(int bucketCount)
    {
        var buckets = new uint[bucketCount];
        if (Live.Length == 0)
            return buckets;
        for (int index = 0; index < Live.Length; index++)
        {
            if (Live[index] == 0)
                continue;
            int bucket = (int)((long)index * bucketCount / Live.Length);
            buckets[bucket] += (uint)BitOperations.PopCount(Live[index]);
        }

        return buckets;
    }

    /// <summary>
    /// Finds the next run of dirty pages at or after <paramref name="fromPage"/>.
    /// </summary>
    /// <param name="maximumCount">The run is cut at this length.</param>
    /// <returns>False when no page is set at or after <paramref name="fromPage"/>.</returns>
    public bool TryNextRun(ulong fromPage, ulong maximumCount, out PageRun run) =>
        BitmapKernels.TryNextRun(Live, PageCount, fromPage, maximumCount, out run);

    /// <summary>
    /// Lists the next runs at or after <paramref name="fromPage"/> and moves it behind them; see
    /// <see cref="BitmapKernels.ListRuns"/>.
    /// </summary>
    public int ListRuns(ref ulong fromPage, Span<PageRun> into) =>
        BitmapKernels.ListRuns(Live, PageCount, ref fromPage, into);

    internal static int WordsFor(ulong pageCount) => checked((int)((pageCount + 63) / 64));

    /// <summary>The bits go back to whom they belong to; this object is of no use any more.</summary>
    internal void Detach() => _lent = null;

    /// <summary>Planted fault <c>forget-last-word</c>: loses the bits of the last word.</summary>
    internal void ForgetLastWord()
    {
        if (Live.Length > 0)
            Live[^1] = 0;
    }
}

/// <summary>Consecutive guest pages.</summary>
public readonly record struct PageRun(ulong FirstPage, ulong Count);
