using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>
/// A submission queue. Head and tail are entry numbers below <see cref="Entries"/>; equal means empty.
/// </summary>
internal sealed class NvmeSubmissionQueue
{
    public required ushort Id { get; init; }

    /// <summary>IOVA of the first entry, or an address in the controller memory buffer. Page aligned.</summary>
    public required ulong Address { get; init; }

    public required uint Entries { get; init; }

    public required ushort CompletionQueue { get; init; }

    public uint Head { get; set; }

    public uint Tail { get; set; }

    /// <summary>The ring could not be reached; nothing is fetched any more.</summary>
    public bool Halted { get; set; }
}

/// <summary>A completion queue. Full when the tail's successor is the head.</summary>
internal sealed class NvmeCompletionQueue
{
    public required ushort Id { get; init; }

    /// <summary>IOVA of the first entry. Page aligned.</summary>
    public required ulong Address { get; init; }

    public required uint Entries { get; init; }

    public required ushort Vector { get; init; }

    public required bool InterruptsEnabled { get; init; }

    public uint Head { get; set; }

    public uint Tail { get; set; }

    /// <summary>The phase bit of the next entry.</summary>
    public bool Phase { get; set; } = true;

    /// <summary>The ring could not be reached; completions are dropped.</summary>
    public bool Halted { get; set; }

    public bool IsFull => (Tail + 1) % Entries == Head;
}

/// <summary>A command that was fetched and whose completion is not posted yet.</summary>
internal sealed class NvmeCommand
{
    public required ushort SubmissionQueue { get; init; }

    public required ushort CompletionQueue { get; init; }

    public required SubmissionEntry Entry { get; init; }

    /// <summary>Bytes of the data that are already transferred.</summary>
    public uint DoneBytes { get; set; }

    /// <summary>Executed; only the completion is still to be posted.</summary>
    public bool Finished { get; set; }

    /// <summary>Kept elsewhere until something happens (an event request): no completion now.</summary>
    public bool Parked { get; set; }

    public NvmeStatus Status { get; set; }

    public uint Result { get; set; }

    /// <summary>
    /// Addresses of the data's pages, the first with its offset; null until they were read from guest memory. Not part
    /// of
    /// the saved state: the guest leaves its lists alone until the completion, so they are read again.
    /// </summary>
    public ulong[]? Pages { get; set; }

    /// <summary>Length of the data in bytes, valid with <see cref="Pages"/>.</summary>
    public uint ByteLength { get; set; }

    public void Finish(NvmeStatus status, uint result = 0)
    {
        Finished = true;
        Status = status;
        Result = result;
    }
}

/// <summary>Bounds of the controller.</summary>
internal static class NvmeLimits
{
    /// <summary>I/O queues of each direction.</summary>
    public const ushort IOQueues = 64;

    /// <summary>One vector for each completion queue, the admin queue's included.</summary>
    public const uint Vectors = IOQueues + 1;

    /// <summary>CAP.MQES.</summary>
    public const uint QueueEntries = 1024;

    /// <summary>MDTS: 2^8 pages, 1 MiB.</summary>
    public const byte TransferShift = 8;

    public const uint TransferBytes = PrpGeometry.PageByteLength << TransferShift;

    /// <summary>
    /// LIMIT: one step holds the gate this long at most; a register access waits for no more than that.
    /// </summary>
    public const int ChunkBytes = 64 * 1024;

    /// <summary>
    /// LIMIT: fetched commands of one submission queue, so that a full completion queue blocks only its own.
    /// </summary>
    public const int InFlightPerQueue = 32;

    /// <summary>LIMIT: commands fetched from one queue in one step.</summary>
    public const int FetchPerStep = 4;

    /// <summary>AERL.</summary>
    public const int EventRequests = 4;

    /// <summary>LIMIT: events waiting for a request; later ones are dropped.</summary>
    public const int WaitingEvents = 8;

    public const byte BlockShift = 9;
}
