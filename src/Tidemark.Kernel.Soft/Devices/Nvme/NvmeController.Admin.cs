using System.Buffers.Binary;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>The admin command set.</summary>
internal sealed partial class NvmeController
{
    private const byte EntryShiftSubmission = 6;
    private const byte EntryShiftCompletion = 4;

    private string SerialNumber => _description.SerialNumber;

    private void ExecuteAdmin(NvmeCommand command)
    {
        SubmissionEntry entry = command.Entry;
        if (entry.Flags != 0)
        {
            command.Finish(NvmeStatus.InvalidField);
            return;
        }

        switch ((AdminOpcode)entry.Opcode)
        {
            case AdminOpcode.DeleteSubmissionQueue:
                command.Finish(DeleteSubmissionQueue((ushort)(entry.Dword10 & 0xffff)));
                break;
            case AdminOpcode.CreateSubmissionQueue:
                command.Finish(CreateSubmissionQueue(entry));
                break;
            case AdminOpcode.DeleteCompletionQueue:
                command.Finish(DeleteCompletionQueue((ushort)(entry.Dword10 & 0xffff)));
                break;
            case AdminOpcode.CreateCompletionQueue:
                command.Finish(CreateCompletionQueue(entry));
                break;
            case AdminOpcode.GetLogPage:
                command.Finish(GetLogPage(command));
                break;
            case AdminOpcode.Identify:
                command.Finish(Identify(command));
                break;
            case AdminOpcode.Abort:
                command.Finish(NvmeStatus.Success, TryAbort(entry.Dword10) ? 0u : 1u);
                break;
            case AdminOpcode.SetFeatures:
                NvmeStatus set = SetFeature(entry, out uint granted);
                command.Finish(set, granted);
                break;
            case AdminOpcode.GetFeatures:
                NvmeStatus got = GetFeature(entry, out uint value);
                command.Finish(got, value);
                break;
            case AdminOpcode.AsynchronousEventRequest:
                RequestEvent(command);
                break;
            default:
                command.Finish(NvmeStatus.InvalidOpcode);
                break;
        }
    }

    private NvmeStatus Identify(NvmeCommand command)
    {
        SubmissionEntry entry = command.Entry;
        Span<byte> data = stackalloc byte[IdentifyController.ByteLength];
        data.Clear();
        switch ((IdentifyStructure)(entry.Dword10 & 0xff))
        {
            case IdentifyStructure.Controller:
                new IdentifyController
                {
                    SerialNumber = SerialNumber,
                    ModelNumber = "Tidemark soft NVMe controller",
                    FirmwareRevision = "1",
                    VendorId = _description.VendorId,
                    MaximumTransferShift = NvmeLimits.TransferShift,
                    AsynchronousEventLimit = NvmeLimits.EventRequests,
                    NamespaceCount = 1,
                    HasVolatileWriteCache = true,
                }.Format(data);
                break;
            case IdentifyStructure.Namespace when entry.NamespaceId is 1 or AllNamespaces:
                new IdentifyNamespace
                {
                    BlockCount = _disk.BlockCount,
                    BlockShift = NvmeLimits.BlockShift,
                    WriteProtected = _disk.ReadOnly,
                }.Format(data);
                break;
            case IdentifyStructure.ActiveNamespaces when entry.NamespaceId < uint.MaxValue - 1:
                // Those above the given one, ascending, ended by 0.
                BinaryPrimitives.WriteUInt32LittleEndian(data, entry.NamespaceId == 0 ? 1u : 0u);
                break;
            case IdentifyStructure.NamespaceDescriptors when entry.NamespaceId == 1:
                // One descriptor of type NGUID would need an assigned identifier; the list may be empty. Section
                // 5.15.2.4.
                break;
            case IdentifyStructure.Namespace or IdentifyStructure.ActiveNamespaces
                or IdentifyStructure.NamespaceDescriptors:
                return NvmeStatus.InvalidNamespace;
            default:
                return NvmeStatus.InvalidField;
        }

        return SendData(command, data);
    }

    private NvmeStatus SendData(NvmeCommand command, ReadOnlySpan<byte> data)
    {
        NvmeStatus status = ResolvePages(command, (uint)data.Length);
        if (!status.Succeeded)
            return status;
        return CopyToGuest(command.Pages!, 0, data) ? NvmeStatus.Success : NvmeStatus.DataTransferError;
    }

    private NvmeStatus CreateCompletionQueue(SubmissionEntry entry)
    {
        ushort id = (ushort)(entry.Dword10 & 0xffff);
        uint entries = (entry.Dword10 >> 16) + 1;
        uint vector = entry.Dword11 >> 16;
        if (id == 0 || id > NvmeLimits.IOQueues || _completionQueues[id] is not null)
            return NvmeStatus.InvalidQueueIdentifier;
        if (entries < 2 || entries > NvmeLimits.QueueEntries)
            return NvmeStatus.InvalidQueueSize;
        if (vector >= NvmeLimits.Vectors)
            return NvmeStatus.InvalidInterruptVector;
        NvmeStatus placed = CheckQueuePlace(entry);
        if (!placed.Succeeded)
            return placed;
        if (new ControllerConfiguration(_configuration).CompletionEntryShift != EntryShiftCompletion)
            return NvmeStatus.InvalidField;
        _completionQueues[id] = new NvmeCompletionQueue
        {
            Id = id,
            Address = entry.Prp1,
            Entries = entries,
            Vector = (ushort)vector,
            InterruptsEnabled = (entry.Dword11 & 2) != 0,
        };
        return NvmeStatus.Success;
    }

    private NvmeStatus CreateSubmissionQueue(SubmissionEntry entry)
    {
        ushort id = (ushort)(entry.Dword10 & 0xffff);
        uint entries = (entry.Dword10 >> 16) + 1;
        uint completionQueue = entry.Dword11 >> 16;
        if (id == 0 || id > NvmeLimits.IOQueues || _submissionQueues[id] is not null)
            return NvmeStatus.InvalidQueueIdentifier;
        if (entries < 2 || entries > NvmeLimits.QueueEntries)
            return NvmeStatus.InvalidQueueSize;
        if (completionQueue == 0 || completionQueue > NvmeLimits.IOQueues || _completionQueues[completionQueue] is null)
            return NvmeStatus.CompletionQueueInvalid;
        NvmeStatus placed = CheckQueuePlace(entry);
        if (!placed.Succeeded)
            return placed;
        if (new ControllerConfiguration(_configuration).SubmissionEntryShift != EntryShiftSubmission)
            return NvmeStatus.InvalidField;
        _submissionQueues[id] = new NvmeSubmissionQueue
        {
            Id = id,
            Address = entry.Prp1,
            Entries = entries,
            CompletionQueue = (ushort)completionQueue,
        };
        return NvmeStatus.Success;
    }

    /// <summary>CAP.CQR: a queue is one piece (PC), and begins a page.</summary>
    private static NvmeStatus CheckQueuePlace(SubmissionEntry entry)
    {
        if ((entry.Dword11 & 1) == 0)
            return NvmeStatus.InvalidField;
        return entry.Prp1 % PrpGeometry.PageByteLength == 0 ? NvmeStatus.Success : NvmeStatus.PrpOffsetInvalid;
    }

    private NvmeStatus DeleteSubmissionQueue(ushort id)
    {
        if (id == 0 || id > NvmeLimits.IOQueues || _submissionQueues[id] is null)
            return NvmeStatus.InvalidQueueIdentifier;
        _submissionQueues[id] = null;
        foreach (NvmeCommand command in _commands)
        {
            if (command.SubmissionQueue == id && !command.Finished)
                command.Finish(NvmeStatus.AbortedByQueueDeletion);
        }

        return NvmeStatus.Success;
    }

    private NvmeStatus DeleteCompletionQueue(ushort id)
    {
        if (id == 0 || id > NvmeLimits.IOQueues || _completionQueues[id] is null)
            return NvmeStatus.InvalidQueueIdentifier;
        foreach (NvmeSubmissionQueue? queue in _submissionQueues)
        {
            if (queue?.CompletionQueue == id)
                return NvmeStatus.InvalidQueueDeletion;
        }

        _completionQueues[id] = null;
        // Completions that wait for room in it will never have any; a queue created under the same number is another.
        foreach (NvmeCommand command in _commands)
            command.Parked |= command.CompletionQueue == id;
        return NvmeStatus.Success;
    }

    /// <summary>Section 5.1. True: the command will be completed as aborted.</summary>
    private bool TryAbort(uint dword10)
    {
        ushort queue = (ushort)(dword10 & 0xffff);
        ushort commandId = (ushort)(dword10 >> 16);
        if (queue == 0)
            return TryAbortEventRequest(commandId);
        foreach (NvmeCommand command in _commands)
        {
            if (command.Finished || command.SubmissionQueue != queue || command.Entry.CommandId != commandId)
                continue;
            command.Finish(NvmeStatus.AbortRequested);
            return true;
        }

        return false;
    }

    private bool TryAbortEventRequest(ushort commandId)
    {
        bool found = false;
        for (int remaining = _eventRequests.Count; remaining > 0; remaining--)
        {
            ushort request = _eventRequests.Dequeue();
            if (request != commandId || found)
            {
                _eventRequests.Enqueue(request);
                continue;
            }

            found = true;
            var aborted = new NvmeCommand
            {
                SubmissionQueue = 0,
                CompletionQueue = 0,
                Entry = new SubmissionEntry { CommandId = commandId },
            };
            aborted.Finish(NvmeStatus.AbortRequested);
            Enlist(aborted);
        }

        return found;
    }

    private void RequestEvent(NvmeCommand command)
    {
        if (_eventRequests.Count >= NvmeLimits.EventRequests)
        {
            command.Finish(NvmeStatus.AsynchronousEventLimitExceeded);
            return;
        }

        _eventRequests.Enqueue(command.Entry.CommandId);
        command.Finish(NvmeStatus.Success);
        command.Parked = true;
    }
}
