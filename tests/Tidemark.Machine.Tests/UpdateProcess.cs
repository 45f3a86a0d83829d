using System.Collections.Concurrent;
using Tidemark.Kernel;
using Tidemark.Kernel.Soft;

namespace Tidemark.Machine.Tests;

/// <summary>
/// One of several processes on a soft host, in this one: calls are made in its name, so that pinned pages are charged to it,
/// descriptors go to another one as SCM_RIGHTS takes them there, and what it has open or mapped is counted. Calls of one
/// thread can be made to fail.
/// </summary>
internal sealed class UpdateProcess : ForwardingKernel
{
    private readonly SoftKernel _soft;
    private readonly ConcurrentQueue<int[]> _rights;
    private readonly ConcurrentDictionary<int, string> _open = new();
    private readonly ConcurrentDictionary<ulong, ulong> _mapped = new();

    /// <param name="rights">Descriptors on their way, the same for both processes.</param>
    public UpdateProcess(SoftKernel soft, ConcurrentQueue<int[]> rights)
        : this(soft, rights, new Choice())
    {
    }

    private UpdateProcess(SoftKernel soft, ConcurrentQueue<int[]> rights, Choice choice)
        : base(() => choice.SweptThread == Environment.CurrentManagedThreadId ? choice.Faults! : soft)
    {
        _soft = soft;
        _rights = rights;
        Chosen = choice;
        choice.Faults = new FaultInjectingKernel(soft);
    }

    /// <summary>Not privileged: only who is charged is charged anew.</summary>
    public SoftProcess Process { get; } = new(new SoftUser(), ulong.MaxValue, privileged: false);

    public FaultInjectingKernel Faults => Chosen.Faults!;

    /// <summary>What this process has open and mapped.</summary>
    public string Left => string.Join(", ", _open.Select(file => $"fd {file.Key} ({file.Value})").Concat(
        _mapped.Select(mapping => $"mapping of {mapping.Value}")).Order());

    private Choice Chosen { get; }

    /// <summary>Requests of ioctl, in their order.</summary>
    public ConcurrentQueue<uint> Requests { get; } = new();

    /// <summary>From now on failures hit the calls of this thread.</summary>
    public void SweepThisThread() => Chosen.SweptThread = Environment.CurrentManagedThreadId;

    /// <summary>Failures hit nobody any more.</summary>
    public void EndSweep() => Chosen.SweptThread = 0;

    public override SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
    {
        Requests.Enqueue(request);
        using (_soft.Enter(Process))
            return base.Ioctl(fd, request, argument);
    }

    public override SyscallResult Open(string path, OpenFlags flags) => Opened(base.Open(path, flags), path);

    public override SyscallResult Dup(int fd) => Opened(base.Dup(fd), "dup");

    public override SyscallResult Eventfd(uint initialValue, EventfdFlags flags) => Opened(base.Eventfd(initialValue, flags), "eventfd");

    public override SyscallResult MemfdCreate(string name, MemfdFlags flags) => Opened(base.MemfdCreate(name, flags), name);

    public override SyscallResult Userfaultfd(uint flags) => Opened(base.Userfaultfd(flags), "userfaultfd");

    public override SyscallResult Close(int fd)
    {
        // Not of this list: what an ioctl opened (a device's state stream).
        _open.TryRemove(fd, out _);
        return base.Close(fd);
    }

    public override SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset)
    {
        SyscallResult result = base.Mmap(byteLength, protection, flags, fd, offset);
        if (result.Succeeded)
            _mapped[(ulong)result.Value] = byteLength;
        return result;
    }

    public override SyscallResult Munmap(ulong address, ulong byteLength)
    {
        _mapped.TryRemove(address, out _);
        return base.Munmap(address, byteLength);
    }

    public override SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors)
    {
        int[] copies = [.. descriptors.ToArray().Select(descriptor => (int)_soft.Dup(descriptor).Value)];
        // Before the bytes, because the other one looks for them when the bytes are there.
        _rights.Enqueue(copies);
        SyscallResult result = base.SendRights(socket, bytes, []);
        if (!result.Succeeded)
            DropRights();
        return result;
    }

    public override SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors)
    {
        SyscallResult result = base.ReceiveRights(socket, bytes, descriptors);
        descriptors.Fill(-1);
        if (!result.Succeeded || !_rights.TryDequeue(out int[]? came))
            return result;
        for (int index = 0; index < came.Length; index++)
        {
            descriptors[index] = came[index];
            _open[came[index]] = $"received {index}";
        }

        return result;
    }

    /// <summary>Closes what nobody received, as the kernel does when a socket goes.</summary>
    public void DropRights()
    {
        while (_rights.TryDequeue(out int[]? lost))
            Array.ForEach(lost, descriptor => _soft.Close(descriptor));
    }

    private SyscallResult Opened(SyscallResult result, string what)
    {
        if (result.Succeeded)
            _open[(int)result.Value] = what;
        return result;
    }

    private sealed class Choice
    {
        private volatile int _sweptThread;

        public FaultInjectingKernel? Faults { get; set; }

        public int SweptThread
        {
            get => _sweptThread;
            set => _sweptThread = value;
        }
    }
}
