using Tidemark.Memory;

namespace Tidemark.Machine.Nvme;

/// <summary>What a workload does.</summary>
/// <param name="Name">For its thread and messages.</param>
/// <param name="BufferStart">Guest memory for the data; page aligned, the workload's alone. Equal on both sides of a
/// move.</param>
/// <param name="BufferByteLength">At least <see cref="Depth"/> times <see cref="BlockBytes"/>.</param>
public sealed record NvmeWorkloadOptions(string Name, GuestPhysicalAddress BufferStart, ulong BufferByteLength)
{
    /// <summary>The guest's DMA mapping, as the driver's; null: bus addresses are guest-physical.</summary>
    public IGuestDma? Dma { get; init; }

    /// <summary>
    /// Commands kept in flight, each with a buffer of its own. With more buffers than that in the given memory, all of
    /// them are used in turn, so that DMA reaches all of it.
    /// </summary>
    public int Depth { get; init; } = 8;

    /// <summary>Bytes of a command: a multiple of 4096. Up to 8192, no PRP list is needed.</summary>
    public int BlockBytes { get; init; } = 8192;

    public ulong Seed { get; init; } = 1;

    /// <summary>In ascending order round and round, else pseudo-random.</summary>
    public bool Sequential { get; init; }

    /// <summary>Bytes per second at most; 0: as fast as it goes.</summary>
    public ulong RateLimit { get; init; }

    /// <summary>
    /// Share of commands that write, 0 to 100, into the last quarter of the disk (at most <see cref="WriteUnits"/>
    /// blocks); what was written is read back and compared. Ignored when the disk is write protected.
    /// </summary>
    public int WritePercent { get; init; }

    /// <summary>Whether a hand-over asks for the very same disk, or for an equal one.</summary>
    public DiskMatch DiskMatch { get; init; }

    /// <summary>LIMIT: blocks that are written to; each costs four bytes of saved state.</summary>
    public int WriteUnits { get; init; } = 1024;
}

/// <summary>Which disk a driver-assisted hand-over accepts on the other side.</summary>
public enum DiskMatch
{
    /// <summary>The same: equal serial number, model, capacity and block size (a disk that both hosts reach).</summary>
    Serial,

    /// <summary>A copy: equal capacity and block size. That the content is equal is the user's word; what is read is
    /// compared.</summary>
    Copy,
}

/// <summary>What a workload did since it was first started, on whichever side.</summary>
/// <param name="Reads">Reads that completed and were compared.</param>
/// <param name="ReadsHere">Those of them that completed since this object was made: after a move, the reads after the
/// move.</param>
/// <param name="DataErrors">Reads whose data was not what it should be.</param>
/// <param name="CommandErrors">Commands that failed.</param>
/// <param name="FirstError">The first of either, in words; null when there is none.</param>
public sealed record NvmeWorkloadCounters(
    ulong Reads, ulong ReadsHere, ulong Writes, ulong BytesRead, ulong BytesWritten, ulong DataErrors,
    ulong CommandErrors, string? FirstError);
