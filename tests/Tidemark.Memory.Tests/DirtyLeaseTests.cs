namespace Tidemark.Memory.Tests;

/// <summary>Leases that come and go, against sets of page numbers.</summary>
public sealed class DirtyLeaseTests
{
    private readonly ScriptedDirtySource _first = new("first");
    private readonly ScriptedDirtySource _second = new("second");

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void No_page_is_lost_or_invented_however_leases_are_taken_acknowledged_returned_and_committed(int seed)
    {
        var random = new Random(seed);
        ulong pageCount = (ulong)random.Next(1, 9000);
        var tracker = new DirtyTracker(pageCount, [_first, _second]);
        tracker.Start();
        var written = new HashSet<ulong>();
        var pending = new HashSet<ulong>();
        var live = new List<(DirtyLease Lease, HashSet<ulong> Model)>();
        for (int step = 0; step < 3000; step++)
        {
            ulong page = (ulong)random.NextInt64((long)pageCount);
            ulong count = Math.Min((ulong)random.Next(1, random.Next(2) == 0 ? 4 : 400), pageCount - page);
            switch (random.Next(8))
            {
                case 0 or 1:
                    (random.Next(2) == 0 ? _first : _second).Write(page);
                    written.Add(page);
                    break;
                case 2:
                    tracker.AddPending(new PageRun(page, count));
                    pending.UnionWith(Range(page, count));
                    break;
                case 3:
                    var more = new PageBitmap(pageCount);
                    more.SetRange(page, count);
                    tracker.AddPending(more);
                    pending.UnionWith(Range(page, count));
                    break;
                case 4 when random.Next(3) == 0:
                    // All that the sources gave until the failure is pending; the one behind keeps what it has.
                    _second.FailHarvestAtEnd = true;
                    Assert.Throws<InvalidOperationException>(() => tracker.Harvest());
                    _second.FailHarvestAtEnd = false;
                    pending.UnionWith(written);
                    written.Clear();
                    break;
                case 4 or 5 when live.Count < 5:
                    live.Add((tracker.Harvest(), [.. written, .. pending]));
                    written.Clear();
                    pending.Clear();
                    Assert.Equal((ulong)live[^1].Model.Count, live[^1].Lease.PageCount);
                    break;
                case 6 when live.Count > 0:
                    (DirtyLease lease, HashSet<ulong> model) = live[random.Next(live.Count)];
                    lease.Acknowledge(page, count);
                    model.ExceptWith(Range(page, count));
                    break;
                case 7 when live.Count > 0:
                    int chosen = random.Next(live.Count);
                    if (random.Next(2) == 0)
                    {
                        live[chosen].Lease.Commit();
                    }
                    else
                    {
                        live[chosen].Lease.Dispose();
                        pending.UnionWith(live[chosen].Model);
                    }

                    live.RemoveAt(chosen);
                    break;
            }

            Assert.True((ulong)pending.Count == tracker.CountPending(), $"Seed {seed}, step {step}.");
            foreach ((DirtyLease lease, HashSet<ulong> model) in live)
                Assert.True(Members(lease.Pages).SetEquals(model), $"Seed {seed}, step {step}.");
        }
    }

    [Fact]
    public void Whoever_uses_a_lease_after_its_end_is_told_also_when_its_bitmap_serves_another_one()
    {
        var tracker = new DirtyTracker(1000, [_first]);
        tracker.Start();
        foreach (bool committed in (bool[])[true, false])
        {
            _first.Write(7);
            DirtyLease ended = tracker.Harvest();
            PageBitmap pages = ended.Pages;
            IReadOnlyList<DirtyCount> counts = ended.BySource;
            DirtyLease copy = ended;
            if (committed)
                ended.Commit();
            else
                ended.Dispose();
            AssertEnded(copy, pages);
            using DirtyLease next = tracker.Harvest();
            AssertEnded(copy, pages);
            copy.Dispose();
            Assert.Equal(committed ? 0UL : 1UL, next.PageCount);
            Assert.Equal(1UL, Assert.Single(counts).PageCount);
            next.Commit();
        }

        Assert.Throws<InvariantException>(() => default(DirtyLease).Commit());
        default(DirtyLease).Dispose();
    }

    [Fact]
    public void A_lease_from_before_a_start_gives_nothing_back_after_it()
    {
        var tracker = new DirtyTracker(1000, [_first]);
        Assert.Throws<InvalidOperationException>(() => tracker.AddPending(new PageRun(1, 1)));
        Assert.Throws<InvalidOperationException>(() => tracker.AddPending(new PageBitmap(1000)));
        tracker.Start();
        _first.Write(7);
        DirtyLease old = tracker.Harvest();
        tracker.AddPending(new PageRun(20, 5));
        tracker.Stop();
        tracker.Start();
        old.Dispose();
        Assert.Equal(0UL, tracker.CountPending());
        using DirtyLease lease = tracker.Harvest();
        Assert.Equal(0UL, lease.PageCount);
    }

    [Fact]
    public void Pages_outside_the_bitmap_are_neither_acknowledged_nor_added()
    {
        var tracker = new DirtyTracker(1000, [_first]);
        tracker.Start();
        _first.Write(999);
        using DirtyLease lease = tracker.Harvest();
        Assert.Throws<ArgumentOutOfRangeException>(() => lease.Acknowledge(999, 2));
        Assert.Throws<ArgumentOutOfRangeException>(() => lease.Acknowledge(1001, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => lease.Acknowledge(1, ulong.MaxValue));
        Assert.Throws<ArgumentOutOfRangeException>(() => tracker.AddPending(new PageRun(999, 2)));
        Assert.Throws<ArgumentOutOfRangeException>(() => tracker.AddPending(new PageBitmap(999)));
        lease.Acknowledge(1000, 0);
        Assert.True(lease.Pages[999]);
        Assert.Equal(0UL, tracker.CountPending());
    }

    [Fact]
    public void Threads_acknowledge_beside_each_other_and_a_reader()
    {
        const ulong PagesPerThread = 64 * 500 + 13;
        const int Threads = 4;
        var tracker = new DirtyTracker((Threads + 1) * PagesPerThread, []);
        tracker.Start();
        tracker.AddPending(new PageRun(0, tracker.PageCount));
        DirtyLease lease = tracker.Harvest();
        // The borders lie within words: two threads acknowledge pages of the same one.
        Thread[] threads = [.. Enumerable.Range(0, Threads).Select(index => new Thread(() =>
        {
            var random = new Random(index);
            ulong end = ((ulong)index + 1) * PagesPerThread;
            for (ulong page = (ulong)index * PagesPerThread, count; page < end; page += count)
            {
                count = Math.Min((ulong)random.Next(1, 200), end - page);
                lease.Acknowledge(page, count);
            }
        }))];
        Array.ForEach(threads, thread => thread.Start());
        for (int round = 0; round < 200; round++)
        {
            Assert.True(lease.Pages.TryNextRun(Threads * PagesPerThread, ulong.MaxValue, out PageRun run));
            Assert.Equal(new PageRun(Threads * PagesPerThread, PagesPerThread), run);
        }

        Array.ForEach(threads, thread => thread.Join());
        lease.Dispose();
        Assert.Equal(PagesPerThread, tracker.CountPending());
    }

    [Fact]
    public void A_harvest_and_its_end_allocate_nothing()
    {
        var all = new PageBitmap(100_000);
        all.SetRange(5, 90_000);
        var tracker = new DirtyTracker(all.PageCount, [new FixedDirtySource(all), new FixedDirtySource(all)]);
        tracker.Start();
        Span<PageRun> runs = new PageRun[16];
        // The first leases make the bitmaps; three live at a time, as in a migration.
        for (int round = 0; round < 3; round++)
            Cycle(tracker, runs);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int round = 0; round < 100; round++)
            Cycle(tracker, runs);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Fact]
    public void Counts_of_a_harvest_are_those_of_each_source_bucket_by_bucket()
    {
        var random = new Random(5);
        foreach (ulong pageCount in (ulong[])[1, 64, 5000, 64 * 256, 64 * 257, 200_001])
        {
            PageBitmap[] written = [new(pageCount), new(pageCount)];
            foreach (PageBitmap pages in written)
            {
                for (int run = 0; run < 50; run++)
                    pages.SetRange((ulong)random.NextInt64((long)pageCount), 1);
            }

            var tracker = new DirtyTracker(pageCount, [.. written.Select(pages => new FixedDirtySource(pages))]);
            tracker.Start();
            for (int round = 0; round < 2; round++)
            {
                using DirtyLease lease = tracker.Harvest();
                Assert.Equal(2, lease.BySource.Count);
                for (int source = 0; source < 2; source++)
                {
                    Assert.Equal(written[source].CountSet(), lease.BySource[source].PageCount);
                    Assert.Equal(written[source].CountByBucket(DirtyCount.BucketCount), lease.BySource[source].Buckets);
                }
            }
        }
    }

    private static void Cycle(DirtyTracker tracker, Span<PageRun> runs)
    {
        DirtyLease first = tracker.Harvest();
        DirtyLease second = tracker.Harvest();
        DirtyLease third = tracker.Harvest();
        ulong from = 0;
        // Not Assert.Equal, which boxes.
        Assert.True(third.ListRuns(ref from, runs) == 1 && runs[0] == new PageRun(5, 90_000));
        first.Acknowledge(7, 1000);
        first.Dispose();
        second.Commit();
        third.Commit();
    }

    private static void AssertEnded(DirtyLease lease, PageBitmap pages)
    {
        ulong from = 0;
        Assert.Throws<InvariantException>(() => lease.Pages);
        Assert.Throws<InvariantException>(() => lease.BySource);
        Assert.Throws<InvariantException>(() => lease.Commit());
        Assert.Throws<InvariantException>(() => lease.Acknowledge(0, 10));
        Assert.Throws<InvariantException>(() => lease.ListRuns(ref from, new PageRun[1]));
        Assert.Throws<InvariantException>(() => pages[7]);
        Assert.Throws<InvariantException>(() => pages.Words.Length);
        Assert.Throws<InvariantException>(() => pages.CountSet());
        Assert.Throws<InvariantException>(() => pages.TryNextRun(0, 1, out _));
        Assert.Throws<InvariantException>(() => pages.Set(7));
        Assert.Throws<InvariantException>(() => new PageBitmap(1000).Or(pages));
    }

    private static IEnumerable<ulong> Range(ulong first, ulong count)
    {
        for (ulong page = first; page < first + count; page++)
            yield return page;
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

    /// <summary>Reports the same pages at each harvest, and allocates nothing.</summary>
    private sealed class FixedDirtySource(PageBitmap written) : IDirtySource
    {
        public string Name => "fixed";

        public DirtySourceKind Kind => DirtySourceKind.Cpu;

        public void Start()
        {
        }

        public void Stop()
        {
        }

        public void Harvest(PageBitmap pages) => pages.Or(written);
    }
}
