namespace Tidemark.Kernel.Tests;

/// <summary>An ioctl as a test answers it: may change the argument.</summary>
internal delegate SyscallResult IoctlScript(int fd, uint request, Span<byte> argument);

/// <summary>
/// A kernel in which every call succeeds, descriptors count from 3, and ioctls do what the test says.
/// </summary>
internal sealed class ScriptedKernel : IKernel
{
    private int _lastFd = 2;

    public IoctlScript OnIoctl { get; set; } = static (_, _, _) => SyscallResult.Ok();

    public Func<string, SyscallResult>? OnOpen { get; set; }

    public Func<uint, SyscallResult>? OnUserfaultfd { get; set; }

    public KernelIdentity Identity { get; } = new("scripted", "1.0");

    /// <summary>Calls that reached this kernel.</summary>
    public List<string> Calls { get; } = [];

    public SyscallResult Open(string path, OpenFlags flags) => Note("open", OnOpen?.Invoke(path) ?? Next());

    public SyscallResult Close(int fd) => Note("close", SyscallResult.Ok());

    public SyscallResult Dup(int fd) => Note("dup", Next());

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument) =>
        Note("ioctl", OnIoctl(fd, request, argument));

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) => Note("ioctl", Next());

    public SyscallResult Read(int fd, Span<byte> buffer)
    {
        buffer.Fill((byte)'r');
        return Note("read", SyscallResult.Ok(Math.Min(2, buffer.Length)));
    }

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) => Note("write", SyscallResult.Ok(buffer.Length));

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset) =>
        Note("pread", SyscallResult.Ok(buffer.Length));

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) =>
        Note("pwrite", SyscallResult.Ok(buffer.Length));

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        Note("mmap", SyscallResult.Ok(0x7f0000001000));

    public SyscallResult Munmap(ulong address, ulong byteLength) => Note("munmap", SyscallResult.Ok());

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        Note("madvise", SyscallResult.Ok());

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds)
    {
        if (descriptors.Length > 0)
            descriptors[0].Returned = PollEvents.In;
        return Note("poll", SyscallResult.Ok(descriptors.Length > 0 ? 1 : 0));
    }

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) => Note("eventfd", Next());

    public SyscallResult MemfdCreate(string name, MemfdFlags flags) => Note("memfd_create", Next());

    public SyscallResult Ftruncate(int fd, ulong byteLength) => Note("ftruncate", SyscallResult.Ok());

    public SyscallResult Fsync(int fd) => Note("fsync", SyscallResult.Ok());

    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) => Note("readv", SyscallResult.Ok());

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) => Note("writev", SyscallResult.Ok());

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) => Note("lseek", SyscallResult.Ok());

    public SyscallResult Userfaultfd(uint flags) => Note("userfaultfd", OnUserfaultfd?.Invoke(flags) ?? Next());

    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors) =>
        Note("sendmsg", SyscallResult.Ok(bytes.Length));

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors) =>
        Note("recvmsg", SyscallResult.Ok(0));

    private SyscallResult Next() => SyscallResult.Ok(++_lastFd);

    private SyscallResult Note(string call, SyscallResult result)
    {
        Calls.Add(call);
        return result;
    }
}

/// <summary>One of each call, for whatever kernel a test puts under it.</summary>
internal static class EveryCall
{
    internal const int FailableCount = 22;

    internal static List<SyscallResult> Make(IKernel kernel) =>
    [
        kernel.Open("/dev/null", OpenFlags.ReadWrite),
        kernel.Dup(3),
        kernel.Ioctl(3, 0x3b80, new byte[8]),
        kernel.IoctlValue(3, 0x3b65, 1),
        kernel.Read(3, new byte[4]),
        kernel.Write(3, [1, 2]),
        kernel.Pread(3, new byte[4], 8),
        kernel.Pwrite(3, [1, 2], 8),
        kernel.Mmap(4096, MemoryProtection.Read, MapFlags.Private | MapFlags.Anonymous, -1, 0),
        kernel.Madvise(0x7f0000001000, 4096, MemoryAdvice.DontNeed),
        kernel.Poll([new PollDescriptor(3, PollEvents.In, PollEvents.None)], 0),
        kernel.Eventfd(1, EventfdFlags.NonBlocking),
        kernel.MemfdCreate("m", MemfdFlags.CloseOnExec),
        kernel.Ftruncate(3, 4096),
        kernel.Fsync(3),
        kernel.Readv(3, []),
        kernel.Writev(3, []),
        kernel.Lseek(3, 0, SeekWhence.Data),
        kernel.Userfaultfd(1),
        kernel.SendRights(3, [], []),
        kernel.ReceiveRights(3, [], []),
        kernel.Open("/dev/iommu", OpenFlags.ReadOnly),
        kernel.Munmap(0x7f0000001000, 4096),
        kernel.Close(3),
    ];
}
