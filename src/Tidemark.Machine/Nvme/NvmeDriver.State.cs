namespace Tidemark.Machine.Nvme;

/// <summary>The driver's own state, which moves with the machine. The controller's moves by itself.</summary>
public sealed partial class NvmeDriver
{
    private const uint StateMagic = 0x444e_4d54; // "TMND"
    private const ushort StateVersion = 2;

    /// <summary>
    /// Queue positions and commands in flight. The driver must not be in use, and its controller quiet or paused.
    /// </summary>
    public byte[] SaveState()
    {
        NvmeQueuePair io = _io ?? throw NotReady();
        NvmeQueuePair admin = _admin ?? throw NotReady();
        using var writer = new PartStateWriter(StateMagic, StateVersion);
        writer.U64(_options.ArenaStart.Value);
        writer.U32(_options.QueueEntries);
        writer.U32(io.DoorbellStride);
        writer.U64(Namespace.BlockCount);
        writer.U32(Namespace.BlockByteLength);
        writer.U32(Namespace.MaximumTransferBytes);
        writer.Flag(Namespace.WriteProtected);
        writer.Flag(io.InController is not null);
        writer.U32(io.InController?.Bar ?? 0);
        writer.U64(io.InController?.Offset ?? 0);
        writer.U16(_nextAdminCommand);
        WritePositions(writer, admin);
        WritePositions(writer, io);
        writer.U16((ushort)OutstandingCount);
        for (int id = 0; id < _outstanding.Length; id++)
        {
            if (!_outstanding[id].Active)
                continue;
            writer.U16((ushort)id);
            writer.U64(_outstanding[id].Tag);
        }

        return writer.ToArray();
    }

    /// <summary>
    /// Takes another side's state instead of <see cref="Initialize"/>; touches neither controller nor guest memory.
    /// </summary>
    /// <exception cref="NvmeException">The bytes are no driver state, or of a driver with other options; this one is
    /// as before.</exception>
    public void RestoreState(ReadOnlySpan<byte> state)
    {
        var reader = new PartStateReader(state, StateMagic, StateVersion);
        ulong arena = reader.U64();
        uint entries = reader.U32();
        uint stride = reader.U32();
        ulong blocks = reader.U64();
        uint blockBytes = reader.U32();
        uint transfer = reader.U32();
        bool writeProtected = reader.Flag();
        bool inController = reader.Flag();
        uint controllerBar = reader.U32();
        ulong controllerOffset = reader.U64();
        ushort nextAdmin = reader.U16();
        bool plausible = !reader.Failed && arena == _options.ArenaStart.Value && entries == _options.QueueEntries
            && stride is >= 4 and <= 4u << 15 && blocks != 0 && blocks <= ulong.MaxValue >> 16
            && blockBytes is >= 512 and <= 65536 && transfer is >= 4096 and <= OwnTransferLimit
            && controllerBar < Bars && controllerOffset <= uint.MaxValue;
        if (!plausible)
            throw NotThisDriver();
        NvmeQueuePair admin = CreateAdminPair(stride);
        var io = new NvmeQueuePair(_hardware, _memory, IOQueue, entries, stride)
        {
            Submission = IOSubmission,
            Completion = IOCompletion,
            InController = inController ? (controllerBar, controllerOffset) : null,
        };
        var outstanding = new Outstanding[_outstanding.Length];
        bool good = TryReadPositions(ref reader, admin) & TryReadPositions(ref reader, io);
        int count = reader.U16();
        good &= count <= outstanding.Length;
        for (int index = 0; good && index < count; index++)
        {
            int id = reader.U16();
            ulong tag = reader.U64();
            good = id < outstanding.Length && !outstanding[id].Active;
            if (good)
                outstanding[id] = new Outstanding { Active = true, Tag = tag };
        }

        if (!good || !reader.IsComplete)
            throw NotThisDriver();
        outstanding.CopyTo(_outstanding, 0);
        OutstandingCount = count;
        _admin = admin;
        _io = io;
        _nextAdminCommand = (ushort)(nextAdmin & 0xfff);
        _namespace = new NvmeNamespaceInfo(blocks, blockBytes, transfer, writeProtected, inController);
        RestartTimeouts();
    }

    /// <summary>As <see cref="RestoreState"/>, for a driver that goes on with the same controller, which keeps
    /// working.</summary>
    public void AdoptState(ReadOnlySpan<byte> state, string serialNumber, string modelNumber)
    {
        RestoreState(state);
        SerialNumber = serialNumber;
        ModelNumber = modelNumber;
    }

    private static NvmeException NotThisDriver() =>
        new("The saved NVMe driver state is damaged or belongs to a driver with other queues.");

    private static void WritePositions(PartStateWriter writer, NvmeQueuePair queue)
    {
        writer.U32(queue.Tail);
        writer.U32(queue.Head);
        writer.Flag(queue.Phase);
    }

    private static bool TryReadPositions(ref PartStateReader reader, NvmeQueuePair queue)
    {
        queue.Tail = reader.U32();
        queue.Head = reader.U32();
        queue.Phase = reader.Flag();
        return !reader.Failed && queue.Tail < queue.Entries && queue.Head < queue.Entries;
    }
}
