using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// One interrupt and the eventfd it signals, if any. Raised by the device's thread while others set it.
/// </summary>
internal sealed class InterruptLine(IKernel host)
{
    private readonly Lock _gate = new();
    private KernelFd? _eventfd;

    /// <summary>Whether there is an eventfd to signal.</summary>
    public bool IsSet
    {
        get
        {
            lock (_gate)
                return _eventfd is not null;
        }
    }

    /// <summary>A duplicate of a caller's eventfd. EBADF: not open; EINVAL: not an eventfd.</summary>
    public static Errno Duplicate(IKernel host, int eventfd, out KernelFd? duplicate)
    {
        duplicate = null;
        // A write of no bytes tells an eventfd, which refuses it, from files, pipes and sockets, which do not.
        Errno probe = host.Write(eventfd, []).Errno;
        if (probe != Errno.EINVAL)
            return probe == Errno.EBADF ? Errno.EBADF : Errno.EINVAL;
        SyscallResult made = host.Dup(eventfd);
        if (made.Succeeded)
            duplicate = new KernelFd(host, (int)made.Value);
        return made.Errno;
    }

    /// <summary>
    /// Signals a duplicate of the caller's eventfd from now on; -1: nothing. On failure (EBADF: not open; EINVAL: not
    /// an eventfd) the line is as before.
    /// </summary>
    public Errno Set(int eventfd)
    {
        KernelFd? next = null;
        Errno errno = eventfd < 0 ? Errno.Success : Duplicate(host, eventfd, out next);
        if (errno != Errno.Success)
            return errno;

        lock (_gate)
        {
            _eventfd?.Dispose();
            _eventfd = next;
        }

        return Errno.Success;
    }

    /// <summary>Adds 1 to the eventfd's counter. A full counter stays full: it is readable all the same.</summary>
    public void Raise()
    {
        lock (_gate)
        {
            if (_eventfd is null)
                return;
            // A blocking eventfd with a full counter must not stop the device.
            Span<PollDescriptor> poll = [new PollDescriptor(_eventfd.Number, PollEvents.Out, PollEvents.None)];
            if (host.Poll(poll, timeoutMilliseconds: 0).Value <= 0)
                return;
            Span<byte> one = stackalloc byte[sizeof(ulong)];
            BinaryPrimitives.WriteUInt64LittleEndian(one, 1);
            host.Write(_eventfd.Number, one);
        }
    }
}
