namespace Tidemark.Kernel;

/// <summary>
/// The one boundary between Tidemark and a kernel, at the level of bytes: the system calls that iommufd, VFIO and
/// userfaultfd need, and nothing else. A member is added only when a system call is; there are no convenience members.
/// </summary>
/// <remarks>
/// Contract, for every member:
/// it blocks as the system call does; it never throws for what a caller passed, never retries; it may be called from
/// any thread. Arguments are bytes because size, argsz and must-be-zero tails are part of what is modelled. A user
/// pointer inside an ioctl argument must point into memory obtained through <see cref="Mmap"/> of the same kernel (see
/// <see cref="Mapping"/>), which stays mapped during the call. Linux would take any address; the soft kernel answers
/// EFAULT to any other.
/// </remarks>
public interface IKernel
{
    /// <summary>Which kernel this is: shown in every result, never branched on.</summary>
    KernelIdentity Identity { get; }

    /// <summary>open(2). Value: the descriptor.</summary>
    SyscallResult Open(string path, OpenFlags flags);

    /// <summary>close(2). The descriptor is gone whatever is answered.</summary>
    SyscallResult Close(int fd);

    /// <summary>dup(2), close-on-exec. Value: the descriptor.</summary>
    SyscallResult Dup(int fd);

    /// <summary>
    /// ioctl(2) whose argument is a pointer to <paramref name="argument"/>, read and written in place.
    /// </summary>
    SyscallResult Ioctl(int fd, uint request, Span<byte> argument);

    /// <summary>ioctl(2) whose argument is a number.</summary>
    SyscallResult IoctlValue(int fd, uint request, ulong argument);

    /// <summary>read(2). Value: bytes read, 0 at the end.</summary>
    SyscallResult Read(int fd, Span<byte> buffer);

    /// <summary>write(2). Value: bytes written.</summary>
    SyscallResult Write(int fd, ReadOnlySpan<byte> buffer);

    /// <summary>pread(2). Value: bytes read.</summary>
    SyscallResult Pread(int fd, Span<byte> buffer, ulong offset);

    /// <summary>pwrite(2). Value: bytes written.</summary>
    SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset);

    /// <summary>mmap(2) at an address of the kernel's choice. Value: the address.</summary>
    SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset);

    /// <summary>munmap(2).</summary>
    SyscallResult Munmap(ulong address, ulong byteLength);

    /// <summary>madvise(2).</summary>
    SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice);

    /// <summary>poll(2). Value: descriptors with events. A negative timeout waits for ever.</summary>
    SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds);

    /// <summary>eventfd(2). Value: the descriptor.</summary>
    SyscallResult Eventfd(uint initialValue, EventfdFlags flags);

    /// <summary>memfd_create(2). Value: the descriptor.</summary>
    SyscallResult MemfdCreate(string name, MemfdFlags flags);

    /// <summary>ftruncate(2).</summary>
    SyscallResult Ftruncate(int fd, ulong byteLength);

    /// <summary>fsync(2).</summary>
    SyscallResult Fsync(int fd);

    /// <summary>
    /// readv(2): fills the vectors in order. Value: bytes read, 0 at the end. The caller owns the memory they name.
    /// </summary>
    SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors);

    /// <summary>writev(2). Value: bytes written. The caller owns the memory that the vectors name.</summary>
    SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors);

    /// <summary>lseek(2). Value: the offset; ENXIO when there is no data (or hole) from there on.</summary>
    SyscallResult Lseek(int fd, ulong offset, SeekWhence whence);

    /// <summary>userfaultfd(2). Value: the descriptor. Flags: O_CLOEXEC, O_NONBLOCK, UFFD_USER_MODE_ONLY.</summary>
    SyscallResult Userfaultfd(uint flags);

    /// <summary>
    /// sendmsg(2) on a connected Unix socket: bytes, and with the first of them descriptors (SCM_RIGHTS), which are
    /// then open in the receiving process too. Value: bytes sent.
    /// </summary>
    SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors);

    /// <summary>
    /// recvmsg(2) with SCM_RIGHTS: bytes and the descriptors that came with them, close-on-exec. Places of
    /// <paramref name="descriptors"/> that got none are -1; with more than it has room for all are closed, and the
    /// answer is EMSGSIZE. Value: bytes received, 0 at the end.
    /// </summary>
    SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors);
}
