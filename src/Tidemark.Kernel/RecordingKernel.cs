namespace Tidemark.Kernel;

/// <summary>
/// A kernel that writes down every call with the bytes that went in and came out, so that a test or a bug report can
/// read them back.
/// </summary>
/// <remarks>
/// The sink is called once for each call, after it returned, by one thread at a time; calls of several threads appear
/// in the order in which they ended. Buffers are recorded whole.
/// </remarks>
public sealed class RecordingKernel : IKernel
{
    private readonly IKernel _inner;
    private readonly Action<RecordedCall> _sink;
    private readonly Lock _gate = new();

    public RecordingKernel(IKernel inner, Action<RecordedCall> sink)
    {
        ArgumentNullException.ThrowIfNull(inner);
        ArgumentNullException.ThrowIfNull(sink);
        _inner = inner;
        _sink = sink;
    }

    public KernelIdentity Identity => _inner.Identity;

    public SyscallResult Open(string path, OpenFlags flags) =>
        Record("open", [(long)flags], _inner.Open(path, flags), path);

    public SyscallResult Close(int fd) => Record("close", [fd], _inner.Close(fd));

    public SyscallResult Dup(int fd) => Record("dup", [fd], _inner.Dup(fd));

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
    {
        byte[] given = argument.ToArray();
        SyscallResult result = _inner.Ioctl(fd, request, argument);
        return Record("ioctl", [fd, request], result, null, given, argument.ToArray());
    }

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) =>
        Record("ioctl_value", [fd, request, Signed(argument)], _inner.IoctlValue(fd, request, argument));

    public SyscallResult Read(int fd, Span<byte> buffer)
    {
        SyscallResult result = _inner.Read(fd, buffer);
        return Record("read", [fd, buffer.Length], result, null, null, Filled(buffer, result));
    }

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) =>
        Record("write", [fd], _inner.Write(fd, buffer), null, buffer.ToArray());

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset)
    {
        SyscallResult result = _inner.Pread(fd, buffer, offset);
        return Record("pread", [fd, buffer.Length, Signed(offset)], result, null, null, Filled(buffer, result));
    }

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) =>
        Record("pwrite", [fd, Signed(offset)], _inner.Pwrite(fd, buffer, offset), null, buffer.ToArray());

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        Record(
            "mmap",
            [Signed(byteLength), (long)protection, (long)flags, fd, Signed(offset)],
            _inner.Mmap(byteLength, protection, flags, fd, offset));

    public SyscallResult Munmap(ulong address, ulong byteLength) =>
        Record("munmap", [Signed(address), Signed(byteLength)], _inner.Munmap(address, byteLength));

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        Record(
            "madvise",
            [Signed(address), Signed(byteLength), (long)advice],
            _inner.Madvise(address, byteLength, advice));

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds)
    {
        SyscallResult result = _inner.Poll(descriptors, timeoutMilliseconds);
        var numbers = new List<long> { timeoutMilliseconds };
        foreach (PollDescriptor descriptor in descriptors)
            numbers.AddRange([descriptor.Fd, (long)descriptor.Events, (long)descriptor.Returned]);
        return Record("poll", numbers, result);
    }

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) =>
        Record("eventfd", [initialValue, (long)flags], _inner.Eventfd(initialValue, flags));

    public SyscallResult MemfdCreate(string name, MemfdFlags flags) =>
        Record("memfd_create", [(long)flags], _inner.MemfdCreate(name, flags), name);

    public SyscallResult Ftruncate(int fd, ulong byteLength) =>
        Record("ftruncate", [fd, Signed(byteLength)], _inner.Ftruncate(fd, byteLength));

    public SyscallResult Fsync(int fd) => Record("fsync", [fd], _inner.Fsync(fd));

    public SyscallResult Userfaultfd(uint flags) => Record("userfaultfd", [flags], _inner.Userfaultfd(flags));

    private static byte[] Filled(ReadOnlySpan<byte> buffer, SyscallResult result) =>
        result.Succeeded ? buffer[..(int)Math.Min(result.Value, buffer.Length)].ToArray() : [];

    private static long Signed(ulong value) => unchecked((long)value);

    private SyscallResult Record(
        string name, IReadOnlyList<long> numbers, SyscallResult result,
        string? text = null, byte[]? given = null, byte[]? returned = null)
    {
        lock (_gate)
            _sink(new RecordedCall(name, numbers, text, given, returned, result));
        return result;
    }
}
