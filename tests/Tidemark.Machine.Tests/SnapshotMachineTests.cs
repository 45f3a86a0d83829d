using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Snapshot;
using Tidemark.Memory;
using Tidemark.Migration;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Machine.Tests;

/// <summary>Machines with devices under load, and files on a real file system.</summary>
public sealed class SnapshotMachineTests
{
    [Theory]
    [InlineData(DirectIO.Auto)]
    [InlineData(DirectIO.Off)]
    public void A_machine_under_load_is_saved_runs_on_and_its_copy_reads_good_data(DirectIO direct)
    {
        using var rig = new MachineRig();
        MachineDescription description = rig.Describe();
        GuestMachine machine = rig.AssembleRunning(description);
        string path = Path.Combine(rig.Folder, "machine.tms");

        SnapshotOutcome saved = Save(machine, path, direct);

        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        Assert.True(saved.MachineRuns);
        Assert.All(saved.Report.Parts, part => Assert.True(part.StateBytes > 0, part.Name));
        Assert.True(saved.Report.PresentPages < description.MemoryBytes / GuestPage.Size, "Untouched pages are in the file.");
        Assert.Empty(NewSnapshotFile.FindPartial(path));
        MachineRig.AwaitReads(machine, 20);
        MachineRig.AssertGoodData(machine);
        GuestMachine copy = rig.Assemble(description);
        SnapshotOutcome restored = Restore(copy, path, direct);
        Assert.True(restored.Result == SnapshotResult.Completed, restored.Cause);
        Assert.Equal(saved.Report.PresentPages, restored.Report.PresentPages);
        MachineRig.AwaitReads(copy, 40);
        MachineRig.AssertGoodData(copy);
    }

    [Fact]
    public void Devices_whose_drivers_help_them_and_devices_behind_a_virtual_IOMMU_are_saved_and_restored()
    {
        using var rig = new MachineRig();
        MachineDescription description = rig.Describe(change: (number, device, hardware) => number == 0
            ? (device with { Handover = HandoverWish.DriverAssisted }, hardware)
            : (device with { Viommu = DeviceTranslation.Translated }, hardware));
        GuestMachine machine = rig.AssembleRunning(description);
        string path = Path.Combine(rig.Folder, "machine.tms");
        SnapshotOutcome saved = Save(machine, path, DirectIO.Auto);
        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        MachineRig.AwaitReads(machine, 20);
        MachineRig.AssertGoodData(machine);
        GuestMachine copy = rig.Assemble(description);
        SnapshotOutcome restored = Restore(copy, path, DirectIO.Auto);
        Assert.True(restored.Result == SnapshotResult.Completed, restored.Cause);
        MachineRig.AwaitReads(copy, 40);
        MachineRig.AssertGoodData(copy);
    }

    [Fact]
    public void The_memory_of_a_machine_that_was_stopped_for_it_is_the_memory_of_its_copy()
    {
        using var rig = new MachineRig();
        MachineDescription description = rig.Describe();
        GuestMachine machine = rig.AssembleRunning(description);
        string path = Path.Combine(rig.Folder, "machine.tms");
        SnapshotOutcome saved = Save(machine, path, DirectIO.Auto, stops: true);
        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        Assert.False(saved.MachineRuns);
        GuestMachine copy = rig.Assemble(description);
        using SnapshotFile file = copy.OpenSnapshotFile(path, DirectIO.Auto);
        var still = new StillMachine(copy);
        SnapshotOutcome restored = new SnapshotRestore(
            still, file, new SnapshotRestoreOptions { FindTouchedPages = () => copy.BeginFilling().Touched }, new Silent(), TimeProvider.System)
            .Run(CancellationToken.None);
        Assert.True(restored.Result == SnapshotResult.Completed, restored.Cause);
        foreach (MemorySlot slot in machine.Memory.Slots)
        {
            Assert.True(machine.Memory.PagesSpan(slot.FirstPage, (int)slot.PageCount)
                .SequenceEqual(copy.Memory.PagesSpan(slot.FirstPage, (int)slot.PageCount)));
        }

        copy.Start();
        MachineRig.AwaitReads(copy, 20);
        MachineRig.AssertGoodData(copy);
    }

    [Fact]
    public void Pages_that_nobody_touched_stay_untouched_by_a_save()
    {
        using var rig = new MachineRig();
        GuestMachine machine = rig.AssembleRunning(rig.Describe());
        ulong before = machine.FindTouchedPages().CountSet();
        Assert.InRange(before, 1UL, (machine.Memory.ByteLength / GuestPage.Size) - 1);
        Save(machine, Path.Combine(rig.Folder, "machine.tms"), DirectIO.Auto);
        // What the workload touches for the first time meanwhile is a few pages; a save that reads all would touch all.
        Assert.InRange(machine.FindTouchedPages().CountSet(), before, (machine.Memory.ByteLength / GuestPage.Size) - 1);
    }

    [Theory]
    [InlineData(Errno.ENOSPC)]
    [InlineData(Errno.EDQUOT)]
    [InlineData(Errno.EIO)]
    public void Whatever_kernel_call_on_the_file_fails_the_machine_runs_on_and_nothing_is_left(Errno errno)
    {
        using var rig = new MachineRig();
        GuestMachine machine = rig.AssembleRunning(rig.Describe(devices: 1));
        string path = Path.Combine(rig.Folder, "machine.tms");
        var kernel = new FaultInjectingKernel(new LinuxKernel());
        for (int nth = 1; nth <= 24; nth++)
        {
            kernel.FailNth(nth, errno);
            SnapshotOutcome outcome = Save(machine, path, DirectIO.Auto, kernel: kernel);
            // Opening for direct I/O may fail: then the page cache it is.
            bool survives = kernel.FailedCall?.StartsWith("open ", StringComparison.Ordinal) == true && nth == 2;
            Assert.Equal(survives ? SnapshotResult.Completed : SnapshotResult.Failed, outcome.Result);
            Assert.True(outcome.MachineRuns, outcome.Cause);
            Assert.Equal(survives ? [path] : [], Directory.GetFiles(rig.Folder, "machine.tms*"));
            if (survives)
                Assert.False(outcome.Report.Lane!.Direct);
            else
                Assert.Contains(errno.ToString(), outcome.Cause, StringComparison.Ordinal);
            File.Delete(path);
        }

        MachineRig.AwaitReads(machine, 20);
        MachineRig.AssertGoodData(machine);
    }

    [Fact]
    public void A_full_disk_leaves_the_machine_running_and_no_file()
    {
        using var rig = new MachineRig();
        string folder = Directory.CreateDirectory(Path.Combine(rig.Folder, "small")).FullName;
        if (Run("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder) != 0)
            Assert.Skip("A small file system can be mounted by root only.");
        try
        {
            GuestMachine machine = rig.AssembleRunning(rig.Describe(devices: 1));
            SnapshotOutcome outcome = Save(machine, Path.Combine(folder, "machine.tms"), DirectIO.Auto);
            Assert.Equal(SnapshotResult.Failed, outcome.Result);
            Assert.Contains("ENOSPC. The disk is full", outcome.Cause, StringComparison.Ordinal);
            Assert.True(outcome.MachineRuns);
            Assert.Empty(Directory.GetFiles(folder));
            MachineRig.AwaitReads(machine, 20);
            MachineRig.AssertGoodData(machine);
        }
        finally
        {
            Run("umount", folder);
        }
    }

    [Fact]
    public void A_file_system_without_direct_IO_gets_the_page_cache_and_that_is_told()
    {
        using var rig = new MachineRig();
        string path = Path.Combine(rig.Folder, "file");
        File.WriteAllBytes(path, new byte[8192]);
        var kernel = new FaultInjectingKernel(new LinuxKernel());
        kernel.FailNth(2, Errno.EINVAL);
        using (SnapshotFile file = SnapshotFile.OpenRead(kernel, path, DirectIO.Auto))
        {
            Assert.False(file.Lane.Direct);
            Assert.Contains("EINVAL", file.Lane.Reason, StringComparison.Ordinal);
        }

        kernel.FailNth(2, Errno.EINVAL);
        Assert.Contains("--direct", Assert.Throws<IOException>(() => SnapshotFile.OpenRead(kernel, path, DirectIO.On)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_a_killed_save_left_is_told_from_one_under_way_and_removed_by_the_next()
    {
        using var rig = new MachineRig();
        string path = Path.Combine(rig.Folder, "machine.tms");
        string killed = path + ".partial-999999999";
        File.WriteAllBytes(killed, new byte[100]);
        string other = path + ".partial-notes";
        File.WriteAllBytes(other, new byte[100]);
        var kernel = new LinuxKernel();
        Assert.Equal([(killed, false)], NewSnapshotFile.FindPartial(path));
        using (var first = NewSnapshotFile.Create(kernel, path, DirectIO.Off))
        {
            Assert.False(File.Exists(killed));
            (string underWay, bool isInUse) = Assert.Single(NewSnapshotFile.FindPartial(path));
            Assert.True(isInUse);
            Assert.Throws<IOException>(() => NewSnapshotFile.Create(kernel, path, DirectIO.Off));
            Assert.True(File.Exists(underWay), "A save removed what another one writes.");
        }

        Assert.Empty(NewSnapshotFile.FindPartial(path));
        Assert.True(File.Exists(other));
    }

    [Fact]
    public void Only_a_snapshot_is_replaced_and_only_by_a_complete_one()
    {
        using var rig = new MachineRig();
        string path = Path.Combine(rig.Folder, "disk.img");
        File.WriteAllBytes(path, new byte[5000]);
        var kernel = new LinuxKernel();
        Assert.Contains("is not a snapshot", Assert.Throws<IOException>(() => NewSnapshotFile.Create(kernel, path, DirectIO.Off)).Message, StringComparison.Ordinal);
        Assert.Contains("is a folder", Assert.Throws<IOException>(() => NewSnapshotFile.Create(kernel, rig.Folder, DirectIO.Off)).Message, StringComparison.Ordinal);
        Assert.Contains("does not exist", Assert.Throws<IOException>(() => NewSnapshotFile.Create(kernel, Path.Combine(rig.Folder, "none", "x"), DirectIO.Off)).Message, StringComparison.Ordinal);
        File.WriteAllBytes(path, "TIDESNAP and so on"u8);
        using (NewSnapshotFile file = NewSnapshotFile.Create(kernel, path, DirectIO.Off))
            file.Write("TIDESNAP new"u8, 0);
        Assert.Equal("TIDESNAP and so on"u8, File.ReadAllBytes(path));
        using (NewSnapshotFile file = NewSnapshotFile.Create(kernel, path, DirectIO.Off))
        {
            file.Write("TIDESNAP new"u8, 0);
            file.Publish();
        }

        Assert.Equal("TIDESNAP new"u8, File.ReadAllBytes(path));
    }

    [Fact]
    public void A_snapshot_of_another_machine_is_refused_with_every_difference()
    {
        using var rig = new MachineRig();
        GuestMachine machine = rig.AssembleRunning(rig.Describe(devices: 1));
        string path = Path.Combine(rig.Folder, "machine.tms");
        Save(machine, path, DirectIO.Auto);
        GuestMachine other = rig.Assemble(rig.Describe(devices: 2));
        SnapshotOutcome outcome = Restore(other, path, DirectIO.Auto);
        Assert.Equal((SnapshotResult.Failed, SnapshotPhase.Prepare), (outcome.Result, outcome.Phase));
        Assert.Contains("machine.devices: 1 in the snapshot, 2 here", outcome.Cause, StringComparison.Ordinal);
        Assert.Contains("The machine's parts are nvme0, nvme0 configuration, workload in the snapshot", outcome.Cause, StringComparison.Ordinal);
        Assert.EndsWith("Nothing runs.", outcome.Cause, StringComparison.Ordinal);
    }

    [Fact]
    public void A_restored_machine_does_not_run_while_another_one_has_its_disk()
    {
        using var rig = new MachineRig();
        MachineDescription description = rig.Describe(
            devices: 1, change: (_, device, hardware) => (device, hardware with
            {
                Mode = DiskMode.Overlay, Overlay = Path.Combine(rig.Folder, "overlay.img"),
            }));
        GuestMachine machine = rig.AssembleRunning(description);
        string path = Path.Combine(rig.Folder, "machine.tms");
        SnapshotOutcome saved = Save(machine, path, DirectIO.Auto);
        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        GuestMachine copy = rig.Assemble(description);
        SnapshotOutcome outcome = Restore(copy, path, DirectIO.Auto);
        Assert.Equal((SnapshotResult.Failed, SnapshotPhase.Prepare), (outcome.Result, outcome.Phase));
        Assert.Contains("in use by another machine", outcome.Cause, StringComparison.Ordinal);
        MachineRig.AwaitReads(machine, 20);
        MachineRig.AssertGoodData(machine);
    }

    private static SnapshotOutcome Save(
        GuestMachine machine, string path, DirectIO direct, bool stops = false, IKernel? kernel = null)
    {
        using var giveUp = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        return new SnapshotSave(
            machine, () => kernel is null ? machine.CreateSnapshotFile(path, direct) : NewSnapshotFile.Create(kernel, path, direct),
            new SnapshotSaveOptions { StopsMachine = stops, FindTouchedPages = machine.FindTouchedPages, Threads = 2 },
            new Silent(), TimeProvider.System).Run(giveUp.Token);
    }

    private static SnapshotOutcome Restore(GuestMachine machine, string path, DirectIO direct)
    {
        using SnapshotFile file = machine.OpenSnapshotFile(path, direct);
        using var giveUp = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        return new SnapshotRestore(
            new RestoredMachine(machine), file,
            new SnapshotRestoreOptions { FindTouchedPages = machine.FindTouchedPages, Threads = 2 }, new Silent(),
            TimeProvider.System).Run(giveUp.Token);
    }

    private static int Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true })!;
        process.WaitForExit();
        return process.ExitCode;
    }

    /// <summary>Filled like the machine, and not started: what was loaded can be looked at.</summary>
    private sealed class StillMachine(GuestMachine machine) : Migration.IDestinationMachine
    {
        public GuestMemory Memory => machine.Memory;

        public IReadOnlyList<Migration.IMigratable> Parts => machine.Parts;

        public IReadOnlyList<string> FindObstacles(ReadOnlyMemory<byte> sourceDescription) => machine.FindObstacles(sourceDescription);

        public MemoryBeforeFilling BeginFilling() => machine.BeginFilling();

        public bool TryPut(PageRun pages, ReadOnlySpan<byte> content) => machine.TryPut(pages, content);

        public void AcquireDisks() => machine.AcquireDisks();

        public void Start()
        {
            // The test starts it.
        }
    }

    private sealed class Silent : ISnapshotObserver
    {
        public void OnEvent(SnapshotEvent snapshotEvent)
        {
            // Outcomes say all that is looked at.
        }
    }
}
