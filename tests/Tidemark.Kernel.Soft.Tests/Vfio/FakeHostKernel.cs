using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

/// <summary>A host that has eventfds and files, and knows which descriptors are open.</summary>
internal sealed class FakeHostKernel : IKernel
{
    private readonly Dictionary<int, ulong[]> _open = [];
    private int _next = 10;

    public int OpenCount => _open.Count;

    public KernelIdentity Identity => new("soft", "7.3");

    public ulong Counter(int fd) => _open[fd][0];

    public int NewEventfd() => Place([0]);

    public int NewFile() => Place([]);

    public SyscallResult Close(int fd) => _open.Remove(fd) ? SyscallResult.Ok() : SyscallResult.Fail(Errno.EBADF);

    public SyscallResult Dup(int fd) =>
        _open.TryGetValue(fd, out ulong[]? file) ? SyscallResult.Ok(Place(file)) : SyscallResult.Fail(Errno.EBADF);

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer)
    {
        if (!_open.TryGetValue(fd, out ulong[]? file))
            return SyscallResult.Fail(Errno.EBADF);
        if (file.Length == 0)
            return SyscallResult.Ok(buffer.Length);
        if (buffer.Length < 8)
            return SyscallResult.Fail(Errno.EINVAL);
        file[0] += BinaryPrimitives.ReadUInt64LittleEndian(buffer);
        return SyscallResult.Ok(8);
    }

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds)
    {
        foreach (ref PollDescriptor descriptor in descriptors)
            descriptor.Returned = descriptor.Events;
        return SyscallResult.Ok(descriptors.Length);
    }

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) => SyscallResult.Ok(Place([initialValue]));

    public SyscallResult Open(string path, OpenFlags flags) => throw new NotSupportedException();

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument) => throw new NotSupportedException();

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) => throw new NotSupportedException();

    public SyscallResult Read(int fd, Span<byte> buffer) => throw new NotSupportedException();

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset) => throw new NotSupportedException();

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) => throw new NotSupportedException();

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        throw new NotSupportedException();

    public SyscallResult Munmap(ulong address, ulong byteLength) => throw new NotSupportedException();

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        throw new NotSupportedException();

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

    private int Place(ulong[] file)
    {
        _open.Add(++_next, file);
        return _next;
    }
}
