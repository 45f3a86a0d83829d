using System.Buffers.Binary;
using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance;

/// <summary>Something that makes a page of memory dirty.</summary>
internal interface IDeviceWriter
{
    /// <summary>Writes the page at an IOVA; returns when the page is dirty, if its table tracks.</summary>
    void Write(ulong iova);
}

/// <summary>
/// Lets an NVMe controller write a page of memory: an admin queue and IDENTIFY, whose 4096 bytes go to the IOVA asked
/// for (NVM Express 1.4, sections 3.1 and 5.15). The only device the cases know how to drive.
/// </summary>
/// <remarks>The controller also writes its completion queue, which lies in a mapping of its own.</remarks>
internal sealed class NvmeWriter : IDeviceWriter
{
    private const uint Entries = 16;
    private const ulong Queues = 0x3000_0000;
    private const int CommandLength = 64;
    private const int CompletionLength = 16;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly BoundDevice _device;
    private readonly Mapping _memory;
    private uint _tail;
    private uint _head;
    private uint _phase = 1;

    private NvmeWriter(BoundDevice device, Mapping memory)
    {
        _device = device;
        _memory = memory;
    }

    /// <summary>Maps queues into an IOAS that the device is attached to, and starts the controller.</summary>
    /// <param name="slot">Different for two controllers in one IOAS.</param>
    public static NvmeWriter Start(CaseRun run, BoundDevice device, uint ioas, uint slot = 0) => Start(
        run, device, (iova, memory) => run.TryMap(iova, memory.Address.Value, memory.ByteLength, ioas: ioas), slot);

    /// <summary>As above, whatever the queues are mapped into.</summary>
    public static NvmeWriter Start(
        CaseRun run, BoundDevice device, Func<ulong, Mapping, Errno> map, uint slot = 0)
    {
        run.Unrepeatable = "A controller writes memory on its own while calls are made.";
        ulong queues = Queues + (slot * 0x10_0000);
        Mapping memory = run.CreateMemory(2);
        run.Answers(map(queues, memory), Errno.Success, "mapping a controller's queues");
        var writer = new NvmeWriter(device, memory);
        const ulong MemoryAndBusMaster = 6;
        device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, MemoryAndBusMaster);
        writer.Register(0x14, 0);
        writer.WaitFor(() => (device.ReadRegion(VfioPciRegionIndex.Bar0, 0x1C, 4) & 1) == 0);
        writer.Register(0x24, ((Entries - 1) << 16) | (Entries - 1));
        writer.Address(0x28, queues);
        writer.Address(0x30, queues + CaseRun.Page);
        writer.Register(0x14, (4u << 20) | (6u << 16) | 1);
        writer.WaitFor(() => (device.ReadRegion(VfioPciRegionIndex.Bar0, 0x1C, 4) & 1) != 0);
        return writer;
    }

    /// <summary>
    /// Whether completions are taken off the queue at once. Without that the controller holds its interrupt pin, and
    /// there is room for 15.
    /// </summary>
    public bool Acknowledges { get; set; } = true;

    /// <summary>Takes all completions off the queue.</summary>
    public void Acknowledge() => Register(0x1004, _head);

    /// <summary>Writes 4096 bytes at a page-aligned IOVA; returns when they have landed.</summary>
    public void Write(ulong iova)
    {
        uint status = Execute(iova, opcode: 0x06, nsid: 0, dword10: 1);
        if (status != 0)
            throw CaseRun.Broken($"The controller could not write to 0x{iova:x}: status 0x{status:x}.");
    }

    /// <summary>
    /// Writes the first word of the health log at an IOVA that is a multiple of four (NVM Express 1.4, section 5.14.1.2):
    /// the temperature is in it, so it is not zero.
    /// </summary>
    public void WriteWord(ulong iova)
    {
        if (!TryWriteWord(iova))
            throw CaseRun.Broken($"The controller could not write to 0x{iova:x}.");
    }

    /// <summary>As <see cref="WriteWord"/>; false: the controller says that it could not.</summary>
    public bool TryWriteWord(ulong iova) => Execute(iova, opcode: 0x02, nsid: uint.MaxValue, dword10: 2) == 0;

    private uint Execute(ulong iova, byte opcode, uint nsid, uint dword10)
    {
        Span<byte> command = _memory.Bytes(_tail * CommandLength, CommandLength);
        command.Clear();
        command[0] = opcode;
        BinaryPrimitives.WriteUInt32LittleEndian(command[4..], nsid);
        BinaryPrimitives.WriteUInt64LittleEndian(command[24..], iova);
        BinaryPrimitives.WriteUInt32LittleEndian(command[40..], dword10);
        _tail = (_tail + 1) % Entries;
        Interlocked.MemoryBarrier();
        Register(0x1000, _tail);
        ulong completion = CaseRun.Page + (_head * CompletionLength) + 12;
        WaitFor(() => ((Word(completion) >> 16) & 1) == _phase);
        uint status = Word(completion) >> 17;
        _head = (_head + 1) % Entries;
        _phase ^= _head == 0 ? 1u : 0u;
        if (Acknowledges)
            Acknowledge();
        return status;
    }

    private uint Word(ulong offset)
    {
        Interlocked.MemoryBarrier();
        return BinaryPrimitives.ReadUInt32LittleEndian(_memory.Bytes(offset, 4));
    }

    private void Register(ulong offset, uint value) => _device.WriteRegion(VfioPciRegionIndex.Bar0, offset, 4, value);

    private void Address(ulong offset, ulong value)
    {
        Register(offset, (uint)(value & uint.MaxValue));
        Register(offset + 4, (uint)(value >> 32));
    }

    private void WaitFor(Func<bool> condition)
    {
        long began = Stopwatch.GetTimestamp();
        var wait = default(SpinWait);
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(began) > Patience)
                throw CaseRun.Broken(
                    $"The controller {_device.Profile.Address} did not answer in {Patience.TotalSeconds} s.");
            wait.SpinOnce();
        }
    }
}
