using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;

namespace Tidemark.Machine.Tests;

public sealed class GuestMachineTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void A_machine_that_never_ran_leaves_nothing_in_the_kernel()
    {
        MachineDescription description = _rig.Describe();
        SoftKernel kernel = _rig.CreateKernel(description);
        GuestMachine machine = GuestMachine.Assemble(description, kernel, kernel.Sysfs);
        Assert.False(kernel.CountOpen().IsZero);
        machine.Dispose();
        machine.Dispose();
        Assert.True(kernel.CountOpen().IsZero, kernel.CountOpen().ToString());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_machine_that_ran_leaves_nothing_in_the_kernel_paused_or_not(bool paused)
    {
        MachineDescription description = _rig.Describe(3, (number, device, hardware) =>
            (device with { ArenaBytes = 2 << 20, Isolated = number == 2 }, hardware with { DmaLogging = number == 1 }));
        SoftKernel kernel = _rig.CreateKernel(description);
        GuestMachine machine = GuestMachine.Assemble(description, kernel, kernel.Sysfs);
        machine.AcquireDisks();
        machine.StartFresh(CancellationToken.None);
        MachineRig.AwaitReads(machine, 10);
        MachineRig.AssertGoodData(machine);
        machine.DirtyTracker.Start();
        machine.DirtyTracker.Harvest().Dispose();
        if (paused)
            machine.StopWorkload();
        machine.Dispose();
        Assert.True(kernel.CountOpen().IsZero, kernel.CountOpen().ToString());
    }

    [Fact]
    public void Whichever_call_fails_during_assembly_nothing_is_left_behind()
    {
        MachineDescription description = _rig.Describe(2, (number, device, hardware) =>
            (device with { Isolated = number == 1 }, hardware));
        SoftKernel soft = _rig.CreateKernel(description);
        var kernel = new FaultInjectingKernel(soft);
        kernel.FailNth(0, Errno.Success);
        GuestMachine.Assemble(description, kernel, soft.Sysfs).Dispose();
        long calls = kernel.CallCount;
        Assert.True(calls > 20);
        int refused = 0;
        for (long call = 1; call <= calls; call++)
        {
            kernel.FailNth(call, Errno.ENOMEM);
            try
            {
                GuestMachine.Assemble(description, kernel, soft.Sysfs).Dispose();
            }
            catch (KernelException)
            {
                // Expected of most calls; the machine lives without a few.
                refused++;
            }

            Assert.True(soft.CountOpen().IsZero, $"After a failure of {kernel.FailedCall} (call {call}): {soft.CountOpen()}");
        }

        Assert.True(refused > calls / 2);
    }

    [Fact]
    public void A_device_that_its_driver_can_not_save_is_a_blocker()
    {
        GuestMachine machine = _rig.Assemble(_rig.Describe(2, (number, device, hardware) =>
            number == 1 ? (device with { Handover = HandoverWish.States }, hardware with { Migration = false }) : (device, hardware)));
        Assert.False(machine.Verdict.CanMigrate);
        MigrationBlocker blocker = Assert.Single(machine.Verdict.Blockers);
        Assert.Equal(MigrationBlockerKind.NoMigration, blocker.Kind);
        Assert.Equal("nvme1", blocker.Device);
        // As a destination it says so before anything is sent.
        Assert.Contains(machine.FindObstacles(machine.Description), obstacle => obstacle.Contains("nvme1", StringComparison.Ordinal));
    }

    [Fact]
    public void Of_several_devices_one_without_P2P_is_a_blocker()
    {
        GuestMachine machine = _rig.Assemble(_rig.Describe(2, (number, device, hardware) =>
            (device, number == 0 ? hardware with { P2P = false } : hardware)));
        Assert.Equal(MigrationBlockerKind.NoP2P, Assert.Single(machine.Verdict.Blockers).Kind);
    }

    [Fact]
    public void A_machine_that_stands_still_has_no_runners_and_one_that_runs_names_them()
    {
        GuestMachine machine = _rig.AssembleRunning(_rig.Describe());
        IReadOnlyList<string> running = machine.FindRunners();
        Assert.Contains("the workload was resumed", running);
        Assert.Contains(running, runner => runner.StartsWith("nvme0", StringComparison.Ordinal));
        machine.StopWorkload();
        foreach (var part in machine.Parts)
            part.Stop();
        Assert.Empty(machine.FindRunners());
        foreach (var part in machine.Parts)
            part.Recover();
        machine.ResumeWorkload();
        MachineRig.AwaitReads(machine, 10);
        MachineRig.AssertGoodData(machine);
    }

    [Fact]
    public void A_disk_smaller_than_one_read_is_refused_and_leaves_nothing()
    {
        MachineDescription description = _rig.Describe(1);
        string disk = description.SoftHost!.Devices[0].Disk;
        using (FileStream file = File.OpenWrite(disk))
            file.SetLength(description.Devices[0].BlockBytes - 512);
        SoftKernel kernel = _rig.CreateKernel(description);
        KernelException refusal = Assert.Throws<KernelException>(
            () => GuestMachine.Assemble(description, kernel, kernel.Sysfs));
        Assert.Contains("blockSize", refusal.Message, StringComparison.Ordinal);
        Assert.True(kernel.CountOpen().IsZero, kernel.CountOpen().ToString());
    }
}
