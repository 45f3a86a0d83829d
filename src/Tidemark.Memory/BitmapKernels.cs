using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Tidemark.Memory;

/// <summary>
/// The loops over bitmap words, at memory bandwidth, nothing allocated. Lengths of both operands are equal.
/// </summary>
public static class BitmapKernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Or(Span<ulong> target, ReadOnlySpan<ulong> source)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(source.Length, target.Length);
        int index = 0;
        if (Vector512.IsHardwareAccelerated)
        {
            for (; index <= target.Length - Vector512<ulong>.Count; index += Vector512<ulong>.Count)
            {
                Span<ulong> part = target[index..];
                (Vector512.Create<ulong>(part) | Vector512.Create(source[index..])).CopyTo(part);
            }
        }

        for (; index <= target.Length - Vector256<ulong>.Count; index += Vector256<ulong>.Count)
        {
            Span<ulong> part = target[index..];
            (Vector256.Create<ulong>(part) | Vector256.Create(source[index..])).CopyTo(part);
        }

        for (; index < target.Length; index++)
            target[index] |= source[index];
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

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static ulong CountSet(ReadOnlySpan<ulong> words)
    {
        ulong a = 0, b = 0, c = 0, d = 0;
        int index = 0;
        for (; index <= words.Length - 4; index += 4)
        {
            ReadOnlySpan<ulong> part = words.Slice(index, 4);
            a += (ulong)BitOperations.PopCount(part[0]);
            b += (ulong)BitOperations.PopCount(part[1]);
            c += (ulong)BitOperations.PopCount(part[2]);
            d += (ulong)BitOperations.PopCount(part[3]);
        }

        for (; index < words.Length; index++)
            a += (ulong)BitOperations.PopCount(words[index]);
        return a + b + c + d;
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
            int skipped = IndexOfNonZero(words[(index + 1)..]);
            if (skipped < 0)
                return false;
            index += 1 + skipped;
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

    /// <summary>Index of the first word that is not 0, or -1.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static int IndexOfNonZero(ReadOnlySpan<ulong> words)
    {
        int index = 0;
        // Four vectors a turn: an idle terabyte is 32 MiB of zeros, read at memory bandwidth.
        if (Vector512.IsHardwareAccelerated)
        {
            const int Turn = 32;
            for (; index <= words.Length - Turn; index += Turn)
            {
                ReadOnlySpan<ulong> part = words.Slice(index, Turn);
                Vector512<ulong> any = Vector512.Create(part) | Vector512.Create(part[8..])
                    | Vector512.Create(part[16..]) | Vector512.Create(part[24..]);
                if (any != Vector512<ulong>.Zero)
                    break;
            }
        }
        else
        {
            const int Turn = 16;
            for (; index <= words.Length - Turn; index += Turn)
            {
                ReadOnlySpan<ulong> part = words.Slice(index, Turn);
                Vector256<ulong> any = Vector256.Create(part) | Vector256.Create(part[4..])
                    | Vector256.Create(part[8..]) | Vector256.Create(part[12..]);
                if (any != Vector256<ulong>.Zero)
                    break;
            }
        }

        for (; index < words.Length; index++)
        {
            if (words[index] != 0)
                return index;
        }

        return -1;
    }
}
