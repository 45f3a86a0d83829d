using System.Runtime.InteropServices;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Machine.Tests;

/// <summary>A kernel whose IOMMU now and then does not set a dirty bit: every n-th one that is read is missing.</summary>
internal sealed class FaultyDirtyBitsKernel(IKernel inner, int forgetEvery) : IKernel
{
    private int _seen;

    public KernelIdentity Identity => inner.Identity;

    public int Forgotten { get; private set; }

    public SyscallResult Open(string path, OpenFlags flags) =>
        inner.Open(path, flags);

    public SyscallResult Close(int fd) =>
        inner.Close(fd);

    public SyscallResult Dup(int fd) =>
        inner.Dup(fd);

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
    {
        SyscallResult result = inner.Ioctl(fd, request, argument);
        if (request == IommufdRequests.HwptGetDirtyBitmap.Value && result.Succeeded)
        {
            var read = MemoryMarshal.Read<IommuHwptGetDirtyBitmap>(argument);
            Forget(read.Data, read.Length / read.PageSize);
        }

        return result;
    }

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) =>
        inner.IoctlValue(fd, request, argument);

    public SyscallResult Read(int fd, Span<byte> buffer) =>
        inner.Read(fd, buffer);

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) =>
        inner.Write(fd, buffer);

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset) =>
        inner.Pread(fd, buffer, offset);

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) =>
        inner.Pwrite(fd, buffer, offset);

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        inner.Mmap(byteLength, protection, flags, fd, offset);

    public SyscallResult Munmap(ulong address, ulong byteLength) =>
        inner.Munmap(address, byteLength);

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        inner.Madvise(address, byteLength, advice);

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds) =>
        inner.Poll(descriptors, timeoutMilliseconds);

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) =>
        inner.Eventfd(initialValue, flags);

    public SyscallResult MemfdCreate(string name, MemfdFlags flags) =>
        inner.MemfdCreate(name, flags);

    public SyscallResult Ftruncate(int fd, ulong byteLength) =>
        inner.Ftruncate(fd, byteLength);

    public SyscallResult Fsync(int fd) =>
        inner.Fsync(fd);

    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) => inner.Readv(fd, vectors);

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) => inner.Writev(fd, vectors);

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) => inner.Lseek(fd, offset, whence);

    public SyscallResult Userfaultfd(uint flags) =>
        inner.Userfaultfd(flags);

    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors) =>
        inner.SendRights(socket, bytes, descriptors);

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors) =>
        inner.ReceiveRights(socket, bytes, descriptors);

    private unsafe void Forget(ulong bitmap, ulong bits)
    {
        for (ulong word = 0; word < (bits + 63) / 64; word++)
        {
            ulong* at = (ulong*)bitmap + word;
            for (ulong left = *at; left != 0; left &= left - 1)
            {
                if (++_seen % forgetEvery != 0)
                    continue;
                *at &= ~(left & (ulong)-(long)left);
                Forgotten++;
            }
        }
    }
}
