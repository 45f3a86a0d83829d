using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using Tidemark.Abi;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>The controller's state as a stream of records, and back.</summary>
/// <remarks>
/// <code>
/// initial   Identity                       a wrong destination refuses here, before anything else was sent
/// changed   Registers, Queues, Features    only when one of them was set up differently; queue positions do not count
/// final     Identity, all other records, End; End has the device's internal memory, if it has any
/// </code>
/// A later record of a kind replaces an earlier one. Unknown kinds are refused: nothing may be lost silently.
/// Loading first builds a whole <see cref="Snapshot"/>, and touches the controller only when every byte was good.
/// </remarks>
internal sealed partial class NvmeController
{
    private const uint StateMagic = 0x6d76_6e74;
    private const ushort StateVersion = 2;

    /// <summary>LIMIT: queued commands and everything else at their bounds stay below this.</summary>
    private const ulong FinalStateBound = 256 * 1024;

    /// <summary>What <see cref="SaveChanged"/> gave last.</summary>
    private byte[] _lastChanged = [];

    /// <summary>What <see cref="SoftNvme.InternalStateBytes"/> says; nothing but a state reads or writes it.</summary>
    private readonly byte[] _internalMemory;

    public override ulong FinalStateSize => FinalStateBound + (ulong)_internalMemory.Length;

    /// <summary>The final state, and room for many changes before it.</summary>
    public override ulong MaximumStateSize => 8 * FinalStateBound + (ulong)_internalMemory.Length;

    public override ReadOnlyMemory<byte> FinalMemory => _internalMemory;

    public override byte[] SaveInitial()
    {
        using Lock.Scope held = EnterGate();
        var writer = new NvmeStateWriter();
        WriteIdentity(writer);
        _lastChanged = FormatSetup();
        return writer.ToArray();
    }

    public override byte[] SaveChanged()
    {
        using Lock.Scope held = EnterGate();
        byte[] setup = FormatSetup();
        if (setup.AsSpan().SequenceEqual(_lastChanged))
            return [];
        _lastChanged = setup;
        return setup;
    }

    /// <summary>The whole state; empty when <see cref="Freeze"/> could not make written blocks durable.</summary>
    public override byte[] SaveFinal()
    {
        using Lock.Scope held = EnterGate();
        if (_flushFailed)
            return [];
        // Doorbells rung since the last step are as good as taken.
        if (_ready && !_fatal)
            TakeDoorbells();
        var writer = new NvmeStateWriter();
        WriteIdentity(writer);
        WriteRegisters(writer);
        WritePciState(writer);
        WriteQueues(writer, withPositions: true);
        WriteCommands(writer);
        WriteFeatures(writer);
        WriteEvents(writer);
        writer.Begin(NvmeRecord.ControllerMemory);
        Errno errno = FileBytes.Read(
            _host, _controllerMemory, 0, writer.Reserve((int)NvmeBar.ControllerMemoryByteLength),
            NvmeBar.ControllerMemoryByteLength);
        writer.EndRecord();
        WriteCounters(writer);
        writer.BeginLong(NvmeRecord.End, _internalMemory.Length);
        return errno == Errno.Success ? writer.ToArray() : [];
    }

    public override Errno LoadState(ReadOnlySpan<byte> stream)
    {
        long start = Stopwatch.GetTimestamp();
        Errno errno = Load(stream);
        TimeSpan left = _description.LoadTime - Stopwatch.GetElapsedTime(start);
        if (errno == Errno.Success && left > TimeSpan.Zero)
            Thread.Sleep(left);
        return errno;
    }

    private Errno Load(ReadOnlySpan<byte> stream)
    {
        using Lock.Scope held = EnterGate();
        if ((ulong)stream.Length > MaximumStateSize)
            return Errno.EINVAL;
        var snapshot = new Snapshot();
        if (!snapshot.TryParse(stream, FormatIdentity(), _config, _internalMemory.Length))
            return Errno.EINVAL;
        Errno errno = FileBytes.Write(_host, _controllerMemory, 0, snapshot.ControllerMemory);
        if (errno != Errno.Success)
            return errno;
        stream[^_internalMemory.Length..].CopyTo(_internalMemory);
        Apply(snapshot);
        return Errno.Success;
    }

    /// <summary>Incompressible, and another content on each slot: what arrived can be told from what was there.</summary>
    private static byte[] FillInternalMemory(SoftNvme description)
    {
        byte[] memory = new byte[description.InternalStateBytes];
        ulong value = 0;
        foreach (char letter in description.Address)
            value = unchecked((value * 31) + letter);
        for (int at = 0; at + sizeof(ulong) <= memory.Length; at += sizeof(ulong))
        {
            value = unchecked((value * 6364136223846793005) + 1442695040888963407);
            BinaryPrimitives.WriteUInt64LittleEndian(memory.AsSpan(at), value ^ (value >> 29));
        }

        return memory;
    }

    private static void WriteRecord(NvmeStateWriter writer, NvmeRecord record, ReadOnlySpan<byte> payload)
    {
        writer.Begin(record);
        writer.Raw(payload);
        writer.EndRecord();
    }

    private void WriteIdentity(NvmeStateWriter writer) => WriteRecord(writer, NvmeRecord.Identity, FormatIdentity());

    /// <summary>Everything in which both sides must agree; compared byte by byte.</summary>
    private byte[] FormatIdentity()
    {
        var writer = new NvmeStateWriter();
        writer.U32(StateMagic);
        writer.U16(StateVersion);
        writer.U64(_capabilities.Value);
        writer.U64(_disk.BlockCount);
        writer.U8((byte)_description.Disk.Mode);
        writer.U16((ushort)NvmeLimits.Vectors);
        writer.U32((uint)NvmeBar.ControllerMemoryByteLength);
        writer.U8(NvmeLimits.TransferShift);
        writer.Raw(Encoding.ASCII.GetBytes(SerialNumber));
        if (_internalMemory.Length > 0)
            writer.U32((uint)_internalMemory.Length);
        return writer.ToArray();
    }

    private byte[] FormatSetup()
    {
        var writer = new NvmeStateWriter();
        WriteRegisters(writer);
        WriteQueues(writer, withPositions: false);
        WriteFeatures(writer);
        return writer.ToArray();
    }

    private void WriteRegisters(NvmeStateWriter writer)
    {
        writer.Begin(NvmeRecord.Registers);
        writer.U32(_configuration);
        writer.U32(_status);
        writer.U32(_adminQueueAttributes);
        writer.U64(_adminSubmissionQueue);
        writer.U64(_adminCompletionQueue);
        writer.U64(_controllerMemorySpace.Value);
        writer.Flag(_ready);
        writer.Flag(_fatal);
        writer.EndRecord();
    }

    private void WritePciState(NvmeStateWriter writer)
    {
        WriteRecord(writer, NvmeRecord.PciConfig, _config.Bytes);
        writer.Begin(NvmeRecord.Msix);
        writer.U128(_msix.Pending);
        writer.Raw(_msix.Table);
        writer.EndRecord();
    }

    private void WriteQueues(NvmeStateWriter writer, bool withPositions)
    {
        writer.Begin(NvmeRecord.Queues);
        for (ushort id = 0; id <= NvmeLimits.IOQueues; id++)
        {
            if (_completionQueues[id] is not { } queue)
                continue;
            writer.U8(1);
            writer.U16(id);
            writer.U64(queue.Address);
            writer.U32(queue.Entries);
            writer.U16(queue.Vector);
            writer.Flag(queue.InterruptsEnabled);
            writer.U32(withPositions ? queue.Head : 0);
            writer.U32(withPositions ? queue.Tail : 0);
            writer.Flag(!withPositions || queue.Phase);
            writer.Flag(queue.Halted);
        }

        for (ushort id = 0; id <= NvmeLimits.IOQueues; id++)
        {
            if (_submissionQueues[id] is not { } queue)
                continue;
            writer.U8(2);
            writer.U16(id);
            writer.U64(queue.Address);
            writer.U32(queue.Entries);
            writer.U16(queue.CompletionQueue);
            writer.U32(withPositions ? queue.Head : 0);
            writer.U32(withPositions ? queue.Tail : 0);
            writer.Flag(queue.Halted);
        }

        writer.EndRecord();
    }

    private void WriteCommands(NvmeStateWriter writer)
    {
        writer.Begin(NvmeRecord.Commands);
        foreach (NvmeCommand command in _commands)
        {
            writer.U16(command.SubmissionQueue);
            writer.U16(command.CompletionQueue);
            command.Entry.Format(writer.Reserve(SubmissionEntry.ByteLength));
            writer.U32(command.DoneBytes);
            writer.Flag(command.Finished);
            writer.Flag(command.Parked);
            writer.U16(command.Status.Value);
            writer.U32(command.Result);
        }

        writer.EndRecord();
    }

    private void WriteFeatures(NvmeStateWriter writer)
    {
        writer.Begin(NvmeRecord.Features);
        foreach (uint value in _features)
            writer.U32(value);
        writer.EndRecord();
    }

    private void WriteEvents(NvmeStateWriter writer)
    {
        writer.Begin(NvmeRecord.Events);
        writer.Flag(_errorEventsMasked);
        writer.U128(_interrupts);
        writer.U8((byte)_eventRequests.Count);
        foreach (ushort commandId in _eventRequests)
            writer.U16(commandId);
        writer.U8((byte)_events.Count);
        foreach (uint occurred in _events)
            writer.U32(occurred);
        writer.EndRecord();
    }

    private void WriteCounters(NvmeStateWriter writer)
    {
        writer.Begin(NvmeRecord.Counters);
        writer.U64(_blocksRead);
        writer.U64(_blocksWritten);
        writer.U64(_readCommands);
        writer.U64(_writeCommands);
        writer.U64(_mediaErrors);
        writer.EndRecord();
    }

    private void Apply(Snapshot snapshot)
    {
        ResetRegisters();
        _configuration = snapshot.Configuration;
        _status = snapshot.Status;
        _adminQueueAttributes = snapshot.AdminQueueAttributes;
        _adminSubmissionQueue = snapshot.AdminSubmissionQueue;
        _adminCompletionQueue = snapshot.AdminCompletionQueue;
        _controllerMemorySpace = new ControllerMemorySpace(snapshot.ControllerMemorySpace);
        _fatal = snapshot.Fatal;
        _config.Load(snapshot.PciConfig);
        _msix.Load(snapshot.MsixTable, snapshot.MsixPending);
        snapshot.CompletionQueues.CopyTo(_completionQueues, 0);
        snapshot.SubmissionQueues.CopyTo(_submissionQueues, 0);
        foreach (NvmeCommand command in snapshot.Commands)
            Enlist(command);
        snapshot.Features.CopyTo(_features, 0);
        _errorEventsMasked = snapshot.ErrorEventsMasked;
        _interrupts = snapshot.Interrupts;
        foreach (ushort commandId in snapshot.EventRequests)
            _eventRequests.Enqueue(commandId);
        foreach (uint occurred in snapshot.Events)
            _events.Enqueue(occurred);
        (_blocksRead, _blocksWritten, _readCommands, _writeCommands, _mediaErrors) =
            (snapshot.Counters[0], snapshot.Counters[1], snapshot.Counters[2], snapshot.Counters[3],
             snapshot.Counters[4]);
        _ready = snapshot.Ready;
        // The source wrote to the overlay until Commit: what it holds is known only when this side begins to run.
        _reloadDisk = true;
        _flushFailed = false;
        _lastChanged = [];
    }
}
