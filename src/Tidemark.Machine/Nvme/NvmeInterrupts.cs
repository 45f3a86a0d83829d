using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// How a driver waits: on eventfds when it has a kernel to make them, else by looking again and again.
/// </summary>
internal sealed class NvmeInterrupts(IKernel? kernel) : IDisposable
{
    /// <summary>Vector 0: the admin queue, which is always polled; vector 1: the I/O queue.</summary>
    private const int Vectors = 2;

    private readonly List<KernelFd> _vectors = [];
    private KernelFd? _wakeFd;
    private int _wakeRequested;
    private bool _connected;

    public void Connect(INvmeHardware hardware)
    {
        if (kernel is null || _connected)
            return;
        while (_vectors.Count < Vectors)
            _vectors.Add(CreateEventfd(kernel));
        _wakeFd ??= CreateEventfd(kernel);
        hardware.EnableInterrupts(_vectors);
        _connected = true;
    }

    /// <summary>As <see cref="Connect"/>, where another process may have connected its own since.</summary>
    public void Reconnect(INvmeHardware hardware)
    {
        if (_connected)
            hardware.EnableInterrupts(_vectors);
    }

    /// <summary>The vectors signal nothing any more. Nothing when they were not connected.</summary>
    public void Disconnect(INvmeHardware hardware)
    {
        if (!_connected)
            return;
        _connected = false;
        hardware.DisableInterrupts();
    }

    /// <summary>True: a completion is there. False: woken, interrupted or the time is over.</summary>
    public bool Wait(NvmeQueuePair queue, TimeSpan timeout)
    {
        if (Interlocked.Exchange(ref _wakeRequested, 0) != 0)
            return false;
        return _connected ? WaitOnEventfd(queue, timeout) : WaitByPolling(queue, timeout);
    }

    public void Wake()
    {
        Interlocked.Exchange(ref _wakeRequested, 1);
        if (Volatile.Read(ref _wakeFd) is { } wake)
            kernel!.Write(wake.Number, [1, 0, 0, 0, 0, 0, 0, 0]);
    }

    public void Dispose()
    {
        foreach (KernelFd vector in _vectors)
            vector.Dispose();
        _wakeFd?.Dispose();
    }

    private static KernelFd CreateEventfd(IKernel kernel)
    {
        SyscallResult result = kernel.Eventfd(0, EventfdFlags.CloseOnExec | EventfdFlags.NonBlocking);
        result.ThrowIfFailed("Creating an eventfd for NVMe interrupts");
        return new KernelFd(kernel, (int)result.Value);
    }

    private bool WaitOnEventfd(NvmeQueuePair queue, TimeSpan timeout)
    {
        Span<PollDescriptor> descriptors =
        [
            new(_vectors[1].Number, PollEvents.In, PollEvents.None),
            new(_wakeFd!.Number, PollEvents.In, PollEvents.None),
        ];
        SyscallResult result = kernel!.Poll(descriptors, (int)Math.Ceiling(timeout.TotalMilliseconds));
        if (!result.Succeeded && result.Errno != Errno.EINTR)
            throw new NvmeException($"Waiting for an NVMe interrupt failed: {result.Errno}.");
        // ORDER: the counters are cleared before the queue is looked at, so a later interrupt counts again.
        Span<byte> counter = stackalloc byte[sizeof(ulong)];
        foreach (PollDescriptor descriptor in descriptors)
        {
            if ((descriptor.Returned & PollEvents.In) != 0)
                kernel.Read(descriptor.Fd, counter);
        }

        if ((descriptors[1].Returned & PollEvents.In) != 0)
            Interlocked.Exchange(ref _wakeRequested, 0);
        return queue.HasCompletion();
    }

    private bool WaitByPolling(NvmeQueuePair queue, TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        SpinWait spinner = default;
        while (!queue.HasCompletion())
        {
            if (Interlocked.Exchange(ref _wakeRequested, 0) != 0 || Stopwatch.GetElapsedTime(start) >= timeout)
                return false;
            spinner.SpinOnce();
        }

        return true;
    }
}
