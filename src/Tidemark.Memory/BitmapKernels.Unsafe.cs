using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Tidemark.Memory;

public static partial class BitmapKernels
{
    /// <summary>Words in one turn of the wide loops: four vectors of 512 bits.</summary>
    private const int Turn = 32;

    /// <summary>Words that are counted together: eight vectors.</summary>
    private const int Group = 64;

    /// <summary>Tests run both forms of the count.</summary>
    internal static bool SupportsCount512 => Avx512BW.IsSupported && Vector512.IsHardwareAccelerated;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void OrWide(Span<ulong> target, ReadOnlySpan<ulong> source)
    {
        unchecked
        {
            // SAFETY: both are pinned and of equal length; no turn begins after `length - Turn`, and the rest goes word
            // by word.
            fixed (ulong* to = target)
            fixed (ulong* from = source)
            {
                nint length = target.Length;
                nint at = 0;
                for (; at <= length - Turn; at += Turn)
                {
                    ulong* s = from + at;
                    Vector512<ulong> a = Vector512.Load(s);
                    Vector512<ulong> b = Vector512.Load(s + 8);
                    Vector512<ulong> c = Vector512.Load(s + 16);
                    Vector512<ulong> d = Vector512.Load(s + 24);
                    if ((a | b | (c | d)) == Vector512<ulong>.Zero)
                        continue;
                    ulong* t = to + at;
                    (Vector512.Load(t) | a).Store(t);
                    (Vector512.Load(t + 8) | b).Store(t + 8);
                    (Vector512.Load(t + 16) | c).Store(t + 16);
                    (Vector512.Load(t + 24) | d).Store(t + 24);
                }

                for (; at < length; at++)
                    to[at] |= from[at];
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static unsafe ulong MoveScalar(Span<ulong> target, Span<ulong> source)
    {
        unchecked
        {
            ulong moved = 0;
            // SAFETY: both are pinned and of equal length.
            fixed (ulong* to = target)
            fixed (ulong* from = source)
            {
                nint length = target.Length;
                for (nint at = 0; at < length; at++)
                {
                    ulong added = from[at];
                    if (added == 0)
                        continue;
                    moved += (ulong)BitOperations.PopCount(added);
                    to[at] |= added;
                    from[at] = 0;
                }
            }

            return moved;
        }
    }

    /// <summary>Counts as <see cref="CountSet512"/> does, while the words are at hand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static unsafe ulong Move512(Span<ulong> target, Span<ulong> source)
    {
        unchecked
        {
            Vector512<ulong> ones = default, twos = default, fours = default, total = default;
            nint length = target.Length;
            nint at = 0;
            // SAFETY: both are pinned and of equal length; no group begins after `length - Group`.
            fixed (ulong* to = target)
            fixed (ulong* from = source)
            {
                for (; at <= length - Group; at += Group)
                {
                    ulong* s = from + at;
                    if (IsZeroTurn(s) && IsZeroTurn(s + Turn))
                        continue;
                    ulong* t = to + at;
                    Vector512<ulong> twosA = Carry(ref ones, Move(t, s), Move(t + 8, s + 8));
                    Vector512<ulong> twosB = Carry(ref ones, Move(t + 16, s + 16), Move(t + 24, s + 24));
                    Vector512<ulong> foursA = Carry(ref twos, twosA, twosB);
                    twosA = Carry(ref ones, Move(t + 32, s + 32), Move(t + 40, s + 40));
                    twosB = Carry(ref ones, Move(t + 48, s + 48), Move(t + 56, s + 56));
                    Vector512<ulong> foursB = Carry(ref twos, twosA, twosB);
                    total += CountLanes(Carry(ref fours, foursA, foursB));
                }
            }

            total = (total << 3) + (CountLanes(fours) << 2) + (CountLanes(twos) << 1) + CountLanes(ones);
            return Vector512.Sum(total) + MoveScalar(target[(int)at..], source[(int)at..]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector512<ulong> Move(ulong* to, ulong* from)
    {
        // SAFETY: the caller has a whole vector on both sides.
        Vector512<ulong> added = Vector512.Load(from);
        (Vector512.Load(to) | added).Store(to);
        Vector512<ulong>.Zero.Store(from);
        return added;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void ClearWide(Span<ulong> words)
    {
        unchecked
        {
            // SAFETY: as in OrWide.
            fixed (ulong* start = words)
            {
                nint length = words.Length;
                nint at = 0;
                for (; at <= length - Turn; at += Turn)
                {
                    if (!IsZeroTurn(start + at))
                        new Span<ulong>(start + at, Turn).Clear();
                }

                for (; at < length; at++)
                    start[at] = 0;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static unsafe ulong CountSetScalar(ReadOnlySpan<ulong> words)
    {
        unchecked
        {
            // SAFETY: pinned; four words at a time while four are left.
            fixed (ulong* start = words)
            {
                ulong a = 0, b = 0, c = 0, d = 0;
                nint length = words.Length;
                nint at = 0;
                for (; at <= length - 4; at += 4)
                {
                    a += (ulong)BitOperations.PopCount(start[at]);
                    b += (ulong)BitOperations.PopCount(start[at + 1]);
                    c += (ulong)BitOperations.PopCount(start[at + 2]);
                    d += (ulong)BitOperations.PopCount(start[at + 3]);
                }

                for (; at < length; at++)
                    a += (ulong)BitOperations.PopCount(start[at]);
                return a + b + c + d;
            }
        }
    }

    /// <summary>
    /// Carry-save addition over vectors: eight vectors are added up bit by bit, to one count of eights and what is
    /// left, so that one vector in eight is counted. .NET has no vector popcount of its own.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static unsafe ulong CountSet512(ReadOnlySpan<ulong> words)
    {
        unchecked
        {
            Vector512<ulong> ones = default, twos = default, fours = default, total = default;
            nint length = words.Length;
            nint at = 0;
            // SAFETY: pinned; no group begins after `length - Group`.
            fixed (ulong* start = words)
            {
                for (; at <= length - Group; at += Group)
                {
                    ulong* p = start + at;
                    Vector512<ulong> twosA = Carry(ref ones, Vector512.Load(p), Vector512.Load(p + 8));
                    Vector512<ulong> twosB = Carry(ref ones, Vector512.Load(p + 16), Vector512.Load(p + 24));
                    Vector512<ulong> foursA = Carry(ref twos, twosA, twosB);
                    twosA = Carry(ref ones, Vector512.Load(p + 32), Vector512.Load(p + 40));
                    twosB = Carry(ref ones, Vector512.Load(p + 48), Vector512.Load(p + 56));
                    Vector512<ulong> foursB = Carry(ref twos, twosA, twosB);
                    total += CountLanes(Carry(ref fours, foursA, foursB));
                }
            }

            total = (total << 3) + (CountLanes(fours) << 2) + (CountLanes(twos) << 1) + CountLanes(ones);
            return Vector512.Sum(total) + CountSetScalar(words[(int)at..]);
        }
    }

    /// <summary>Adds three bits in each place: the sum stays in the first, the carry is returned.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<ulong> Carry(ref Vector512<ulong> sum, Vector512<ulong> b, Vector512<ulong> c)
    {
        const byte Majority = 0xe8;
        const byte Parity = 0x96;
        Vector512<ulong> carry = Avx512F.TernaryLogic(sum, b, c, Majority);
        sum = Avx512F.TernaryLogic(sum, b, c, Parity);
        return carry;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<ulong> CountLanes(Vector512<ulong> bits)
    {
        // The counts of the 16 values of four bits, in each 128 bits.
        Vector128<byte> quarter = Vector128.Create((byte)0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
        Vector512<byte> counts = Vector512.Create(Vector256.Create(quarter, quarter), Vector256.Create(quarter, quarter));
        var four = Vector512.Create((byte)0xf);
        Vector512<byte> low = Avx512BW.Shuffle(counts, bits.AsByte() & four);
        Vector512<byte> high = Avx512BW.Shuffle(counts, (bits >>> 4).AsByte() & four);
        return Avx512BW.SumAbsoluteDifferences(low + high, Vector512<byte>.Zero).AsUInt64();
    }

    /// <summary>The first word at or after an index that is not 0, or the length.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe int SkipZeros(ReadOnlySpan<ulong> words, int index)
    {
        // SAFETY: pinned; see the overload.
        fixed (ulong* start = words)
            return (int)SkipZeros(start, index, words.Length);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe nint SkipZeros(ulong* words, nint index, nint length)
    {
        unchecked
        {
            // SAFETY: reads words[index..length] only. Where much is dirty, the next dirty word is near; where nothing
            // is, four vectors a turn read at memory bandwidth.
            for (nint near = Math.Min(index + 4, length); index < near; index++)
            {
                if (words[index] != 0)
                    return index;
            }

            while (index <= length - Turn && IsZeroTurn(words + index))
                index += Turn;
            for (; index <= length - 8; index += 8)
            {
                ulong clean = Vector512.Equals(Vector512.Load(words + index), Vector512<ulong>.Zero)
                    .ExtractMostSignificantBits();
                if (clean != 0xff)
                    return index + BitOperations.TrailingZeroCount(~clean);
            }

            while (index < length && words[index] == 0)
                index++;
            return index;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe bool IsZeroTurn(ulong* words)
    {
        // SAFETY: the caller has a whole turn. On a machine with narrower vectors the type is two of them.
        Vector512<ulong> any = Vector512.Load(words) | Vector512.Load(words + 8)
            | (Vector512.Load(words + 16) | Vector512.Load(words + 24));
        return any == Vector512<ulong>.Zero;
    }

    /// <summary>
    /// A run is two edges: the bits of <c>word ^ (word shifted up by one)</c> are, in turn, where a run begins and the
    /// page after its end. So no bit of the map is looked at to decide anything, only edges are collected.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe int ListRunsWide(
        ReadOnlySpan<ulong> words, ulong pageCount, ref ulong fromPage, Span<PageRun> into)
    {
        unchecked
        {
            // SAFETY: both spans are pinned. A run is two words, so `edges` has `capacity` of them; a word has 64 edges
            // at most, which are written blindly only while 64 fit; otherwise one by one up to `capacity`. Of the
            // bitmap, words below `length` are read, which the caller has checked to exist.
            fixed (ulong* map = words)
            fixed (PageRun* runs = into)
            {
                ulong* edges = (ulong*)runs;
                nint capacity = 2 * (nint)into.Length;
                nint length = (nint)((pageCount + 63) >> 6);
                ulong lastMask = ulong.MaxValue >> (int)((64 - (pageCount & 63)) & 63);
                nint index = (nint)(fromPage >> 6);
                ulong mask = ulong.MaxValue << (int)(fromPage & 63);
                ulong carry = 0;
                nint count = 0;
                ulong* eightEdges = stackalloc ulong[8];
                for (; index < length; index++, mask = ulong.MaxValue)
                {
                    // Eight words at a time, if there is room for all they can hold. The word before is there, and the
                    // last one, which may have to be cut, is not among them.
                    while (index > (nint)(fromPage >> 6) && index < length - 8 && count <= capacity - 8 * 64)
                    {
                        Vector512<ulong> eight = Vector512.Load(map + index);
                        Vector512<ulong> found = eight ^ (eight << 1 | Vector512.Load(map + index - 1) >>> 63);
                        ulong without = Vector512.Equals(found, Vector512<ulong>.Zero).ExtractMostSignificantBits();
                        carry = map[index + 7] >> 63;
                        if (without == 0xff)
                        {
                            index += 8;
                            if (carry == 0 && index <= length - Turn && IsZeroTurn(map + index))
                                index = Math.Min(SkipZeros(map, index + Turn, length), length - 1);
                            continue;
                        }

                        found.Store(eightEdges);
                        for (uint with = ~(uint)without & 0xff; with != 0; with &= with - 1)
                        {
                            nint which = BitOperations.TrailingZeroCount(with);
                            count += WriteEdges(edges + count, (ulong)(index + which) << 6, eightEdges[which]);
                        }

                        index += 8;
                    }

                    ulong word = map[index] & mask;
                    if (index == length - 1)
                        word &= lastMask;
                    ulong left = word ^ (word << 1 | carry);
                    carry = word >> 63;
                    if (left == 0)
                    {
                        if (word == 0)
                            index = SkipZeros(map, index + 1, length) - 1;
                        continue;
                    }

                    ulong page = (ulong)index << 6;
                    if (count > capacity - 64)
                    {
                        for (; left != 0 && count < capacity; left &= left - 1)
                            edges[count++] = page + (ulong)BitOperations.TrailingZeroCount(left);
                        // The last edge that fits is an end, never a beginning: the capacity is even.
                        if (count == capacity)
                            break;
                        continue;
                    }

                    count += WriteEdges(edges + count, page, left);
                }

                if ((count & 1) != 0)
                    edges[count++] = pageCount;
                fromPage = count == capacity ? edges[count - 1] : pageCount;
                for (nint run = 0; run < count; run += 2)
                    edges[run + 1] -= edges[run];
                return (int)(count >> 1);
            }
        }
    }

    /// <summary>
    /// Writes the places of set bits, in order. Several at a time whether they are there or not, because a count that
    /// can not be guessed is dear: there is room for 64.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe nint WriteEdges(ulong* edges, ulong page, ulong bits)
    {
        unchecked
        {
            // SAFETY: at most 64 words are written, in whole fours.
            nint found = BitOperations.PopCount(bits);
            bits = WriteFour(edges, page, bits);
            if (found > 4)
            {
                bits = WriteFour(edges + 4, page, bits);
                bits = WriteFour(edges + 8, page, bits);
                bits = WriteFour(edges + 12, page, bits);
                for (nint at = 16; at < found; at += 4)
                    bits = WriteFour(edges + at, page, bits);
            }

            return found;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe ulong WriteFour(ulong* edges, ulong page, ulong bits)
    {
        unchecked
        {
            // SAFETY: see WriteEdges.
            edges[0] = page + (ulong)BitOperations.TrailingZeroCount(bits);
            bits &= bits - 1;
            edges[1] = page + (ulong)BitOperations.TrailingZeroCount(bits);
            bits &= bits - 1;
            edges[2] = page + (ulong)BitOperations.TrailingZeroCount(bits);
            bits &= bits - 1;
            edges[3] = page + (ulong)BitOperations.TrailingZeroCount(bits);
            return bits & (bits - 1);
        }
    }
}
