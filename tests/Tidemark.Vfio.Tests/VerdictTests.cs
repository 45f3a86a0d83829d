using Tidemark.Iommu;
using Tidemark.Machine.Assignment;

namespace Tidemark.Vfio.Tests;

/// <summary>What keeps devices from moving, and what they cost, before anything starts.</summary>
public sealed class VerdictTests : IDisposable
{
    private readonly SoftRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(Backend.Iommufd, 1)]
    [InlineData(Backend.Iommufd, 2)]
    [InlineData(Backend.Iommufd, 3)]
    [InlineData(Backend.Legacy, 1)]
    public void A_device_that_is_to_stay_keeps_the_machine(Backend backend, int number) => AssertBlocked(
        backend, number, new AssignmentOptions { Migration = MigrationUse.Off }, MigrationBlockerKind.SwitchedOff,
        "migration=off");

    [Theory]
    [InlineData(Backend.Iommufd, 1)]
    [InlineData(Backend.Iommufd, 3)]
    [InlineData(Backend.Legacy, 1)]
    public void A_log_that_must_be_and_is_not_keeps_the_machine(Backend backend, int number) => AssertBlocked(
        backend, number, new AssignmentOptions { LogUse = DeviceLogUse.On }, MigrationBlockerKind.NoDeviceLog,
        "device-dirty-tracking=auto");

    [Theory]
    [InlineData(Backend.Iommufd, 3)]
    [InlineData(Backend.Legacy, 1)]
    public void A_tracker_that_must_be_and_is_not_keeps_the_machine(Backend backend, int number) => AssertBlocked(
        backend, number, new AssignmentOptions { RequireTracker = true }, MigrationBlockerKind.NoTracker, "requireTracker");

    [Theory]
    [InlineData(Backend.Iommufd, 1)]
    [InlineData(Backend.Iommufd, 2)]
    [InlineData(Backend.Legacy, 2)]
    public void A_device_with_a_tracker_costs_nothing_and_satisfies_who_requires_one(Backend backend, int number)
    {
        MigrationVerdict verdict = Judge(backend, number, new AssignmentOptions { RequireTracker = true });
        Assert.True(verdict.CanMigrate);
        Assert.Empty(verdict.Costs);
    }

    [Theory]
    [InlineData(Backend.Iommufd, 3)]
    [InlineData(Backend.Legacy, 1)]
    public void What_nobody_tracks_is_no_obstacle_and_its_price_is_told(Backend backend, int number)
    {
        MigrationVerdict verdict = Judge(backend, number, AssignmentOptions.Default);
        Assert.True(verdict.CanMigrate);
        StatedCost cost = Assert.Single(verdict.Costs);
        Assert.Equal(SoftRig.MemoryLength, cost.BytesPerPass);
        Assert.Contains("8 MiB are sent in every pass", cost.ToString(), StringComparison.Ordinal);
    }

    private void AssertBlocked(
        Backend backend, int number, AssignmentOptions options, MigrationBlockerKind kind, string text)
    {
        MigrationVerdict verdict = Judge(backend, number, options);
        Assert.False(verdict.CanMigrate);
        MigrationBlocker blocker = Assert.Single(verdict.Blockers);
        Assert.Equal(kind, blocker.Kind);
        Assert.Equal($"nvme{number}", blocker.Device);
        Assert.Contains(text, blocker.ToString(), StringComparison.Ordinal);
        Assert.All([blocker.Cause, blocker.Evidence, blocker.Remedy], sentence => Assert.NotEqual("", sentence));
    }

    private MigrationVerdict Judge(Backend backend, int number, AssignmentOptions options)
    {
        using Iommufd? iommufd = backend == Backend.Iommufd ? _rig.OpenIommufd() : null;
        using DmaContainer container = iommufd is null
            ? LegacyContainer.Create(_rig.Faults)
            : IommufdContainer.Create(iommufd);
        using AssignedDevice device = _rig.Assign(container, number, options);
        container.MapMemory(_rig.Memory, _rig.MemoryFile);
        return MigrationVerdict.Judge([device]);
    }
}
