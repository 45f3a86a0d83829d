namespace Tidemark.Memory.Tests;

/// <summary>The bitmap against a set of page numbers, which is too simple to be wrong.</summary>
public sealed class PageBitmapTests
{
    private static readonly ulong[] Lengths = [1, 2, 63, 64, 65, 127, 128, 129, 200];

    [Fact]
    public void Setting_any_range_sets_exactly_its_pages()
    {
        foreach (ulong length in Lengths)
        {
            for (ulong first = 0; first <= length; first++)
            {
                for (ulong count = 0; first + count <= length; count++)
                {
                    var pages = new PageBitmap(length);
                    pages.SetRange(first, count);
                    Assert.Equal(count, pages.CountSet());
                    for (ulong page = 0; page < length; page++)
                        Assert.Equal(page >= first && page < first + count, pages[page]);
                }
            }
        }
    }

    [Fact]
    public void Ranges_and_pages_past_the_end_are_refused_and_change_nothing()
    {
        var pages = new PageBitmap(100);
        Assert.Throws<ArgumentOutOfRangeException>(() => pages.SetRange(0, 101));
        Assert.Throws<ArgumentOutOfRangeException>(() => pages.SetRange(100, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => pages.SetRange(1, ulong.MaxValue));
        Assert.Throws<ArgumentOutOfRangeException>(() => pages.Set(100));
        Assert.False(pages[100]);
        Assert.False(pages[ulong.MaxValue]);
        Assert.Equal(0UL, pages.CountSet());
    }

    [Fact]
    public void Next_run_finds_what_a_walk_over_the_set_finds_from_every_start_and_with_every_limit()
    {
        var random = new Random(1);
        foreach (ulong length in Lengths)
        {
            for (int round = 0; round < 30; round++)
            {
                PageBitmap pages = Scatter(random, length, runLength: round % 3 == 0 ? 70 : 3);
                HashSet<ulong> model = Members(pages);
                for (ulong from = 0; from <= length + 1; from++)
                {
                    foreach (ulong limit in (ulong[])[1, 2, 5, 64, 65, ulong.MaxValue])
                        AssertNextRun(model, pages, length, from, limit);
                }
            }
        }
    }

    [Fact]
    public void Next_run_crosses_empty_and_full_stretches_of_every_vector_length()
    {
        const ulong Length = 64 * 100;
        for (ulong gap = 0; gap < 64 * 40; gap += 37)
        {
            for (ulong count = 1; count < 64 * 40; count += 211)
            {
                var pages = new PageBitmap(Length);
                pages.SetRange(gap, count);
                Assert.True(pages.TryNextRun(0, ulong.MaxValue, out PageRun run));
                Assert.Equal(new PageRun(gap, count), run);
                Assert.False(pages.TryNextRun(gap + count, ulong.MaxValue, out _));
            }
        }
    }

    [Fact]
    public void Bits_added_at_any_page_land_where_they_belong()
    {
        var random = new Random(2);
        const ulong Length = 64 * 6;
        for (ulong first = 0; first <= Length; first++)
        {
            ulong[] bits = new ulong[random.Next(5)];
            for (int index = 0; index < bits.Length; index++)
                bits[index] = (ulong)random.NextInt64() & (ulong)random.NextInt64();
            PageBitmap pages = Scatter(random, Length, runLength: 2);
            HashSet<ulong> model = Members(pages);
            bool fits = true;
            for (ulong bit = 0; bit < (ulong)bits.Length * 64; bit++)
            {
                if ((bits[bit / 64] >> (int)(bit % 64) & 1) == 0)
                    continue;
                fits &= first + bit < Length;
                if (first + bit < Length)
                    model.Add(first + bit);
            }

            if (fits)
            {
                pages.OrAt(first, bits);
                Assert.Equal(model.Order(), Members(pages).Order());
            }
            else
            {
                Assert.Throws<ArgumentOutOfRangeException>(() => pages.OrAt(first, bits));
            }
        }
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(3UL)]
    [InlineData(64UL)]
    public void A_bit_past_an_uneven_end_is_refused_and_never_counted(ulong first)
    {
        var pages = new PageBitmap(first + 10);
        Assert.Throws<ArgumentOutOfRangeException>(() => pages.OrAt(first, [1UL << 10]));
        Assert.Equal(0UL, pages.CountSet());
        pages.OrAt(first, [1UL << 9, 0, 0, 0]);
        Assert.Equal(1UL, pages.CountSet());
        Assert.True(pages[first + 9]);
    }

    [Fact]
    public void Or_count_clear_and_buckets_agree_with_the_set()
    {
        var random = new Random(3);
        foreach (ulong length in (ulong[])[1, 64, 65, 511, 512, 513, 4096, 5000])
        {
            PageBitmap left = Scatter(random, length, runLength: 3);
            PageBitmap right = Scatter(random, length, runLength: 9);
            HashSet<ulong> model = [.. Members(left), .. Members(right)];
            left.Or(right);
            Assert.Equal(model.Order(), Members(left).Order());
            Assert.Equal((ulong)model.Count, left.CountSet());
            uint[] buckets = left.CountByBucket(16);
            Assert.Equal(16, buckets.Length);
            Assert.Equal(model.Count, buckets.Sum(count => count));
            left.Clear();
            Assert.Equal(0UL, left.CountSet());
            Assert.False(left.TryNextRun(0, 1, out _));
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => new PageBitmap(5).Or(new PageBitmap(6)));
    }

    [Fact]
    public void Planted_fault_forgets_exactly_the_last_word()
    {
        var pages = new PageBitmap(130);
        pages.SetRange(0, 130);
        pages.ForgetLastWord();
        Assert.Equal(128UL, pages.CountSet());
    }

    private static void AssertNextRun(HashSet<ulong> model, PageBitmap pages, ulong length, ulong from, ulong limit)
    {
        ulong first = from;
        while (first < length && !model.Contains(first))
            first++;
        ulong count = 0;
        while (count < limit && model.Contains(first + count))
            count++;
        bool found = pages.TryNextRun(from, limit, out PageRun run);
        Assert.Equal(count != 0, found);
        Assert.Equal(count == 0 ? default : new PageRun(first, count), run);
    }

    private static PageBitmap Scatter(Random random, ulong length, int runLength)
    {
        var pages = new PageBitmap(length);
        for (int run = random.Next(6); run > 0; run--)
        {
            ulong first = (ulong)random.NextInt64((long)length);
            pages.SetRange(first, Math.Min(length - first, (ulong)random.Next(1, runLength + 1)));
        }

        return pages;
    }

    private static HashSet<ulong> Members(PageBitmap pages)
    {
        var members = new HashSet<ulong>();
        for (ulong page = 0; page < pages.PageCount; page++)
        {
            if (pages[page])
                members.Add(page);
        }

        return members;
    }
}
