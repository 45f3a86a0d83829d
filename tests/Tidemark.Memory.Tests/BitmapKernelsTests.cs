using System.Numerics;

namespace Tidemark.Memory.Tests;

/// <summary>The loops over words against loops over bits, at every length that a wide form cuts differently.</summary>
public sealed class BitmapKernelsTests
{
    /// <summary>Words: around one vector, one turn of four, and one group of the count.</summary>
    private static readonly int[] Lengths = [0, 1, 3, 4, 5, 7, 8, 9, 31, 32, 33, 40, 63, 64, 65, 71, 96, 127, 128, 129, 200];

    private delegate ulong Mover(Span<ulong> target, Span<ulong> source);

    public static TheoryData<int> Densities => new() { 0, 1, 20, 500, 999, 1000 };

    [Theory]
    [MemberData(nameof(Densities))]
    public void Or_move_count_and_clear_do_what_a_loop_over_words_does(int perThousand)
    {
        var random = new Random(perThousand);
        foreach (int length in Lengths)
        {
            ulong[] target = Scatter(random, length, perThousand);
            ulong[] source = Scatter(random, length, perThousand);
            ulong[] union = [.. target.Zip(source, (left, right) => left | right)];
            ulong count = Count(source);
            Assert.Equal(count, BitmapKernels.CountSet(source));
            Assert.Equal(count, BitmapKernels.CountSetScalar(source));
            if (BitmapKernels.SupportsCount512)
                Assert.Equal(count, BitmapKernels.CountSet512(source));
            Assert.Equal(Count(union), BitmapKernels.CountUnion(target, source));

            ulong[] added = [.. target];
            BitmapKernels.Or(added, source);
            Assert.Equal(union, added);

            foreach (Mover move in BitmapKernels.SupportsCount512
                ? (Mover[])[BitmapKernels.Move, BitmapKernels.MoveScalar, BitmapKernels.Move512]
                : [BitmapKernels.Move, BitmapKernels.MoveScalar])
            {
                ulong[] to = [.. target];
                ulong[] from = [.. source];
                Assert.Equal(count, move(to, from));
                Assert.Equal(union, to);
                Assert.All(from, word => Assert.Equal(0UL, word));
            }

            BitmapKernels.Clear(target);
            Assert.All(target, word => Assert.Equal(0UL, word));
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => BitmapKernels.Or(new ulong[2], new ulong[3]));
        Assert.Throws<ArgumentOutOfRangeException>(() => BitmapKernels.Move(new ulong[2], new ulong[3]));
        Assert.Throws<ArgumentOutOfRangeException>(() => BitmapKernels.CountUnion(new ulong[2], new ulong[3]));
    }

    [Fact]
    public void The_first_word_that_is_not_zero_is_found_wherever_it_is()
    {
        foreach (int length in Lengths)
        {
            ulong[] words = new ulong[length];
            Assert.Equal(-1, BitmapKernels.IndexOfNonZero(words));
            for (int index = length - 1; index >= 0; index--)
            {
                words[index] = 1UL << (index % 64);
                Assert.Equal(index, BitmapKernels.IndexOfNonZero(words));
            }
        }
    }

    [Fact]
    public void Clearing_any_range_clears_exactly_its_pages()
    {
        foreach (ulong length in (ulong[])[64, 128, 256])
        {
            for (ulong first = 0; first <= length; first++)
            {
                for (ulong count = 0; first + count <= length; count++)
                {
                    ulong[] words = new ulong[length / 64];
                    words.AsSpan().Fill(ulong.MaxValue);
                    BitmapKernels.ClearRange(words, first, count);
                    Assert.Equal(length - count, Count(words));
                    if (count > 0)
                        Assert.Equal(first, (ulong)FirstClear(words));
                }
            }

            Assert.Throws<ArgumentOutOfRangeException>(() => BitmapKernels.ClearRange(new ulong[2], 120, 9));
        }
    }

    [Theory]
    [MemberData(nameof(Densities))]
    public void Listed_runs_are_the_runs_one_finds_one_by_one_from_every_start_and_into_every_space(int perThousand)
    {
        var random = new Random(perThousand);
        foreach (int length in Lengths)
        {
            ulong[] words = Scatter(random, length, perThousand);
            // Stretches longer than a word, too.
            for (int stretch = random.Next(3); stretch > 0 && length > 8; stretch--)
                words.AsSpan(random.Next(length - 7), random.Next(1, 8)).Fill(random.Next(2) == 0 ? 0 : ulong.MaxValue);
            foreach (ulong cut in (ulong[])[0, 1, 17, 63])
            {
                ulong pageCount = (ulong)length * 64 - Math.Min(cut, (ulong)length * 64);
                foreach (int space in (int[])[1, 2, 31, 32, 33, 64, 255, 256, 257, 300, 5000])
                {
                    ulong start = pageCount == 0 ? 0 : (ulong)random.NextInt64((long)pageCount + 1);
                    AssertListed(words, pageCount, random.Next(2) == 0 ? 0 : start, space);
                }
            }
        }
    }

    [Fact]
    public void Listing_runs_past_the_words_is_refused_and_no_space_lists_nothing()
    {
        ulong from = 0;
        Assert.Throws<ArgumentOutOfRangeException>(() =>
        {
            ulong page = 0;
            BitmapKernels.ListRuns(new ulong[2], 129, ref page, new PageRun[1]);
        });
        Assert.Equal(0, BitmapKernels.ListRuns([ulong.MaxValue], 64, ref from, []));
        Assert.Equal(0UL, from);
        from = 64;
        Assert.Equal(0, BitmapKernels.ListRuns([ulong.MaxValue], 64, ref from, new PageRun[1]));
    }

    private static void AssertListed(ulong[] words, ulong pageCount, ulong from, int space)
    {
        var expected = new List<PageRun>();
        for (ulong page = from; page < pageCount; page++)
        {
            if ((words[page / 64] >> (int)(page % 64) & 1) == 0)
                continue;
            ulong first = page;
            while (page < pageCount && (words[page / 64] >> (int)(page % 64) & 1) != 0)
                page++;
            expected.Add(new PageRun(first, page - first));
        }

        var found = new List<PageRun>();
        // A border behind the space would show what is written past it.
        var guard = new PageRun(ulong.MaxValue, 12345);
        PageRun[] into = new PageRun[space + 1];
        int listed;
        do
        {
            into[space] = guard;
            listed = BitmapKernels.ListRuns(words, pageCount, ref from, into.AsSpan(0, space));
            Assert.Equal(guard, into[space]);
            found.AddRange(into.AsSpan(0, listed));
            if (listed == space)
                Assert.Equal(into[listed - 1].FirstPage + into[listed - 1].Count, from);
        }
        while (listed == space);

        Assert.Equal(expected, found);
        Assert.True(from >= pageCount);
    }

    private static ulong[] Scatter(Random random, int length, int perThousand)
    {
        ulong[] words = new ulong[length];
        for (int bit = 0; bit < length * 64; bit++)
        {
            if (random.Next(1000) < perThousand)
                words[bit / 64] |= 1UL << (bit % 64);
        }

        return words;
    }

    private static ulong Count(ulong[] words) => words.Aggregate(0UL, (sum, word) => sum + (ulong)BitOperations.PopCount(word));

    private static int FirstClear(ulong[] words)
    {
        int bit = 0;
        while ((words[bit / 64] >> (bit % 64) & 1) != 0)
            bit++;
        return bit;
    }
}
