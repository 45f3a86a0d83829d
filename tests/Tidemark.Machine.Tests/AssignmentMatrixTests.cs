using System.Collections.Concurrent;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Migration;
using Tidemark.Vfio;

namespace Tidemark.Machine.Tests;

/// <summary>
/// Every kind of device, alone and beside every other, on each interface of the kernel, with and without a virtual
/// IOMMU, with base pages and with large leaves: it moves under DMA load and loses no page, or it is refused before
/// anything starts, with the right reason.
/// </summary>
public sealed class AssignmentMatrixTests
{
    private const string MdevUuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa10";

    public enum Interface
    {
        Iommufd,
        Legacy,
    }

    /// <summary>One kind of device. An mdev has all migration states, a log that is always clean, and no DMA.</summary>
    private sealed record Kind(bool IommuTracks, bool Logs, bool P2P, bool PreCopy, bool IsMdev = false)
    {
        public override string ToString() => IsMdev
            ? "mdev"
            : $"{(IommuTracks ? "iommu" : "-")}/{(Logs ? "log" : "-")}/{(P2P ? "p2p" : "-")}/{(PreCopy ? "precopy" : "-")}";
    }

    private sealed record Cell(Interface Interface, DeviceTranslation Viommu, bool HugePages, Kind[] Devices)
    {
        public override string ToString() =>
            $"{Interface}, viommu {Viommu}, {(HugePages ? "2M" : "4K")}: {string.Join(" + ", (object[])Devices)}";
    }

    [Theory]
    [InlineData(Interface.Iommufd, DeviceTranslation.None)]
    [InlineData(Interface.Iommufd, DeviceTranslation.Translated)]
    [InlineData(Interface.Legacy, DeviceTranslation.None)]
    [InlineData(Interface.Legacy, DeviceTranslation.Translated)]
    public void Every_combination_of_devices_moves_or_is_refused_with_its_reason(
        Interface backend, DeviceTranslation viommu)
    {
        Kind[] kinds = [.. AllKinds()];
        var cells = new List<Cell>();
        foreach (bool hugePages in (bool[])[false, true])
        {
            cells.AddRange(kinds.Select(kind => new Cell(backend, viommu, hugePages, [kind])));
            cells.AddRange(kinds.SelectMany((first, index) =>
                kinds.Skip(index).Select(second => new Cell(backend, viommu, hugePages, [first, second]))));
        }

        var failures = new ConcurrentQueue<string>();
        int moved = 0, refused = 0;
        Parallel.ForEach(cells, new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount }, cell =>
        {
            try
            {
                if (Check(cell))
                    Interlocked.Increment(ref moved);
                else
                    Interlocked.Increment(ref refused);
            }
            catch (Exception failure)
            {
                // All cells are told, not only the first that fails.
                failures.Enqueue($"{cell}: {failure.Message}");
            }
        });
        Console.WriteLine($"    matrix: {backend}, viommu {viommu}: {cells.Count} combinations, {moved} moved, {refused} refused");
        Assert.True(failures.IsEmpty, $"{failures.Count} of {cells.Count}:\n{string.Join("\n", failures.Take(20))}");
        Assert.Equal(cells.Count, moved + refused);
    }

    private static IEnumerable<Kind> AllKinds()
    {
        for (int bits = 0; bits < 16; bits++)
            yield return new Kind((bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0);
        yield return new Kind(false, true, true, true, IsMdev: true);
    }

    /// <returns>Whether it moved.</returns>
    private static bool Check(Cell cell)
    {
        using var rig = new MachineRig();
        MachineDescription description = Describe(rig, cell);
        using GuestMachine source = rig.Assemble(description);
        for (int index = 0; index < cell.Devices.Length; index++)
            Assert.Equal(ExpectTracker(cell, cell.Devices[index]), source.Devices[index].Tracker.Kind);
        if (cell.Devices.Length > 1 && cell.Devices.Any(kind => !kind.P2P))
        {
            Assert.Equal(cell.Devices.Count(kind => !kind.P2P), source.Verdict.Blockers.Count);
            Assert.All(source.Verdict.Blockers, blocker => Assert.Equal(MigrationBlockerKind.NoP2P, blocker.Kind));
            return false;
        }

        Assert.Empty(source.Verdict.Blockers);
        source.AcquireDisks();
        source.StartFresh(CancellationToken.None);
        MachineRig.AwaitReads(source, 4);
        using GuestMachine destination = rig.Assemble(description);
        (MigrationOutcome sent, MigrationOutcome received) = rig.Migrate(source, destination);
        Assert.True(sent.Result == MigrationResult.Completed, $"{sent.Result} in {sent.Phase}: {sent.Cause}");
        Assert.Equal(MigrationResult.Completed, received.Result);
        Assert.Equal(0UL, sent.Report.LostPages);
        MachineRig.AwaitReads(destination, 4);
        MachineRig.AssertGoodData(destination);
        return true;
    }

    private static TrackerKind ExpectTracker(Cell cell, Kind kind)
    {
        if (kind.Logs)
            return TrackerKind.DeviceLog;
        if (cell.Interface == Interface.Legacy)
            return TrackerKind.Type1;
        return kind.IommuTracks ? TrackerKind.Iommu : TrackerKind.Assumed;
    }

    private static MachineDescription Describe(MachineRig rig, Cell cell)
    {
        MachineDescription description = rig.Describe(cell.Devices.Length, (number, device, hardware) =>
        {
            Kind kind = cell.Devices[number];
            device = device with
            {
                ArenaBytes = 2 * MachineRig.MiB,
                BlockBytes = 4096,
                ReadBytesPerSecond = 0,
                Viommu = cell.Viommu,
            };
            if (kind.IsMdev)
                device = device with { Host = $"{MdevUuid}0{number}" };
            return (device, hardware with
            {
                Iommu = kind.IommuTracks ? "tracking" : "plain",
                DmaLogging = kind.Logs,
                P2P = kind.P2P,
                PreCopy = kind.PreCopy,
            });
        });
        return description with
        {
            Backend = cell.Interface == Interface.Legacy ? DeviceBackend.Legacy : DeviceBackend.Iommufd,
            HugePages = cell.HugePages,
            MemoryBytes = 8 * MachineRig.MiB,
            Workload = new WorkloadDescription
            {
                FillBytes = 64 << 10, CpuWorkingSetBytes = 64 << 10, CpuBytesPerSecond = MachineRig.MiB,
            },
            SoftHost = description.SoftHost! with
            {
                Mediated = [.. description.Devices.Select(device => device.Host).Where(host => host.StartsWith(MdevUuid, StringComparison.Ordinal))],
            },
        };
    }
}
