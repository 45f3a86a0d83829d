using System.Runtime.InteropServices;
using Tidemark.Abi;

namespace Tidemark.Kernel.Linux;

/// <summary>
/// The kernel this process runs on: each member is one system call, with nothing added but close-on-exec.
/// </summary>
/// <remarks>
/// Lengths and offsets go to the kernel as they are: one that is negative as a C type is the kernel's to refuse
/// (EINVAL, EFAULT, ENOMEM), as for a C program.
/// </remarks>
public sealed unsafe class LinuxKernel : IKernel
{
    /// <summary>fcntl(2): duplicate with close-on-exec.</summary>
    private const int DuplicateCloseOnExec = 1030;

    /// <summary>Mode of files that open(2) creates: the owner's alone.</summary>
    private const uint OwnerReadWrite = 0x180;

    // sendmsg(2), cmsg(3) and asm-generic/socket.h.
    private const int SocketLevel = 1;
    private const int Rights = 1;
    private const int MaximumRights = 253;
    private const int ControlHeaderLength = 16;
    private const int NoSignal = 0x4000;
    private const int CloseRightsOnExec = 0x40000000;

    public KernelIdentity Identity { get; } = new("linux", ReadRelease());

    public SyscallResult Open(string path, OpenFlags flags)
    {
        if (!IsCString(path, out Errno why))
            return SyscallResult.Fail(why);
        return Libc.ToResult(Libc.Open(path, (int)(flags | OpenFlags.CloseOnExec), OwnerReadWrite));
    }

    public SyscallResult Close(int fd) => Libc.ToResult(Libc.Close(fd));

    public SyscallResult Dup(int fd) => Libc.ToResult(Libc.Fcntl(fd, DuplicateCloseOnExec, 0));

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
    {
        // SAFETY: pinned during the call. The kernel reads and writes as many bytes as the request or the argument's
        // own size field say: IKernel makes their agreement with the span the caller's duty. An empty span is a null
        // pointer.
        fixed (byte* pointer = argument)
            return Libc.ToResult(Libc.Ioctl(fd, request, pointer));
    }

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) =>
        Libc.ToResult(Libc.IoctlValue(fd, request, (nuint)argument));

    public SyscallResult Read(int fd, Span<byte> buffer)
    {
        // SAFETY: pinned during the call, length beside it; an empty span is null and 0.
        fixed (byte* pointer = buffer)
            return Libc.ToResult(Libc.Read(fd, pointer, (nuint)buffer.Length));
    }

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer)
    {
        // SAFETY: as in Read.
        fixed (byte* pointer = buffer)
            return Libc.ToResult(Libc.Write(fd, pointer, (nuint)buffer.Length));
    }

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset)
    {
        // SAFETY: as in Read.
        fixed (byte* pointer = buffer)
            return Libc.ToResult(Libc.Pread(fd, pointer, (nuint)buffer.Length, unchecked((long)offset)));
    }

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset)
    {
        // SAFETY: as in Read.
        fixed (byte* pointer = buffer)
            return Libc.ToResult(Libc.Pwrite(fd, pointer, (nuint)buffer.Length, unchecked((long)offset)));
    }

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        // SAFETY: without MAP_FIXED, which MapFlags does not have, the kernel never replaces an existing mapping.
        Libc.ToResult(Libc.Mmap(null, (nuint)byteLength, (int)protection, (int)flags, fd, unchecked((long)offset)));

    public SyscallResult Munmap(ulong address, ulong byteLength) =>
        // SAFETY: the caller owns the range, as a Mapping does; nothing here keeps a pointer into it.
        Libc.ToResult(Libc.Munmap((void*)address, (nuint)byteLength));

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        // SAFETY: as in Munmap.
        Libc.ToResult(Libc.Madvise((void*)address, (nuint)byteLength, (int)advice));

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds)
    {
        // SAFETY: PollDescriptor is int, short, short without padding: the layout of struct pollfd. Pinned meanwhile.
        fixed (PollDescriptor* pointer = descriptors)
            return Libc.ToResult(Libc.Poll(pointer, (nuint)descriptors.Length, timeoutMilliseconds));
    }

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) =>
        Libc.ToResult(Libc.Eventfd(initialValue, (int)(flags | EventfdFlags.CloseOnExec)));

    public SyscallResult MemfdCreate(string name, MemfdFlags flags)
    {
        if (!IsCString(name, out Errno why))
            return SyscallResult.Fail(why);
        return Libc.ToResult(Libc.MemfdCreate(name, (uint)(flags | MemfdFlags.CloseOnExec)));
    }

    public SyscallResult Ftruncate(int fd, ulong byteLength) =>
        Libc.ToResult(Libc.Ftruncate(fd, unchecked((long)byteLength)));

    public SyscallResult Fsync(int fd) => Libc.ToResult(Libc.Fsync(fd));

    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors)
    {
        // SAFETY: IoVector is two 64-bit numbers without padding: the layout of struct iovec. The array is pinned; the
        // memory it names is the caller's, as for pread and its span.
        fixed (IoVector* pointer = vectors)
            return Libc.ToResult(Libc.Readv(fd, pointer, vectors.Length));
    }

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors)
    {
        // SAFETY: as in Readv.
        fixed (IoVector* pointer = vectors)
            return Libc.ToResult(Libc.Writev(fd, pointer, vectors.Length));
    }

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) =>
        Libc.ToResult((nint)Libc.Lseek(fd, unchecked((long)offset), (int)whence));

    public SyscallResult Userfaultfd(uint flags)
    {
        // libc has no function for this one. The numbers are those of asm/unistd.h.
        int number = RuntimeInformation.ProcessArchitecture switch
        {
            Architecture.X64 => 323,
            Architecture.Arm64 => 282,
            _ => -1,
        };
        return number < 0
            ? SyscallResult.Fail(Errno.ENOSYS)
            : Libc.ToResult(Libc.Syscall(number, (nint)flags));
    }

    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors)
    {
        // More than this Linux refuses with EINVAL (SCM_MAX_FD is 253).
        if (descriptors.Length > MaximumRights)
            return SyscallResult.Fail(Errno.EINVAL);
        Span<byte> control = stackalloc byte[ControlHeaderLength + (MaximumRights * sizeof(int))];
        int length = ControlHeaderLength + (descriptors.Length * sizeof(int));
        MemoryMarshal.Write(control, (ulong)length);
        MemoryMarshal.Write(control[8..], SocketLevel);
        MemoryMarshal.Write(control[12..], Rights);
        MemoryMarshal.AsBytes(descriptors).CopyTo(control[ControlHeaderLength..]);
        // SAFETY: pinned during the call, lengths beside them; the control buffer is on this stack frame.
        fixed (byte* pointer = bytes)
        fixed (byte* controlPointer = control)
        {
            var vector = new IoVector((ulong)pointer, (ulong)bytes.Length);
            var message = new Libc.MessageHeader
            {
                Vectors = &vector,
                VectorCount = 1,
                Control = descriptors.IsEmpty ? null : controlPointer,
                ControlLength = descriptors.IsEmpty ? 0 : (nuint)length,
            };
            return Libc.ToResult(Libc.Sendmsg(socket, &message, NoSignal));
        }
    }

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors)
    {
        descriptors.Fill(-1);
        // Room for all that can come: what does not fit is closed here and not dropped by the kernel unseen.
        Span<byte> control = stackalloc byte[ControlHeaderLength + (MaximumRights * sizeof(int))];
        SyscallResult result;
        int filled;
        // SAFETY: as in SendRights.
        fixed (byte* pointer = bytes)
        fixed (byte* controlPointer = control)
        {
            var vector = new IoVector((ulong)pointer, (ulong)bytes.Length);
            var message = new Libc.MessageHeader
            {
                Vectors = &vector, VectorCount = 1, Control = controlPointer, ControlLength = (nuint)control.Length,
            };
            result = Libc.ToResult(Libc.Recvmsg(socket, &message, CloseRightsOnExec));
            filled = result.Succeeded ? (int)message.ControlLength : 0;
        }

        if (filled < ControlHeaderLength || MemoryMarshal.Read<int>(control[8..]) != SocketLevel
            || MemoryMarshal.Read<int>(control[12..]) != Rights)
        {
            return result;
        }

        int length = (int)Math.Min(MemoryMarshal.Read<ulong>(control), (ulong)filled);
        ReadOnlySpan<int> came = MemoryMarshal.Cast<byte, int>(control[ControlHeaderLength..length]);
        if (came.Length <= descriptors.Length)
        {
            came.CopyTo(descriptors);
            return result;
        }

        foreach (int descriptor in came)
            Libc.Close(descriptor);
        return SyscallResult.Fail(Errno.EMSGSIZE);
    }

    /// <summary>
    /// A zero byte would end the name early and name another file; Linux could not be asked for it at all.
    /// </summary>
    private static bool IsCString(string? text, out Errno why)
    {
        why = text is null ? Errno.EFAULT : Errno.EINVAL;
        return text is not null && !text.Contains('\0', StringComparison.Ordinal);
    }

    private static string ReadRelease() =>
        new LinuxSysfs().TryReadText("/proc/sys/kernel/osrelease", out string? release)
            ? release
            : Environment.OSVersion.Version.ToString();
}
