using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

/// <summary>Pages that were never touched: told as zero without a look, on both sides.</summary>
public sealed class HoleTests
{
    [Fact]
    public void A_page_that_is_touched_between_the_first_harvest_and_the_look_for_holes_arrives()
    {
        using var world = new World();
        // The machine touches page 40 at the latest moment at which it still counts as a hole.
        world.Source.OnFindTouched = () => world.Source.Fill(40, 1, seed: 9);
        world.Source.Holes.Add(new PageRun(40, 4));
        MigrationOutcome outcome = world.Run();
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.True(world.MemoryEqual());
    }

    [Fact]
    public void Holes_are_looked_for_after_the_harvest_that_the_first_pass_is_made_of()
    {
        using var world = new World();
        int harvests = -1;
        world.Source.OnFindTouched = () => harvests = world.Source.Dirty.Harvests;
        Assert.Equal(MigrationResult.Completed, world.Run().Result);
        Assert.Equal(1, harvests);
    }

    [Fact]
    public void A_hole_is_not_read_and_a_page_that_the_destination_never_touched_is_not_written()
    {
        using var world = new World();
        world.Options = world.Options with { Verify = false };
        // Content that counts as a hole stays here: that is how a test sees that nobody looked.
        world.Source.Fill(44, 2, seed: 3);
        world.Source.Holes.Add(new PageRun(44, 2));
        world.Destination.Memory.Write(new GuestPhysicalAddress(48UL << GuestPage.Shift), "kept"u8);
        world.Destination.Touched = new PageBitmap(world.Destination.Memory.SpanPages);
        Assert.Equal(MigrationResult.Completed, world.Run().Result);
        Assert.True(PageKernels.IsZero(world.Destination.Memory.PagesSpan(44, 1)));
        Assert.False(PageKernels.IsZero(world.Destination.Memory.PagesSpan(48, 1)));
    }

    [Fact]
    public void What_the_destination_touched_before_is_cleared_when_it_is_zero_at_the_source()
    {
        using var world = new World();
        world.Destination.Memory.Write(new GuestPhysicalAddress(48UL << GuestPage.Shift), "old"u8);
        world.Source.Holes.Add(new PageRun(46, 8));
        Assert.Equal(MigrationResult.Completed, world.Run().Result);
        Assert.True(world.MemoryEqual());
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Contents_of_pages_without_memory_are_put_there_and_written_when_that_fails(bool puts)
    {
        using var world = new World();
        world.Source.Fill(8, 24, seed: 5);
        world.Destination.Absent = world.Destination.Memory.AllPages();
        world.Destination.Touched = new PageBitmap(world.Destination.Memory.SpanPages);
        world.Destination.Puts = puts;
        Assert.Equal(MigrationResult.Completed, world.Run().Result);
        Assert.True(world.MemoryEqual());
        Assert.NotEmpty(world.Destination.Put);
    }

    [Fact]
    public void A_page_is_put_once_and_then_received_straight()
    {
        using var world = new World();
        world.Destination.Absent = world.Destination.Memory.AllPages();
        Assert.Equal(MigrationResult.Completed, world.Run().Result);
        var seen = new HashSet<ulong>();
        foreach (PageRun run in world.Destination.Put)
        {
            for (ulong page = run.FirstPage; page < run.FirstPage + run.Count; page++)
                Assert.True(seen.Add(page), $"Page {page} was put twice.");
        }
    }
}
