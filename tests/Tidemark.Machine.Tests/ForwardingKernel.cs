using Tidemark.Kernel;

namespace Tidemark.Machine.Tests;

/// <summary>A kernel that hands each call to the one that is picked for it.</summary>
internal class ForwardingKernel(Func<IKernel> pick) : IKernel
{
    public KernelIdentity Identity => pick().Identity;

    public virtual SyscallResult Open(string path, OpenFlags flags) => pick().Open(path, flags);

    public virtual SyscallResult Close(int fd) => pick().Close(fd);

    public virtual SyscallResult Dup(int fd) => pick().Dup(fd);

    public virtual SyscallResult Ioctl(int fd, uint request, Span<byte> argument) => pick().Ioctl(fd, request, argument);

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) => pick().IoctlValue(fd, request, argument);

    public SyscallResult Read(int fd, Span<byte> buffer) => pick().Read(fd, buffer);

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) => pick().Write(fd, buffer);

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset) => pick().Pread(fd, buffer, offset);

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) => pick().Pwrite(fd, buffer, offset);

    public virtual SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        pick().Mmap(byteLength, protection, flags, fd, offset);

    public virtual SyscallResult Munmap(ulong address, ulong byteLength) => pick().Munmap(address, byteLength);

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) => pick().Madvise(address, byteLength, advice);

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds) => pick().Poll(descriptors, timeoutMilliseconds);

    public virtual SyscallResult Eventfd(uint initialValue, EventfdFlags flags) => pick().Eventfd(initialValue, flags);

    public virtual SyscallResult MemfdCreate(string name, MemfdFlags flags) => pick().MemfdCreate(name, flags);

    public SyscallResult Ftruncate(int fd, ulong byteLength) => pick().Ftruncate(fd, byteLength);

    public SyscallResult Fsync(int fd) => pick().Fsync(fd);

    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) => pick().Readv(fd, vectors);

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) => pick().Writev(fd, vectors);

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) => pick().Lseek(fd, offset, whence);

    public virtual SyscallResult Userfaultfd(uint flags) => pick().Userfaultfd(flags);

    public virtual SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors) =>
        pick().SendRights(socket, bytes, descriptors);

    public virtual SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors) =>
        pick().ReceiveRights(socket, bytes, descriptors);
}
