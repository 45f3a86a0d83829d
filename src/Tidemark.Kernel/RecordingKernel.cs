using Tidemark.Kernel.Recording;

namespace Tidemark.Kernel;

/// <summary>
/// A kernel that writes down every call with the bytes that went in and came out, so that a test or a bug report can
/// read them back.
/// </summary>
/// <remarks>
/// The sink is called once for each call, after it returned, by one thread at a time; calls of several threads appear
/// in the order in which they ended. Buffers are recorded whole. Recordings that can be replayed also need the memory
/// that arguments point to: see <see cref="WithMemory"/>.
/// </remarks>
public sealed class RecordingKernel : IKernel
{
    private readonly IKernel _inner;
    private readonly Action<RecordedStep> _sink;
    private readonly WatchedMemory? _memory;
    private readonly Lock _gate = new();

    public RecordingKernel(IKernel inner, Action<RecordedCall> sink)
        : this(inner, step => sink(step.Call), memory: null)
    {
        ArgumentNullException.ThrowIfNull(sink);
    }

    private RecordingKernel(IKernel inner, Action<RecordedStep> sink, WatchedMemory? memory)
    {
        ArgumentNullException.ThrowIfNull(inner);
        _inner = inner;
        _sink = sink;
        _memory = memory;
    }

    /// <summary>
    /// Records memory too: what the program stored before each call and what the kernel wrote during it, of anonymous
    /// memory and memory files that were mapped through this kernel. Longer regions than 4 MiB are watched in their
    /// first 4 MiB. For programs of one thread: what another one stores during a call counts as the kernel's.
    /// </summary>
    public static RecordingKernel WithMemory(IKernel inner, Action<RecordedStep> sink)
    {
        ArgumentNullException.ThrowIfNull(sink);
        return new RecordingKernel(inner, sink, new WatchedMemory(inner));
    }

    public KernelIdentity Identity => _inner.Identity;

    public SyscallResult Open(string path, OpenFlags flags) =>
        Record(Begin(), "open", [(long)flags], _inner.Open(path, flags), path);

    public SyscallResult Close(int fd) => Record(Begin(), "close", [fd], _inner.Close(fd));

    public SyscallResult Dup(int fd) => Record(Begin(), "dup", [fd], _inner.Dup(fd));

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
    {
        IReadOnlyList<MemoryChange> stored = Begin();
        byte[] given = argument.ToArray();
        SyscallResult result = _inner.Ioctl(fd, request, argument);
        return Record(stored, "ioctl", [fd, request], result, null, given, argument.ToArray());
    }

    public SyscallResult IoctlValue(int fd, uint request, ulong argument) =>
        Record(Begin(), "ioctl_value", [fd, request, Signed(argument)], _inner.IoctlValue(fd, request, argument));

    public SyscallResult Read(int fd, Span<byte> buffer)
    {
        IReadOnlyList<MemoryChange> stored = Begin();
        SyscallResult result = _inner.Read(fd, buffer);
        return Record(stored, "read", [fd, buffer.Length], result, null, null, Filled(buffer, result));
    }

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) =>
        Record(Begin(), "write", [fd], _inner.Write(fd, buffer), null, buffer.ToArray());

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset)
    {
        IReadOnlyList<MemoryChange> stored = Begin();
        SyscallResult result = _inner.Pread(fd, buffer, offset);
        return Record(stored, "pread", [fd, buffer.Length, Signed(offset)], result, null, null, Filled(buffer, result));
    }

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) =>
        Record(Begin(), "pwrite", [fd, Signed(offset)], _inner.Pwrite(fd, buffer, offset), null, buffer.ToArray());

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        Record(
            Begin(),
            "mmap",
            [Signed(byteLength), (long)protection, (long)flags, fd, Signed(offset)],
            _inner.Mmap(byteLength, protection, flags, fd, offset));

    public SyscallResult Munmap(ulong address, ulong byteLength)
    {
        IReadOnlyList<MemoryChange> stored = Begin();
        IReadOnlyList<WatchedRegion> forgotten;
        // ORDER: before the call, so that nobody looks at memory that is gone.
        lock (_gate)
            forgotten = _memory?.Forget(address, byteLength) ?? [];
        SyscallResult result = _inner.Munmap(address, byteLength);
        if (!result.Succeeded)
        {
            lock (_gate)
                _memory?.Restore(forgotten);
        }

        return Record(stored, "munmap", [Signed(address), Signed(byteLength)], result);
    }

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) =>
        Record(
            Begin(),
            "madvise",
            [Signed(address), Signed(byteLength), (long)advice],
            _inner.Madvise(address, byteLength, advice));

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds)
    {
        IReadOnlyList<MemoryChange> stored = Begin();
        SyscallResult result = _inner.Poll(descriptors, timeoutMilliseconds);
        var numbers = new List<long> { timeoutMilliseconds };
        foreach (PollDescriptor descriptor in descriptors)
            numbers.AddRange([descriptor.Fd, (long)descriptor.Events, (long)descriptor.Returned]);
        return Record(stored, "poll", numbers, result);
    }

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) =>
        Record(Begin(), "eventfd", [initialValue, (long)flags], _inner.Eventfd(initialValue, flags));

    public SyscallResult MemfdCreate(string name, MemfdFlags flags) =>
        Record(Begin(), "memfd_create", [(long)flags], _inner.MemfdCreate(name, flags), name);

    public SyscallResult Ftruncate(int fd, ulong byteLength) =>
        Record(Begin(), "ftruncate", [fd, Signed(byteLength)], _inner.Ftruncate(fd, byteLength));

    public SyscallResult Fsync(int fd) => Record(Begin(), "fsync", [fd], _inner.Fsync(fd));

    // Page contents on sockets are no answers of the kernel: only how many bytes moved is kept.
    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) =>
        Record(Begin(), "readv", [fd, vectors.Length], _inner.Readv(fd, vectors));

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) =>
        Record(Begin(), "writev", [fd, vectors.Length], _inner.Writev(fd, vectors));

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) =>
        Record(Begin(), "lseek", [fd, Signed(offset), (long)whence], _inner.Lseek(fd, offset, whence));

    public SyscallResult Userfaultfd(uint flags) => Record(Begin(), "userfaultfd", [flags], _inner.Userfaultfd(flags));

    // What goes between two processes is no answer of the kernel: only how much moved is kept.
    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors) =>
        Record(Begin(), "sendmsg", [socket, descriptors.Length], _inner.SendRights(socket, bytes, descriptors));

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors) =>
        Record(Begin(), "recvmsg", [socket, descriptors.Length], _inner.ReceiveRights(socket, bytes, descriptors));

    private static byte[] Filled(ReadOnlySpan<byte> buffer, SyscallResult result) =>
        result.Succeeded ? buffer[..(int)Math.Min(result.Value, buffer.Length)].ToArray() : [];

    private static long Signed(ulong value) => unchecked((long)value);

    private List<MemoryChange> Begin()
    {
        if (_memory is null)
            return [];
        lock (_gate)
            return _memory.TakeChanges();
    }

    private SyscallResult Record(
        IReadOnlyList<MemoryChange> stored, string name, IReadOnlyList<long> numbers, SyscallResult result,
        string? text = null, byte[]? given = null, byte[]? returned = null)
    {
        lock (_gate)
        {
            var call = new RecordedCall(name, numbers, text, given, returned, result);
            _memory?.Learn(call);
            _sink(new RecordedStep(stored, call, _memory?.TakeChanges() ?? []));
        }

        return result;
    }
}
