using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>The exact order of the kernel's calls when something comes or goes while tracking is on.</summary>
public sealed class ChangeOrderTests
{
    private const ulong MiB = 1UL << 20;

    private readonly ScriptedKernel _kernel = new();

    [Theory]
    [InlineData(Errno.Success)]
    [InlineData(Errno.ENOMEM)]
    public void A_mapping_of_an_IOMMU_is_looked_at_without_clearing_and_then_unmapped_whatever_the_look_said(Errno look)
    {
        using Scene scene = Start(hasLog: false);
        _kernel.Expect(IommufdRequests.HwptGetDirtyBitmap, (_, argument) =>
        {
            Assert.Equal((uint)IommuHwptGetDirtyBitmapFlags.NoClear, (uint)argument.Read32(8));
            Assert.Equal(4 * MiB, argument.Read64(16));
            Script.SetBits(argument.Read64(40), [5]);
            return look;
        });
        _kernel.ExpectUnmap(4 * MiB);
        scene.Tracking.Unmap(scene.Container, IovaRange.FromLength(new Iova(4 * MiB), MiB));
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal(look == Errno.Success ? 1UL : 256UL, scene.Tracker.CountPending());
    }

    [Fact]
    public void A_refused_unmap_keeps_what_was_seen_and_the_mapping()
    {
        using Scene scene = Start(hasLog: false);
        _kernel.ExpectDirtyRead(4 * MiB, MiB, Errno.Success, 5);
        _kernel.ExpectUnmap(4 * MiB, Errno.EBUSY);
        Assert.Throws<KernelException>(() =>
            scene.Tracking.Unmap(scene.Container, IovaRange.FromLength(new Iova(4 * MiB), MiB)));
        Assert.Equal(1UL, scene.Tracker.CountPending());
        Assert.Equal(2, scene.Container.Areas.Count);
    }

    [Theory]
    [InlineData(Errno.Success)]
    [InlineData(Errno.EIO)]
    public void A_mapping_with_a_device_log_is_unmapped_and_then_reported(Errno report)
    {
        using Scene scene = Start(hasLog: true);
        _kernel.ExpectUnmap(4 * MiB);
        ExpectReport(4 * MiB, MiB, report, 5);
        scene.Tracking.Unmap(scene.Container, IovaRange.FromLength(new Iova(4 * MiB), MiB));
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal(report == Errno.Success ? 1UL : 256UL, scene.Tracker.CountPending());
    }

    [Fact]
    public void A_device_with_a_log_leaves_detached_then_read_then_stopped_then_closed()
    {
        using Scene scene = Start(hasLog: true);
        _kernel.ExpectDetach(20);
        _kernel.ExpectDestroy(30);
        ExpectReport(0, MiB, Errno.Success, 1);
        ExpectReport(4 * MiB, MiB, Errno.Success, 5);
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.DmaLoggingStop, VfioDeviceFeatureFlags.Set, (_, _) => Errno.Success);
        scene.Tracking.Leave(scene.Device);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal("close 20", _kernel.Log[^1]);
        Assert.Equal(2UL, scene.Tracker.CountPending());
    }

    [Theory]
    [InlineData(Errno.Success)]
    [InlineData(Errno.ENOMEM)]
    public void A_page_table_that_goes_with_its_last_device_is_read_after_the_detach_and_before_its_end(Errno read)
    {
        using Scene scene = Start(hasLog: false);
        _kernel.ExpectDetach(20);
        _kernel.ExpectDirtyRead(0, MiB, read, 1);
        if (read == Errno.Success)
            _kernel.ExpectDirtyRead(4 * MiB, MiB, Errno.Success, 5);
        _kernel.ExpectDestroy(30);
        scene.Tracking.Leave(scene.Device);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal(read == Errno.Success ? 2UL : 512UL, scene.Tracker.CountPending());
    }

    [Fact]
    public void Leaves_change_by_a_second_address_space_and_the_old_table_is_read_when_nobody_writes_through_it()
    {
        using Scene scene = Start(hasLog: false);
        ExpectSecondSpace();
        _kernel.ExpectAttach(20, 31);
        _kernel.ExpectDirtyRead(0, MiB, Errno.Success, 1);
        _kernel.ExpectDirtyRead(4 * MiB, MiB, Errno.Success, 5);
        _kernel.ExpectDestroy(30);
        _kernel.ExpectDestroy(1);
        scene.Tracking.SetHugePages(scene.Container, allowed: false);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal(2UL, scene.Tracker.CountPending());
        Assert.Equal(31u, scene.Device.Attachment.Entry!.Hwpt.Id);
    }

    [Fact]
    public void A_refused_move_reads_the_new_table_and_ends_it()
    {
        using Scene scene = Start(hasLog: false);
        ExpectSecondSpace();
        _kernel.ExpectAttach(20, 31, Errno.EIO);
        _kernel.ExpectDirtyRead(0, MiB, Errno.Success);
        _kernel.ExpectDirtyRead(4 * MiB, MiB, Errno.Success, 9);
        _kernel.ExpectDestroy(31);
        _kernel.ExpectDestroy(2);
        Assert.Throws<KernelException>(() => scene.Tracking.SetHugePages(scene.Container, allowed: false));
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal(1UL, scene.Tracker.CountPending());
        Assert.Equal(30u, scene.Device.Attachment.Entry!.Hwpt.Id);
        Assert.Equal(1u, scene.Container.Ioas.Id);
    }

    [Fact]
    public void A_device_that_can_move_neither_on_nor_back_is_blocked_and_its_bits_are_kept()
    {
        using Scene scene = Start(hasLog: false, devices: 2);
        ExpectSecondSpace();
        _kernel.ExpectAttach(20, 31);
        _kernel.ExpectAttach(21, 31, Errno.EIO);
        _kernel.ExpectAttach(20, 30, Errno.EIO);
        _kernel.ExpectDetach(20);
        _kernel.ExpectDirtyRead(0, MiB, Errno.Success, 3);
        _kernel.ExpectDirtyRead(4 * MiB, MiB, Errno.Success);
        _kernel.ExpectDestroy(31);
        _kernel.ExpectDestroy(2);
        KernelException failure =
            Assert.Throws<KernelException>(() => scene.Tracking.SetHugePages(scene.Container, allowed: false));
        Assert.Contains("from page table 30 to 31", failure.Message, StringComparison.Ordinal);
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal(1UL, scene.Tracker.CountPending());
    }

    [Fact]
    public void A_device_whose_tracker_does_not_start_is_not_covered()
    {
        using Scene scene = Start(hasLog: false);
        AssignedDevice second = Assign(scene.Container, 21, 6, hasLog: true, hwpt: null);
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.DmaLoggingStart, VfioDeviceFeatureFlags.Set, (_, _) => Errno.EIO);
        Assert.Throws<KernelException>(() => scene.Tracking.Join(second));
        Assert.Equal("device20 (iommu)", Assert.Single(scene.Tracking.Sources).Name);
        Assert.Single(scene.Tracker.Sources);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_table_that_can_not_be_read_after_its_devices_were_moved_costs_everything_and_ends()
    {
        using Scene scene = Start(hasLog: false, reattach: true);
        ExpectRead();
        scene.Tracker.Harvest().Dispose();
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 31);
        _kernel.ExpectTracking(31, on: true);
        _kernel.ExpectAttach(20, 31);
        _kernel.ExpectDirtyRead(0, MiB, Errno.EIO);
        _kernel.ExpectDestroy(30);
        ExpectRead();
        using DirtyLease lease = scene.Tracker.Harvest();
        Assert.Equal(512UL, lease.PageCount);
        Assert.Equal(0, _kernel.Remaining);
    }

    private void ExpectRead()
    {
        _kernel.ExpectDirtyRead(0, MiB);
        _kernel.ExpectDirtyRead(4 * MiB, MiB);
    }

    private void ExpectSecondSpace()
    {
        _kernel.ExpectIoasAlloc(2);
        _kernel.Expect(IommufdRequests.Option, (_, argument) =>
        {
            Assert.Equal(0UL, argument.Read64(16));
            return Errno.Success;
        });
        for (int area = 0; area < 2; area++)
            _kernel.Expect(IommufdRequests.IoasCopy, (_, _) => Errno.Success);
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 31);
        _kernel.ExpectTracking(31, on: true);
    }

    private void ExpectReport(ulong iova, ulong length, Errno errno, params ulong[] pages) =>
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.DmaLoggingReport, VfioDeviceFeatureFlags.Get, (_, payload) =>
        {
            Assert.Equal(iova, payload.Read64(0));
            Assert.Equal(length, payload.Read64(8));
            Script.SetBits(payload.Read64(24), pages);
            return errno;
        });

    private AssignedDevice Assign(IommufdContainer container, int fd, uint id, bool hasLog, uint? hwpt)
    {
        VfioDevice device = _kernel.BindDevice(container.Iommufd, fd, id);
        _kernel.ExpectHwInfo(id, dirty: true);
        if (hwpt is { } made)
            _kernel.ExpectHwptAlloc(id, IommuHwptAllocFlags.DirtyTracking, made);
        _kernel.ExpectAttach(fd, 30);
        // No migration states; then the tracker's question.
        _kernel.ExpectAbilities(VfioMigrationFlags.None);
        _kernel.ExpectLogProbe(hasLog);
        return AssignedDevice.Assign(device, container);
    }

    private Scene Start(bool hasLog, int devices = 1, bool reattach = false)
    {
        IommufdContainer container = _kernel.CreateContainer();
        var assigned = new List<AssignedDevice>();
        for (int number = 0; number < devices; number++)
            assigned.Add(Assign(container, 20 + number, 5 + (uint)number, hasLog, number == 0 ? 30u : null));
        foreach (ulong iova in (ulong[])[0, 4 * MiB])
        {
            _kernel.ExpectMap(iova);
            container.Ioas.Map(
                new Iova(iova), new HostAddress(0x1000), MiB, DmaAccess.ReadWrite, new GuestPhysicalAddress(iova));
        }

        AssignmentTracking tracking = AssignmentTracking.Create(_kernel, assigned, reattach);
        var tracker = new DirtyTracker(8 * MiB >> GuestPage.Shift, tracking.Sources);
        tracking.Connect(tracker);
        if (hasLog)
        {
            _kernel.ExpectFeature(
                VfioDeviceFeatureIndex.DmaLoggingStart, VfioDeviceFeatureFlags.Set, (_, _) => Errno.Success);
        }
        else
        {
            _kernel.ExpectTracking(30, on: true);
        }

        tracker.Start();
        Assert.Equal(0, _kernel.Remaining);
        return new Scene(container, assigned[0], tracking, tracker);
    }

    /// <summary>Devices 20, 21 ... on page table 30 with two mappings of 1 MiB, tracked.</summary>
    private sealed record Scene(
        IommufdContainer Container, AssignedDevice Device, AssignmentTracking Tracking, DirtyTracker Tracker) : IDisposable
    {
        public void Dispose() => Tracking.Dispose();
    }
}
