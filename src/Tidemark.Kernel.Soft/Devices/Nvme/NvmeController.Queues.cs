using Tidemark.Abi;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>Doorbells, fetching commands, posting completions, events and interrupts.</summary>
internal sealed partial class NvmeController
{
    /// <summary>LIMIT: completions that share one interrupt while the controller stays busy.</summary>
    private const int CompletionsPerInterrupt = 8;

    private readonly NvmeSubmissionQueue?[] _submissionQueues = new NvmeSubmissionQueue?[NvmeLimits.IOQueues + 1];
    private readonly NvmeCompletionQueue?[] _completionQueues = new NvmeCompletionQueue?[NvmeLimits.IOQueues + 1];

    /// <summary>Commands of each submission queue that are in <see cref="_commands"/>.</summary>
    private readonly int[] _inFlight = new int[NvmeLimits.IOQueues + 1];

    /// <summary>Fetched, not completed; the next one to advance is first.</summary>
    private readonly Queue<NvmeCommand> _commands = new();

    /// <summary>Command identifiers of asynchronous event requests that wait for an event.</summary>
    private readonly Queue<ushort> _eventRequests = new();

    /// <summary>Events that wait for a request, as dword 0 of its completion.</summary>
    private readonly Queue<uint> _events = new();

    /// <summary>
    /// An error event was reported; the next one waits until the error log page was read. Section 5.2.
    /// </summary>
    private bool _errorEventsMasked;

    private bool _strayDoorbell;
    /// <summary>A bit for each vector to be raised.</summary>
    private UInt128 _interrupts;
    private int _completionsSinceInterrupt;
    private int _nextQueue;

    private bool TakeDoorbells()
    {
        if (Volatile.Read(ref _doorbellsRung) == 0)
            return false;
        // ORDER: the flag first, then the values: a value written after its slot was read sets the flag again.
        Interlocked.Exchange(ref _doorbellsRung, 0);
        for (int index = 0; index < _doorbells.Length; index++)
        {
            long value = Interlocked.Exchange(ref _doorbells[index], -1);
            if (value >= 0)
                TakeDoorbell(index, (uint)value);
        }

        if (_strayDoorbell)
        {
            Volatile.Write(ref _strayDoorbell, false);
            AddErrorEvent(ErrorEvent.InvalidDoorbellRegister);
        }

        return true;
    }

    private void TakeDoorbell(int index, uint value)
    {
        if (index % 2 == 0)
        {
            if (_submissionQueues[index / 2] is not { } submission)
                AddErrorEvent(ErrorEvent.InvalidDoorbellRegister);
            else if (value >= submission.Entries)
                AddErrorEvent(ErrorEvent.InvalidDoorbellValue);
            else
                submission.Tail = value;
            return;
        }

        if (_completionQueues[index / 2] is not { } completion)
            AddErrorEvent(ErrorEvent.InvalidDoorbellRegister);
        else if (value >= completion.Entries || !IsBetween(completion, value))
            AddErrorEvent(ErrorEvent.InvalidDoorbellValue);
        else
            completion.Head = value;
    }

    /// <summary>A head may only move over entries that were posted.</summary>
    private static bool IsBetween(NvmeCompletionQueue queue, uint head)
    {
        uint posted = (queue.Tail + queue.Entries - queue.Head) % queue.Entries;
        return (head + queue.Entries - queue.Head) % queue.Entries <= posted;
    }

    /// <summary>Fetches some commands of each queue, the queues in turn.</summary>
    private bool FetchCommands()
    {
        bool fetched = false;
        int start = _nextQueue;
        for (int turn = 0; turn < _submissionQueues.Length; turn++)
        {
            int index = (start + turn) % _submissionQueues.Length;
            if (_submissionQueues[index] is not { Halted: false } queue)
                continue;
            for (int count = 0; count < NvmeLimits.FetchPerStep; count++)
            {
                if (queue.Head == queue.Tail || _inFlight[index] >= NvmeLimits.InFlightPerQueue || !TryFetch(queue))
                    break;
                fetched = true;
            }
        }

        _nextQueue = (start + 1) % _submissionQueues.Length;
        return fetched;
    }

    private bool TryFetch(NvmeSubmissionQueue queue)
    {
        Span<byte> copy = stackalloc byte[SubmissionEntry.ByteLength];
        if (!ReadQueueEntry(queue.Address, (ulong)queue.Head * SubmissionEntry.ByteLength, copy))
        {
            queue.Halted = true;
            if (queue.Id == 0)
                FailFatally();
            else
                AddErrorEvent(ErrorEvent.PersistentInternalError);
            return false;
        }

        queue.Head = (queue.Head + 1) % queue.Entries;
        Enlist(new NvmeCommand
        {
            SubmissionQueue = queue.Id,
            CompletionQueue = queue.CompletionQueue,
            Entry = SubmissionEntry.Parse(copy),
        });
        return true;
    }

    private void Enlist(NvmeCommand command)
    {
        _inFlight[command.SubmissionQueue]++;
        _commands.Enqueue(command);
    }

    private bool ReadQueueEntry(ulong queueAddress, ulong offset, Span<byte> into)
    {
        if (queueAddress > ulong.MaxValue - offset)
            return false;
        ulong address = queueAddress + offset;
        ulong inside = unchecked(address - _controllerMemorySpace.Address);
        bool inControllerMemory = _controllerMemorySpace.SpaceEnabled
            && inside < NvmeBar.ControllerMemoryByteLength;
        if (!inControllerMemory)
            return DmaRead(address, into);
        return FileBytes.Read(
            _host, _controllerMemory, inside, into, NvmeBar.ControllerMemoryByteLength) == Errno.Success;
    }

    /// <summary>Advances the first command that can: one chunk of its data, or its completion.</summary>
    private bool AdvanceCommands()
    {
        for (int remaining = _commands.Count; remaining > 0; remaining--)
        {
            NvmeCommand command = _commands.Dequeue();
            bool advanced = !command.Finished;
            if (!command.Finished)
                Execute(command);
            bool gone = command.Finished && TryComplete(command);
            if (gone)
                _inFlight[command.SubmissionQueue]--;
            else if (!_fatal)
                _commands.Enqueue(command);
            if (advanced || gone)
                return true;
        }

        return false;
    }

    private void Execute(NvmeCommand command)
    {
        if (command.SubmissionQueue == 0)
            ExecuteAdmin(command);
        else
            ExecuteIO(command);
    }

    /// <summary>
    /// True: the command is done with (posted, or nobody is there to hear of it). False: the queue is full.
    /// </summary>
    private bool TryComplete(NvmeCommand command)
    {
        if (_completionQueues[command.CompletionQueue] is not { Halted: false } queue || command.Parked)
            return true;
        if (queue.IsFull)
            return false;
        var entry = new CompletionEntry
        {
            Result = command.Result,
            SubmissionQueue = command.SubmissionQueue,
            SubmissionHead = (ushort)(_submissionQueues[command.SubmissionQueue]?.Head ?? 0),
            CommandId = command.Entry.CommandId,
            Phase = queue.Phase,
            Status = command.Status,
        };
        Span<byte> bytes = stackalloc byte[CompletionEntry.ByteLength];
        entry.Format(bytes);
        ulong offset = (ulong)queue.Tail * CompletionEntry.ByteLength;
        if (queue.Address > ulong.MaxValue - offset || !DmaWrite(queue.Address + offset, bytes))
        {
            queue.Halted = true;
            if (queue.Id == 0)
                FailFatally();
            else
                AddErrorEvent(ErrorEvent.PersistentInternalError);
            return true;
        }

        queue.Tail = (queue.Tail + 1) % queue.Entries;
        queue.Phase ^= queue.Tail == 0;
        _completionsSinceInterrupt++;
        if (queue.InterruptsEnabled)
            _interrupts |= UInt128.One << queue.Vector;
        return true;
    }

    private void AddErrorEvent(ErrorEvent what)
    {
        if (_events.Count < NvmeLimits.WaitingEvents)
            _events.Enqueue((uint)what << 8 | (uint)LogPageId.Error << 16);
    }

    /// <summary>Gives a waiting event to a waiting request.</summary>
    private bool DeliverEvents()
    {
        if (_errorEventsMasked || _events.Count == 0 || _eventRequests.Count == 0)
            return false;
        var command = new NvmeCommand
        {
            SubmissionQueue = 0,
            CompletionQueue = 0,
            Entry = new SubmissionEntry
            {
                Opcode = (byte)AdminOpcode.AsynchronousEventRequest,
                CommandId = _eventRequests.Dequeue(),
            },
        };
        command.Finish(NvmeStatus.Success, _events.Dequeue());
        _errorEventsMasked = true;
        Enlist(command);
        return true;
    }

    /// <summary>Pushes what was posted, then raises the vectors of queues that got completions.</summary>
    private void RaiseInterrupts()
    {
        _completionsSinceInterrupt = 0;
        if (_interrupts == UInt128.Zero)
            return;
        _port.Drain();
        _unpushed = false;
        UInt128 raised = _interrupts;
        _interrupts = UInt128.Zero;
        if (_intx is not null)
        {
            AssertPin();
            return;
        }

        for (; raised != UInt128.Zero; raised &= raised - UInt128.One)
            _msix.Raise((uint)UInt128.TrailingZeroCount(raised));
    }

    /// <summary>Tells whoever uses the pin that it is held. Its masking is the host's.</summary>
    private void AssertPin()
    {
        if (_intx is not null && HoldsPin())
            _intx();
    }

    /// <summary>
    /// The pin is held as long as a queue with interrupts has completions that its driver has not taken.
    /// LIMIT: INTMS and INTMC are ignored.
    /// </summary>
    private bool HoldsPin()
    {
        if (_config.InterruptDisable)
            return false;
        foreach (NvmeCompletionQueue? queue in _completionQueues)
        {
            if (queue is { InterruptsEnabled: true, Halted: false } && queue.Head != queue.Tail)
                return true;
        }

        return false;
    }
}
