using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>
/// Eleven situations in which the reference implementation (QEMU, as read up to 11.1) loses writes, does too much, or says
/// the wrong thing, and what happens here in exactly the same situation.
/// </summary>
public sealed class ReferenceDefectTests : IDisposable
{
    private const ulong MiB = 1UL << 20;
    private const ulong Page = TrackedScene.FirstPage;

    private readonly SoftRig _rig = new();
    private readonly ScriptedKernel _kernel = new();

    public void Dispose() => _rig.Dispose();

    // 1. The reference implementation decides per container: with one device that only logs and one whose IOMMU only sets
    // dirty bits it reads the IOMMU, and the first device's writes are in neither.
    [Theory]
    [InlineData(2, 1)]
    [InlineData(1, 2)]
    public void Devices_with_different_trackers_in_one_container_are_each_tracked_by_their_own(int first, int second)
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [first, second]);
        scene.Harvest();
        scene.Write(first, Page);
        scene.Write(second, Page + 1);
        Assert.Equal(
            new[] { scene.CompletionPage(1), scene.CompletionPage(2), Page, Page + 1 }.Order(), scene.Harvest().Order());
    }

    // 2. Since its 10.0 the reference implementation skips a container that nothing tracks, because tracking was never
    // "started" there; its writes are not sent.
    [Fact]
    public void A_device_that_nobody_tracks_dirties_all_it_can_reach_at_each_harvest_the_last_one_included()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [3]);
        Assert.True(scene.Tracker.IsStarted);
        for (int pass = 0; pass < 3; pass++)
            Assert.Equal((int)TrackedScene.WindowPage, scene.Harvest().Count);
        scene.Devices[3].Migratable!.EnterP2P();
        scene.Devices[3].Migratable!.Stop();
        Assert.Equal((int)TrackedScene.WindowPage, scene.Harvest().Count);
    }

    // 3. The reference implementation's container goes on saying that it tracks after its last tracking page table went.
    [Fact]
    public void A_container_whose_last_tracking_table_went_says_that_it_tracks_no_more()
    {
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        using AssignedDevice plain = _rig.Assign(container, 3);
        Assert.False(container.SupportsDirtyTracking);
        AssignedDevice tracked = _rig.Assign(container, 1);
        Assert.True(container.SupportsDirtyTracking);
        tracked.Dispose();
        Assert.False(container.SupportsDirtyTracking);
    }

    // 4. The reference implementation sets the opposite on every table when one fails: a failing stop turns tracking on
    // again, a failing start "undoes" tables that were never started.
    [Fact]
    public void A_failing_stop_starts_nothing_and_a_failing_start_stops_only_what_it_started()
    {
        using DirtyBuffer buffer = DirtyBuffer.Create(_kernel);
        Hwpt[] tables = AllocateTables(3);
        var tracker = new DirtyTracker(256, [.. tables.Select(table => TableDirtySource.Of(table, buffer, ["x"]))]);
        _kernel.ExpectTracking(30, on: true);
        _kernel.ExpectTracking(31, on: true, Errno.EINVAL);
        _kernel.ExpectTracking(30, on: false);
        Assert.Throws<KernelException>(tracker.Start);
        Assert.Equal(0, _kernel.Remaining);

        for (uint id = 30; id < 33; id++)
            _kernel.ExpectTracking(id, on: true);
        tracker.Start();
        _kernel.ExpectTracking(30, on: false);
        _kernel.ExpectTracking(31, on: false, Errno.EIO);
        _kernel.ExpectTracking(32, on: false);
        Assert.Throws<KernelException>(tracker.Stop);
        Assert.Equal(0, _kernel.Remaining);
        Assert.All(tables, table => Assert.False(table.IsTracking));
    }

    // 5. The reference implementation swallows any failure to join an existing container and makes a second address space:
    // everything is mapped and pinned twice for a passing shortage.
    [Theory]
    [InlineData(Errno.ENOMEM)]
    [InlineData(Errno.EBUSY)]
    [InlineData(Errno.EINTR)]
    public void A_failure_to_join_a_page_table_is_told_and_makes_no_second_one(Errno errno)
    {
        using IommufdContainer container = _kernel.CreateContainer();
        Attach(container, 20, 5, 30);
        VfioDevice second = _kernel.BindDevice(container.Iommufd, 21, 6);
        _kernel.ExpectHwInfo(6, dirty: true);
        _kernel.ExpectAttach(21, 30, errno);
        Assert.Equal(errno, Assert.Throws<KernelException>(() => container.Attach(second)).Errno);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Single(container.Hwpts);
        Finish(container, 20, 30);
    }

    // 6. The reference implementation has no second choice when a page table is refused: the device can not be used.
    [Theory]
    [InlineData(Errno.EOPNOTSUPP)]
    [InlineData(Errno.ENOTTY)]
    public void Where_no_page_table_can_be_had_the_device_works_without_one_and_its_tracker_says_why(Errno errno)
    {
        using IommufdContainer container = _kernel.CreateContainer();
        VfioDevice device = _kernel.BindDevice(container.Iommufd, 20, 5);
        _kernel.ExpectHwInfo(5, dirty: true);
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 0, errno);
        _kernel.ExpectAttach(20, 1);
        _kernel.ExpectLogProbe(hasLog: false);
        TrackerChoice choice = TrackerChoice.Choose(container.Attach(device));
        Assert.Equal(TrackerKind.Assumed, choice.Kind);
        Assert.Contains($"IOMMU_HWPT_ALLOC answers {errno}", choice.Reason, StringComparison.Ordinal);
        _kernel.ExpectDetach(20);
        _kernel.ExpectDestroy(1);
    }

    // 7. The reference implementation walks memory that comes and goes in parts with a callback that gets another pointer
    // than it expects. Here there is no callback: what is queried is the list of what is mapped at the time.
    [Fact]
    public void Memory_that_comes_and_goes_in_parts_is_queried_part_by_part_as_it_is()
    {
        using DirtyBuffer buffer = DirtyBuffer.Create(_kernel);
        Hwpt table = AllocateTables(1)[0];
        var source = TableDirtySource.Of(table, buffer, ["nvme0"]);
        var pages = new PageBitmap(16 * MiB >> GuestPage.Shift);
        foreach (ulong part in (ulong[])[0, 4, 8])
        {
            _kernel.ExpectMap(part * MiB);
            table.Ioas.Map(new Iova(part * MiB), new HostAddress(0x1000), 2 * MiB, DmaAccess.ReadWrite,
                new GuestPhysicalAddress(part * MiB));
        }

        _kernel.ExpectUnmap(4 * MiB);
        table.Ioas.Unmap(IovaRange.FromLength(new Iova(4 * MiB), 2 * MiB));
        _kernel.ExpectDirtyRead(0, 2 * MiB, Errno.Success, 1);
        _kernel.ExpectDirtyRead(8 * MiB, 2 * MiB, Errno.Success, 2);
        source.Harvest(pages);
        Assert.Equal([1UL, (8 * MiB >> GuestPage.Shift) + 2], TrackedScene.ToPages(pages));
        Assert.Equal(0, _kernel.Remaining);
    }

    // 8. In the reference implementation one device that is not to be read before the stop suppresses the reading of its
    // whole container.
    [Fact]
    public void A_device_that_is_read_only_when_it_stands_still_does_not_blind_its_container()
    {
        using var scene = new TrackedScene(_rig, Backend.Iommufd, [1, 2, 4], options: number =>
            new AssignmentOptions { PrecopyTracking = number != 2 });
        scene.Harvest();
        foreach (int number in (int[])[1, 2, 4])
            scene.Write(number, Page + (ulong)number);
        HashSet<ulong> live = scene.Harvest();
        Assert.Contains(Page + 1, live);
        Assert.Contains(Page + 4, live);
        Assert.DoesNotContain(Page + 2, live);
        scene.Devices[2].Migratable!.EnterP2P();
        scene.Devices[2].Migratable!.Stop();
        Assert.Contains(Page + 2, scene.Harvest());
    }

    // 9. In the reference implementation bits that were cleared before a query failed are thrown away.
    [Fact]
    public void Bits_read_from_one_table_before_another_failed_are_in_the_next_harvest()
    {
        using DirtyBuffer buffer = DirtyBuffer.Create(_kernel);
        Hwpt[] tables = AllocateTables(2);
        _kernel.ExpectMap(0);
        tables[0].Ioas.Map(new Iova(0), new HostAddress(0x1000), MiB, DmaAccess.ReadWrite, new GuestPhysicalAddress(0));
        var tracker = new DirtyTracker(256, [.. tables.Select(table => TableDirtySource.Of(table, buffer, ["x"]))]);
        _kernel.ExpectTracking(30, on: true);
        _kernel.ExpectTracking(31, on: true);
        tracker.Start();
        _kernel.ExpectDirtyRead(0, MiB, Errno.Success, 3);
        _kernel.ExpectDirtyRead(0, MiB, Errno.EIO, 4);
        Assert.Throws<KernelException>(() => tracker.Harvest());
        _kernel.ExpectDirtyRead(0, MiB);
        _kernel.ExpectDirtyRead(0, MiB);
        using DirtyLease lease = tracker.Harvest();
        Assert.Equal([3UL, 4UL], TrackedScene.ToPages(lease.Pages));
    }

    // 10. The reference implementation allocates a bitmap of each whole section at each query: 32 MiB for 1 TiB.
    [Fact]
    public void A_section_of_1_TiB_is_read_through_one_buffer_of_2_MiB_that_is_there_already()
    {
        using DirtyBuffer buffer = DirtyBuffer.Create(_kernel);
        Hwpt table = AllocateTables(1)[0];
        _kernel.ExpectMap(0);
        table.Ioas.Map(new Iova(0), new HostAddress(0x1000), 1UL << 40, DmaAccess.ReadWrite, new GuestPhysicalAddress(0));
        var pages = new PageBitmap((1UL << 40) >> GuestPage.Shift);
        for (ulong chunk = 0; chunk < 16; chunk++)
            _kernel.ExpectDirtyRead(chunk * DirtyBuffer.ChunkLength, DirtyBuffer.ChunkLength, Errno.Success, chunk);
        int mappings = _kernel.LiveMappings;
        long before = GC.GetAllocatedBytesForCurrentThread();
        table.HarvestDirty(table.Ioas.Areas[0], buffer, pages);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 64 << 10);
        Assert.Equal(mappings, _kernel.LiveMappings);
        Assert.Equal(16UL, pages.CountSet());
    }

    // 11. The reference implementation's documentation said that no IOMMU can track, when some did. Here nothing is said
    // that was not asked: the same kind of device gets another tracker, and another reason, behind another IOMMU.
    [Fact]
    public void What_an_IOMMU_can_do_is_asked_and_told_for_each_device()
    {
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        using AssignedDevice tracked = _rig.Assign(container, 1);
        using AssignedDevice plain = _rig.Assign(container, 3);
        Assert.Equal(TrackerKind.Iommu, tracked.Tracker.Kind);
        Assert.Contains("The IOMMU before nvme1 sets dirty bits", tracked.Tracker.Reason, StringComparison.Ordinal);
        Assert.Equal(TrackerKind.Assumed, plain.Tracker.Kind);
        Assert.Contains("IOMMU_HW_CAP_DIRTY_TRACKING", plain.Tracker.Reason, StringComparison.Ordinal);
    }

    private Hwpt[] AllocateTables(int count)
    {
        _kernel.ExpectIoasAlloc(1);
        Ioas ioas = _kernel.OpenIommufd().AllocateIoas();
        return [.. Enumerable.Range(0, count).Select(index =>
        {
            _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 30 + (uint)index);
            return Hwpt.Allocate(ioas, 5, IommuHwptAllocFlags.DirtyTracking).Hwpt!;
        })];
    }

    private void Attach(IommufdContainer container, int fd, uint id, uint hwpt)
    {
        VfioDevice device = _kernel.BindDevice(container.Iommufd, fd, id);
        _kernel.ExpectHwInfo(id, dirty: true);
        _kernel.ExpectHwptAlloc(id, IommuHwptAllocFlags.DirtyTracking, hwpt);
        _kernel.ExpectAttach(fd, hwpt);
        container.Attach(device);
    }

    private void Finish(IommufdContainer container, int fd, uint hwpt)
    {
        _kernel.ExpectDetach(fd);
        _kernel.ExpectDestroy(hwpt);
        _kernel.ExpectDestroy(1);
        container.Dispose();
    }
}
