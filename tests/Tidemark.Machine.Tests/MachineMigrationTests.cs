using System.Collections.Concurrent;
using System.Text.RegularExpressions;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.CpuTracking;
using Tidemark.Machine.Description;
using Tidemark.Memory;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine.Tests;

public sealed class MachineMigrationTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void A_running_machine_moves_and_reads_on()
    {
        MachineDescription description = _rig.Describe();
        MoveAndCheck(description, (source, destination) =>
        {
            Assert.All(source.Devices, device => Assert.Equal(TrackerKind.Iommu, device.Tracker.Kind));
            // Each device and its configuration space, and the workload.
            Assert.Equal((2 * destination.Devices.Count) + 1, destination.Parts.Count);
        });
    }

    [Fact]
    public void A_device_without_P2P_moves_when_it_is_alone() =>
        MoveAndCheck(_rig.Describe(1, (_, device, hardware) => (device, hardware with { P2P = false })));

    [Fact]
    public void What_is_still_on_its_way_says_nothing_about_the_link()
    {
        // Less than a batch on each channel: the first acknowledgement is that of the whole pass.
        MachineDescription description = _rig.Describe(1) with { MemoryBytes = 40 * MachineRig.MiB };
        description = description with { Workload = description.Workload with { FillBytes = 6 * MachineRig.MiB } };
        GuestMachine source = _rig.AssembleRunning(description);
        (MigrationOutcome sent, _) = _rig.Migrate(
            source, _rig.Assemble(description),
            new MigrationOptions { Channels = 2, DowntimeLimit = TimeSpan.FromSeconds(3) },
            wire: acceptor => new SlowAcceptor(acceptor, TimeSpan.FromMilliseconds(100)));
        Assert.Equal(MigrationResult.Completed, sent.Result);
        Assert.InRange(sent.Report.Passes[0].PredictedDowntime!.Value, TimeSpan.Zero, TimeSpan.FromSeconds(30));
    }

    [Fact]
    public void Devices_without_PRE_COPY_move() =>
        MoveAndCheck(_rig.Describe(2, (_, device, hardware) => (device, hardware with { PreCopy = false })));

    [Fact]
    public void A_device_that_logs_its_own_DMA_moves()
    {
        MachineDescription description = _rig.Describe(2, (number, device, hardware) =>
            (device, number == 1 ? hardware with { DmaLogging = true, Iommu = "plain" } : hardware));
        MoveAndCheck(description, (source, _) =>
            Assert.Equal(TrackerKind.DeviceLog, source.Devices[1].Tracker.Kind));
    }

    [Fact]
    public void An_isolated_device_that_nobody_tracks_costs_its_arena_in_each_pass_and_moves()
    {
        MachineDescription description = _rig.Describe(2, (number, device, hardware) =>
            number == 1 ? (device with { Isolated = true }, hardware with { Iommu = "plain" }) : (device, hardware));
        MoveAndCheck(description, (source, _) =>
        {
            Assert.Equal(TrackerKind.Assumed, source.Devices[1].Tracker.Kind);
            StatedCost cost = Assert.Single(source.Verdict.Costs);
            Assert.Equal(description.Devices[1].ArenaBytes, cost.BytesPerPass);
        });
    }

    [Fact]
    public void A_device_at_another_address_of_the_other_host_takes_over()
    {
        MachineDescription here = _rig.Describe(1), there = _rig.Describe(1, (_, device, hardware) =>
            (device with { Host = "0000:7f:1e.3" }, hardware with { Address = "0000:7f:1e.3" }));
        SoftKernel sourceHost = _rig.CreateKernel(here, "TMDISK"), otherHost = _rig.CreateKernel(there, "TMDISK");
        GuestMachine destination = Check(
            MachineRig.Run(_rig.Own(GuestMachine.Assemble(here, sourceHost, sourceHost.Sysfs))),
            _rig.Own(GuestMachine.Assemble(there, otherHost, otherHost.Sysfs)));
        Assert.Equal("0000:7f:1e.3", destination.Devices[0].HostAddress);
    }

    [Fact]
    public void A_machine_whose_IOMMU_maps_huge_pages_moves() => MoveAndCheck(_rig.Describe() with { HugePages = true });

    [Fact]
    public void Large_leaves_are_split_for_a_migration_and_come_back_after_a_cancel()
    {
        MachineDescription description = _rig.Describe(1) with { HugePages = true };
        GuestMachine source = _rig.AssembleRunning(description);
        var container = (IommufdContainer)source.Devices[0].Assigned.Container;
        Ioas before = container.Ioas;
        MigrationOutcome cancelled = _rig.Migrate(
            source, _rig.Assemble(description), cancelAt: MigrationPhase.Switchover).Source;
        Assert.Equal(MigrationResult.Cancelled, cancelled.Result);
        Assert.Empty(source.LeafRefusals);
        Assert.NotSame(before, container.Ioas);
        // A leaf is one dirty unit: with large ones every count would be whole leaves.
        Assert.Contains(
            cancelled.Report.Passes.SelectMany(pass => pass.Sources),
            count => count.Kind == DirtySourceKind.Iommu && count.PageCount % 512 != 0);
        source.DirtyTracker.Start();
        MachineRig.AwaitReads(source, 20);
        using (DirtyLease lease = source.DirtyTracker.Harvest())
            Assert.Equal(0UL, lease.BySource.Single(count => count.Kind == DirtySourceKind.Iommu).PageCount % 512);
        source.DirtyTracker.Stop();
        MachineRig.AssertGoodData(source);
    }

    [Fact]
    public void What_nobody_tracks_is_compared_and_only_what_changed_is_sent()
    {
        MachineDescription description = _rig.Describe(1, (_, device, hardware) =>
            (device with { ReadBytesPerSecond = MachineRig.MiB }, hardware with { Iommu = "plain" }));
        MoveAndCheck(description, (source, _) => Assert.True(source.ReportsUnchangedPages), outcome =>
        {
            PassReport pass = outcome.Report.Passes[1];
            // A harvest during the pass makes everything dirty again, so what was not looked at by then is left out.
            Assert.True(pass.UnchangedPages > (pass.DirtyPages - pass.SkippedPages) / 4, $"{pass}");
            Assert.Equal(pass.DirtyPages, pass.SentPages + pass.ZeroPages + pass.UnchangedPages + pass.SkippedPages);
        });
    }

    [Fact]
    public void All_devices_answer_their_peers_before_any_of_them_runs()
    {
        MachineDescription description = _rig.Describe();
        GuestMachine source = _rig.AssembleRunning(description);
        SoftKernel kernel = _rig.CreateKernel(description);
        var states = new ConcurrentQueue<string>();
        var traced = new TracingKernel(kernel, line =>
        {
            Match asked = Regex.Match(line, @"SET\|MIG_DEVICE_STATE, device_state=(RUNNING\w*)");
            if (asked.Success)
                states.Enqueue(asked.Groups[1].Value);
        });
        Check(source, _rig.Own(GuestMachine.Assemble(description, traced, kernel.Sysfs)));
        Assert.Equal(["RUNNING_P2P", "RUNNING_P2P", "RUNNING", "RUNNING"], states);
    }

    [Fact]
    public void A_device_that_must_be_able_to_move_and_can_not_is_refused_when_the_machine_starts()
    {
        MachineDescription Describe(MigrationUse use) => _rig.Describe(1, (_, device, hardware) =>
            (device with { Migration = use, Handover = Handover.HandoverWish.States },
                hardware with { Migration = false, P2P = false, PreCopy = false }));
        KernelException refused = Assert.Throws<KernelException>(() => _rig.Assemble(Describe(MigrationUse.On)));
        Assert.Contains("migration=on", refused.Message, StringComparison.Ordinal);
        Assert.Contains("remove it before the migration", refused.Message, StringComparison.Ordinal);
        GuestMachine stays = _rig.Assemble(Describe(MigrationUse.Auto));
        Assert.Equal(MigrationBlockerKind.NoMigration, Assert.Single(stays.Verdict.Blockers).Kind);
    }

    [Fact]
    public void Tracking_that_can_not_start_leaves_the_large_leaves_as_they_were()
    {
        GuestMachine machine = _rig.AssembleRunning(_rig.Describe(1) with { HugePages = true });
        machine.DirtyTracker.Start();
        Assert.Throws<InvalidOperationException>(machine.StartTracking);
        MachineRig.AwaitReads(machine, 20);
        using (DirtyLease lease = machine.DirtyTracker.Harvest())
            Assert.Equal(0UL, lease.BySource.Single(count => count.Kind == DirtySourceKind.Iommu).PageCount % 512);
        machine.DirtyTracker.Stop();
        MachineRig.AssertGoodData(machine);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_machine_whose_state_was_loaded_twice_after_a_cut_moves_on(bool hasStates)
    {
        MachineDescription description = _rig.Describe(2, (_, device, hardware) =>
            // Without a limit of the rate there are always commands in flight.
            (device with { ReadBytesPerSecond = 0 }, hardware with { Migration = hasStates, P2P = hasStates, PreCopy = hasStates }));
        GuestMachine source = _rig.AssembleRunning(description);
        GuestMachine middle = _rig.Assemble(description);
        BreakingAcceptor? wire = null;
        int loads = 0;
        MigrationOutcome first = _rig.Migrate(
            source, middle, wire: acceptor => wire = new BreakingAcceptor(acceptor, long.MaxValue),
            onPhase: phase =>
            {
                if (phase == MigrationPhase.Verify && ++loads == 1)
                    wire!.Cut();
            }).Source;
        Assert.True(first.Result == MigrationResult.Completed, first.Cause);
        Assert.Equal(2, loads);
        MachineRig.AwaitReads(middle, 20);
        Check(middle, _rig.Assemble(description));
    }

    [Theory]
    [InlineData("iommu", true)]
    [InlineData("log", true)]
    [InlineData("huge", true)]
    [InlineData("iommu", false)]
    public void A_guest_that_reboots_again_and_again_during_a_migration_moves_without_a_lost_page(string tracking, bool hasStates)
    {
        MachineDescription description = _rig.Describe(2, (_, device, hardware) => (device, hardware with
        {
            Migration = hasStates, P2P = hasStates, PreCopy = hasStates, DmaLogging = tracking == "log",
        })) with { HugePages = tracking == "huge" };
        GuestMachine source = _rig.AssembleRunning(description);
        GuestMachine destination = _rig.Assemble(description);
        using var gate = new ManualResetEventSlim();
        using var precopy = new ManualResetEventSlim();
        Exception? refused = null;
        var guest = new Thread(() => refused = Record.Exception(() =>
        {
            precopy.Wait(TimeSpan.FromSeconds(60));
            for (int reboot = 0; reboot < 4; reboot++)
            {
                source.Reset(CancellationToken.None);
                MachineRig.AwaitReads(source, 10);
            }
        }));
        guest.Start();
        var watch = new Thread(() =>
        {
            guest.Join();
            gate.Set();
        });
        watch.Start();
        MigrationOutcome outcome = _rig.Migrate(
            source, destination, new MigrationOptions { Verify = true, DowntimeLimit = TimeSpan.FromSeconds(3), SwitchoverGate = gate },
            onPhase: phase =>
            {
                if (phase == MigrationPhase.Precopy)
                    precopy.Set();
            }).Source;
        watch.Join();
        Assert.Null(refused);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Equal(0UL, outcome.Report.LostPages);
        // Memory was written over while it moved, not before.
        Assert.True(outcome.Report.Passes.Skip(1).SelectMany(pass => pass.Sources)
            .Where(count => count.Kind == DirtySourceKind.Cpu).Sum(count => (long)count.PageCount) > (6 << 20 >> 12));
        MachineRig.AwaitReads(destination, 50);
        MachineRig.AssertGoodData(destination);
        Assert.Throws<InvalidOperationException>(() => source.Reset(CancellationToken.None));
    }

    [Fact]
    public void Prefaulted_memory_moves() => MoveAndCheck(_rig.Describe() with { Prefault = true });

    [Fact]
    public void A_machine_without_devices_moves()
    {
        MachineDescription description = _rig.Describe(0);
        MoveAndCheck(description);
    }

    [Fact]
    public void Blocks_written_to_an_overlay_are_read_back_right_after_the_move()
    {
        MachineDescription description = DescribeOverlay("shared.overlay");
        GuestMachine destination = MoveAndCheck(description, (source, _) => AwaitWrites(source));
        ulong writes = destination.Devices[0].Workload.Counters.Writes;
        Assert.True(writes > 0);
        MachineRig.AwaitReads(destination, 200);
        MachineRig.AssertGoodData(destination);
    }

    [Fact]
    public void Blocks_that_stay_behind_are_noticed()
    {
        // The control for the test above: the destination has an overlay of its own, without the written blocks.
        GuestMachine source = _rig.AssembleRunning(DescribeOverlay("here.overlay"));
        AwaitWrites(source);
        MachineRig.AwaitReads(source, 200);
        GuestMachine destination = _rig.Assemble(DescribeOverlay("there.overlay"));
        Assert.Equal(MigrationResult.Completed, _rig.Migrate(source, destination).Source.Result);
        MachineRig.Await(() => destination.Devices[0].Workload.Counters.DataErrors > 0, () => "a data error");
    }

    [Fact]
    public void A_disk_that_is_written_through_moves() =>
        MoveAndCheck(_rig.Describe(1, (_, device, hardware) => (device, hardware with { Mode = DiskMode.WriteThrough })));

    [Fact]
    public void A_machine_moves_with_the_write_barrier_where_the_kernel_does_not_track_the_processor()
    {
        MachineDescription description = _rig.Describe();
        GuestMachine source = AssembleWithBarrier(description);
        Assert.Equal(CpuDirtyTracking.WriteBarrier, source.CpuTracking.Mechanism);
        source.AcquireDisks();
        source.StartFresh(CancellationToken.None);
        MachineRig.AwaitReads(source, 20);
        Check(source, _rig.Assemble(description));
    }

    [Theory]
    [InlineData(GuestMachineFaults.DropIommuSource)]
    [InlineData(GuestMachineFaults.DropCpuSource)]
    public void A_source_left_out_loses_pages_and_the_verification_says_so(GuestMachineFaults fault)
    {
        MachineDescription description = _rig.Describe();
        GuestMachine source = _rig.AssembleRunning(description, fault);
        (MigrationOutcome sent, MigrationOutcome received) = _rig.Migrate(
            source, _rig.Assemble(description), whileItWorks: true);
        Assert.Equal(MigrationResult.Failed, sent.Result);
        Assert.Equal(MigrationResult.Failed, received.Result);
        Assert.Equal("memory-verification", sent.CaughtBy);
        Assert.True(sent.Report.LostPages > 0);
        MachineRig.AwaitReads(source, 20);
        MachineRig.AssertGoodData(source);
    }

    [Fact]
    public void When_the_destination_fails_in_the_middle_the_source_reads_on_and_can_move_later()
    {
        MachineDescription description = _rig.Describe();
        GuestMachine source = _rig.AssembleRunning(description);
        // One channel, which carries the fill and more in pass 0: with two it would be chance which of them breaks.
        (MigrationOutcome sent, MigrationOutcome received) = _rig.Migrate(
            source, _rig.Assemble(description), new MigrationOptions { Verify = true, Channels = 1, RetryFor = TimeSpan.Zero },
            wire: acceptor => new BreakingAcceptor(acceptor, breakAfter: 4 << 20));
        Assert.Equal(MigrationResult.Failed, sent.Result);
        Assert.Equal(MigrationResult.Failed, received.Result);
        Assert.Equal(MigrationPhase.Precopy, sent.Phase);
        Assert.False(source.DirtyTracker.IsStarted);
        MachineRig.AwaitReads(source, 50);
        MachineRig.AssertGoodData(source);
        Check(source, _rig.Assemble(description));
    }

    [Fact]
    public void Another_machine_is_refused_and_both_sides_are_as_before()
    {
        GuestMachine source = _rig.AssembleRunning(_rig.Describe());
        MachineDescription other = _rig.Describe(1);
        (MigrationOutcome sent, _) = _rig.Migrate(source, _rig.Assemble(other));
        Assert.Equal(MigrationResult.Failed, sent.Result);
        Assert.Contains("2 at the source, 1 here", sent.Cause, StringComparison.Ordinal);
        MachineRig.AwaitReads(source, 20);
        MachineRig.AssertGoodData(source);
    }

    private MachineDescription DescribeOverlay(string file) => _rig.Describe(1, (_, device, hardware) =>
        (device, hardware with { Mode = DiskMode.Overlay, Overlay = Path.Combine(_rig.Folder, file) }));

    private static void AwaitWrites(GuestMachine machine) =>
        MachineRig.Await(() => machine.Devices[0].Workload.Counters.Writes > 20, () => "writes");

    private GuestMachine MoveAndCheck(
        MachineDescription description, Action<GuestMachine, GuestMachine>? before = null,
        Action<MigrationOutcome>? after = null)
    {
        GuestMachine source = _rig.AssembleRunning(description);
        GuestMachine destination = _rig.Assemble(description);
        before?.Invoke(source, destination);
        return Check(source, destination, after);
    }

    private GuestMachine Check(
        GuestMachine source, GuestMachine destination, Action<MigrationOutcome>? after = null)
    {
        Assert.True(source.Verdict.CanMigrate);
        (MigrationOutcome sent, MigrationOutcome received) = _rig.Migrate(source, destination);
        Assert.True(sent.Result == MigrationResult.Completed, sent.Cause);
        Assert.True(received.Result == MigrationResult.Completed, received.Cause);
        Assert.Equal(0UL, sent.Report.LostPages);
        after?.Invoke(sent);
        Assert.All(sent.Report.Parts, part => Assert.True(part.StateBytes > 0, part.Name));
        ulong beats = source.Processor.Beats;
        ulong readsAtSource = source.Devices.Aggregate(0UL, (sum, device) => sum + device.Workload.Counters.Reads);
        MachineRig.AwaitReads(destination, 50);
        MachineRig.Await(() => destination.Processor.Beats > beats + 5, () => "the processor");
        MachineRig.AssertGoodData(source);
        MachineRig.AssertGoodData(destination);
        // The counters went along, so the destination counts on from the source's.
        Assert.True(destination.Devices.Aggregate(0UL, (sum, device) => sum + device.Workload.Counters.Reads) >= readsAtSource);
        Assert.Equal(beats, source.Processor.Beats);
        Assert.Empty(source.FindRunners());
        return destination;
    }

    /// <summary>Lets the first call fail without which the kernel can not track the processor.</summary>
    private GuestMachine AssembleWithBarrier(MachineDescription description)
    {
        for (long call = 1; ; call++)
        {
            SoftKernel soft = _rig.CreateKernel(description);
            var kernel = new FaultInjectingKernel(soft);
            kernel.FailNth(call, Errno.EINVAL);
            try
            {
                GuestMachine machine = GuestMachine.Assemble(description, kernel, soft.Sysfs);
                Assert.True(kernel.FailedCall is not null, "No call makes the machine use the barrier.");
                if (machine.CpuTracking.Mechanism == CpuDirtyTracking.WriteBarrier)
                    return _rig.Own(machine);
                machine.Dispose();
            }
            catch (KernelException)
            {
                // Another call, without which there is no machine.
            }
        }
    }
}
