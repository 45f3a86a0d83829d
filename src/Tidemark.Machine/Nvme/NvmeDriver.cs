using System.Buffers.Binary;
using System.Diagnostics;
using Tidemark.Kernel;
using Tidemark.Memory;
using Tidemark.Nvme;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// A user-space driver of one NVMe controller with one I/O queue pair, whose state can be saved and go on elsewhere.
/// </summary>
/// <remarks>
/// <code>
/// new --Initialize--> Ready --Submit...--> commands in flight --TryComplete--> ...
/// new --RestoreState--> Ready, with the commands in flight that the other side had
/// </code>
/// All its writes to guest memory go through <see cref="GuestMemory"/>, so they are seen by the CPU's dirty source.
/// For one thread at a time; <see cref="Wake"/> for any.
/// Arena: admin submission queue, admin completion queue, identify data (a page each); I/O submission queue, I/O
/// completion queue; a page of PRPs for each command.
/// Failures are <see cref="NvmeException"/>; the driver is then good for <see cref="Dispose"/> only, except where said.
/// </remarks>
public sealed partial class NvmeDriver : IDisposable
{
    private const uint AdminEntries = 32;
    private const ushort IOQueue = 1;
    private const uint Bars = 6;

    /// <summary>LIMIT: what a command's page of PRPs can list, with a first page that begins inside.</summary>
    private const uint OwnTransferLimit = (PrpGeometry.EntriesPerPage - 1) * PrpGeometry.PageByteLength;

    private readonly INvmeHardware _hardware;
    private readonly GuestMemory _memory;
    private readonly NvmeDriverOptions _options;
    private readonly NvmeInterrupts _interrupts;
    private readonly Outstanding[] _outstanding;
    private NvmeQueuePair? _admin;
    private NvmeQueuePair? _io;
    private NvmeNamespaceInfo? _namespace;
    private ushort _nextAdminCommand;

    /// <param name="kernel">For eventfds; null: interrupts are not used.</param>
    /// <exception cref="ArgumentException">The arena is too small, not page aligned, or outside guest
    /// memory.</exception>
    public NvmeDriver(INvmeHardware hardware, GuestMemory memory, IKernel? kernel, NvmeDriverOptions options)
    {
        ArgumentNullException.ThrowIfNull(hardware);
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(options);
        if (options.QueueEntries is < 2 or > 1024)
            throw new ArgumentException(
                $"NVMe queues of {options.QueueEntries} entries are not between 2 and 1024.", nameof(options));
        if (options.ArenaStart.Value % GuestPage.Size != 0
            || options.ArenaByteLength < RequiredArenaBytes(options.QueueEntries)
            || memory.FindSlot(options.ArenaStart, options.ArenaByteLength) is null)
            throw new ArgumentException(
                $"The NVMe driver's arena of {options.ArenaByteLength} bytes at {options.ArenaStart} is not usable.",
                nameof(options));
        _hardware = hardware;
        _memory = memory;
        _options = options;
        _interrupts = new NvmeInterrupts(options.UseInterrupts ? kernel : null);
        _outstanding = new Outstanding[options.QueueEntries - 1];
    }

    /// <summary>What the controller said; known when ready.</summary>
    public NvmeNamespaceInfo Namespace => _namespace ?? throw NotReady();

    /// <summary>What tells this disk from others; known after <see cref="Initialize"/>, also while shut down.</summary>
    public NvmeDiskIdentity Identity =>
        new(SerialNumber, ModelNumber, Namespace.BlockCount, Namespace.BlockByteLength);

    /// <summary>Serial number; empty after <see cref="RestoreState"/>.</summary>
    public string SerialNumber { get; private set; } = "";

    public string ModelNumber { get; private set; } = "";

    /// <summary>Commands submitted and not taken back by <see cref="TryComplete"/>.</summary>
    public int OutstandingCount { get; private set; }

    /// <summary>Whether another command can be submitted.</summary>
    public bool HasRoom => OutstandingCount < _outstanding.Length;

    /// <summary>Guest memory that a driver with such queues needs.</summary>
    public static ulong RequiredArenaBytes(uint queueEntries) =>
        3 * GuestPage.Size + RoundUp(queueEntries * (ulong)SubmissionEntry.ByteLength)
        + RoundUp(queueEntries * (ulong)CompletionEntry.ByteLength) + (queueEntries - 1UL) * GuestPage.Size;

    /// <summary>Whether a guest page holds completions or what the controller said of itself.</summary>
    public bool IsWrittenByController(ulong page) =>
        page == ArenaAt(GuestPage.Size).Page || page == IdentifyPage.Page
        || (page >= IOCompletion.Page && page < PrpPage(0).Page);

    /// <summary>Reads blocks into guest memory.</summary>
    /// <param name="buffer">Aligned to 4 bytes; contiguous in guest-physical addresses.</param>
    /// <param name="tag">Comes back in the completion.</param>
    /// <param name="bus">Where the controller finds the buffer; null: at its guest-physical address.</param>
    public void SubmitRead(
        ulong block, uint blockCount, GuestPhysicalAddress buffer, ulong tag, ulong? bus = null) =>
        Submit(NvmOpcode.Read, block, blockCount, buffer, tag, bus);

    /// <summary>Writes blocks from guest memory.</summary>
    public void SubmitWrite(
        ulong block, uint blockCount, GuestPhysicalAddress buffer, ulong tag, ulong? bus = null) =>
        Submit(NvmOpcode.Write, block, blockCount, buffer, tag, bus);

    /// <summary>Makes completed writes durable.</summary>
    public void SubmitFlush(ulong tag) => Submit(NvmOpcode.Flush, 0, 0, default, tag, bus: null);

    /// <summary>Takes the next completion, if there is one. Does not wait.</summary>
    /// <exception cref="NvmeException">The controller completed what was not outstanding: once too often, or never
    /// asked.</exception>
    public bool TryComplete(out NvmeCompletion completion)
    {
        completion = default;
        NvmeQueuePair io = _io ?? throw NotReady();
        if (!io.TryTake(out CompletionEntry entry))
            return false;
        if (entry.CommandId >= _outstanding.Length || !_outstanding[entry.CommandId].Active)
            throw new NvmeException(
                $"NVMe controller {SerialNumber} completed command 0x{entry.CommandId:x}, which is not outstanding.");
        ref Outstanding slot = ref _outstanding[entry.CommandId];
        slot.Active = false;
        OutstandingCount--;
        completion = new NvmeCompletion(slot.Tag, entry.Status);
        return true;
    }

    /// <summary>
    /// Waits until a completion may be there, <see cref="Wake"/> is called, or the time is over. True: take
    /// completions.
    /// </summary>
    /// <exception cref="NvmeException">A command takes longer than its timeout, or the controller has
    /// failed.</exception>
    public bool WaitForCompletion(TimeSpan timeout)
    {
        NvmeQueuePair io = _io ?? throw NotReady();
        if (io.HasCompletion() || _interrupts.Wait(io, timeout))
            return true;
        CheckTimeouts();
        return io.HasCompletion();
    }

    /// <summary>Ends a wait in progress, or the next one. Any thread.</summary>
    public void Wake() => _interrupts.Wake();

    /// <summary>
    /// Routes the controller's interrupts to this driver. <see cref="Initialize"/> does it by itself; a restored
    /// driver needs it before it runs.
    /// </summary>
    public void ConnectInterrupts() => _interrupts.Connect(_hardware);

    /// <summary>Points the vectors at this driver's eventfds again, if they ever were.</summary>
    public void ReconnectInterrupts() => _interrupts.Reconnect(_hardware);

    /// <summary>
    /// Commands in flight get their whole timeout again: time in which the controller stood still does not count.
    /// </summary>
    public void RestartTimeouts()
    {
        long now = Stopwatch.GetTimestamp();
        for (int index = 0; index < _outstanding.Length; index++)
            _outstanding[index].Submitted = now;
    }

    /// <summary>Releases the eventfds. Does not touch the controller: it may be somebody else's by now.</summary>
    public void Dispose() => _interrupts.Dispose();

    private void Submit(
        NvmOpcode opcode, ulong block, uint blockCount, GuestPhysicalAddress buffer, ulong tag, ulong? bus)
    {
        NvmeQueuePair io = _io ?? throw NotReady();
        NvmeNamespaceInfo info = Namespace;
        if (!HasRoom)
            throw new InvalidOperationException("The NVMe submission queue is full; look at HasRoom first.");
        ulong byteLength = (ulong)blockCount * info.BlockByteLength;
        if (opcode != NvmOpcode.Flush)
        {
            ArgumentOutOfRangeException.ThrowIfZero(blockCount);
            ArgumentOutOfRangeException.ThrowIfGreaterThan(byteLength, info.MaximumTransferBytes, nameof(blockCount));
        }

        int id = 0;
        while (_outstanding[id].Active)
            id++;
        SubmissionEntry entry = SubmissionEntry.CreateIo(
            opcode, (ushort)id, namespaceId: 1, block, Math.Max(1, blockCount));
        if (opcode != NvmOpcode.Flush)
            entry = WithPrps(entry, id, buffer, (uint)byteLength, bus);
        _outstanding[id] = new Outstanding { Active = true, Tag = tag, Submitted = Stopwatch.GetTimestamp() };
        OutstandingCount++;
        io.Submit(entry);
    }

    private SubmissionEntry WithPrps(
        SubmissionEntry entry, int id, GuestPhysicalAddress buffer, uint byteLength, ulong? bus)
    {
        if (buffer.Value % sizeof(uint) != 0 || _memory.FindSlot(buffer, byteLength) is null)
            throw new ArgumentException(
                $"Guest memory has no usable buffer of {byteLength} bytes at {buffer}.", nameof(buffer));
        ulong iova = bus ?? buffer.Value;
        uint pages = PrpGeometry.CountPages(iova, byteLength);
        ulong second = (iova & ~(ulong)(PrpGeometry.PageByteLength - 1)) + PrpGeometry.PageByteLength;
        if (pages == 1)
            return entry with { Prp1 = iova };
        if (pages == 2)
            return entry with { Prp1 = iova, Prp2 = second };
        Span<byte> list = stackalloc byte[PrpGeometry.PageByteLength];
        for (int index = 0; index < (int)pages - 1; index++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(
                list[(index * PrpGeometry.EntryByteLength)..], second + ((ulong)index << PrpGeometry.PageShift));
        }

        GuestPhysicalAddress place = PrpPage(id);
        _memory.Write(place, list[..(((int)pages - 1) * PrpGeometry.EntryByteLength)]);
        return entry with { Prp1 = iova, Prp2 = ToBus(place) };
    }

    private void CheckTimeouts()
    {
        var status = new ControllerStatus(_hardware.ReadRegister32(NvmeRegister.Status));
        if (status.Fatal || !status.Ready)
            throw new NvmeException($"NVMe controller {SerialNumber} has stopped: CSTS is 0x{status.Value:x}.");
        for (int index = 0; index < _outstanding.Length; index++)
        {
            if (_outstanding[index].Active
                && Stopwatch.GetElapsedTime(_outstanding[index].Submitted) > _options.CommandTimeout)
                throw new NvmeException(
                    $"NVMe controller {SerialNumber} did not complete command 0x{index:x} within "
                    + $"{_options.CommandTimeout.TotalSeconds} s.");
        }
    }

    private static ulong RoundUp(ulong bytes) => (bytes + GuestPage.Size - 1) / GuestPage.Size * GuestPage.Size;

    private static InvalidOperationException NotReady() =>
        new("The NVMe driver is not ready: Initialize or RestoreState comes first.");

    /// <summary>Where the controller finds a byte of the arena.</summary>
    private ulong ToBus(GuestPhysicalAddress address) => _options.Dma is null
        ? address.Value
        : address.Value - _options.ArenaStart.Value + _options.ArenaBusAddress;

    private GuestPhysicalAddress ArenaAt(ulong offset) => new(_options.ArenaStart.Value + offset);

    private GuestPhysicalAddress IOSubmission => ArenaAt(3 * GuestPage.Size);

    private GuestPhysicalAddress IOCompletion =>
        new(IOSubmission.Value + RoundUp(_options.QueueEntries * (ulong)SubmissionEntry.ByteLength));

    private GuestPhysicalAddress PrpPage(int id) =>
        new(IOCompletion.Value + RoundUp(_options.QueueEntries * (ulong)CompletionEntry.ByteLength)
            + (ulong)id * GuestPage.Size);

    private struct Outstanding
    {
        public bool Active;
        public ulong Tag;
        public long Submitted;
    }
}
