using System.Buffers.Binary;
using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft;
using Tidemark.Kernel.Soft.Devices.Nvme;

namespace Tidemark.Nvme.Tests;

/// <summary>A file of known content, deleted at the end.</summary>
internal sealed class DiskFile : IDisposable
{
    public DiskFile(int byteLength, int seed = 1)
    {
        Path = System.IO.Path.GetTempFileName();
        Content = new byte[byteLength];
        new Random(seed).NextBytes(Content);
        File.WriteAllBytes(Path, Content);
    }

    public string Path { get; }

    public byte[] Content { get; }

    public void Dispose() => File.Delete(Path);
}

/// <summary>
/// A controller driven by its bare registers and queues, as the specification has it and nothing more.
/// </summary>
internal sealed class ControllerHarness : IDisposable
{
    public const ulong AdminSubmission = 0x1000;
    public const ulong AdminCompletion = 0x2000;
    public const ulong Data = 0x3000;
    public const ulong IOSubmission = 0x8000;
    public const ulong IOCompletion = 0xa000;
    public const uint Entries = 16;

    private readonly uint[] _tails = new uint[2];
    private readonly uint[] _heads = new uint[2];
    private readonly bool[] _phases = [true, true];
    private ushort _nextCommand = 1;

    public ControllerHarness(SoftDisk disk, TestMemory memory, bool start = true)
    {
        Memory = memory;
        Port = new FakeDmaPort(memory.Guest);
        Controller = new NvmeController(new SoftNvme("0000:01:00.0", "iommu0", disk), new LinuxKernel(), Port);
        if (start)
            Start();
    }

    public TestMemory Memory { get; }

    public FakeDmaPort Port { get; }

    public NvmeController Controller { get; }

    public static SoftDisk ReadOnlyDisk(DiskFile file) => new(file.Path, (ulong)file.Content.Length);

    public void Start()
    {
        // No completion of an earlier controller may look like a new one.
        Memory.Guest.Write(new(AdminCompletion), new byte[4096]);
        Memory.Guest.Write(new(IOCompletion), new byte[4096]);
        Controller.WriteRegion(7, NvmePci.CommandOffset, [6, 0]);
        Write32(NvmeRegister.AdminQueueAttributes, AdminQueueAttributes.Create(Entries, Entries).Value);
        Write32(NvmeRegister.AdminSubmissionQueue, (uint)AdminSubmission);
        Write32(NvmeRegister.AdminCompletionQueue, (uint)AdminCompletion);
        Write32(NvmeRegister.Configuration, ControllerConfiguration.Usual.Value);
        Assert.Equal(ControllerStatus.ReadyBit, Read32(NvmeRegister.Status));
    }

    public uint Read32(ulong offset)
    {
        byte[] bytes = new byte[4];
        Assert.Equal(Errno.Success, Controller.ReadRegion(0, offset, bytes));
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    public void Write32(ulong offset, uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Assert.Equal(Errno.Success, Controller.WriteRegion(0, offset, bytes));
    }

    public CompletionEntry Admin(SubmissionEntry entry) => Execute(0, entry);

    public CompletionEntry IO(SubmissionEntry entry) => Execute(1, entry);

    public void CreateIOQueues()
    {
        Assert.True(Admin(CreateCompletionQueue(1, Entries)).Status.Succeeded);
        Assert.True(Admin(CreateSubmissionQueue(1, Entries)).Status.Succeeded);
    }

    public static SubmissionEntry CreateCompletionQueue(uint id, uint entries, ulong address = IOCompletion) => new()
    {
        Opcode = (byte)AdminOpcode.CreateCompletionQueue,
        Prp1 = address,
        Dword10 = unchecked(entries - 1) << 16 | id,
        Dword11 = id << 16 | 3,
    };

    public static SubmissionEntry CreateSubmissionQueue(uint id, uint entries, ulong address = IOSubmission) => new()
    {
        Opcode = (byte)AdminOpcode.CreateSubmissionQueue,
        Prp1 = address,
        Dword10 = unchecked(entries - 1) << 16 | id,
        Dword11 = id << 16 | 1,
    };

    public static SubmissionEntry Transfer(NvmOpcode opcode, ulong block, uint count, ulong prp1, ulong prp2 = 0) =>
        SubmissionEntry.CreateIo(opcode, 0, 1, block, count) with { Prp1 = prp1, Prp2 = prp2 };

    public CompletionEntry Execute(int queue, SubmissionEntry entry)
    {
        ushort id = Submit(queue, entry);
        CompletionEntry completion = WaitFor(queue);
        Assert.Equal(id, completion.CommandId);
        return completion;
    }

    public ushort Submit(int queue, SubmissionEntry entry)
    {
        ushort id = _nextCommand++;
        byte[] bytes = new byte[SubmissionEntry.ByteLength];
        (entry with { CommandId = id }).Format(bytes);
        ulong ring = queue == 0 ? AdminSubmission : IOSubmission;
        Memory.Guest.Write(new(ring + _tails[queue] * SubmissionEntry.ByteLength), bytes);
        _tails[queue] = (_tails[queue] + 1) % Entries;
        Write32(NvmeRegister.SubmissionDoorbell((ushort)queue, 4), _tails[queue]);
        return id;
    }

    public CompletionEntry WaitFor(int queue, NvmeController? controller = null)
    {
        long start = Stopwatch.GetTimestamp();
        CompletionEntry entry;
        while (!TryTake(queue, out entry, controller))
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(20), "No completion came.");
            Thread.Sleep(0);
        }

        return entry;
    }

    public bool TryTake(int queue, out CompletionEntry entry, NvmeController? controller = null)
    {
        ulong ring = queue == 0 ? AdminCompletion : IOCompletion;
        ulong address = ring + _heads[queue] * CompletionEntry.ByteLength;
        entry = default;
        if (CompletionEntry.PhaseOf(Memory.Guest.ReadVolatile<uint>(new(address + 12))) != _phases[queue])
            return false;
        entry = CompletionEntry.Parse(Memory.Read(address, CompletionEntry.ByteLength));
        _heads[queue] = (_heads[queue] + 1) % Entries;
        _phases[queue] ^= _heads[queue] == 0;
        byte[] head = BitConverter.GetBytes(_heads[queue]);
        (controller ?? Controller).WriteRegion(0, NvmeRegister.CompletionDoorbell((ushort)queue, 4), head);
        return true;
    }

    public void Dispose() => Controller.Dispose();
}
