using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>The whole way on the soft kernel: attach, DMA by a device, harvest, detach, nothing left.</summary>
public sealed class SoftKernelTests : IDisposable
{
    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(1, DeviceLogUse.Auto, TrackerKind.Iommu)]
    [InlineData(2, DeviceLogUse.Auto, TrackerKind.DeviceLog)]
    [InlineData(2, DeviceLogUse.Off, TrackerKind.Assumed)]
    [InlineData(3, DeviceLogUse.Auto, TrackerKind.Assumed)]
    public void What_a_device_writes_is_harvested_once_and_nothing_leaks(
        int number, DeviceLogUse use, TrackerKind expected)
    {
        using (Iommufd iommufd = _rig.OpenIommufd())
        using (IommufdContainer container = IommufdContainer.Create(iommufd))
        using (AssignedDevice device = _rig.Assign(container, number, use))
        {
            container.Ioas.SetHugePages(false);
            container.MapMemory(_rig.Memory, _rig.MemoryFile);
            using AssignmentTracking tracking = AssignmentTracking.Create(_rig.Faults, [device]);
            var tracker = new DirtyTracker(_rig.Memory.SpanPages, tracking.Sources);
            var queue = new AdminQueue(device.Device, _rig.Memory, 0x10_0000);
            Assert.Equal(expected, device.Tracker.Kind);
            tracker.Start();

            queue.Identify(page: 700);
            queue.Identify(page: 1999);
            using (DirtyLease lease = tracker.Harvest())
            {
                ulong[] written = [700, 1999, queue.CompletionPage];
                Assert.All(written, page => Assert.True(lease.Pages[page]));
                Assert.Equal(
                    expected == TrackerKind.Assumed ? _rig.Memory.SpanPages : 3UL, lease.PageCount);
                lease.Commit();
            }

            using (DirtyLease quiet = tracker.Harvest())
                Assert.Equal(expected == TrackerKind.Assumed ? _rig.Memory.SpanPages : 0UL, quiet.PageCount);
            tracker.Stop();
            Assert.Equal(0, iommufd.FailedDestroyCount);
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Fact]
    public void Mixed_hardware_shares_one_address_space_and_every_write_is_seen()
    {
        using (Iommufd iommufd = _rig.OpenIommufd())
        using (IommufdContainer container = IommufdContainer.Create(iommufd))
        using (AssignedDevice plain = _rig.Assign(container, 2))
        using (AssignedDevice first = _rig.Assign(container, 1))
        using (AssignedDevice second = _rig.Assign(container, 4))
        {
            AssignedDevice[] devices = [plain, first, second];
            container.Ioas.SetHugePages(false);
            container.MapMemory(_rig.Memory, _rig.MemoryFile);
            Assert.Equal(2, container.Hwpts.Count);
            Assert.Same(first.Attachment.Entry, second.Attachment.Entry);
            using AssignmentTracking tracking = AssignmentTracking.Create(_rig.Faults, devices);
            Assert.Equal(
                ["nvme1, nvme4 (iommu)", "nvme2 (device log)"], tracking.Sources.Select(source => source.Name));
            var tracker = new DirtyTracker(_rig.Memory.SpanPages, tracking.Sources);
            tracker.Start();
            ulong page = 600;
            var expected = new HashSet<ulong>();
            foreach (AssignedDevice device in devices)
            {
                var queue = new AdminQueue(device.Device, _rig.Memory, (page + 100) << GuestPage.Shift);
                queue.Identify(page);
                expected.UnionWith([page, queue.CompletionPage]);
                page += 200;
            }

            using DirtyLease lease = tracker.Harvest();
            Assert.Equal(
                expected.Order(),
                Enumerable.Range(0, 2048).Select(bit => (ulong)bit).Where(bit => lease.Pages[bit]));
            Assert.Equal([4UL, 2UL], lease.BySource.Select(source => source.PageCount));
            tracker.Stop();
        }

        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
    }

    [Theory]
    [InlineData(true, 2 * 512UL)]
    [InlineData(false, 2UL)]
    public void One_write_costs_a_leaf_which_is_2_MiB_unless_large_pages_are_off(bool hugePages, ulong expected)
    {
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        container.Ioas.SetHugePages(hugePages);
        using AssignedDevice device = _rig.Assign(container, 1);
        container.MapMemory(_rig.Memory, _rig.MemoryFile);
        using AssignmentTracking tracking = AssignmentTracking.Create(_rig.Faults, [device]);
        var queue = new AdminQueue(device.Device, _rig.Memory, 0x10_0000);
        TableDirtySource source = Assert.Single(tracking.Find<TableDirtySource>());
        source.Start();
        queue.Identify(page: 1500);
        var peeked = new PageBitmap(_rig.Memory.SpanPages);
        source.Peek(peeked);
        var harvested = new PageBitmap(_rig.Memory.SpanPages);
        source.Harvest(harvested);
        Assert.Equal(expected, peeked.CountSet());
        Assert.Equal(expected, harvested.CountSet());
        source.Stop();
    }

    [Fact]
    public void A_window_is_all_that_an_untracked_device_costs()
    {
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        using AssignedDevice device = _rig.Assign(container, 3);
        container.MapWindow(_rig.Memory, new GuestPhysicalAddress(0x20_0000), 0x10_0000, _rig.MemoryFile);
        Assert.Equal(0x10_0000UL, Assert.Single(MigrationVerdict.Judge([device]).Costs).BytesPerPass);
        Assert.Equal(48, device.Attachment.HostIommu!.ComputeAddressWidth());
    }

    [Fact]
    public void A_descriptor_handed_in_is_as_good_as_a_path()
    {
        using var iommufd = Iommufd.FromFd(new KernelFd(
            _rig.Soft, (int)_rig.Soft.Open("/dev/iommu", OpenFlags.ReadWrite).ThrowIfFailed("open").Value));
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        int fd = (int)_rig.Soft.Open("/dev/vfio/devices/vfio0", OpenFlags.ReadWrite).ThrowIfFailed("open").Value;
        using AssignedDevice device =
            AssignedDevice.Assign(VfioDevice.FromFd(new KernelFd(_rig.Soft, fd), "given"), container);
        Assert.Equal(TrackerKind.Iommu, device.Tracker.Kind);
    }

    [Fact]
    public void A_mapping_over_the_interrupt_window_is_refused_with_the_usable_ranges()
    {
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        using AssignedDevice device = _rig.Assign(container, 1);
        MemorySlot slot = _rig.Memory.Slots[0];
        var memory = new GuestMemory([slot with { Start = new GuestPhysicalAddress(0xfec0_0000) }]);
        KernelException failure =
            Assert.Throws<KernelException>(() => container.MapMemory(memory, _rig.MemoryFile));
        Assert.Contains("0xfedfffff, 0xfef00000", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_moves_with_its_state_and_runs_on_the_other_side()
    {
        using var other = new SoftRig();
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        using AssignedDevice source = _rig.Assign(container, 1);
        container.MapMemory(_rig.Memory, _rig.MemoryFile);
        using Iommufd otherIommufd = other.OpenIommufd();
        using IommufdContainer otherContainer = IommufdContainer.Create(otherIommufd);
        using AssignedDevice destination = other.Assign(otherContainer, 1);
        otherContainer.MapMemory(other.Memory, other.MemoryFile);
        var queue = new AdminQueue(source.Device, _rig.Memory, 0x10_0000);
        queue.Identify(5);

        var buffer = new byte[512];
        destination.Migratable!.BeginLoad();
        source.Migratable!.BeginSave();
        Assert.NotNull(source.Migratable.Estimate().StopBytes);
        MoveState(source, destination, buffer);
        queue.Identify(6);
        source.Migratable.EnterP2P();
        source.Migratable.Stop();
        MoveState(source, destination, buffer);
        source.Migratable.EndSave();
        destination.Migratable.EndLoad();
        var memory = new byte[SoftRig.MemoryLength];
        _rig.Memory.Read(new GuestPhysicalAddress(0), memory);
        other.Memory.Write(new GuestPhysicalAddress(0), memory);
        destination.Migratable.PrepareStart();
        destination.Migratable.Start();
        AdminQueue moved = queue.MoveTo(destination.Device, other.Memory);
        moved.Identify(7);
        Assert.NotEqual(0UL, other.Memory.ReadVolatile<ulong>(new GuestPhysicalAddress(7 << 12)));
    }

    [Fact]
    public void A_cancelled_move_lets_the_device_work_on()
    {
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        using AssignedDevice device = _rig.Assign(container, 1);
        container.MapMemory(_rig.Memory, _rig.MemoryFile);
        var queue = new AdminQueue(device.Device, _rig.Memory, 0x10_0000);
        Action<VfioMigratable>[] steps = [part => part.BeginSave(), part => part.EnterP2P(), part => part.Stop(),
            part => part.ReadState(new byte[16]), part => part.EndSave()];
        for (int count = 0; count <= steps.Length; count++)
        {
            foreach (Action<VfioMigratable> step in steps[..count])
                step(device.Migratable!);
            device.Migratable!.Recover();
            device.Migratable.Recover();
            queue.Identify((ulong)count);
        }
    }

    [Fact]
    public void Whatever_call_fails_nothing_leaks_and_no_dirty_bit_is_lost()
    {
        int failures = 0;
        _rig.Faults.FailNth(0, Errno.Success);
        RunScenario();
        long calls = _rig.Faults.CallCount;
        Assert.InRange(calls, 30, 5000);
        Assert.Equal(_rig.Baseline, _rig.Soft.CountOpen());
        for (long nth = 1; nth <= calls; nth++)
        {
            _rig.Faults.FailNth(nth, Errno.EIO);
            try
            {
                RunScenario();
            }
            catch (KernelException)
            {
                failures++;
            }

            _rig.Faults.FailNth(0, Errno.Success);
            Assert.True(_rig.Baseline == _rig.Soft.CountOpen(),
                $"Call {nth} ({_rig.Faults.FailedCall}) failed and {_rig.Soft.CountOpen()} is left.");
        }

        Assert.True(failures > calls / 2, $"Only {failures} of {calls} failing calls were reported.");
    }

    private static void MoveState(AssignedDevice source, AssignedDevice destination, byte[] buffer)
    {
        int count;
        while ((count = source.Migratable!.ReadState(buffer)) > 0)
            destination.Migratable!.WriteState(buffer.AsSpan(0, count));
    }

    private void RunScenario()
    {
        using Iommufd iommufd = _rig.OpenIommufd();
        using IommufdContainer container = IommufdContainer.Create(iommufd);
        using AssignedDevice tabled = _rig.Assign(container, 1);
        using AssignedDevice logging = _rig.Assign(container, 2);
        container.MapMemory(_rig.Memory, _rig.MemoryFile);
        using AssignmentTracking tracking = AssignmentTracking.Create(_rig.Faults, [tabled, logging]);
        var tracker = new DirtyTracker(_rig.Memory.SpanPages, tracking.Sources);
        AdminQueue[] queues =
        [
            new(tabled.Device, _rig.Memory, 0x10_0000), new(logging.Device, _rig.Memory, 0x20_0000),
        ];
        tracker.Start();
        queues[0].Identify(700);
        queues[1].Identify(800);
        DirtyLease lease;
        try
        {
            lease = tracker.Harvest();
        }
        catch (KernelException)
        {
            // The engine would fail the migration; what was written must still be known.
            lease = tracker.Harvest();
        }

        using (lease)
        {
            ulong[] written = [700, 800, queues[0].CompletionPage, queues[1].CompletionPage];
            Assert.All(written, page => Assert.True(
                lease.Pages[page],
                $"Page {page} is missing after call {_rig.Faults.FailedCall} failed ({lease.PageCount} pages)."));
        }

        tracker.Stop();
    }
}
