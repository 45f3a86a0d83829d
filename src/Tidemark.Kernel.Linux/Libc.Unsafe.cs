using System.Runtime.InteropServices;
using Tidemark.Abi;

namespace Tidemark.Kernel.Linux;

/// <summary>
/// The system calls as libc exports them. The only declarations of native functions in Tidemark besides optional
/// codecs.
/// </summary>
/// <remarks>
/// <c>open</c>, <c>fcntl</c>, <c>ioctl</c> and <c>syscall</c> are variadic in C. Linux passes variadic arguments like
/// ordinary ones on x86-64 and arm64, so fixed signatures are right there; they are not on other systems.
/// None of these suppresses the runtime's transition: each may block, and a blocked one would stop the collector.
/// </remarks>
internal static unsafe partial class Libc
{
    // SAFETY: for the whole class: pointers come from `fixed` blocks of LinuxKernel.Unsafe.cs with the length beside
    // them, or are null; signatures are those of the C declarations with 64-bit `long`, `size_t` and `off_t`.
    private const string Name = "libc";

    [LibraryImport(Name, EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int Open(string path, int flags, uint mode);

    [LibraryImport(Name, EntryPoint = "close", SetLastError = true)]
    internal static partial int Close(int fd);

    [LibraryImport(Name, EntryPoint = "fcntl", SetLastError = true)]
    internal static partial int Fcntl(int fd, int command, nint argument);

    [LibraryImport(Name, EntryPoint = "ioctl", SetLastError = true)]
    internal static partial int Ioctl(int fd, nuint request, void* argument);

    [LibraryImport(Name, EntryPoint = "ioctl", SetLastError = true)]
    internal static partial int IoctlValue(int fd, nuint request, nuint argument);

    [LibraryImport(Name, EntryPoint = "read", SetLastError = true)]
    internal static partial nint Read(int fd, void* buffer, nuint byteLength);

    [LibraryImport(Name, EntryPoint = "write", SetLastError = true)]
    internal static partial nint Write(int fd, void* buffer, nuint byteLength);

    [LibraryImport(Name, EntryPoint = "pread", SetLastError = true)]
    internal static partial nint Pread(int fd, void* buffer, nuint byteLength, long offset);

    [LibraryImport(Name, EntryPoint = "pwrite", SetLastError = true)]
    internal static partial nint Pwrite(int fd, void* buffer, nuint byteLength, long offset);

    [LibraryImport(Name, EntryPoint = "mmap", SetLastError = true)]
    internal static partial nint Mmap(void* hint, nuint byteLength, int protection, int flags, int fd, long offset);

    [LibraryImport(Name, EntryPoint = "munmap", SetLastError = true)]
    internal static partial int Munmap(void* address, nuint byteLength);

    [LibraryImport(Name, EntryPoint = "madvise", SetLastError = true)]
    internal static partial int Madvise(void* address, nuint byteLength, int advice);

    [LibraryImport(Name, EntryPoint = "poll", SetLastError = true)]
    internal static partial int Poll(PollDescriptor* descriptors, nuint count, int timeoutMilliseconds);

    [LibraryImport(Name, EntryPoint = "eventfd", SetLastError = true)]
    internal static partial int Eventfd(uint initialValue, int flags);

    [LibraryImport(Name, EntryPoint = "memfd_create", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int MemfdCreate(string name, uint flags);

    [LibraryImport(Name, EntryPoint = "ftruncate", SetLastError = true)]
    internal static partial int Ftruncate(int fd, long byteLength);

    [LibraryImport(Name, EntryPoint = "fsync", SetLastError = true)]
    internal static partial int Fsync(int fd);

    [LibraryImport(Name, EntryPoint = "readv", SetLastError = true)]
    internal static partial nint Readv(int fd, IoVector* vectors, int count);

    [LibraryImport(Name, EntryPoint = "writev", SetLastError = true)]
    internal static partial nint Writev(int fd, IoVector* vectors, int count);

    [LibraryImport(Name, EntryPoint = "lseek", SetLastError = true)]
    internal static partial long Lseek(int fd, long offset, int whence);

    [LibraryImport(Name, EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint Syscall(nint number, nint argument);

    [LibraryImport(Name, EntryPoint = "sendmsg", SetLastError = true)]
    internal static partial nint Sendmsg(int socket, MessageHeader* message, int flags);

    [LibraryImport(Name, EntryPoint = "recvmsg", SetLastError = true)]
    internal static partial nint Recvmsg(int socket, MessageHeader* message, int flags);

    /// <summary>struct msghdr of 64-bit Linux.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct MessageHeader
    {
        public void* Name;
        public uint NameLength;
        public IoVector* Vectors;
        public nuint VectorCount;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }

    /// <summary>libc's convention to ours: -1 means that errno says why.</summary>
    // SAFETY: reads the errno that the generated stub saved on this thread right after the call.
    internal static SyscallResult ToResult(nint value) =>
        value == -1 ? SyscallResult.Fail((Errno)Marshal.GetLastPInvokeError()) : SyscallResult.Ok(value);
}
