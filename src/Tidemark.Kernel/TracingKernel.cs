using System.Globalization;
using System.Text;
using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>
/// A kernel that tells of each call in the spelling of strace, one line a call, so that a trace of the soft kernel can
/// be laid beside one of a real kernel.
/// </summary>
/// <remarks>
/// The first line names the kernel. The sink is called after the call returned, by one thread at a time; lines of
/// several threads appear in the order in which their calls ended. Arguments of iommufd, VFIO, userfaultfd and
/// PAGEMAP_SCAN are spelled out; memory that they point to is not read.
/// </remarks>
public sealed class TracingKernel : IKernel
{
    private readonly IKernel _inner;
    private readonly Action<string> _sink;
    private readonly TraceDescriptors _descriptors = new();
    private readonly Lock _gate = new();

    /// <param name="sink">Takes a line without its end; must not call this kernel.</param>
    public TracingKernel(IKernel inner, Action<string> sink)
    {
        ArgumentNullException.ThrowIfNull(inner);
        ArgumentNullException.ThrowIfNull(sink);
        _inner = inner;
        _sink = sink;
        _sink($"# kernel={inner.Identity}");
    }

    public KernelIdentity Identity => _inner.Identity;

    public SyscallResult Open(string path, OpenFlags flags)
    {
        SyscallResult result = _inner.Open(path, flags);
        _descriptors.Opened(result, path ?? "");
        return Tell($"openat(AT_FDCWD, {TraceValues.Quote(path)}, {Name(flags)})", result);
    }

    public SyscallResult Close(int fd)
    {
        // Forgotten before the call: afterwards another thread may have been given the number.
        _descriptors.Closed(fd);
        return Tell($"close({fd})", _inner.Close(fd));
    }

    public SyscallResult Dup(int fd)
    {
        SyscallResult result = _inner.Dup(fd);
        _descriptors.Duplicated(result, fd);
        return Tell($"fcntl({fd}, F_DUPFD_CLOEXEC, 0)", result);
    }

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
    {
        TracedKind kind = _descriptors[fd];
        string? name = TraceIoctl.NameOf(kind, request);
        byte[] before = argument.ToArray();
        SyscallResult result = _inner.Ioctl(fd, request, argument);
        if (name == VfioRequests.GroupGetDeviceFd.Name)
            _descriptors.Made(result, TracedKind.VfioDevice);
        else if (name == VfioRequests.DeviceFeature.Name && result.Succeeded)
            LearnMigrationData(argument);
        string spelled = name ?? TraceValues.Hex(request);
        return Tell($"ioctl({fd}, {spelled}, {TraceIoctl.Argument(name, before, argument)})", result);
    }

    public SyscallResult IoctlValue(int fd, uint request, ulong argument)
    {
        string? name = TraceIoctl.NameOf(_descriptors[fd], request);
        SyscallResult result = _inner.IoctlValue(fd, request, argument);
        if (name == UserfaultfdRequests.New.Name)
            _descriptors.Made(result, TracedKind.Userfaultfd);
        return Tell($"ioctl({fd}, {name ?? TraceValues.Hex(request)}, {TraceValues.Hex(argument)})", result);
    }

    public SyscallResult Read(int fd, Span<byte> buffer)
    {
        SyscallResult result = _inner.Read(fd, buffer);
        return Tell($"read({fd}, {Filled(buffer, result)}, {buffer.Length})", result);
    }

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer) =>
        Tell($"write({fd}, {TraceValues.Bytes(buffer)}, {buffer.Length})", _inner.Write(fd, buffer));

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset)
    {
        SyscallResult result = _inner.Pread(fd, buffer, offset);
        return Tell($"pread64({fd}, {Filled(buffer, result)}, {buffer.Length}, {TraceValues.Hex(offset)})", result);
    }

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset) => Tell(
        $"pwrite64({fd}, {TraceValues.Bytes(buffer)}, {buffer.Length}, {TraceValues.Hex(offset)})",
        _inner.Pwrite(fd, buffer, offset));

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset) =>
        Tell(
            $"mmap(NULL, {byteLength}, {Name(protection)}, {Name(flags)}, {fd}, {TraceValues.Hex(offset)})",
            _inner.Mmap(byteLength, protection, flags, fd, offset),
            address: true);

    public SyscallResult Munmap(ulong address, ulong byteLength) =>
        Tell($"munmap({TraceValues.Hex(address)}, {byteLength})", _inner.Munmap(address, byteLength));

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice) => Tell(
        $"madvise({TraceValues.Hex(address)}, {byteLength}, {Name(advice)})",
        _inner.Madvise(address, byteLength, advice));

    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds)
    {
        string asked = Descriptors(descriptors, returned: false);
        SyscallResult result = _inner.Poll(descriptors, timeoutMilliseconds);
        string answered = result.Value > 0 ? $" ({Descriptors(descriptors, returned: true)})" : "";
        return Tell($"poll({asked}, {descriptors.Length}, {timeoutMilliseconds})", result, more: answered);
    }

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) =>
        Tell($"eventfd2({initialValue}, {Name(flags)})", _inner.Eventfd(initialValue, flags));

    public SyscallResult MemfdCreate(string name, MemfdFlags flags) =>
        Tell($"memfd_create({TraceValues.Quote(name)}, {Name(flags)})", _inner.MemfdCreate(name, flags));

    public SyscallResult Ftruncate(int fd, ulong byteLength) =>
        Tell($"ftruncate({fd}, {byteLength})", _inner.Ftruncate(fd, byteLength));

    public SyscallResult Fsync(int fd) => Tell($"fsync({fd})", _inner.Fsync(fd));

    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) =>
        Tell($"readv({fd}, [...], {vectors.Length})", _inner.Readv(fd, vectors));

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) =>
        Tell($"writev({fd}, [...], {vectors.Length})", _inner.Writev(fd, vectors));

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) =>
        Tell($"lseek({fd}, {offset}, SEEK_{whence.ToString().ToUpperInvariant()})", _inner.Lseek(fd, offset, whence));

    public SyscallResult Userfaultfd(uint flags)
    {
        SyscallResult result = _inner.Userfaultfd(flags);
        _descriptors.Made(result, TracedKind.Userfaultfd);
        var names = new StringBuilder();
        Append(names, (flags & (uint)UserfaultfdFlags.NonBlock) != 0, "O_NONBLOCK");
        Append(names, (flags & (uint)UserfaultfdFlags.CloseOnExec) != 0, "O_CLOEXEC");
        Append(names, (flags & (uint)UserfaultfdFlags.UserModeOnly) != 0, "UFFD_USER_MODE_ONLY");
        return Tell($"userfaultfd({(names.Length == 0 ? "0" : names)})", result);
    }

    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors) => Tell(
        $"sendmsg({socket}, {TraceValues.Bytes(bytes)}, SCM_RIGHTS [{string.Join(", ", descriptors.ToArray())}])",
        _inner.SendRights(socket, bytes, descriptors));

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors)
    {
        SyscallResult result = _inner.ReceiveRights(socket, bytes, descriptors);
        foreach (int descriptor in descriptors)
            _descriptors.Made(descriptor < 0 ? SyscallResult.Fail(Errno.EBADF) : SyscallResult.Ok(descriptor), TracedKind.Received);
        return Tell(
            $"recvmsg({socket}, {Filled(bytes, result)}, SCM_RIGHTS [{string.Join(", ", descriptors.ToArray().Where(descriptor => descriptor >= 0))}])", result);
    }

    private static string Filled(ReadOnlySpan<byte> buffer, SyscallResult result) => result.Succeeded
        ? TraceValues.Bytes(buffer[..(int)Math.Min(result.Value, buffer.Length)])
        : "\"\"";

    private static string Descriptors(ReadOnlySpan<PollDescriptor> descriptors, bool returned)
    {
        var text = new StringBuilder("[");
        foreach (PollDescriptor descriptor in descriptors)
        {
            PollEvents events = returned ? descriptor.Returned : descriptor.Events;
            if (returned && events == PollEvents.None)
                continue;
            text.Append(text.Length > 1 ? ", " : "").Append(
                CultureInfo.InvariantCulture,
                $"{{fd={descriptor.Fd}, {(returned ? "revents" : "events")}={Name(events)}}}");
        }

        return text.Append(']').ToString();
    }

    /// <summary>A change of the migration state answers a descriptor inside the argument.</summary>
    private void LearnMigrationData(ReadOnlySpan<byte> argument)
    {
        const uint Change = (uint)VfioDeviceFeatureFlags.Set | (uint)VfioDeviceFeatureIndex.MigDeviceState;
        if (argument.Length < 16 || TraceValues.Number(argument[4..8]) != Change)
            return;
        int dataFd = unchecked((int)TraceValues.Number(argument[12..16]));
        if (dataFd >= 0)
            _descriptors.Made(SyscallResult.Ok(dataFd), TracedKind.VfioMigrationData);
    }

    private SyscallResult Tell(string call, SyscallResult result, bool address = false, string more = "")
    {
        string answer = !result.Succeeded ? $"-1 {TraceValues.Error(result.Errno)}"
            : address ? TraceValues.Hex(unchecked((ulong)result.Value))
            : result.Value.ToString(CultureInfo.InvariantCulture);
        lock (_gate)
            _sink($"{call} = {answer}{more}");
        return result;
    }

    private static string Name(OpenFlags flags)
    {
        var text = new StringBuilder((flags & (OpenFlags.WriteOnly | OpenFlags.ReadWrite)) switch
        {
            OpenFlags.ReadOnly => "O_RDONLY",
            OpenFlags.WriteOnly => "O_WRONLY",
            _ => "O_RDWR",
        });
        Append(text, flags.HasFlag(OpenFlags.Create), "O_CREAT");
        Append(text, flags.HasFlag(OpenFlags.NonBlocking), "O_NONBLOCK");
        Append(text, flags.HasFlag(OpenFlags.CloseOnExec), "O_CLOEXEC");
        return text.ToString();
    }

    private static string Name(MemoryProtection protection)
    {
        var text = new StringBuilder();
        Append(text, protection == MemoryProtection.None, "PROT_NONE");
        Append(text, protection.HasFlag(MemoryProtection.Read), "PROT_READ");
        Append(text, protection.HasFlag(MemoryProtection.Write), "PROT_WRITE");
        return text.ToString();
    }

    private static string Name(MapFlags flags)
    {
        var text = new StringBuilder();
        Append(text, flags.HasFlag(MapFlags.Shared), "MAP_SHARED");
        Append(text, flags.HasFlag(MapFlags.Private), "MAP_PRIVATE");
        Append(text, flags.HasFlag(MapFlags.Anonymous), "MAP_ANONYMOUS");
        Append(text, flags.HasFlag(MapFlags.NoReserve), "MAP_NORESERVE");
        Append(text, flags.HasFlag(MapFlags.Populate), "MAP_POPULATE");
        return text.Length == 0 ? "0" : text.ToString();
    }

    private static string Name(MemoryAdvice advice) => advice switch
    {
        MemoryAdvice.DontNeed => "MADV_DONTNEED",
        MemoryAdvice.HugePage => "MADV_HUGEPAGE",
        MemoryAdvice.PopulateRead => "MADV_POPULATE_READ",
        MemoryAdvice.PopulateWrite => "MADV_POPULATE_WRITE",
        _ => ((uint)advice).ToString(CultureInfo.InvariantCulture),
    };

    private static string Name(EventfdFlags flags)
    {
        var text = new StringBuilder();
        Append(text, flags.HasFlag(EventfdFlags.Semaphore), "EFD_SEMAPHORE");
        Append(text, flags.HasFlag(EventfdFlags.NonBlocking), "EFD_NONBLOCK");
        Append(text, flags.HasFlag(EventfdFlags.CloseOnExec), "EFD_CLOEXEC");
        return text.Length == 0 ? "0" : text.ToString();
    }

    private static string Name(MemfdFlags flags)
    {
        var text = new StringBuilder();
        Append(text, flags.HasFlag(MemfdFlags.CloseOnExec), "MFD_CLOEXEC");
        Append(text, flags.HasFlag(MemfdFlags.AllowSealing), "MFD_ALLOW_SEALING");
        return text.Length == 0 ? "0" : text.ToString();
    }

    private static string Name(PollEvents events)
    {
        var text = new StringBuilder();
        Append(text, events.HasFlag(PollEvents.In), "POLLIN");
        Append(text, events.HasFlag(PollEvents.Out), "POLLOUT");
        Append(text, events.HasFlag(PollEvents.Error), "POLLERR");
        Append(text, events.HasFlag(PollEvents.HangUp), "POLLHUP");
        Append(text, events.HasFlag(PollEvents.Invalid), "POLLNVAL");
        return text.Length == 0 ? "0" : text.ToString();
    }

    private static void Append(StringBuilder text, bool present, string name)
    {
        if (present)
            text.Append(text.Length == 0 ? "" : "|").Append(name);
    }
}
