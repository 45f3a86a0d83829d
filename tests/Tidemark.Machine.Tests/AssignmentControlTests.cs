using Tidemark.Machine.Description;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine.Tests;

/// <summary>
/// Controls for <see cref="AssignmentMatrixTests"/>: without each tracker, and without a look at what a guest unmaps, the
/// same machines lose pages and the verification finds them.
/// </summary>
public sealed class AssignmentControlTests : IDisposable
{
    private readonly MachineRig _rig = new();

    /// <summary>Interface, whether the IOMMU tracks, whether the device logs, and who is chosen.</summary>
    public static TheoryData<DeviceBackend, bool, bool, TrackerKind> Trackers => new()
    {
        { DeviceBackend.Iommufd, true, false, TrackerKind.Iommu },
        { DeviceBackend.Iommufd, false, true, TrackerKind.DeviceLog },
        { DeviceBackend.Iommufd, false, false, TrackerKind.Assumed },
        { DeviceBackend.Legacy, true, false, TrackerKind.Type1 },
        { DeviceBackend.Legacy, true, true, TrackerKind.DeviceLog },
    };

    public void Dispose() => _rig.Dispose();

    [Theory]
    [MemberData(nameof(Trackers))]
    public void Without_its_tracker_a_device_loses_pages_whichever_tracker_it_is(
        DeviceBackend backend, bool iommuTracks, bool logs, TrackerKind tracker)
    {
        MachineDescription description = Describe(backend, DeviceTranslation.None, iommuTracks, logs);
        AssertLost(description, GuestMachineFaults.DropDeviceSources, tracker);
        AssertMoves(description);
    }

    [Theory]
    [MemberData(nameof(Trackers))]
    public void A_guest_that_unmaps_without_anybody_looking_loses_pages_whichever_tracker_it_is(
        DeviceBackend backend, bool iommuTracks, bool logs, TrackerKind tracker)
    {
        MachineDescription description = Describe(backend, DeviceTranslation.Translated, iommuTracks, logs);
        AssertLost(description, GuestMachineFaults.ForgetUnmapped, tracker);
        AssertMoves(description);
    }

    private MachineDescription Describe(DeviceBackend backend, DeviceTranslation viommu, bool iommuTracks, bool logs) =>
        _rig.Describe(1, (_, device, hardware) => (
            device with { ArenaBytes = 2 * MachineRig.MiB, BlockBytes = 4096, ReadBytesPerSecond = 0, Viommu = viommu },
            hardware with { Iommu = iommuTracks ? "tracking" : "plain", DmaLogging = logs })) with
        {
            Backend = backend,
            MemoryBytes = 8 * MachineRig.MiB,
            Workload = new WorkloadDescription
            {
                FillBytes = 64 << 10, CpuWorkingSetBytes = 64 << 10, CpuBytesPerSecond = MachineRig.MiB,
            },
        };

    private void AssertLost(MachineDescription description, GuestMachineFaults fault, TrackerKind tracker)
    {
        using GuestMachine source = _rig.AssembleRunning(description, fault);
        using GuestMachine destination = _rig.Assemble(description);
        Assert.Equal(tracker, source.Devices[0].Tracker.Kind);
        (MigrationOutcome sent, _) = _rig.Migrate(source, destination, whileItWorks: true);
        Assert.Equal(MigrationResult.Failed, sent.Result);
        Assert.Equal("memory-verification", sent.CaughtBy);
        Assert.True(sent.Report.LostPages > 0);
    }

    private void AssertMoves(MachineDescription description)
    {
        using GuestMachine source = _rig.AssembleRunning(description);
        using GuestMachine destination = _rig.Assemble(description);
        (MigrationOutcome sent, _) = _rig.Migrate(source, destination);
        Assert.True(sent.Result == MigrationResult.Completed, sent.Cause);
        Assert.Equal(0UL, sent.Report.LostPages);
    }
}
