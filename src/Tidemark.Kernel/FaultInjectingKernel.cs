using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>
/// A kernel that lets one chosen call fail without performing it: sweeping the number over a scenario shows that every
/// error path leaks nothing and leaves a state that is known.
/// </summary>
/// <remarks>
/// Calls are counted from 1 in the order in which they arrive. close(2) and munmap(2) release and are neither counted
/// nor failed: nobody can do anything about their failure.
/// </remarks>
public sealed class FaultInjectingKernel : IKernel
{
    private readonly IKernel _inner;
    private long _calls;
    private long _failAt;
    private int _errno;
    private string? _failedCall;

    /// <summary>Fails nothing until <see cref="FailNth"/>: a first run counts the calls of a scenario.</summary>
    public FaultInjectingKernel(IKernel inner)
    {
        ArgumentNullException.ThrowIfNull(inner);
        _inner = inner;
    }

    public KernelIdentity Identity => _inner.Identity;

    /// <summary>Calls that could have failed, since the start or the last <see cref="FailNth"/>.</summary>
    public long CallCount => Interlocked.Read(ref _calls);

    /// <summary>The call that was made to fail, or null when none was yet.</summary>
    public string? FailedCall => Volatile.Read(ref _failedCall);

    /// <summary>
    /// From now on the <paramref name="nth"/> call (1: the next) fails; the count begins anew. 0: none fails.
    /// </summary>
    public void FailNth(long nth, Errno errno)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(nth);
        Interlocked.Exchange(ref _failAt, 0);
        Volatile.Write(ref _errno, (int)errno);
        Volatile.Write(ref _failedCall, null);
        Interlocked.Exchange(ref _calls, 0);
        Interlocked.Exchange(ref _failAt, nth);
    }

    public SyscallResult Open(string path, OpenFlags flags) =>
        Fails($"open {path}") ?? _inner.Open(path, flags);

    public SyscallResult Close(int fd) => _inner.Close(fd);

    public SyscallResult Dup(int fd) => Fails("dup") ?? _inner.Dup(fd);

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument) =>
        Fails("ioctl", request) ?? _inner.Ioctl(fd, request, argument);

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) =>
        Fails("ioctl", request) ?? _inner.IoctlValue(fd, request, argument);

    public SyscallResult Read(int fd, Span<byte> buffer) => Fails("read") ?? _inner.Read(fd, buffer);

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) => Fails("write") ?? _inner.Write(fd, buffer);

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset) =>
        Fails("pread64") ?? _inner.Pread(fd, buffer, offset);

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) =>
        Fails("pwrite64") ?? _inner.Pwrite(fd, buffer, offset);

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        Fails("mmap") ?? _inner.Mmap(byteLength, protection, flags, fd, offset);

    public SyscallResult Munmap(ulong address, ulong byteLength) => _inner.Munmap(address, byteLength);

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        Fails("madvise") ?? _inner.Madvise(address, byteLength, advice);

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds) =>
        Fails("poll") ?? _inner.Poll(descriptors, timeoutMilliseconds);

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) =>
        Fails("eventfd2") ?? _inner.Eventfd(initialValue, flags);

    public SyscallResult MemfdCreate(string name, MemfdFlags flags) =>
        Fails("memfd_create") ?? _inner.MemfdCreate(name, flags);

    public SyscallResult Ftruncate(int fd, ulong byteLength) => Fails("ftruncate") ?? _inner.Ftruncate(fd, byteLength);

    public SyscallResult Fsync(int fd) => Fails("fsync") ?? _inner.Fsync(fd);

    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) => Fails("readv") ?? _inner.Readv(fd, vectors);

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) => Fails("writev") ?? _inner.Writev(fd, vectors);

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) =>
        Fails("lseek") ?? _inner.Lseek(fd, offset, whence);

    public SyscallResult Userfaultfd(uint flags) => Fails("userfaultfd") ?? _inner.Userfaultfd(flags);

    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors) =>
        Fails("sendmsg") ?? _inner.SendRights(socket, bytes, descriptors);

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors) =>
        Fails("recvmsg") ?? _inner.ReceiveRights(socket, bytes, descriptors);

    private SyscallResult? Fails(string call, uint? request = null)
    {
        if (Interlocked.Increment(ref _calls) != Interlocked.Read(ref _failAt))
            return null;
        Volatile.Write(ref _failedCall, request is null ? call : $"{call} 0x{request:x}");
        return SyscallResult.Fail((Errno)Volatile.Read(ref _errno));
    }
}
