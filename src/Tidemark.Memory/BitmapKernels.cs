using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Tidemark.Memory;

/// <summary>
/// The loops over bitmap words, at memory bandwidth, nothing allocated. Lengths of both operands are equal. The wide
/// forms are in BitmapKernels.Unsafe.cs.
/// </summary>
/// <remarks>
/// What is empty is only read: memory of which most is clean costs one read, and no line of it is written back.
/// </remarks>
public static partial class BitmapKernels
{
    /// <summary>Adds every bit of the source to the target.</summary>
    public static void Or(Span<ulong> target, ReadOnlySpan<ulong> source)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(source.Length, target.Length);
        OrWide(target, source);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void And(Span<ulong> target, ReadOnlySpan<ulong> source)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(source.Length, target.Length);
        int index = 0;
        for (; index <= target.Length - Vector256<ulong>.Count; index += Vector256<ulong>.Count)
        {
            Span<ulong> part = target[index..];
            (Vector256.Create<ulong>(part) & Vector256.Create(source[index..])).CopyTo(part);
        }

        for (; index < target.Length; index++)
            target[index] &= source[index];
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void AndNot(Span<ulong> target, ReadOnlySpan<ulong> source)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(source.Length, target.Length);
        int index = 0;
        for (; index <= target.Length - Vector256<ulong>.Count; index += Vector256<ulong>.Count)
        {
            Span<ulong> part = target[index..];
            (Vector256.Create<ulong>(part) & ~Vector256.Create(source[index..])).CopyTo(part);
        }

        for (; index < target.Length; index++)
            target[index] &= ~source[index];
    }

    /// <summary>
    /// Adds every bit of the source to the target and clears the source, in one trip: what a harvest does with its
    /// sources.
    /// </summary>
    /// <returns>How many bits the source had.</returns>
    public static ulong Move(Span<ulong> target, Span<ulong> source)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(source.Length, target.Length);
        return SupportsCount512 ? Move512(target, source) : MoveScalar(target, source);
    }

    /// <summary>Clears every bit; what is clear already is only read.</summary>
    public static void Clear(Span<ulong> words) => ClearWide(words);

    /// <summary>Clears a range of bits, which must be there.</summary>
    public static void ClearRange(Span<ulong> words, ulong firstPage, ulong count)
    {
        if (count == 0)
            return;
        ulong last = checked(firstPage + (count - 1));
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(last, (ulong)words.Length * 64, nameof(count));
        int firstWord = (int)(firstPage >> 6);
        int lastWord = (int)(last >> 6);
        ulong head = ulong.MaxValue << (int)(firstPage & 63);
        ulong tail = ulong.MaxValue >> (63 - (int)(last & 63));
        if (firstWord == lastWord)
        {
            words[firstWord] &= ~(head & tail);
            return;
        }

        words[firstWord] &= ~head;
        words[(firstWord + 1)..lastWord].Clear();
        words[lastWord] &= ~tail;
    }

    public static ulong CountSet(ReadOnlySpan<ulong> words) =>
        SupportsCount512 ? CountSet512(words) : CountSetScalar(words);

    /// <summary>Bits that are set in at least one of the two.</summary>
    public static ulong CountUnion(ReadOnlySpan<ulong> left, ReadOnlySpan<ulong> right)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(right.Length, left.Length);
        ulong count = 0;
        for (int index = 0; index < left.Length; index++)
            count += (ulong)BitOperations.PopCount(left[index] | right[index]);
        return count;
    }

    /// <summary>Index of the first word that is not 0, or -1.</summary>
    public static int IndexOfNonZero(ReadOnlySpan<ulong> words)
    {
        int index = SkipZeros(words, 0);
        return index < words.Length ? index : -1;
    }

    /// <summary>See <see cref="PageBitmap.TryNextRun"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool TryNextRun(
        ReadOnlySpan<ulong> words, ulong pageCount, ulong fromPage, ulong maximumCount, out PageRun run)
    {
        run = default;
        if (fromPage >= pageCount)
            return false;
        int index = (int)(fromPage >> 6);
        ulong word = words[index] & (ulong.MaxValue << (int)(fromPage & 63));
        if (word == 0)
        {
            index = SkipZeros(words, index + 1);
            if (index == words.Length)
                return false;
            word = words[index];
        }

        int bit = BitOperations.TrailingZeroCount(word);
        ulong first = ((ulong)index << 6) + (ulong)bit;
        ulong count = (ulong)BitOperations.TrailingZeroCount(~(word >> bit));
        if (count > (ulong)(64 - bit))
            count = (ulong)(64 - bit);
        if (bit + (int)count == 64)
        {
            while (++index < words.Length && count < maximumCount)
            {
                int ones = BitOperations.TrailingZeroCount(~words[index]);
                count += (ulong)ones;
                if (ones < 64)
                    break;
            }
        }

        run = new PageRun(first, Math.Min(count, maximumCount));
        return true;
    }

    /// <summary>
    /// Lists the next runs at or after a page, in order: <see cref="TryNextRun"/> many times over, at a fraction of its
    /// cost where runs are short.
    /// </summary>
    /// <param name="words">Reach at least to <paramref name="pageCount"/>.</param>
    /// <param name="pageCount">Bits from here on do not count; a run ends here at the latest.</param>
    /// <param name="fromPage">
    /// Where to begin. Becomes the page after the last run listed; or <paramref name="pageCount"/> when there is none
    /// behind it.
    /// </param>
    /// <param name="into">Filled from its beginning.</param>
    /// <returns>How many runs were listed; fewer than <paramref name="into"/> holds: no more are left.</returns>
    public static int ListRuns(ReadOnlySpan<ulong> words, ulong pageCount, ref ulong fromPage, Span<PageRun> into)
    {
        if (fromPage >= pageCount || into.IsEmpty)
            return 0;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pageCount, (ulong)words.Length * 64, nameof(pageCount));
        return ListRunsWide(words, pageCount, ref fromPage, into);
    }
}
