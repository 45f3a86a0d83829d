using Tidemark.Iommu;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>Tables with other leaves, changed while devices write.</summary>
public sealed class LeafSizeTests : IDisposable
{
    private const ulong LeafPages = 512;
    private const ulong Page = 1500;

    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void One_write_costs_512_pages_with_large_leaves_one_without_and_512_again_on_the_way_back()
    {
        using (var scene = new TrackedScene(_rig, Backend.Iommufd, [1], hugePages: true))
        {
            Iommufd iommufd = scene.Iommufd.Iommufd;
            Assert.Equal(LeafPages, Cost(scene));
            scene.Tracking.SetHugePages(scene.Iommufd, allowed: false);
            scene.Harvest();
            Assert.Equal(1UL, Cost(scene));
            scene.Tracking.SetHugePages(scene.Iommufd, allowed: true);
            scene.Harvest();
            Assert.Equal(LeafPages, Cost(scene));
            Assert.Equal(0, iommufd.FailedDestroyCount);
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Devices_that_write_all_the_time_lose_no_page_while_their_leaves_change(bool hasLarge)
    {
        // With base pages before and after, a lost bit can not hide behind a neighbour's.
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1, 4, 2], hugePages: hasLarge);
        scene.Harvest();
        var seen = new HashSet<ulong>();
        var written = new HashSet<ulong>();
        Exception? failure = null;
        var writer = new Thread(() =>
        {
            try
            {
                // Every page once: a page that is lost is not written again.
                for (ulong page = TrackedScene.FirstPage; page < TrackedScene.WindowPage; page++)
                {
                    scene.Write(page % 2 == 0 ? 1 : 4, page);
                    written.Add(page);
                }
            }
            catch (Exception caught)
            {
                // For the thread that waits for this one.
                failure = caught;
            }
        });
        writer.Start();
        bool allowed = false;
        int changes = 0;
        while (writer.IsAlive || changes < 4)
        {
            scene.Tracking.SetHugePages(scene.Iommufd, allowed);
            allowed = hasLarge && !allowed;
            changes++;
            seen.UnionWith(scene.Harvest());
        }

        writer.Join();
        seen.UnionWith(scene.Harvest());
        Assert.Null(failure);
        Assert.Equal(256, written.Count);
        Assert.Superset(written, seen);
    }

    [Fact]
    public void A_table_that_is_not_read_when_leaves_change_loses_pages()
    {
        // The control for the tests above: the same move, with nobody reading the table that goes.
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1]);
        scene.Harvest();
        scene.Write(1, Page);
        scene.Iommufd.Rebuild(hugePages: false, (_, next) => next.SetDirtyTracking(true), _ => { });
        Assert.DoesNotContain(Page, scene.Harvest());
    }

    [Fact]
    public void A_device_on_the_address_space_itself_moves_too()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1, 3]);
        uint before = scene.Iommufd.Ioas.Id;
        scene.Tracking.SetHugePages(scene.Iommufd, allowed: true);
        Assert.NotEqual(before, scene.Iommufd.Ioas.Id);
        scene.Write(3, Page);
        scene.Write(1, Page + 1);
        Assert.Contains(Page + 1, scene.Harvest());
        Assert.NotEqual(0UL, _rig.Memory.ReadVolatile<ulong>(new GuestPhysicalAddress(Page << GuestPage.Shift)));
    }

    /// <summary>Pages of its leaf that one write of a page dirties.</summary>
    private static ulong Cost(TrackedScene scene)
    {
        scene.Harvest();
        scene.Write(1, Page);
        ulong leaf = Page / LeafPages;
        return (ulong)scene.Harvest().Count(page => page / LeafPages == leaf);
    }
}
