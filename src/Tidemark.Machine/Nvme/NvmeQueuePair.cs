using Tidemark.Memory;
using Tidemark.Nvme;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// A submission queue and its completion queue, seen from the driver: where they lie, and how far each side is.
/// </summary>
/// <remarks>
/// <code>
/// submit:    entry to tail --> tail+1 --> doorbell(tail)
/// complete:  phase of entry at head flips --> copy entry --> head+1 (phase inverts at the wrap) --> doorbell(head)
/// </code>
/// Whoever submits keeps fewer commands outstanding than the queue has entries, so that the tail never meets the head.
/// </remarks>
internal sealed class NvmeQueuePair
{
    private readonly INvmeHardware _hardware;
    private readonly GuestMemory _memory;

    public NvmeQueuePair(INvmeHardware hardware, GuestMemory memory, ushort id, uint entries, uint doorbellStride)
    {
        _hardware = hardware;
        _memory = memory;
        DoorbellStride = doorbellStride;
        Id = id;
        Entries = entries;
    }

    public ushort Id { get; }

    public uint Entries { get; }

    /// <summary>Distance of two doorbells in bytes.</summary>
    public uint DoorbellStride { get; }

    /// <summary>Where the submission queue lies in guest memory, unless it lies in the controller.</summary>
    public required GuestPhysicalAddress Submission { get; init; }

    /// <summary>The BAR of a submission queue in the controller's memory, and the offset there; null: it is not.</summary>
    public (uint Bar, ulong Offset)? InController { get; init; }

    public required GuestPhysicalAddress Completion { get; init; }

    public uint Tail { get; set; }

    public uint Head { get; set; }

    /// <summary>The phase that a new entry at <see cref="Head"/> has.</summary>
    public bool Phase { get; set; } = true;

    /// <summary>No old entry may look like a new one.</summary>
    public void Clear()
    {
        Span<byte> zeros = stackalloc byte[CompletionEntry.ByteLength];
        zeros.Clear();
        for (uint entry = 0; entry < Entries; entry++)
            _memory.Write(AddressOf(Completion, entry, CompletionEntry.ByteLength), zeros);
        Tail = 0;
        Head = 0;
        Phase = true;
    }

    public void Submit(in SubmissionEntry entry)
    {
        Span<byte> bytes = stackalloc byte[SubmissionEntry.ByteLength];
        entry.Format(bytes);
        if (InController is { } place)
            _hardware.WriteControllerMemory(place.Bar, place.Offset + (ulong)Tail * SubmissionEntry.ByteLength, bytes);
        else
            _memory.Write(AddressOf(Submission, Tail, SubmissionEntry.ByteLength), bytes);
        Tail = (Tail + 1) % Entries;
        // ORDER: the entry before the doorbell; the doorbell is a system call, or a lock, in every implementation.
        Thread.MemoryBarrier();
        _hardware.WriteRegister32(NvmeRegister.SubmissionDoorbell(Id, DoorbellStride), Tail);
    }

    /// <summary>Whether an entry has arrived.</summary>
    public bool HasCompletion()
    {
        GuestPhysicalAddress address = AddressOf(Completion, Head, CompletionEntry.ByteLength);
        uint last = _memory.ReadVolatile<uint>(new(address.Value + CompletionEntry.LastDwordOffset));
        return CompletionEntry.PhaseOf(last) == Phase;
    }

    public bool TryTake(out CompletionEntry entry)
    {
        entry = default;
        if (!HasCompletion())
            return false;
        Span<byte> copy = stackalloc byte[CompletionEntry.ByteLength];
        _memory.Read(AddressOf(Completion, Head, CompletionEntry.ByteLength), copy);
        entry = CompletionEntry.Parse(copy);
        Head = (Head + 1) % Entries;
        Phase ^= Head == 0;
        _hardware.WriteRegister32(NvmeRegister.CompletionDoorbell(Id, DoorbellStride), Head);
        return true;
    }

    private static GuestPhysicalAddress AddressOf(GuestPhysicalAddress start, uint entry, int byteLength) =>
        new(start.Value + (ulong)entry * (ulong)byteLength);
}
