namespace Tidemark.Memory.Tests;

public sealed class DirtyTrackerTests
{
    private readonly ScriptedDirtySource _first = new("first");
    private readonly ScriptedDirtySource _second = new("second");
    private readonly ScriptedDirtySource _third = new("third");
    private readonly DirtyTracker _tracker;

    public DirtyTrackerTests() => _tracker = new DirtyTracker(1000, [_first, _second, _third]);

    [Fact]
    public void A_harvest_is_the_union_and_tells_each_source_apart()
    {
        _tracker.Start();
        _first.Write(1, 2);
        _second.Write(2, 999);
        using DirtyLease lease = _tracker.Harvest();
        Assert.Equal(3UL, lease.PageCount);
        Assert.Equal([2UL, 2UL, 0UL], lease.BySource.Select(count => count.PageCount));
        Assert.True(lease.Pages[1] && lease.Pages[2] && lease.Pages[999]);
    }

    [Fact]
    public void A_committed_lease_is_forgotten()
    {
        _tracker.Start();
        _first.Write(5);
        using (DirtyLease lease = _tracker.Harvest())
            lease.Commit();
        Assert.Equal(0UL, _tracker.CountPending());
        using DirtyLease next = _tracker.Harvest();
        Assert.Equal(0UL, next.PageCount);
    }

    [Fact]
    public void A_lease_that_is_not_committed_comes_back_with_the_next_harvest()
    {
        _tracker.Start();
        _first.Write(5);
        _tracker.Harvest().Dispose();
        Assert.Equal(1UL, _tracker.CountPending());
        _second.Write(6);
        using DirtyLease next = _tracker.Harvest();
        Assert.True(next.Pages[5] && next.Pages[6]);
        Assert.Equal(0UL, next.BySource[0].PageCount);
        Assert.Equal(0UL, _tracker.CountPending());
    }

    [Fact]
    public void A_lease_ends_once()
    {
        _tracker.Start();
        _first.Write(5);
        DirtyLease lease = _tracker.Harvest();
        lease.Commit();
        Assert.Throws<InvariantException>(() => lease.Commit());
        lease.Dispose();
        Assert.Equal(0UL, _tracker.CountPending());

        _first.Write(6);
        DirtyLease returned = _tracker.Harvest();
        returned.Dispose();
        returned.Dispose();
        Assert.Throws<InvariantException>(() => returned.Commit());
        Assert.Equal(1UL, _tracker.CountPending());
    }

    [Fact]
    public void A_source_that_can_not_start_leaves_none_on()
    {
        _third.FailStart = true;
        Assert.Throws<InvalidOperationException>(_tracker.Start);
        Assert.False(_tracker.IsStarted);
        Assert.False(_first.IsOn || _second.IsOn || _third.IsOn);
        Assert.Equal((1, 1, 0), (_first.StopCount, _second.StopCount, _third.StopCount));
    }

    [Fact]
    public void A_source_that_can_neither_stop_nor_start_does_not_keep_the_others_on()
    {
        _third.FailStart = true;
        _second.FailStop = true;
        InvalidOperationException failure = Assert.Throws<InvalidOperationException>(_tracker.Start);
        Assert.Contains("third", failure.Message, StringComparison.Ordinal);
        Assert.False(_first.IsOn || _second.IsOn);
    }

    [Fact]
    public void Stopping_stops_every_source_also_when_the_first_ones_fail()
    {
        _tracker.Start();
        _first.FailStop = true;
        _second.FailStop = true;
        InvalidOperationException failure = Assert.Throws<InvalidOperationException>(_tracker.Stop);
        Assert.Contains("first", failure.Message, StringComparison.Ordinal);
        Assert.Equal((1, 1, 1), (_first.StopCount, _second.StopCount, _third.StopCount));
        Assert.False(_tracker.IsStarted);
        _tracker.Stop();
        Assert.Equal((1, 1, 1), (_first.StopCount, _second.StopCount, _third.StopCount));
    }

    [Fact]
    public void A_harvest_that_fails_in_any_source_loses_no_bit()
    {
        foreach (ScriptedDirtySource failing in (ScriptedDirtySource[])[_first, _second, _third])
        {
            _tracker.Start();
            _tracker.Harvest().Dispose();
            _first.Write(1);
            _second.Write(2);
            _third.Write(3);
            failing.FailHarvestAtEnd = true;
            Assert.Throws<InvalidOperationException>(() => _tracker.Harvest());
            failing.FailHarvestAtEnd = false;
            using (DirtyLease lease = _tracker.Harvest())
            {
                Assert.Equal(3UL, lease.PageCount);
                Assert.True(lease.Pages[1] && lease.Pages[2] && lease.Pages[3]);
                lease.Commit();
            }

            _tracker.Stop();
        }
    }

    [Fact]
    public void Starting_twice_and_harvesting_while_off_are_refused()
    {
        Assert.Throws<InvalidOperationException>(() => _tracker.Harvest());
        _tracker.Start();
        Assert.Throws<InvalidOperationException>(_tracker.Start);
        Assert.Equal(0, _first.StopCount);
        Assert.True(_first.IsOn);
    }

    [Fact]
    public void Pages_pending_from_an_ended_migration_do_not_reach_the_next_one()
    {
        _tracker.Start();
        _first.Write(5);
        _tracker.Harvest().Dispose();
        _tracker.Stop();
        _tracker.Start();
        using DirtyLease lease = _tracker.Harvest();
        Assert.Equal(0UL, lease.PageCount);
    }
}
