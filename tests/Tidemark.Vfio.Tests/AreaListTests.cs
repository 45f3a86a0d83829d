using Tidemark.Iommu;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>The list of mappings: always what is mapped, and no dearer for being long.</summary>
public sealed class AreaListTests : IDisposable
{
    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void It_is_what_a_simple_list_would_be()
    {
        var random = new Random(20261122);
        var areas = new AreaList();
        var model = new SortedDictionary<ulong, MappedArea>();
        for (int round = 0; round < 5000; round++)
        {
            IovaRange range = IovaRange.FromLength(
                new Iova((ulong)random.Next(200) << 12), (ulong)random.Next(1, 9) << 12);
            MappedArea[] expected = [.. model.Values.Where(area => area.Range.Overlaps(range))];
            MappedArea[] found = areas.FindOverlapping(range);
            Assert.Equal(expected, found);
            if (found.Length == 0)
            {
                var made = new MappedArea(range, DmaAccess.ReadWrite, null);
                areas.Add(made);
                model.Add(range.First.Value, made);
                Assert.True(areas.Has(made));
                // One like it is another.
                Assert.False(areas.Has(made with { Access = DmaAccess.ReadWrite }));
            }
            else if (random.Next(2) == 0)
            {
                int count = random.Next(found.Length + 1);
                IReadOnlyList<MappedArea> before = areas.Snapshot;
                MappedArea[] copy = [.. before];
                areas.Remove(found.AsSpan(0, count));
                foreach (MappedArea area in found.AsSpan(0, count))
                {
                    model.Remove(area.Range.First.Value);
                    Assert.False(areas.Has(area));
                }

                Assert.Equal(copy, before);
            }

            Assert.Equal(model.Values, areas.Snapshot);
        }
    }

    [Fact]
    public void What_is_not_there_is_not_removed()
    {
        var areas = new AreaList();
        MappedArea[] three = [.. Enumerable.Range(0, 3).Select(index => new MappedArea(
            IovaRange.FromLength(new Iova((ulong)index << 12), 4096), DmaAccess.Read, null))];
        foreach (MappedArea area in three)
            areas.Add(area);
        Assert.Throws<ArgumentException>(() => areas.Remove([three[0], three[2]]));
        Assert.Equal(three, areas.Snapshot);
        areas.Remove(three);
        Assert.Empty(areas.Snapshot);
        Assert.Throws<ArgumentException>(() => areas.Remove(three));
    }

    [Theory]
    [InlineData(Backend.Iommufd)]
    [InlineData(Backend.Legacy)]
    public void A_guest_that_maps_for_each_command_costs_no_memory_for_the_mappings_that_stay(Backend backend)
    {
        const int Few = 16, Many = 4096;
        using var scene = new TrackedScene(_rig, backend, [1], viommu: true);
        long Measure()
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int round = 0; round < 64; round++)
            {
                scene.MapWindow();
                scene.UnmapWindow();
            }

            return GC.GetAllocatedBytesForCurrentThread() - before;
        }

        void Grow(int from, int to)
        {
            for (int index = from; index < to; index++)
                scene.Map((1UL << 40) + ((ulong)index << GuestPage.Shift), 0, GuestPage.Size);
        }

        Grow(0, Few);
        Measure();
        long few = Measure();
        Grow(Few, Many);
        Measure();
        long many = Measure();
        // A list of all of them would be 32 KiB for each of the 128 calls.
        Assert.InRange(many, 0, few + (64 << 10));
    }
}
