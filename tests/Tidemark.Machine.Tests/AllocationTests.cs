using Tidemark.Kernel.Linux;
using Tidemark.Machine.Description;
using Tidemark.Migration;
using static Tidemark.Machine.Tests.MachineRig;

namespace Tidemark.Machine.Tests;

/// <summary>
/// What a migration allocates, by the size of what it moves. The runtime counts for the whole process, so nothing else runs
/// beside these.
/// </summary>
[CollectionDefinition(nameof(AllocationTests), DisableParallelization = true)]
[Collection(nameof(AllocationTests))]
public sealed class AllocationTests : IDisposable
{
    private const ulong SmallMiB = 24;
    private const ulong MorePages = 64 << 10;

    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData("contents")]
    [InlineData("zeros")]
    public void Nothing_is_allocated_for_a_page(string memory)
    {
        bool filled = memory == "contents";
        // What the first migration of a process loads is not what is asked for.
        Move(SmallMiB, filled);
        long small = Move(SmallMiB, filled);
        long large = Move(SmallMiB + (MorePages >> 8), filled);

        // A bit for each page in the bitmaps of trackers, leases and passes is; an object of any kind has 24 bytes.
        Assert.InRange((large - small) / (double)MorePages, double.NegativeInfinity, 2.0);
    }

    /// <returns>Bytes that both sides together allocated meanwhile.</returns>
    private long Move(ulong mib, bool filled)
    {
        var description = new MachineDescription
        {
            Name = "plain", MemoryBytes = mib * MiB,
            Prefault = true,
            Workload = new WorkloadDescription { FillBytes = filled ? (mib - 4) * MiB : MiB, CpuWorkingSetBytes = MiB },
        };
        GuestMachine source = Run(Assemble(description));
        GuestMachine destination = Assemble(description);
        long before = GC.GetTotalAllocatedBytes(precise: true);
        (MigrationOutcome sent, _) = _rig.Migrate(
            source, destination, new MigrationOptions { Channels = 2, DowntimeLimit = TimeSpan.FromSeconds(3) });
        long allocated = GC.GetTotalAllocatedBytes(precise: true) - before;
        Assert.Equal(MigrationResult.Completed, sent.Result);
        return allocated;
    }

    private GuestMachine Assemble(MachineDescription description) =>
        _rig.Own(GuestMachine.Assemble(description, new LinuxKernel(), new LinuxSysfs()));
}
