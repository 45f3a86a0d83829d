using Tidemark.Memory;

namespace Tidemark.Machine.Description;

/// <summary>
/// Where things lie in guest memory, from the description alone, so that both sides agree.
/// <code>
/// 0 .......... fill ......... | free | processor's working set | device arenas (2 MiB aligned) | ... last page: heartbeat
///              (below 3 GiB)                                     first device highest
/// </code>
/// Memory beyond 3 GiB goes on at 4 GiB: the range between holds the MSI window, which an IOMMU does not translate.
/// Arenas, working set and heartbeat lie in the topmost slot that has room.
/// </summary>
public sealed record MemoryLayout
{
    private const ulong Huge = 2UL << 20;
    private const ulong LowEnd = 3UL << 30;
    private const ulong HighStart = 4UL << 30;

    public required IReadOnlyList<(GuestPhysicalAddress Start, ulong ByteLength)> Slots { get; init; }

    /// <summary>One for each device, in order.</summary>
    public required IReadOnlyList<(GuestPhysicalAddress Start, ulong ByteLength)> Arenas { get; init; }

    public required (GuestPhysicalAddress Start, ulong ByteLength) WorkingSet { get; init; }

    /// <summary>Bytes from guest-physical 0 that are filled; holes are skipped.</summary>
    public required ulong FillBytes { get; init; }

    /// <summary>The last page of guest memory, which the processor writes all the time.</summary>
    public required GuestPhysicalAddress Heartbeat { get; init; }

    /// <summary>
    /// Memory that all of it needs, with what lies above 3 GiB and is too small for the block of arenas.
    /// </summary>
    public required ulong NeededBytes { get; init; }

    /// <summary>Memory that a machine which runs writes sooner or later.</summary>
    public ulong WrittenBytes => FillBytes + WorkingSet.ByteLength + Arenas.Aggregate(0UL, (sum, arena) => sum + arena.ByteLength);

    /// <summary>Queues, PRP lists and one buffer for each command in flight.</summary>
    public static ulong MinimumArenaBytes(DeviceDescription device) =>
        checked((ulong)device.QueueDepth * (device.BlockBytes + (2UL * GuestPage.Size)) + (64UL << 10));

    /// <summary>
    /// Plans the layout. When it does not fit (<see cref="NeededBytes"/> above the memory) positions are meaningless.
    /// </summary>
    public static MemoryLayout Plan(MachineDescription machine)
    {
        ulong high = machine.MemoryBytes > LowEnd ? machine.MemoryBytes - LowEnd : 0;
        var slots = new List<(GuestPhysicalAddress, ulong)> { (new(0), machine.MemoryBytes - high) };
        if (high > 0)
            slots.Add((new(HighStart), high));

        ulong arenaBytes = machine.Devices.Aggregate(0UL, (sum, device) => sum + device.ArenaBytes);
        ulong top = arenaBytes + machine.Workload.CpuWorkingSetBytes + Huge;
        // The block of arenas, working set and heartbeat stays in one slot: high memory if it fits there, else low.
        bool inHigh = high >= top;
        ulong end = inHigh ? HighStart + high : Math.Min(machine.MemoryBytes, LowEnd);
        GuestPhysicalAddress heartbeat = new(unchecked((high > 0 ? HighStart + high : machine.MemoryBytes) - GuestPage.Size));

        ulong cursor = unchecked(end - Huge);
        var arenas = new List<(GuestPhysicalAddress, ulong)>();
        foreach (DeviceDescription device in machine.Devices)
        {
            cursor = unchecked(cursor - device.ArenaBytes);
            arenas.Add((new(cursor), device.ArenaBytes));
        }

        cursor = unchecked(cursor - machine.Workload.CpuWorkingSetBytes) & ~(ulong)(GuestPage.Size - 1);
        return new MemoryLayout
        {
            Slots = slots,
            Arenas = arenas,
            WorkingSet = (new(cursor), machine.Workload.CpuWorkingSetBytes),
            FillBytes = machine.Workload.FillBytes,
            Heartbeat = heartbeat,
            // The fill ends below the block; high memory that is left over then holds nothing but the heartbeat.
            NeededBytes = checked(top + machine.Workload.FillBytes + (inHigh ? 0 : high)),
        };
    }
}
