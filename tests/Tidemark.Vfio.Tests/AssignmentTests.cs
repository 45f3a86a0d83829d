using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>Trackers, verdicts and sources of a whole set of devices.</summary>
public sealed class AssignmentTests
{
    private const VfioMigrationFlags StopCopyP2P = VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P;

    private readonly ScriptedKernel _kernel = new();
    private readonly IommufdContainer _container;
    private uint _nextHwpt = 30;

    public AssignmentTests()
    {
        _container = _kernel.CreateContainer();
    }

    [Theory]
    [InlineData(true, true, DeviceLogUse.Auto, TrackerKind.DeviceLog)]
    [InlineData(true, false, DeviceLogUse.Auto, TrackerKind.DeviceLog)]
    [InlineData(true, true, DeviceLogUse.Off, TrackerKind.Iommu)]
    [InlineData(true, false, DeviceLogUse.Off, TrackerKind.Assumed)]
    [InlineData(false, true, DeviceLogUse.Auto, TrackerKind.Iommu)]
    [InlineData(false, true, DeviceLogUse.On, TrackerKind.Iommu)]
    [InlineData(false, false, DeviceLogUse.Auto, TrackerKind.Assumed)]
    public void The_tracker_is_chosen_per_device(bool log, bool iommu, DeviceLogUse use, TrackerKind expected)
    {
        AssignedDevice device = Assign(20, 5, log, iommu, StopCopyP2P, use);
        Assert.Equal(expected, device.Tracker.Kind);
        Assert.EndsWith(".", device.Tracker.Reason, StringComparison.Ordinal);
        Assert.Equal(
            use == DeviceLogUse.On ? [MigrationBlockerKind.NoDeviceLog] : [],
            MigrationVerdict.Judge([device]).Blockers.Select(blocker => blocker.Kind));
    }

    [Fact]
    public void A_neighbour_without_a_log_does_not_take_away_the_log_of_another()
    {
        AssignedDevice[] devices = AssignThree();
        Assert.Equal(
            [TrackerKind.Iommu, TrackerKind.DeviceLog, TrackerKind.Assumed],
            devices.Select(device => device.Tracker.Kind));
    }

    [Fact]
    public void Every_device_is_covered_by_a_source_and_one_page_table_is_one_source()
    {
        AssignedDevice[] devices =
        [
            Assign(20, 5, log: false, iommu: true, StopCopyP2P),
            Join(21, 6, log: false, hwptId: 30),
            Assign(22, 7, log: true, iommu: false, StopCopyP2P, refusedBy: [30]),
        ];
        _kernel.ExpectMap(0);
        _container.Ioas.Map(
            new Iova(0), new HostAddress(0x1000), 0x4000, DmaAccess.ReadWrite, new GuestPhysicalAddress(0));
        using AssignmentTracking tracking = AssignmentTracking.Create(_kernel, devices);
        Assert.Equal(["device20, device21 (iommu)", "device22 (device log)"],
            tracking.Sources.Select(source => source.Name));
    }

    [Fact]
    public void What_nobody_tracks_has_a_stated_cost_and_counts_as_written()
    {
        AssignedDevice device = Assign(20, 5, log: false, iommu: false, StopCopyP2P);
        _kernel.ExpectMap(0x10_0000);
        _container.Ioas.Map(new Iova(0x10_0000), new HostAddress(0x1000), 0x10_0000, DmaAccess.ReadWrite,
            new GuestPhysicalAddress(0x10_0000));
        MigrationVerdict verdict = MigrationVerdict.Judge([device]);
        Assert.True(verdict.CanMigrate);
        Assert.Equal(0x10_0000UL, Assert.Single(verdict.Costs).BytesPerPass);

        using AssignmentTracking tracking = AssignmentTracking.Create(_kernel, [device]);
        var pages = new PageBitmap(1024);
        Assert.Single(tracking.Sources).Harvest(pages);
        Assert.Equal(256UL, pages.CountSet());
        Assert.True(pages[256]);
    }

    [Fact]
    public void Devices_that_can_not_move_block_with_cause_evidence_and_remedy()
    {
        AssignedDevice none = Assign(20, 5, log: false, iommu: true, VfioMigrationFlags.None);
        MigrationBlocker blocker = Assert.Single(MigrationVerdict.Judge([none]).Blockers);
        Assert.Equal(MigrationBlockerKind.NoMigration, blocker.Kind);
        Assert.Contains("ENOTTY", blocker.Evidence, StringComparison.Ordinal);
        Assert.NotEmpty(blocker.Remedy);

        AssignedDevice alone = Join(21, 6, log: false, hwptId: 30, VfioMigrationFlags.StopCopy);
        Assert.True(MigrationVerdict.Judge([alone]).CanMigrate);
        Assert.Equal(
            [MigrationBlockerKind.NoMigration, MigrationBlockerKind.NoP2P],
            MigrationVerdict.Judge([none, alone]).Blockers.Select(reason => reason.Kind));
    }

    [Fact]
    public void A_device_that_fails_after_its_attachment_is_detached_and_closed()
    {
        VfioDevice device = VfioDevice.FromFd(new KernelFd(_kernel, 20), "device20");
        _kernel.Expect(VfioRequests.DeviceBindIommufd, (_, argument) => argument.Write32(12, 5));
        _kernel.ExpectHwInfo(5, dirty: true);
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 30);
        _kernel.ExpectAttach(20, 30);
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.Migration, VfioDeviceFeatureFlags.Get, (_, _) => Errno.EIO);
        _kernel.ExpectDetach(20);
        _kernel.ExpectDestroy(30);

        Assert.Throws<KernelException>(() => AssignedDevice.Assign(device, _container));
        Assert.Equal(0, _kernel.Remaining);
        Assert.Equal("close 20", _kernel.Log[^1]);
        Assert.Empty(_container.Attachments);
    }

    [Fact]
    public void Disposing_closes_the_stream_detaches_and_closes_in_this_order()
    {
        AssignedDevice device = Assign(20, 5, log: false, iommu: true,
            VfioMigrationFlags.StopCopy | VfioMigrationFlags.PreCopy);
        _kernel.ExpectState(VfioDeviceMigState.PreCopy, dataFd: 70);
        device.Migratable!.BeginSave();
        _kernel.ExpectDetach(20);
        _kernel.ExpectDestroy(30);
        device.Dispose();
        device.Dispose();
        Assert.Equal(
            ["close 70", "VFIO_DEVICE_DETACH_IOMMUFD_PT", "IOMMU_DESTROY", "close 20"], _kernel.Log[^4..]);
    }

    private AssignedDevice[] AssignThree() =>
    [
        Assign(20, 5, log: false, iommu: true, StopCopyP2P),
        Assign(21, 6, log: true, iommu: false, StopCopyP2P, refusedBy: [30]),
        AssignPlainJoiner(),
    ];

    private AssignedDevice AssignPlainJoiner()
    {
        ExpectBind(7);
        _kernel.ExpectHwInfo(7, dirty: false);
        _kernel.ExpectAttach(22, 31);
        return Finish(22, log: false, StopCopyP2P, DeviceLogUse.Auto);
    }

    private AssignedDevice Assign(
        int fd, uint deviceId, bool log, bool iommu, VfioMigrationFlags abilities,
        DeviceLogUse use = DeviceLogUse.Auto, uint[]? refusedBy = null)
    {
        ExpectBind(deviceId);
        _kernel.ExpectHwInfo(deviceId, iommu);
        foreach (uint hwptId in refusedBy ?? [])
            _kernel.ExpectAttach(fd, hwptId, Errno.EINVAL);
        uint hwpt = _nextHwpt++;
        _kernel.ExpectHwptAlloc(
            deviceId, iommu ? IommuHwptAllocFlags.DirtyTracking : IommuHwptAllocFlags.None, hwpt);
        _kernel.ExpectAttach(fd, hwpt);
        return Finish(fd, log, abilities, use);
    }

    private AssignedDevice Join(
        int fd, uint deviceId, bool log, uint hwptId, VfioMigrationFlags abilities = StopCopyP2P)
    {
        ExpectBind(deviceId);
        _kernel.ExpectHwInfo(deviceId, dirty: true);
        _kernel.ExpectAttach(fd, hwptId);
        return Finish(fd, log, abilities, DeviceLogUse.Auto);
    }

    private AssignedDevice Finish(int fd, bool log, VfioMigrationFlags abilities, DeviceLogUse use)
    {
        _kernel.ExpectAbilities(abilities);
        _kernel.ExpectLogProbe(log);
        AssignedDevice device = AssignedDevice.Assign(
            VfioDevice.FromFd(new KernelFd(_kernel, fd), $"device{fd}"), _container,
            new AssignmentOptions { LogUse = use });
        Assert.Equal(0, _kernel.Remaining);
        return device;
    }

    private void ExpectBind(uint deviceId) =>
        _kernel.Expect(VfioRequests.DeviceBindIommufd, (_, argument) => argument.Write32(12, deviceId));
}
