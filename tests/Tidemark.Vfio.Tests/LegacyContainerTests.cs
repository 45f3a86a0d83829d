using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>Groups, containers and type1: what is opened, given back, cut, and said when it is refused.</summary>
public sealed class LegacyContainerTests : IDisposable
{
    private const ulong KiB = 1UL << 10;

    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void A_group_is_given_back_with_its_device_and_the_mappings_with_the_last_group()
    {
        using (LegacyContainer container = LegacyContainer.Create(_rig.Faults))
        {
            int empty = _rig.Soft.CountOpen().Descriptors;
            AssignedDevice[] devices = [_rig.Assign(container, 1), _rig.Assign(container, 2), _rig.Assign(container, 3)];
            container.MapMemory(_rig.Memory, _rig.MemoryFile);
            Assert.Equal(empty + 6, _rig.Soft.CountOpen().Descriptors);
            Assert.All(devices, device => Assert.Same(container.Table, device.Attachment.Type1));
            devices[1].Dispose();
            devices[0].Dispose();
            Assert.Equal(empty + 2, _rig.Soft.CountOpen().Descriptors);
            Assert.Single(container.Areas);
            Assert.True(container.ReportsEverything);
            devices[2].Dispose();
            Assert.Equal(empty, _rig.Soft.CountOpen().Descriptors);
            Assert.Empty(container.Areas);
            Assert.Null(container.Table);
            Assert.False(container.ReportsEverything);
            // It begins anew with the next device.
            using AssignedDevice again = _rig.Assign(container, 1);
            container.MapMemory(_rig.Memory, _rig.MemoryFile);
            Assert.NotNull(container.Table);
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Fact]
    public void A_device_that_is_refused_after_it_was_opened_gives_its_group_back()
    {
        using LegacyContainer container = LegacyContainer.Create(_rig.Faults);
        int before = _rig.Soft.CountOpen().Descriptors;
        KernelException failure = Assert.Throws<KernelException>(
            () => _rig.Assign(container, 1, new AssignmentOptions { NestingParent = true }));
        Assert.Equal(Errno.EOPNOTSUPP, failure.Errno);
        Assert.Contains("iommufd", failure.Remedy, StringComparison.Ordinal);
        Assert.Equal(before, _rig.Soft.CountOpen().Descriptors);

        VfioDevice opened = container.Open(_rig.Soft.Sysfs, VfioDiscovery.GetPciFolder("0000:02:00.0"), "nvme2");
        container.Detach(opened);
        Assert.True(opened.Fd.IsClosed);
        Assert.Equal(before, _rig.Soft.CountOpen().Descriptors);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_container_handed_in_is_as_good_as_a_path_and_its_owner_closes_it(bool isOwned)
    {
        int fd = (int)_rig.Soft.Open(LegacyContainer.DefaultPath, OpenFlags.ReadWrite).ThrowIfFailed("open").Value;
        using (LegacyContainer container = LegacyContainer.FromFd(new KernelFd(_rig.Soft, fd, isOwned)))
        using (AssignedDevice device = _rig.Assign(container, 1))
        {
            container.MapMemory(_rig.Memory, _rig.MemoryFile);
            Assert.Equal(TrackerKind.Type1, device.Tracker.Kind);
            Assert.Equal(SoftRig.MemoryLength, device.CostBytes);
        }

        SyscallResult version = _rig.Soft.IoctlValue(fd, VfioRequests.GetApiVersion.Value, 0);
        Assert.Equal(isOwned, version.Errno == Errno.EBADF);
        if (!isOwned)
            _rig.Soft.Close(fd);
        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Fact]
    public void A_device_of_a_group_has_a_host_IOMMU_whose_width_is_that_of_the_container()
    {
        using var container = LegacyContainer.Create(_rig.Faults);
        using AssignedDevice device = _rig.Assign(container, 1);
        HostIommuDevice host = device.Attachment.HostIommu!;
        Assert.Equal("nvme1", host.Name);
        ulong last = container.GetUsableIovas().Ranges[^1].Last.Value;
        Assert.Equal(64 - System.Numerics.BitOperations.LeadingZeroCount(last), host.ComputeAddressWidth());
        Assert.InRange(host.ComputeAddressWidth(), 32, 63);
        Assert.Equal((Errno.Success, 0UL), (host.TryGet(HostIommuCapability.DirtyTracking, out ulong tracks), tracks));
        Assert.Equal(Errno.EINVAL, host.TryGet((HostIommuCapability)99, out _));
    }

    [Fact]
    public void What_is_no_container_is_refused_and_left_open_for_its_owner()
    {
        using var file = new KernelFd(_rig.Soft, (int)_rig.Soft.MemfdCreate("none", MemfdFlags.CloseOnExec).Value);
        Assert.Throws<KernelException>(() => LegacyContainer.FromFd(file));
        Assert.False(file.IsClosed);
    }

    [Theory]
    [InlineData(1UL, 1UL, Errno.EINVAL)]
    [InlineData(0UL, 0UL, Errno.EOPNOTSUPP)]
    public void Another_version_and_a_kernel_without_type1v2_are_refused(ulong version, ulong extension, Errno errno)
    {
        var kernel = new ScriptedKernel();
        ExpectValue(kernel, VfioRequests.GetApiVersion, version);
        if (version == 0)
            ExpectValue(kernel, VfioRequests.CheckExtension, extension);
        Assert.Equal(errno, Assert.Throws<KernelException>(
            () => LegacyContainer.FromFd(new KernelFd(kernel, 7, owned: false))).Errno);
        Assert.Equal(0, kernel.Remaining);
    }

    [Theory]
    [InlineData(Errno.ENOENT, "modprobe")]
    [InlineData(Errno.ENODEV, "modprobe")]
    [InlineData(Errno.EACCES, "descriptor")]
    [InlineData(Errno.EPERM, "descriptor")]
    public void A_container_that_can_not_be_opened_says_what_to_do(Errno errno, string remedy)
    {
        _rig.Faults.FailNth(1, errno);
        AssertRemedy(errno, remedy, () => LegacyContainer.Create(_rig.Faults));
    }

    [Theory]
    [InlineData(1, Errno.ENOENT, "bound")]
    [InlineData(1, Errno.EBUSY, "uses")]
    [InlineData(1, Errno.EACCES, "/dev/vfio/")]
    [InlineData(1, Errno.EPERM, "/dev/vfio/")]
    [InlineData(3, Errno.EINVAL, "another container")]
    [InlineData(3, Errno.EPERM, "bind all")]
    [InlineData(3, Errno.EBUSY, "kernel or of another user")]
    [InlineData(4, Errno.ENODEV, "bound")]
    [InlineData(4, Errno.EBUSY, "already")]
    [InlineData(4, Errno.EACCES, "token")]
    public void A_device_that_can_not_be_opened_says_what_to_do_and_leaves_nothing(int call, Errno errno, string remedy)
    {
        using LegacyContainer container = LegacyContainer.Create(_rig.Faults);
        using AssignedDevice first = _rig.Assign(container, 1);
        SoftKernelUsageGuard before = new(_rig);
        _rig.Faults.FailNth(call, errno);
        AssertRemedy(errno, remedy, () => container.Open(
            _rig.Soft.Sysfs, VfioDiscovery.GetPciFolder("0000:02:00.0"), "nvme2"));
        _rig.Faults.FailNth(0, Errno.Success);
        before.AssertSame();
        using AssignedDevice second = _rig.Assign(container, 2);
    }

    [Theory]
    [InlineData(Errno.EEXIST, "already mapped")]
    [InlineData(Errno.EINVAL, "IOVAs")]
    [InlineData(Errno.ENOMEM, "ulimit")]
    [InlineData(Errno.ENOSPC, "dma_entry_limit")]
    public void A_refused_mapping_says_what_to_do_and_nothing_is_mapped(Errno errno, string remedy)
    {
        using LegacyContainer container = LegacyContainer.Create(_rig.Faults);
        using AssignedDevice device = _rig.Assign(container, 1);
        _rig.Faults.FailNth(1, errno);
        AssertRemedy(errno, remedy, () => container.Map(
            new Iova(0), _rig.Memory.Cut(new GuestPhysicalAddress(0), 1 << 20), _rig.MemoryFile));
        Assert.Empty(container.Areas);
    }

    [Fact]
    public void A_mapping_longer_than_one_read_of_dirty_pages_is_made_of_pieces_that_each_read_covers()
    {
        var kernel = new ScriptedKernel();
        using LegacyContainer container = Start(kernel, bitmapLength: 8);
        Assert.Equal(256 * KiB, container.Table!.MaximumReadLength);
        (ulong, ulong)[] pieces = [(64 * KiB, 192 * KiB), (256 * KiB, 256 * KiB), (512 * KiB, 152 * KiB)];
        foreach ((ulong iova, ulong length) in pieces)
            ExpectMap(kernel, iova, length);
        container.Map(new Iova(64 * KiB), Memory(600 * KiB), Script(kernel));
        Assert.Equal(pieces, container.Areas.Select(area => (area.Range.First.Value, area.Range.ByteLength)));

        kernel.Expect(VfioRequests.IommuDirtyPages, (_, argument) => Check(argument.Read32(4) == (int)VfioIommuDirtyPagesFlags.Start));
        container.Table.SetDirtyTracking(true);
        using DirtyBuffer buffer = DirtyBuffer.Create(kernel);
        var pages = new PageBitmap(256);
        foreach ((ulong iova, ulong length) in pieces)
        {
            kernel.Expect(VfioRequests.IommuDirtyPages, (_, argument) =>
            {
                Assert.Equal((iova, length), (argument.Read64(8), argument.Read64(16)));
                Assert.Equal(4096UL, argument.Read64(24));
                Assert.InRange(argument.Read64(32), 1UL, 8UL);
                Vfio.Tests.Script.SetBits(argument.Read64(40), [1]);
                return Errno.Success;
            });
        }

        foreach (MappedArea area in container.Areas)
            container.Table.HarvestDirty(area, buffer, pages);
        Assert.Equal([1UL, 49, 113], TrackedScene.ToPages(pages));

        // Each goes with its bits, in one call.
        pages.Clear();
        foreach ((ulong iova, ulong length) in pieces)
        {
            kernel.Expect(VfioRequests.IommuUnmapDma, (_, argument) =>
            {
                Assert.Equal((int)VfioDmaUnmapFlags.GetDirtyBitmap, argument.Read32(4));
                Assert.Equal((iova, length), (argument.Read64(8), argument.Read64(16)));
                Vfio.Tests.Script.SetBits(argument.Read64(40), [2]);
                return Errno.Success;
            });
        }

        Assert.Equal(600 * KiB, container.Unmap(
            new IovaRange(new Iova(0), new Iova(ulong.MaxValue)), buffer, pages));
        Assert.Equal([2UL, 50, 114], TrackedScene.ToPages(pages));
        Assert.Equal(0, kernel.Remaining);
    }

    [Fact]
    public void When_a_piece_is_refused_the_pieces_before_it_are_unmapped()
    {
        var kernel = new ScriptedKernel();
        using LegacyContainer container = Start(kernel, bitmapLength: 8);
        ExpectMap(kernel, 0, 256 * KiB);
        ExpectMap(kernel, 256 * KiB, 256 * KiB, Errno.ENOSPC);
        kernel.Expect(VfioRequests.IommuUnmapDma, (_, argument) => Check(argument.Read64(8) == 0));
        Assert.Throws<KernelException>(() => container.Map(new Iova(0), Memory(600 * KiB), Script(kernel)));
        Assert.Empty(container.Areas);
        Assert.Equal(0, kernel.Remaining);
    }

    [Fact]
    public void A_refused_unmap_keeps_the_mapping_and_the_ones_above_it()
    {
        var kernel = new ScriptedKernel();
        using LegacyContainer container = Start(kernel, bitmapLength: 8);
        foreach (ulong iova in (ulong[])[0, 256 * KiB, 512 * KiB])
        {
            ExpectMap(kernel, iova, 4 * KiB);
            container.Map(new Iova(iova), Memory(4 * KiB), Script(kernel));
        }

        kernel.Expect(VfioRequests.IommuUnmapDma, (_, _) => Errno.Success);
        kernel.Expect(VfioRequests.IommuUnmapDma, (_, _) => Errno.ENOMEM);
        Assert.Throws<KernelException>(() => container.Unmap(new IovaRange(new Iova(0), new Iova(ulong.MaxValue))));
        Assert.Equal([256 * KiB, 512 * KiB], container.Areas.Select(area => area.Range.First.Value));
    }

    [Fact]
    public void The_last_bits_are_read_after_the_device_is_closed_and_before_its_group_is()
    {
        var kernel = new ScriptedKernel();
        using LegacyContainer container = Start(kernel, bitmapLength: 4096, out VfioDevice device);
        container.Attach(device);
        kernel.Expect(VfioRequests.IommuDirtyPages, (_, _) => Errno.Success);
        container.Table!.SetDirtyTracking(true);
        int closed = 0;
        container.Detach(device, _ => closed = kernel.Log.Count(entry => entry.StartsWith("close", StringComparison.Ordinal)));
        Assert.Equal(1, closed);
        Assert.Equal(2, kernel.Log.Count(entry => entry.StartsWith("close", StringComparison.Ordinal)));
    }

    [Fact]
    public void A_kernel_without_dirty_pages_of_type1_leaves_its_devices_assumed()
    {
        var kernel = new ScriptedKernel();
        using LegacyContainer container = Start(kernel, bitmapLength: 0, out VfioDevice device);
        Assert.Null(container.Table);
        kernel.ExpectLogProbe(hasLog: false);
        TrackerChoice choice = TrackerChoice.Choose(container.Attach(device));
        Assert.Equal(TrackerKind.Assumed, choice.Kind);
        Assert.Contains("type1", choice.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_mediated_device_alone_costs_what_it_pinned_and_what_a_neighbour_wrote_is_kept_when_it_leaves()
    {
        using (LegacyContainer container = LegacyContainer.Create(_rig.Faults))
        {
            string folder = VfioDiscovery.FindFolder(_rig.Soft.Sysfs, SoftRig.MdevUuid);
            using AssignedDevice mdev = AssignedDevice.Assign(
                container.Open(_rig.Soft.Sysfs, folder, "mtty"), container,
                new AssignmentOptions { LogUse = DeviceLogUse.Off });
            container.MapMemory(_rig.Memory, _rig.MemoryFile);
            Assert.Equal(TrackerKind.Type1, mdev.Tracker.Kind);
            Assert.Null(mdev.CostBytes);
            using AssignmentTracking tracking = AssignmentTracking.Create(_rig.Faults, [mdev]);
            var tracker = new DirtyTracker(_rig.Memory.SpanPages, tracking.Sources);
            tracking.Connect(tracker);
            tracker.Start();
            // type1 reports what is pinned, and an mdev without DMA pins nothing; the first read may hold the start.
            tracker.Harvest().Commit();
            Assert.Equal(0UL, Count(tracker));

            AssignedDevice nvme = _rig.Assign(container, 1);
            tracking.Join(nvme);
            Assert.Equal(SoftRig.MemoryLength, mdev.CostBytes);
            Assert.Equal(_rig.Memory.SpanPages, Count(tracker));
            new AdminQueue(nvme.Device, _rig.Memory, 0x10_0000).Identify(700);
            tracking.Leave(nvme);
            using (DirtyLease last = tracker.Harvest())
            {
                Assert.True(last.Pages[700]);
                last.Commit();
            }

            Assert.Equal(0UL, Count(tracker));
            Assert.Null(mdev.CostBytes);
            tracker.Stop();
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    private static ulong Count(DirtyTracker tracker)
    {
        using DirtyLease lease = tracker.Harvest();
        lease.Commit();
        return lease.PageCount;
    }

    private static void AssertRemedy(Errno errno, string remedy, Action action)
    {
        KernelException failure = Assert.Throws<KernelException>(action);
        Assert.Equal(errno, failure.Errno);
        Assert.Contains(remedy, failure.Remedy, StringComparison.Ordinal);
    }

    private static void ExpectValue(ScriptedKernel kernel, IoctlRequest request, ulong value) =>
        kernel.Expect(request, (_, answer) =>
        {
            BinaryPrimitives.WriteUInt64LittleEndian(answer, value);
            return Errno.Success;
        });

    private static void ExpectMap(ScriptedKernel kernel, ulong iova, ulong length, Errno errno = Errno.Success) =>
        kernel.Expect(VfioRequests.IommuMapDma, (_, argument) =>
        {
            Assert.Equal((iova, length), (argument.Read64(16), argument.Read64(24)));
            return errno;
        });

    private static Errno Check(bool condition)
    {
        Assert.True(condition);
        return Errno.Success;
    }

    private static KernelFd Script(ScriptedKernel kernel) => new(kernel, 9, owned: false);

    private static MemorySlot Memory(ulong length) =>
        new(new GuestPhysicalAddress(0), length, new HostAddress(0x10_0000), 0);

    private static LegacyContainer Start(ScriptedKernel kernel, ulong bitmapLength) =>
        Start(kernel, bitmapLength, out _);

    /// <summary>A container with one device in group 7, whose bitmaps have at most so many bytes (0: it has
    /// none).</summary>
    private static LegacyContainer Start(ScriptedKernel kernel, ulong bitmapLength, out VfioDevice device)
    {
        ExpectValue(kernel, VfioRequests.GetApiVersion, 0);
        ExpectValue(kernel, VfioRequests.CheckExtension, 1);
        LegacyContainer container = LegacyContainer.FromFd(new KernelFd(kernel, 7, owned: false));
        kernel.ExpectOpen("/dev/vfio/7");
        kernel.Expect(VfioRequests.GroupGetStatus, (_, argument) => argument.Write32(4, (uint)VfioGroupFlags.Viable));
        kernel.Expect(VfioRequests.GroupSetContainer, (_, _) => Errno.Success);
        kernel.Expect(VfioRequests.SetIommu, (_, _) => Errno.Success);
        uint length = bitmapLength == 0 ? 24u : 56u;
        kernel.Expect(VfioRequests.IommuGetInfo, (_, argument) => argument.Write32(0, length));
        if (bitmapLength != 0)
        {
            kernel.Expect(VfioRequests.IommuGetInfo, (_, argument) =>
            {
                argument.Write32(16, 24);
                BinaryPrimitives.WriteUInt16LittleEndian(argument[24..], (ushort)VfioIommuType1InfoCapId.Migration);
                BinaryPrimitives.WriteUInt64LittleEndian(argument[40..], 4096);
                BinaryPrimitives.WriteUInt64LittleEndian(argument[48..], bitmapLength);
                return Errno.Success;
            });
        }

        kernel.Expect(VfioRequests.GroupGetDeviceFd, (_, _) => Errno.Success);
        var sysfs = new FakeSysfs();
        const string Folder = "/sys/bus/pci/devices/0000:01:00.0";
        sysfs.Entries[Folder] = null;
        sysfs.Links[$"{Folder}/iommu_group"] = "../../kernel/iommu_groups/7";
        device = container.Open(sysfs, Folder, "nvme1");
        return container;
    }

    private sealed class SoftKernelUsageGuard(SoftRig rig)
    {
        private readonly object _before = rig.Soft.CountOpen();

        public void AssertSame() => Assert.Equal(_before, rig.Soft.CountOpen());
    }
}
