using Tidemark.Memory;

namespace Tidemark.Machine.Nvme;

/// <summary>What a driver needs to be told.</summary>
/// <param name="ArenaStart">
/// Guest memory for queues and lists; page aligned, the driver's alone. Equal on both sides of a move.
/// </param>
/// <param name="ArenaByteLength">At least <see cref="NvmeDriver.RequiredArenaBytes"/>.</param>
public sealed record NvmeDriverOptions(GuestPhysicalAddress ArenaStart, ulong ArenaByteLength)
{
    /// <summary>Entries of the I/O queues, 2 to 1024; commands in flight are one less.</summary>
    public uint QueueEntries { get; init; } = 64;

    /// <summary>
    /// Puts the I/O submission queue into the controller's own memory when it offers some: fetching a command is then
    /// no DMA read, and a DMA read would push the controller's posted writes.
    /// </summary>
    public bool UseControllerMemory { get; init; } = true;

    /// <summary>
    /// Where the controller is told that its memory lies. Never on the bus; only must not be an address of guest
    /// memory.
    /// </summary>
    public ulong ControllerMemoryAddress { get; init; } = 1UL << 45;

    /// <summary>Waits by eventfd; else by looking at the queue.</summary>
    public bool UseInterrupts { get; init; } = true;

    /// <summary>The guest's DMA mapping; null: bus addresses are guest-physical.</summary>
    public IGuestDma? Dma { get; init; }

    /// <summary>With <see cref="Dma"/>: the bus address of the arena's first byte.</summary>
    public ulong ArenaBusAddress { get; init; }

    /// <summary>How long a command may take.</summary>
    public TimeSpan CommandTimeout { get; init; } = TimeSpan.FromSeconds(30);
}

/// <summary>What the controller and its namespace said of themselves.</summary>
/// <param name="BlockCount">Logical blocks of namespace 1.</param>
/// <param name="BlockByteLength">Size of a block.</param>
/// <param name="MaximumTransferBytes">The longest transfer of one command, the driver's own limit included.</param>
/// <param name="SubmissionQueueInController">The I/O submission queue lies in the controller's memory.</param>
public sealed record NvmeNamespaceInfo(
    ulong BlockCount, uint BlockByteLength, uint MaximumTransferBytes, bool WriteProtected,
    bool SubmissionQueueInController)
{
    public ulong ByteLength => BlockCount * BlockByteLength;
}

/// <summary>What tells one disk from another.</summary>
/// <param name="BlockCount">Logical blocks of namespace 1.</param>
/// <param name="BlockByteLength">Size of a block.</param>
public sealed record NvmeDiskIdentity(
    string SerialNumber, string ModelNumber, ulong BlockCount, uint BlockByteLength);

/// <summary>A command that came back.</summary>
/// <param name="Tag">As given at submission.</param>
public readonly record struct NvmeCompletion(ulong Tag, Tidemark.Nvme.NvmeStatus Status);
