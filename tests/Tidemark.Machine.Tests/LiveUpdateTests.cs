using System.Collections.Concurrent;
using System.Net.Sockets;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Soft;
using Tidemark.Machine.Description;
using Tidemark.Machine.LiveUpdate;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>
/// A machine that another owner goes on with. The soft kernel's descriptors stay in one process, so here both owners are in
/// it; <c>./lab/run machines</c> shows two processes on Linux.
/// </summary>
public sealed class LiveUpdateTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(true, DeviceTranslation.None)]
    [InlineData(false, DeviceTranslation.None)]
    [InlineData(false, DeviceTranslation.Translated)]
    [InlineData(true, DeviceTranslation.PassThrough)]
    public void A_machine_goes_on_with_its_devices_in_the_middle_of_their_work_and_can_move_then(bool hasStates, DeviceTranslation viommu)
    {
        MachineDescription description = _rig.Describe(2, (_, device, hardware) =>
            (device with { Viommu = viommu }, hardware with { Migration = hasStates }));
        SoftKernel soft = _rig.CreateKernel(description);
        var calls = new ConcurrentQueue<string>();
        var kernel = new TracingKernel(soft, calls.Enqueue);
        GuestMachine old = MachineRig.Run(_rig.Own(GuestMachine.Assemble(description, kernel, soft.Sysfs)));
        old.Memory.Write(new(8), 0x1234_5678u);
        Assert.Null(old.FindAdoptionObstacle());
        old.StopWorkload();
        ulong[] reads = Reads(old);
        calls.Clear();
        GuestMachine taken = _rig.Own(GuestMachine.Adopt(description, kernel, soft.Sysfs, Duplicate(old.Bequeath(), kernel)));
        taken.TakeCharge();
        old.Relinquish();
        old.Dispose();
        string[] changing = [.. calls];
        taken.GoOn();
        Assert.DoesNotContain(changing, call => call.Contains("IOAS_MAP", StringComparison.Ordinal)
            || call.Contains("IOAS_UNMAP", StringComparison.Ordinal) || call.Contains("HWPT_ALLOC", StringComparison.Ordinal)
            || call.Contains("IOMMUFD_PT", StringComparison.Ordinal) || call.Contains("DEVICE_RESET", StringComparison.Ordinal));
        Assert.Contains(changing, call => call.Contains("IOMMU_IOAS_CHANGE_PROCESS", StringComparison.Ordinal));
        Assert.Equal(0x1234_5678u, taken.Memory.ReadVolatile<uint>(new(8)));
        MachineRig.AwaitReads(taken, 20);
        // Counted on, not from the beginning; whatever was in flight arrived in the same memory.
        Assert.All(Reads(taken).Zip(reads), pair => Assert.True(pair.First > pair.Second));
        Assert.All(taken.Devices, device => Assert.Equal(0UL, device.Workload.Counters.DataErrors));
        GuestMachine there = _rig.Assemble(description);
        (MigrationOutcome outcome, _) = _rig.Migrate(taken, there);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        MachineRig.AwaitReads(there, 20);
        MachineRig.AssertGoodData(there);
    }

    [Fact]
    public void The_soft_kernels_machine_is_not_handed_to_another_process_and_runs_on()
    {
        MachineDescription description = _rig.Describe(1);
        SoftKernel kernel = _rig.CreateKernel(description);
        GuestMachine machine = MachineRig.Run(_rig.Own(GuestMachine.Assemble(description, kernel, kernel.Sysfs)));
        (Socket here, Socket there) = UnixSockets.Connect();
        using (here)
        using (there)
        {
            KernelException failure = Assert.Throws<KernelException>(() =>
                LiveUpdateLink.HandOver(machine, kernel, here));
            Assert.Equal(Errno.EOPNOTSUPP, failure.Errno);
            Assert.Contains("live in this process", failure.Message, StringComparison.Ordinal);
        }

        MachineRig.AwaitReads(machine, 20);
    }

    [Fact]
    public void A_machine_over_groups_and_type1_says_why_it_can_not_be_handed_over()
    {
        GuestMachine machine = _rig.AssembleRunning(_rig.Describe(1) with { Backend = DeviceBackend.Legacy });
        Assert.Contains("legacy interface", machine.FindAdoptionObstacle(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_machine_of_another_file_or_a_damaged_manifest_is_refused_and_the_machine_runs_on()
    {
        MachineDescription description = _rig.Describe(1);
        SoftKernel kernel = _rig.CreateKernel(description);
        GuestMachine machine = MachineRig.Run(_rig.Own(GuestMachine.Assemble(description, kernel, kernel.Sysfs)));
        machine.StopWorkload();
        MachineInheritance good = machine.Bequeath();
        MachineDescription other = description with { Devices = [description.Devices[0] with { Host = "0000:77:00.0" }] };
        Refused(other, good.Manifest.ToArray());
        Refused(description with { MemoryBytes = 2 * description.MemoryBytes }, good.Manifest.ToArray());
        Refused(description, []);
        for (int length = 0; length < good.Manifest.Length; length += 1 + (good.Manifest.Length / 200))
            Refused(description, good.Manifest[..length].ToArray());
        machine.ResumeWorkload();
        MachineRig.AwaitReads(machine, 20);

        void Refused(MachineDescription file, byte[] manifest)
        {
            using MachineInheritance copy = Duplicate(good with { Manifest = manifest }, kernel);
            Exception? failure = Record.Exception(() => GuestMachine.Adopt(file, kernel, kernel.Sysfs, copy).Dispose());
            Assert.True(failure is InvalidDataException or KernelException or Machine.Nvme.NvmeException, $"{manifest.Length}: {failure}");
        }
    }

    private static ulong[] Reads(GuestMachine machine) =>
        [.. machine.Devices.Select(device => (ulong)device.Workload.Counters.Reads)];

    private static MachineInheritance Duplicate(MachineInheritance inheritance, IKernel kernel) => MachineInheritance.Of(
        [.. inheritance.Descriptors.Select(fd => new KernelFd(kernel, (int)kernel.Dup(fd.Number).Value))], inheritance.Manifest);
}
