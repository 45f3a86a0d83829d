using Tidemark.Kernel.Soft;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Exercise;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

public sealed class ExerciseTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void Everything_that_dirty_tracking_offers_is_shown_on_the_soft_kernel()
    {
        SoftKernel kernel = _rig.CreateKernel(_rig.Describe(1));
        IReadOnlyList<ExerciseResult> results = DirtyTrackingExercise.Run(kernel, kernel.Sysfs, "0000:01:00.0");
        Assert.Equal(
            ["harvest", "huge-pages-off", "peek-before-unmap", "replace-while-tracking", "huge-pages-on", "split-leaves"],
            results.Select(result => result.Name));
        Assert.All(results, result => Assert.True(result.Outcome == ExerciseOutcome.Shown, result.ToString()));
        Assert.True(kernel.CountOpen().IsZero, kernel.CountOpen().ToString());
    }

    [Fact]
    public void An_IOMMU_that_does_not_track_has_nothing_to_show()
    {
        SoftKernel kernel = _rig.CreateKernel(_rig.Describe(1, (_, device, hardware) => (device, hardware with { Iommu = "plain" })));
        ExerciseResult result = Assert.Single(DirtyTrackingExercise.Run(kernel, kernel.Sysfs, "0000:01:00.0"));
        Assert.Equal(ExerciseOutcome.NotShown, result.Outcome);
    }

    [Fact]
    public void A_dirty_bit_that_is_forgotten_now_and_then_is_found()
    {
        SoftKernel soft = _rig.CreateKernel(_rig.Describe(1));
        var kernel = new FaultyDirtyBitsKernel(soft, forgetEvery: 400);
        IReadOnlyList<ExerciseResult> results = DirtyTrackingExercise.Run(kernel, soft.Sysfs, "0000:01:00.0");
        ExerciseResult harvest = results.Single(result => result.Name == "harvest");
        Assert.Equal(ExerciseOutcome.Failed, harvest.Outcome);
        Assert.Contains("The dirty bits of IOMMU before 0000:01:00.0 missed", harvest.Evidence, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_hardware_that_forgets_dirty_bits_fails_the_verification_with_its_name(bool states)
    {
        MachineDescription description = _rig.Describe(1, (_, device, hardware) =>
            (device with { ReadBytesPerSecond = 0 }, hardware with { Migration = states }));
        SoftKernel soft = _rig.CreateKernel(description);
        // Often: a page that is forgotten counts only when nobody writes it again, as in the final harvest, which may be short.
        var kernel = new FaultyDirtyBitsKernel(soft, forgetEvery: 3);
        GuestMachine source = MachineRig.Run(_rig.Own(GuestMachine.Assemble(description, kernel, soft.Sysfs)));
        (MigrationOutcome sent, _) = _rig.Migrate(source, _rig.Assemble(description), whileItWorks: true);
        Assert.Equal("memory-verification", sent.CaughtBy);
        Assert.True(kernel.Forgotten > 0);
        string evidence = Assert.Single(source.ExplainLost(sent.Report));
        Assert.Matches("^The dirty bits of IOMMU before 0000:01:00.0 missed [0-9]+ pages? that nvme0 wrote[.]$", evidence);
        MachineRig.AwaitReads(source, 50);
        MachineRig.AssertGoodData(source);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Devices_that_go_to_another_page_table_in_the_middle_of_a_migration_lose_no_page(bool states)
    {
        MachineDescription description = _rig.Describe(2, (_, device, hardware) => (device, hardware with { Migration = states }));
        SoftKernel kernel = _rig.CreateKernel(description);
        GuestMachine source = MachineRig.Run(_rig.Own(
            GuestMachine.Assemble(description, kernel, kernel.Sysfs, exercises: GuestMachineExercises.Reattach)));
        GuestMachine destination = _rig.Assemble(description);
        (MigrationOutcome sent, _) = _rig.Migrate(source, destination);
        Assert.True(sent.Result == MigrationResult.Completed, sent.Cause);
        Assert.Equal(0UL, sent.Report.LostPages);
        ReattachingDirtySource tables = Assert.Single(source.DeviceTracking.Find<ReattachingDirtySource>());
        Assert.Null(tables.Refusal);
        Assert.NotNull(tables.Done);
        Assert.NotEqual(tables.Done.From, tables.Done.To);
        MachineRig.AwaitReads(destination, 50);
        MachineRig.AssertGoodData(destination);
    }
}
