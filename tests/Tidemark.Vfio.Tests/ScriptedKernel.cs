using System.Runtime.InteropServices;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Vfio.Tests;

/// <summary>What the kernel does with an argument when a scripted call arrives.</summary>
internal delegate Errno Answer(int fd, Span<byte> argument);

/// <summary>
/// A kernel that plays a list: each ioctl (and read and write) must be the next one of the script. Memory and closing
/// work as usual and are counted.
/// </summary>
internal sealed unsafe class ScriptedKernel : IKernel
{
    private readonly Queue<(string Name, uint Request, Answer Answer)> _script = new();
    private readonly Dictionary<ulong, ulong> _mappings = [];

    /// <summary>The calls that were made, by name, closing included.</summary>
    public List<string> Log { get; } = [];

    public int Remaining => _script.Count;

    public int LiveMappings => _mappings.Count;

    public KernelIdentity Identity { get; } = new("scripted", "7.3");

    public void Expect(IoctlRequest request, Answer answer) => _script.Enqueue((request.Name, request.Value, answer));

    public void ExpectRead(Answer answer) => _script.Enqueue(("read", 0, answer));

    public void ExpectWrite(Answer answer) => _script.Enqueue(("write", 1, answer));

    public void ExpectOpen(string path, Errno errno = Errno.Success) =>
        _script.Enqueue(($"open {path}", 2, (_, _) => errno));

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument) => Play(fd, request, argument, 0);

    /// <summary>The answer writes the call's result into its eight bytes.</summary>
    public SyscallResult IoctlValue(int fd, uint request, ulong argument)
    {
        Span<byte> value = stackalloc byte[sizeof(long)];
        value.Clear();
        SyscallResult result = Play(fd, request, value, 0);
        return result.Succeeded ? SyscallResult.Ok(MemoryMarshal.Read<long>(value)) : result;
    }

    public SyscallResult Read(int fd, Span<byte> buffer)
    {
        // The answer says how many bytes in the first four of a prefix that the script writes through Chunk.
        Span<byte> framed = new byte[buffer.Length + sizeof(int)];
        SyscallResult result = Play(fd, 0, framed, 0);
        if (!result.Succeeded)
            return result;
        int count = MemoryMarshal.Read<int>(framed);
        framed.Slice(sizeof(int), count).CopyTo(buffer);
        return SyscallResult.Ok(count);
    }

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) => Play(fd, 1, buffer.ToArray(), buffer.Length);

    public SyscallResult Open(string path, OpenFlags flags)
    {
        Assert.Equal($"open {path}", _script.Count == 0 ? "(end of the script)" : _script.Peek().Name);
        return Play(-1, 2, [], 50);
    }

    public SyscallResult Close(int fd)
    {
        Log.Add($"close {fd}");
        return SyscallResult.Ok();
    }

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset)
    {
        void* memory = NativeMemory.AlignedAlloc((nuint)byteLength, 4096);
        NativeMemory.Clear(memory, (nuint)byteLength);
        _mappings.Add((ulong)memory, byteLength);
        return SyscallResult.Ok((long)memory);
    }

    public SyscallResult Munmap(ulong address, ulong byteLength)
    {
        Assert.True(_mappings.Remove(address));
        NativeMemory.AlignedFree((void*)address);
        return SyscallResult.Ok();
    }

    public SyscallResult Dup(int fd) => throw new NotSupportedException();

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset) => throw new NotSupportedException();

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) => throw new NotSupportedException();

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        throw new NotSupportedException();

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds) =>
        throw new NotSupportedException();

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) => throw new NotSupportedException();

    public SyscallResult MemfdCreate(string name, MemfdFlags flags) => throw new NotSupportedException();

    public SyscallResult Ftruncate(int fd, ulong byteLength) => throw new NotSupportedException();

    public SyscallResult Fsync(int fd) => throw new NotSupportedException();

    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) => throw new NotSupportedException();

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) => throw new NotSupportedException();

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) => throw new NotSupportedException();

    public SyscallResult Userfaultfd(uint flags) => throw new NotSupportedException();

    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors) =>
        throw new NotSupportedException();

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors) =>
        throw new NotSupportedException();

    private SyscallResult Play(int fd, uint request, Span<byte> argument, long value)
    {
        if (_script.Count == 0)
            Assert.Fail($"Call 0x{request:x} on fd {fd} after the end of the script.");
        (string name, uint expected, Answer answer) = _script.Dequeue();
        Assert.True(expected == request, $"The script has {name}, the call was 0x{request:x} on fd {fd}.");
        Log.Add(name);
        Errno errno = answer(fd, argument);
        return errno == Errno.Success ? SyscallResult.Ok(value) : SyscallResult.Fail(errno);
    }
}
