using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>
/// Devices and mappings that come, go and are reset between two harvests, under real DMA of the soft kernel's
/// controllers: no page is lost, and none is counted that need not be.
/// </summary>
public sealed class ChangeWhileTrackingTests : IDisposable
{
    private const ulong Page = TrackedScene.FirstPage;

    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(Backend.Iommufd, 1, TrackerKind.Iommu)]
    [InlineData(Backend.Iommufd, 2, TrackerKind.DeviceLog)]
    [InlineData(Backend.Iommufd, 3, TrackerKind.Assumed)]
    [InlineData(Backend.Iommufd, 5, TrackerKind.DeviceLog)]
    [InlineData(Backend.Legacy, 1, TrackerKind.Type1)]
    [InlineData(Backend.Legacy, 2, TrackerKind.DeviceLog)]
    public void A_device_that_joins_costs_all_it_can_reach_once_and_is_tracked_from_then_on(
        Backend backend, int number, TrackerKind tracker)
    {
        using (var scene = new TrackedScene(_rig, backend, [4]))
        {
            scene.Harvest();
            AssignedDevice joined = scene.Join(number);
            Assert.Equal(tracker, joined.Tracker.Kind);
            // Its driver has written since: that and everything else it can reach.
            Assert.Superset(Pages(0, TrackedScene.WindowPage), scene.Harvest());

            scene.Write(number, Page);
            HashSet<ulong> next = scene.Harvest();
            Assert.Contains(Page, next);
            Assert.Contains(scene.CompletionPage(number), next);
            if (backend == Backend.Iommufd && tracker != TrackerKind.Assumed)
                Assert.Equal(2, next.Count);
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Theory]
    [InlineData(Backend.Iommufd, 1, true)]
    [InlineData(Backend.Iommufd, 2, true)]
    [InlineData(Backend.Iommufd, 3, false)]
    [InlineData(Backend.Iommufd, 5, true)]
    [InlineData(Backend.Legacy, 1, false)]
    [InlineData(Backend.Legacy, 2, false)]
    public void A_device_that_leaves_leaves_its_last_writes_behind(Backend backend, int number, bool isExact)
    {
        using (var scene = new TrackedScene(_rig, backend, [number]))
        {
            scene.Harvest();
            scene.Write(number, Page);
            ulong[] written = [Page, scene.CompletionPage(number)];
            scene.Tracking.Leave(scene.Devices[number]);
            Assert.True(scene.Devices[number].Device.Fd.IsClosed);
            Assert.Empty(scene.Tracking.Sources);
            HashSet<ulong> last = scene.Harvest();
            Assert.All(written, page => Assert.Contains(page, last));
            Assert.Equal(isExact, last.Count == written.Length);
            Assert.Empty(scene.Harvest());
            Assert.Empty(scene.Container.Attachments);
            Assert.False(scene.Container.SupportsDirtyTracking);
            // Giving it up again is nothing.
            scene.Tracking.Leave(scene.Devices[number]);
            Assert.Empty(scene.Harvest());
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Theory]
    [InlineData(Backend.Iommufd, 1, 4)]
    [InlineData(Backend.Iommufd, 1, 5)]
    [InlineData(Backend.Iommufd, 5, 1)]
    [InlineData(Backend.Iommufd, 2, 3)]
    [InlineData(Backend.Iommufd, 3, 2)]
    [InlineData(Backend.Legacy, 1, 2)]
    [InlineData(Backend.Legacy, 2, 1)]
    [InlineData(Backend.Legacy, 1, 4)]
    public void A_neighbour_goes_on_being_tracked_when_a_device_leaves(Backend backend, int leaver, int stayer)
    {
        using var scene = new TrackedScene(_rig, backend, [leaver, stayer]);
        scene.Harvest();
        scene.Write(leaver, Page);
        scene.Write(stayer, Page + 1);
        ulong[] written = [Page, Page + 1, scene.CompletionPage(leaver), scene.CompletionPage(stayer)];
        scene.Tracking.Leave(scene.Devices[leaver]);
        HashSet<ulong> last = scene.Harvest();
        Assert.All(written, page => Assert.Contains(page, last));
        scene.Write(stayer, Page + 2);
        Assert.Contains(Page + 2, scene.Harvest());
        Assert.Single(scene.Tracking.Sources);
    }

    [Fact]
    public void What_a_table_has_is_kept_when_its_last_reader_leaves_and_the_read_fails()
    {
        // 5 has a log of its own and stays on the page table whose bits only 1 needs: the table is not handed over.
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1, 5]);
        Assert.Same(scene.Devices[1].Attachment.Entry, scene.Devices[5].Attachment.Entry);
        scene.Harvest();
        scene.Write(1, Page);
        _rig.Faults.FailNth(2, Errno.EIO);
        scene.Tracking.Leave(scene.Devices[1]);
        Assert.StartsWith("ioctl", _rig.Faults.FailedCall, StringComparison.Ordinal);
        _rig.Faults.FailNth(0, Errno.Success);
        Assert.Superset(Pages(0, TrackedScene.WindowPage), scene.Harvest());
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void A_device_that_can_not_be_detached_costs_all_it_can_reach_and_leaks_nothing(int number)
    {
        using (var scene = new TrackedScene(_rig, Backend.Iommufd, [number]))
        {
            Iommufd iommufd = scene.Iommufd.Iommufd;
            scene.Harvest();
            _rig.Faults.FailNth(1, Errno.EIO);
            scene.Tracking.Leave(scene.Devices[number]);
            _rig.Faults.FailNth(0, Errno.Success);
            // It wrote until it was closed, and its bits were read before.
            Assert.Superset(Pages(0, TrackedScene.WindowPage), scene.Harvest());
            scene.Container.Dispose();
            Assert.Equal(0, iommufd.FailedDestroyCount);
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Fact]
    public void A_stopped_device_with_a_log_leaves_a_legacy_container_without_costing_everything()
    {
        using var scene = new TrackedScene(_rig, Backend.Legacy, [2]);
        scene.Harvest();
        scene.Write(2, Page);
        scene.Devices[2].Migratable!.EnterP2P();
        scene.Devices[2].Migratable!.Stop();
        ulong[] written = [Page, scene.CompletionPage(2)];
        scene.Tracking.Leave(scene.Devices[2]);
        Assert.Equal(written.Order(), scene.Harvest().Order());
    }

    [Fact]
    public void A_reset_ends_a_log_so_everything_counts_once_and_the_log_is_started_again()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [2]);
        scene.Harvest();
        scene.Write(2, Page);
        scene.Tracking.Reset(scene.Devices[2]);
        Assert.Superset(Pages(0, TrackedScene.WindowPage), scene.Harvest());
        Assert.Empty(scene.Harvest());
        scene.Drive(2);
        scene.Write(2, Page + 1);
        Assert.Equal([Page + 1, scene.CompletionPage(2)], scene.Harvest().OrderDescending());
        Assert.Equal(1, Log(scene).RearmCount);
    }

    [Fact]
    public void A_failing_reset_counts_as_one()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [2]);
        scene.Harvest();
        _rig.Faults.FailNth(1, Errno.EIO);
        Assert.Throws<KernelException>(() => scene.Tracking.Reset(scene.Devices[2]));
        _rig.Faults.FailNth(0, Errno.Success);
        Assert.Superset(Pages(0, TrackedScene.WindowPage), scene.Harvest());
        scene.Write(2, Page);
        Assert.Contains(Page, scene.Harvest());
    }

    [Fact]
    public void A_log_that_a_reset_ended_while_nothing_was_mapped_covers_nothing_that_is_mapped_later()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [2]);
        scene.Tracking.Unmap(scene.Container, IovaRange.FromLength(new Iova(0), TrackedScene.WindowStart));
        scene.Harvest();
        scene.Tracking.Reset(scene.Devices[2]);
        scene.Map(0, 0, TrackedScene.WindowStart);
        scene.Drive(2);
        scene.Write(2, Page);
        Assert.Contains(Page, scene.Harvest());
        scene.Write(2, Page + 1);
        Assert.Equal([Page + 1, scene.CompletionPage(2)], scene.Harvest().OrderDescending());
    }

    [Fact]
    public void A_reset_loses_nothing_of_what_the_IOMMU_has_recorded()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1]);
        scene.Harvest();
        scene.Write(1, Page);
        scene.Tracking.Reset(scene.Devices[1]);
        Assert.Equal([Page, scene.CompletionPage(1)], scene.Harvest().OrderDescending());
    }

    [Theory]
    [InlineData(Backend.Iommufd, 1)]
    [InlineData(Backend.Iommufd, 2)]
    [InlineData(Backend.Iommufd, 3)]
    [InlineData(Backend.Iommufd, 5)]
    [InlineData(Backend.Legacy, 1)]
    [InlineData(Backend.Legacy, 2)]
    public void What_was_written_through_a_mapping_is_kept_when_it_goes(Backend backend, int number)
    {
        using var scene = new TrackedScene(_rig, backend, [number]);
        scene.MapWindow();
        scene.Harvest();
        scene.Write(number, TrackedScene.WindowIova(3) >> GuestPage.Shift);
        Assert.Equal(TrackedScene.WindowLength, scene.Tracking.Unmap(scene.Container, scene.Window));
        HashSet<ulong> taken = scene.Harvest();
        Assert.Contains(TrackedScene.WindowPage + 3, taken);
        if (backend == Backend.Iommufd && number != 3)
            Assert.Equal([TrackedScene.WindowPage + 3, scene.CompletionPage(number)], taken.OrderDescending());
        // Nobody reaches it any more.
        Assert.DoesNotContain(scene.Harvest(), page => page >= TrackedScene.WindowPage);
    }

    [Theory]
    [InlineData(Backend.Iommufd)]
    [InlineData(Backend.Legacy)]
    public void A_range_that_cuts_a_mapping_is_refused_and_nothing_changed(Backend backend)
    {
        using var scene = new TrackedScene(_rig, backend, [1]);
        scene.MapWindow();
        IReadOnlyList<MappedArea> before = scene.Container.Areas;
        // The lower mapping is inside as a whole, the upper one is not.
        var range = new IovaRange(new Iova(0), new Iova(TrackedScene.WindowIova(1) - 1));
        Assert.Throws<ArgumentException>(() => scene.Tracking.Unmap(scene.Container, range));
        Assert.Equal(before, scene.Container.Areas);
    }

    [Theory]
    [InlineData(1, 1, Errno.ENOMEM)]
    [InlineData(2, 2, Errno.EIO)]
    public void A_mapping_whose_bits_can_not_be_read_counts_as_a_whole_and_goes(int number, int call, Errno errno)
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [number]);
        scene.MapWindow();
        // The log is armed over it by the first harvest.
        scene.Harvest();
        _rig.Faults.FailNth(call, errno);
        scene.Tracking.Unmap(scene.Container, scene.Window);
        Assert.NotNull(_rig.Faults.FailedCall);
        _rig.Faults.FailNth(0, Errno.Success);
        Assert.Single(scene.Container.Areas);
        Assert.Equal(Pages(TrackedScene.WindowPage, 256).Order(), scene.Harvest().Order());
    }

    [Fact]
    public void A_mapping_that_could_not_be_unmapped_is_still_tracked()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1]);
        scene.MapWindow();
        scene.Harvest();
        _rig.Faults.FailNth(2, Errno.EBUSY);
        Assert.Throws<KernelException>(() => scene.Tracking.Unmap(scene.Container, scene.Window));
        _rig.Faults.FailNth(0, Errno.Success);
        scene.Write(1, TrackedScene.WindowIova(7) >> GuestPage.Shift);
        Assert.Contains(TrackedScene.WindowPage + 7, scene.Harvest());
    }

    [Fact]
    public void A_log_is_armed_again_over_wider_ranges_and_then_exact_also_for_mappings_to_come()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [2]);
        scene.Harvest();
        scene.MapWindow();
        scene.Write(2, TrackedScene.WindowIova(1) >> GuestPage.Shift);
        Assert.Superset(Pages(0, TrackedScene.WindowPage + 256), scene.Harvest());
        Assert.Equal(1, Log(scene).RearmCount);
        // The room beside the window is logged although nothing was mapped there.
        scene.Map(TrackedScene.WindowIova(256), TrackedScene.WindowStart + TrackedScene.WindowLength, 1 << 20);
        scene.Write(2, TrackedScene.WindowIova(258) >> GuestPage.Shift);
        Assert.Equal([TrackedScene.WindowPage + 258, scene.CompletionPage(2)], scene.Harvest().OrderDescending());
        Assert.Equal(1, Log(scene).RearmCount);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_device_that_is_read_late_does_not_blind_its_neighbour(bool isNeighbourRead)
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1, 4], options: number =>
            new AssignmentOptions { PrecopyTracking = number == 4 && isNeighbourRead });
        Assert.Same(scene.Devices[1].Attachment.Entry, scene.Devices[4].Attachment.Entry);
        scene.Write(1, Page);
        scene.Write(4, Page + 1);
        HashSet<ulong> live = scene.Harvest();
        Assert.Equal(isNeighbourRead, live.Contains(Page + 1));
        foreach (AssignedDevice device in scene.Devices.Values)
            device.Migratable!.EnterP2P();
        foreach (AssignedDevice device in scene.Devices.Values)
            device.Migratable!.Stop();
        live.UnionWith(scene.Harvest());
        Assert.Superset(new HashSet<ulong> { Page, Page + 1 }, live);
    }

    [Fact]
    public void What_a_device_that_is_read_late_wrote_is_kept_when_it_leaves_early()
    {
        using var scene = new TrackedScene(
            _rig, Backend.Iommufd, [1], options: _ => new AssignmentOptions { PrecopyTracking = false });
        scene.Write(1, Page);
        Assert.Empty(scene.Harvest());
        scene.Tracking.Leave(scene.Devices[1]);
        Assert.Contains(Page, scene.Harvest());
    }

    private static DeviceLogDirtySource Log(TrackedScene scene) =>
        Assert.Single(scene.Tracking.Find<DeviceLogDirtySource>());

    private static HashSet<ulong> Pages(ulong first, ulong count)
    {
        var pages = new HashSet<ulong>();
        for (ulong page = first; page < first + count; page++)
            pages.Add(page);
        return pages;
    }
}
