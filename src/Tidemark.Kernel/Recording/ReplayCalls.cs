using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Kernel.Recording;

/// <summary>What came of a replayed call.</summary>
/// <param name="Call">The call as it was made here.</param>
/// <param name="Expected">The bytes that had to come back, in the names of this process; null: none come back.</param>
/// <param name="NamesResult">The result is a name (a descriptor, an address), which may be another here.</param>
internal readonly record struct ReplayAnswer(RecordedCall Call, byte[]? Expected, bool NamesResult);

/// <summary>Makes recorded calls in the names of this process, and learns the names that they make.</summary>
internal sealed class ReplayCalls(IKernel kernel, ReplayNames names)
{
    /// <summary>LIMIT: how long a call that waits may wait, in milliseconds.</summary>
    private const int LongestWait = 2000;

    private const ulong Border = 2 << 20;

    /// <summary>Recorded descriptors on which a read can wait for ever.</summary>
    private readonly HashSet<int> _counters = [];

    /// <summary>Beside the nodes of VFIO. The last one is a file that is no memory file, and tells a process of itself only.</summary>
    private static readonly string[] Nodes = ["/dev/iommu", "/dev/null", "/dev/userfaultfd", "/proc/self/maps"];

    /// <param name="kind">What the descriptor of the call was.</param>
    public ReplayAnswer Make(RecordedCall call, TracedKind kind) => call.Name switch
    {
        "open" => Open(call),
        "close" => Close(call),
        "dup" => Dup(call),
        "ioctl" => Ioctl(call, kind),
        "ioctl_value" => IoctlValue(call, kind),
        "read" or "pread" => Read(call),
        "write" => Plain(call, kernel.Write(Fd(call), names.Words(call.In))),
        "pwrite" => Plain(call, kernel.Pwrite(Fd(call), names.Words(call.In), Unsigned(call.Numbers[1]))),
        "mmap" => Mmap(call),
        "munmap" => Munmap(call),
        "madvise" => Plain(call, kernel.Madvise(
            Own(call, call.Numbers[0]), Unsigned(call.Numbers[1]), (MemoryAdvice)call.Numbers[2])),
        "poll" => Poll(call),
        "eventfd" => Counter(call, kernel.Eventfd((uint)call.Numbers[0], (EventfdFlags)call.Numbers[1])),
        "memfd_create" => Descriptor(call, kernel.MemfdCreate(call.Text!, (MemfdFlags)call.Numbers[0])),
        "ftruncate" => Plain(call, kernel.Ftruncate(Fd(call), Unsigned(call.Numbers[1]))),
        "lseek" => Plain(call, kernel.Lseek(Fd(call), Unsigned(call.Numbers[1]), (SeekWhence)call.Numbers[2])),
        "fsync" => Plain(call, kernel.Fsync(Fd(call))),
        "userfaultfd" => Counter(call, kernel.Userfaultfd((uint)call.Numbers[0])),
        _ => throw new FormatException($"There is no call {call.Name}."),
    };

    private static ulong Unsigned(long number) => unchecked((ulong)number);

    private int Fd(RecordedCall call) => names.Descriptor((int)call.Numbers[0]);

    private static ReplayAnswer Plain(RecordedCall call, SyscallResult result) =>
        new(call with { Result = result }, null, NamesResult: false);

    private ReplayAnswer Descriptor(RecordedCall call, SyscallResult result)
    {
        if (result.Succeeded)
            names.Bind(call.Result is { Succeeded: true, Value: <= int.MaxValue } ? (int)call.Result.Value : (int)-result.Value, (int)result.Value);
        return new ReplayAnswer(call with { Result = result }, null, NamesResult: true);
    }

    private ReplayAnswer Counter(RecordedCall call, SyscallResult result)
    {
        if (call.Result is { Succeeded: true, Value: >= 0 and <= int.MaxValue })
            _counters.Add((int)call.Result.Value);
        return Descriptor(call, result);
    }

    private ReplayAnswer Open(RecordedCall call)
    {
        string path = names.Path(call.Text!);
        bool node = path.StartsWith("/dev/vfio/", StringComparison.Ordinal) || Nodes.Contains(path);
        if (!node || path.Contains("..", StringComparison.Ordinal))
            throw new FormatException($"The recording opens {path}; only nodes of VFIO and {string.Join(", ", Nodes)} may be opened.");
        return Descriptor(call, kernel.Open(path, (OpenFlags)call.Numbers[0]));
    }

    private ReplayAnswer Dup(RecordedCall call)
    {
        int fd = Fd(call);
        SyscallResult duplicate = kernel.Dup(fd);
        ReplayAnswer answer = _counters.Contains((int)call.Numbers[0])
            ? Counter(call, duplicate) : Descriptor(call, duplicate);
        return answer with { Call = answer.Call with { Numbers = [fd] } };
    }

    private ReplayAnswer Close(RecordedCall call)
    {
        int fd = Fd(call);
        SyscallResult result = kernel.Close(fd);
        names.Unbind((int)call.Numbers[0]);
        return Plain(call with { Numbers = [fd] }, result);
    }

    private ReplayAnswer Ioctl(RecordedCall call, TracedKind kind)
    {
        uint request = (uint)call.Numbers[1];
        byte[] argument = names.Words(call.In);
        foreach (int offset in ArgumentDescriptors.Given(kind, request, call.In!))
        {
            if (offset <= argument.Length - sizeof(int))
            {
                Span<byte> field = argument.AsSpan(offset, sizeof(int));
                int given = BinaryPrimitives.ReadInt32LittleEndian(call.In.AsSpan(offset));
                BinaryPrimitives.WriteInt32LittleEndian(field, names.Descriptor(given));
            }
        }

        if (TraceIoctl.NameOf(kind, request) == VfioRequests.GroupGetDeviceFd.Name)
            names.RenameDevice(argument);
        byte[] before = [.. argument];
        SyscallResult result = kernel.Ioctl(Fd(call), request, argument);
        byte[] expected = Expect(call, kind, request, before, argument);
        RecordedCall made = call with { In = before, Out = argument, Result = result };
        if (!ArgumentDescriptors.ResultIsOne(kind, request, call.In))
            return new ReplayAnswer(made, expected, NamesResult: false);
        return Descriptor(call, result) with { Call = made, Expected = expected };
    }

    /// <summary>
    /// What the kernel left alone stays what was given here; what it wrote is what it wrote there, addresses moved,
    /// and a descriptor that it made is the one that was made here.
    /// </summary>
    private byte[] Expect(RecordedCall call, TracedKind kind, uint request, byte[] before, byte[] after)
    {
        byte[] expected = names.Words(call.Out);
        for (int index = 0; index < expected.Length; index++)
        {
            if (call.In![index] == call.Out![index])
                expected[index] = before[index];
        }

        foreach (int offset in ArgumentDescriptors.Returned(kind, request, call.In!))
        {
            if (offset > expected.Length - sizeof(int))
                continue;
            int recorded = BinaryPrimitives.ReadInt32LittleEndian(call.Out.AsSpan(offset));
            int given = BinaryPrimitives.ReadInt32LittleEndian(call.In.AsSpan(offset));
            int made = BinaryPrimitives.ReadInt32LittleEndian(after.AsSpan(offset));
            if (recorded == given)
                continue;
            if (recorded >= 0 && made >= 0 && made != given)
            {
                names.Bind(recorded, made);
                recorded = made;
            }

            BinaryPrimitives.WriteInt32LittleEndian(expected.AsSpan(offset), recorded);
        }

        return expected;
    }

    private ReplayAnswer IoctlValue(RecordedCall call, TracedKind kind)
    {
        uint request = (uint)call.Numbers[1];
        SyscallResult result = kernel.IoctlValue(Fd(call), request, names.Address(Unsigned(call.Numbers[2])));
        return ArgumentDescriptors.ResultIsOne(kind, request, []) ? Descriptor(call, result) : Plain(call, result);
    }

    private ReplayAnswer Read(RecordedCall call)
    {
        int fd = Fd(call);
        byte[] buffer = new byte[(int)call.Numbers[1]];
        SyscallResult result;
        if (call.Name == "pread")
        {
            result = kernel.Pread(fd, buffer, Unsigned(call.Numbers[2]));
        }
        else
        {
            // What had something to read there may have nothing here: the replay must not wait for ever.
            Span<PollDescriptor> ready = [new PollDescriptor(fd, PollEvents.In, PollEvents.None)];
            bool waits = _counters.Contains((int)call.Numbers[0])
                && kernel.Poll(ready, call.Result.Succeeded ? LongestWait : 0).Value == 0;
            result = waits ? SyscallResult.Fail(Errno.EAGAIN) : kernel.Read(fd, buffer);
        }

        byte[] filled = result.Succeeded ? buffer[..(int)Math.Min(result.Value, buffer.Length)] : [];
        return new ReplayAnswer(call with { Out = filled, Result = result }, names.Words(call.Out), NamesResult: false);
    }

    private ReplayAnswer Mmap(RecordedCall call)
    {
        ulong length = Unsigned(call.Numbers[0]);
        int fd = names.Descriptor((int)call.Numbers[3]);
        ulong recorded = Unsigned(call.Result.Value);
        bool anonymous = ((MapFlags)call.Numbers[2]).HasFlag(MapFlags.Anonymous);
        SyscallResult result = anonymous && call.Result.Succeeded ? MapLike(call, length, recorded)
            : kernel.Mmap(
                length, (MemoryProtection)call.Numbers[1], (MapFlags)call.Numbers[2], fd, Unsigned(call.Numbers[4]));
        if (result.Succeeded && call.Result.Succeeded)
            names.Map(recorded, RoundUp(length), Unsigned(result.Value));
        else if (result.Succeeded)
            kernel.Munmap(Unsigned(result.Value), length);
        var made = call with { Numbers = [.. call.Numbers.Take(3), fd, call.Numbers[4]], Result = result };
        return new ReplayAnswer(made, null, NamesResult: true);
    }

    /// <summary>Anonymous memory as far from a border of 2 MiB as the recorded one.</summary>
    private SyscallResult MapLike(RecordedCall call, ulong byteLength, ulong recorded)
    {
        ulong length = RoundUp(byteLength);
        SyscallResult whole = kernel.Mmap(
            length + Border, (MemoryProtection)call.Numbers[1], (MapFlags)call.Numbers[2], -1, 0);
        if (!whole.Succeeded)
            return whole;
        ulong start = Unsigned(whole.Value);
        ulong before = unchecked(recorded - start) & (Border - 1);
        if (before != 0)
            kernel.Munmap(start, before);
        kernel.Munmap(start + before + length, Border - before);
        return SyscallResult.Ok(unchecked((long)(start + before)));
    }

    private ReplayAnswer Munmap(RecordedCall call)
    {
        ulong address = Own(call, call.Numbers[0]);
        SyscallResult result = kernel.Munmap(address, Unsigned(call.Numbers[1]));
        if (result.Succeeded && call.Result.Succeeded)
            names.Unmap(Unsigned(call.Numbers[0]), RoundUp(Unsigned(call.Numbers[1])));
        return Plain(call, result);
    }

    private ReplayAnswer Poll(RecordedCall call)
    {
        int timeout = (int)call.Numbers[0];
        var descriptors = new PollDescriptor[call.Numbers.Count / 3];
        for (int index = 0; index < descriptors.Length; index++)
        {
            descriptors[index] = new PollDescriptor(
                names.Descriptor((int)call.Numbers[(3 * index) + 1]), (PollEvents)call.Numbers[(3 * index) + 2],
                PollEvents.None);
        }

        SyscallResult result = kernel.Poll(descriptors, timeout is < 0 or > LongestWait ? LongestWait : timeout);
        byte[] returned = [.. descriptors.Select(descriptor => unchecked((byte)descriptor.Returned))];
        byte[] expected =
            [.. Enumerable.Range(0, descriptors.Length).Select(index => unchecked((byte)call.Numbers[(3 * index) + 3]))];
        return new ReplayAnswer(call with { Out = returned, Result = result }, expected, NamesResult: false);
    }

    /// <summary>An address that the recording may give back or advise on: its own, or one that is nobody's.</summary>
    private ulong Own(RecordedCall call, long recorded)
    {
        const ulong FirstNobodys = 1UL << 47;
        ulong address = Unsigned(recorded);
        if (names.TryAddress(address, out ulong here))
            return here;
        return address >= FirstNobodys ? address
            : throw new FormatException($"The recording's {call.Name} of 0x{address:x} is about memory that is not its own.");
    }

    private static ulong RoundUp(ulong byteLength) => (byteLength + GuestPage.Size - 1) & ~((ulong)GuestPage.Size - 1);
}
