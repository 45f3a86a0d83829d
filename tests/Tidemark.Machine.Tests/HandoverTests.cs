using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Nvme;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine.Tests;

/// <summary>Machines whose devices have no migration states and move with the help of their driver.</summary>
public sealed class HandoverTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void A_machine_whose_devices_have_no_migration_states_moves_and_reads_on(int devices)
    {
        GuestMachine source = _rig.AssembleRunning(DescribeAssisted(devices));
        Assert.All(source.Devices, device => Assert.Equal(HandoverKind.DriverAssisted, device.Assigned.Handover.Kind));
        Assert.All(source.Devices, device => Assert.Equal(TrackerKind.Iommu, device.Tracker.Kind));
        MoveAndCheck(source, _rig.Assemble(DescribeAssisted(devices)));
    }

    [Fact]
    public void Devices_with_and_without_migration_states_move_together()
    {
        MachineDescription description = _rig.Describe(2, (number, device, hardware) =>
            (device, number == 0 ? hardware with { Migration = false } : hardware));
        GuestMachine source = _rig.AssembleRunning(description);
        Assert.Equal(
            [HandoverKind.DriverAssisted, HandoverKind.States], source.Devices.Select(device => device.Assigned.Handover.Kind));
        MoveAndCheck(source, _rig.Assemble(description));
    }

    [Fact]
    public void A_device_with_migration_states_moves_driver_assisted_when_asked()
    {
        MachineDescription description = _rig.Describe(1, (_, device, hardware) =>
            (device with { Handover = HandoverWish.DriverAssisted }, hardware));
        GuestMachine source = _rig.AssembleRunning(description);
        Assert.Equal(HandoverKind.DriverAssisted, source.Devices[0].Assigned.Handover.Kind);
        MoveAndCheck(source, _rig.Assemble(description));
    }

    [Fact]
    public void A_machine_that_moved_driver_assisted_can_move_again()
    {
        GuestMachine first = _rig.AssembleRunning(DescribeAssisted(1));
        GuestMachine second = MoveAndCheck(first, _rig.Assemble(DescribeAssisted(1)));
        MoveAndCheck(second, _rig.Assemble(DescribeAssisted(1)));
    }

    [Fact]
    public void Huge_pages_and_devices_nobody_tracks_move_driver_assisted()
    {
        MachineDescription description = DescribeAssisted(2, (number, device, hardware) =>
            number == 1 ? (device with { Isolated = true }, hardware with { Iommu = "plain" }) : (device, hardware)) with { HugePages = true };
        GuestMachine source = _rig.AssembleRunning(description);
        Assert.Equal(TrackerKind.Assumed, source.Devices[1].Tracker.Kind);
        MoveAndCheck(source, _rig.Assemble(description));
    }

    [Fact]
    public void A_driver_keeps_its_device_idle_while_its_page_table_changes_and_goes_on_after_it()
    {
        GuestMachine machine = _rig.AssembleRunning(DescribeAssisted(1));
        NvmeWorkload workload = machine.Devices[0].Workload;
        IHandoverDriver driver = machine.Devices[0].Assigned.Assisted!.Driver;
        using (IDisposable? rest = driver.TryStandStill(TimeSpan.FromSeconds(20)))
        {
            Assert.NotNull(rest);
            ulong reads = workload.Counters.Reads;
            Thread.Sleep(100);
            Assert.Equal(reads, workload.Counters.Reads);
            // Somebody else's rest ends nothing.
            driver.TryStandStill(TimeSpan.FromSeconds(20))!.Dispose();
            Thread.Sleep(50);
            Assert.Equal(reads, workload.Counters.Reads);
        }

        ulong before = workload.Counters.Reads;
        MachineRig.Await(() => workload.Counters.Reads > before + 10, () => "reads");
        MachineRig.AssertGoodData(machine);
    }

    [Fact]
    public void A_device_that_was_just_resumed_reads_on_after_it_was_kept_idle()
    {
        // A migration that ends here resumes the machine and changes the page tables right after it.
        GuestMachine machine = _rig.AssembleRunning(DescribeAssisted(1));
        NvmeWorkload workload = machine.Devices[0].Workload;
        IHandoverDriver driver = machine.Devices[0].Assigned.Assisted!.Driver;
        for (int round = 0; round < 30; round++)
        {
            machine.StopWorkload();
            ulong before = workload.Counters.Reads;
            machine.ResumeWorkload();
            driver.TryStandStill(TimeSpan.FromSeconds(20))!.Dispose();
            MachineRig.Await(() => workload.Counters.Reads > before, () => "reads");
        }
    }

    [Fact]
    public void A_guest_that_reboots_waits_until_a_device_need_not_be_idle_any_more()
    {
        GuestMachine machine = _rig.AssembleRunning(DescribeAssisted(1));
        NvmeWorkload workload = machine.Devices[0].Workload;
        IHandoverDriver driver = machine.Devices[0].Assigned.Assisted!.Driver;
        IDisposable? rest = driver.TryStandStill(TimeSpan.FromSeconds(20));
        Assert.NotNull(rest);
        ulong before = workload.Counters.Reads;
        var reset = new Thread(() => machine.Reset(CancellationToken.None));
        reset.Start();
        Assert.False(reset.Join(TimeSpan.FromMilliseconds(200)));
        Assert.Equal(before, workload.Counters.Reads);
        rest.Dispose();
        Assert.True(reset.Join(TimeSpan.FromSeconds(20)));
        MachineRig.Await(() => workload.Counters.Reads > before, () => "reads");
        MachineRig.AssertGoodData(machine);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_device_is_idle_while_it_goes_to_another_page_table_where_its_driver_can_see_to_it(bool assisted)
    {
        MachineDescription description = _rig.Describe(1, (_, device, hardware) =>
            (device with { ReadBytesPerSecond = 0 }, hardware with { Migration = !assisted })) with { HugePages = true };
        SoftKernel soft = _rig.CreateKernel(description);
        var kernel = new WatchingExchanges(soft);
        GuestMachine source = MachineRig.Run(_rig.Own(
            GuestMachine.Assemble(description, kernel, soft.Sysfs, exercises: GuestMachineExercises.Reattach)));
        kernel.CountReads = () => source.Devices[0].Workload.Counters.Reads;
        MoveAndCheck(source, _rig.Assemble(description));
        // To base pages when tracking begins, and once more in the middle of the migration.
        Assert.True(kernel.Exchanges.Count >= 2, $"{kernel.Exchanges.Count} exchanges");
        // Without a driver that helps it reads on: that is how this test sees that nobody kept it idle.
        Assert.Equal(!assisted, kernel.Exchanges.Any(reads => reads > 0));
    }

    [Fact]
    public void A_reader_that_waits_for_what_its_caller_holds_costs_a_second_and_nothing_else()
    {
        using var gate = new ManualResetEventSlim();
        using var busy = new ManualResetEventSlim();
        using var thread = new Workload.PausableThread("stuck", () =>
        {
            busy.Set();
            gate.Wait();
            return TimeSpan.FromMilliseconds(1);
        });
        thread.Start();
        busy.Wait();
        Assert.Null(thread.TryRest(TimeSpan.FromMilliseconds(50)));
        gate.Set();
        Thread.Sleep(20);
        Assert.True(thread.IsRunning);
    }

    [Fact]
    public void Blocks_written_before_a_driver_assisted_move_are_read_back_after_it()
    {
        MachineDescription description = DescribeAssisted(1, (_, device, hardware) =>
            (device, hardware with { Mode = DiskMode.Overlay, Overlay = Path.Combine(_rig.Folder, "shared.overlay") }));
        GuestMachine source = _rig.AssembleRunning(description);
        // Assembled before the source writes: what it knew of the disk then is old by the time it takes over.
        GuestMachine destination = _rig.Assemble(description);
        MachineRig.Await(() => source.Devices[0].Workload.Counters.Writes > 20, () => "writes");
        MoveAndCheck(source, destination);
        MachineRig.AwaitReads(destination, 300);
        MachineRig.AssertGoodData(destination);
    }

    [Theory]
    [InlineData(GuestMachineFaults.DropIommuSource, MigrationFaults.None, "memory-verification")]
    [InlineData(GuestMachineFaults.DropCpuSource, MigrationFaults.None, "memory-verification")]
    [InlineData(GuestMachineFaults.None, MigrationFaults.EarlyFinalHarvest, "memory-verification")]
    [InlineData(GuestMachineFaults.None, MigrationFaults.ResumeBeforeCommit, "stopped-before-commit")]
    public void A_planted_fault_is_caught_in_a_driver_assisted_move_and_the_source_reads_on(
        GuestMachineFaults fault, MigrationFaults engine, string caughtBy)
    {
        MachineDescription description = DescribeAssisted(1);
        GuestMachine source = _rig.AssembleRunning(description, fault);
        (MigrationOutcome sent, MigrationOutcome received) = _rig.Migrate(
            source, _rig.Assemble(description), new MigrationOptions { Verify = true, Faults = engine, RetryFor = TimeSpan.Zero },
            whileItWorks: true);
        Assert.Equal(MigrationResult.Failed, sent.Result);
        Assert.Equal(MigrationResult.Failed, received.Result);
        Assert.Equal(caughtBy, sent.CaughtBy);
        MachineRig.AwaitReads(source, 50);
        MachineRig.AssertGoodData(source);
    }

    [Theory]
    [InlineData(MigrationPhase.Precopy)]
    [InlineData(MigrationPhase.Switchover)]
    [InlineData(MigrationPhase.Verify)]
    public void A_cancelled_driver_assisted_move_lets_the_source_read_on_and_move_later(MigrationPhase phase)
    {
        GuestMachine source = _rig.AssembleRunning(DescribeAssisted(2));
        (MigrationOutcome sent, _) = _rig.Migrate(source, _rig.Assemble(DescribeAssisted(2)), cancelAt: phase);
        Assert.Equal(MigrationResult.Cancelled, sent.Result);
        Assert.EndsWith("The machine runs here.", sent.Cause, StringComparison.Ordinal);
        MachineRig.AwaitReads(source, 50);
        MachineRig.AssertGoodData(source);
        MoveAndCheck(source, _rig.Assemble(DescribeAssisted(2)));
    }

    [Theory]
    [InlineData(MigrationPhase.Precopy)]
    [InlineData(MigrationPhase.Switchover)]
    [InlineData(MigrationPhase.Verify)]
    public void When_the_destination_dies_the_source_sets_its_controllers_up_again(MigrationPhase phase)
    {
        MachineDescription description = DescribeAssisted(2);
        GuestMachine source = _rig.AssembleRunning(description);
        BreakingAcceptor? acceptor = null;
        (MigrationOutcome sent, _) = _rig.Migrate(
            source, _rig.Assemble(description), new MigrationOptions { Verify = true, RetryFor = TimeSpan.Zero },
            wire: inner => acceptor = new BreakingAcceptor(inner, long.MaxValue),
            onPhase: began =>
            {
                if (began == phase)
                    acceptor!.Cut();
            });
        Assert.Equal((MigrationResult.Failed, phase), (sent.Result, sent.Phase));
        MachineRig.AwaitReads(source, 50);
        MachineRig.AssertGoodData(source);
    }

    [Fact]
    public void Another_disk_is_refused_before_anything_is_sent_unless_a_copy_is_allowed()
    {
        GuestMachine source = _rig.AssembleRunning(DescribeAssisted(1));
        // Another controller: the soft host names its serial number by the address.
        (MigrationOutcome refused, _) = _rig.Migrate(source, _rig.Assemble(MoveTo("0000:05:00.0", DescribeAssisted(1))));
        Assert.Equal((MigrationResult.Failed, MigrationPhase.Negotiate), (refused.Result, refused.Phase));
        Assert.Contains("devices[0].disk.serial", refused.Cause, StringComparison.Ordinal);
        MachineRig.AwaitReads(source, 20);
        MachineRig.AssertGoodData(source);

        MachineDescription copies = DescribeAssisted(1, (_, device, hardware) => (device with { SameDisk = DiskMatch.Copy }, hardware));
        MoveAndCheck(_rig.AssembleRunning(copies), _rig.Assemble(MoveTo("0000:05:00.0", copies)));
    }

    [Fact]
    public void A_disk_of_another_size_is_no_copy()
    {
        MachineDescription copies = DescribeAssisted(1, (_, device, hardware) => (device with { SameDisk = DiskMatch.Copy }, hardware));
        GuestMachine source = MachineRig.Run(_rig.AssembleBlind(copies));
        string smaller = Path.Combine(_rig.Folder, "smaller.img");
        File.WriteAllBytes(smaller, File.ReadAllBytes(_rig.CreateDisk(0))[..(512 << 10)]);
        (MigrationOutcome refused, _) = _rig.Migrate(source, _rig.AssembleBlind(WithDisk(copies, smaller)));
        Assert.Equal((MigrationResult.Failed, MigrationPhase.Negotiate), (refused.Result, refused.Phase));
        Assert.Contains("devices[0].disk.blocks is", refused.Cause, StringComparison.Ordinal);
    }

    [Fact]
    public void A_machine_that_moves_in_another_way_there_is_refused()
    {
        GuestMachine source = _rig.AssembleRunning(DescribeAssisted(1));
        (MigrationOutcome refused, _) = _rig.Migrate(source, _rig.Assemble(_rig.Describe(1)));
        Assert.Equal((MigrationResult.Failed, MigrationPhase.Negotiate), (refused.Result, refused.Phase));
        Assert.Contains("handover", refused.Cause, StringComparison.Ordinal);
    }

    [Fact]
    public void A_disk_whose_content_nobody_told_is_compared_with_what_was_read_before_also_after_the_move()
    {
        MachineDescription copies = DescribeAssisted(1, (_, device, hardware) => (device with { SameDisk = DiskMatch.Copy }, hardware));
        GuestMachine source = MachineRig.Run(_rig.AssembleBlind(copies));
        MachineRig.AwaitReads(source, 300);
        MoveAndCheck(source, _rig.AssembleBlind(MoveTo("0000:05:00.0", copies)));
    }

    [Fact]
    public void A_copy_with_other_content_is_noticed()
    {
        // The control for the test above.
        MachineDescription copies = DescribeAssisted(1, (_, device, hardware) => (device with { SameDisk = DiskMatch.Copy }, hardware));
        GuestMachine source = MachineRig.Run(_rig.AssembleBlind(copies));
        MachineRig.AwaitReads(source, 300);
        GuestMachine destination = _rig.AssembleBlind(WithDisk(copies, _rig.CreateDisk(7)));
        Assert.Equal(MigrationResult.Completed, _rig.Migrate(source, destination).Source.Result);
        MachineRig.Await(() => destination.Devices[0].Workload.Counters.DataErrors > 0, () => "a data error");
        Assert.Contains("read before", destination.Devices[0].Workload.Counters.FirstError, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_that_must_move_by_states_and_has_none_says_so()
    {
        GuestMachine machine = _rig.Assemble(DescribeAssisted(1, (_, device, hardware) =>
            (device with { Handover = HandoverWish.States }, hardware)));
        MigrationBlocker blocker = Assert.Single(machine.Verdict.Blockers);
        Assert.Equal(MigrationBlockerKind.NoMigration, blocker.Kind);
        Assert.Contains("handover=states", blocker.Evidence, StringComparison.Ordinal);
    }

    private static MachineDescription MoveTo(string address, MachineDescription machine) => machine with
    {
        Devices = [machine.Devices[0] with { Host = address }],
        SoftHost = machine.SoftHost! with { Devices = [machine.SoftHost.Devices[0] with { Address = address }] },
    };

    private static MachineDescription WithDisk(MachineDescription machine, string disk) => machine with
    {
        SoftHost = machine.SoftHost! with { Devices = [machine.SoftHost.Devices[0] with { Disk = disk }] },
    };

    private MachineDescription DescribeAssisted(
        int devices,
        Func<int, DeviceDescription, SoftDeviceDescription, (DeviceDescription, SoftDeviceDescription)>? change = null) =>
        _rig.Describe(devices, (number, device, hardware) =>
        {
            hardware = hardware with { Migration = false };
            return change is null ? (device, hardware) : change(number, device, hardware);
        });

    private GuestMachine MoveAndCheck(GuestMachine source, GuestMachine destination)
    {
        Assert.True(source.Verdict.CanMigrate);
        (MigrationOutcome sent, MigrationOutcome received) = _rig.Migrate(source, destination);
        Assert.True(sent.Result == MigrationResult.Completed, sent.Cause);
        Assert.Equal(MigrationResult.Completed, received.Result);
        Assert.Equal(0UL, sent.Report.LostPages);
        Assert.Empty(source.FindRunners());
        MachineRig.AwaitReads(destination, 50);
        MachineRig.AssertGoodData(destination);
        // Every command completed once and was counted: none is in flight on the side that stands still.
        Assert.True(destination.Devices.Sum(device => (long)device.Workload.Counters.Reads)
            >= source.Devices.Sum(device => (long)device.Workload.Counters.Reads));
        return destination;
    }

    /// <summary>Counts what a device reads while it is attached to another page table.</summary>
    private sealed class WatchingExchanges(SoftKernel soft) : ForwardingKernel(() => soft)
    {
        public Func<ulong>? CountReads { get; set; }

        public List<ulong> Exchanges { get; } = [];

        public override SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
        {
            if (request != VfioRequests.DeviceAttachIommufdPt.Value || CountReads is null)
                return base.Ioctl(fd, request, argument);
            ulong before = CountReads();
            Thread.Sleep(20);
            Exchanges.Add(CountReads() - before);
            return base.Ioctl(fd, request, argument);
        }
    }
}
