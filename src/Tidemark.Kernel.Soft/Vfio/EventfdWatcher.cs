using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// Does something whenever an eventfd is signalled, on a thread of its own that begins with the first eventfd and ends
/// with <see cref="Dispose"/>.
/// </summary>
/// <remarks>
/// <code>
/// Add --> entries --wake--> thread: poll(wake, eventfds...) --> read the counter --> action, under the device's gate
/// Dispose: stop, wake, join. It may be called under the gate: the thread never waits for the gate once it shall stop.
/// </code>
/// Members are called under the device's gate.
/// </remarks>
internal sealed class EventfdWatcher(IKernel host, Lock deviceGate, string name) : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMilliseconds(20);

    private readonly Lock _gate = new();
    private readonly List<Entry> _entries = [];
    private readonly List<Entry> _removed = [];
    private KernelFd? _wake;
    private Thread? _thread;
    private volatile bool _stopping;
    private volatile int _reading = -1;

    /// <summary>
    /// Watches a duplicate of an eventfd; one that is signalled already counts. EBADF: not open; EINVAL: not an
    /// eventfd; on failure nothing is watched.
    /// </summary>
    /// <param name="action">Called under the device's gate.</param>
    public Errno Add(int eventfd, Action action, out object? watch)
    {
        watch = null;
        Errno errno = InterruptLine.Duplicate(host, eventfd, out KernelFd? duplicate);
        if (errno == Errno.Success)
            errno = Begin();
        if (errno != Errno.Success)
        {
            duplicate?.Dispose();
            return errno;
        }

        var entry = new Entry(duplicate!, action);
        lock (_gate)
            _entries.Add(entry);
        Signal(_wake!.Number);
        watch = entry;
        return Errno.Success;
    }

    /// <summary>The action is not called any more.</summary>
    public void Remove(object watch)
    {
        var entry = (Entry)watch;
        lock (_gate)
        {
            entry.IsRemoved = true;
            _entries.Remove(entry);
            _removed.Add(entry);
        }

        // The thread may be about to look at the descriptor: it closes it.
        Signal(_wake!.Number);
    }

    public void Dispose()
    {
        if (_thread is null)
            return;
        _stopping = true;
        Signal(_wake!.Number);
        while (!_thread.Join(s_patience))
        {
            // Somebody else took the signal that the thread went to read: it gets one of its own.
            if (_reading is >= 0 and int eventfd)
                Signal(eventfd);
        }

        foreach (Entry entry in _entries)
            entry.Eventfd.Dispose();
        _entries.Clear();
        CloseRemoved();
        _wake.Dispose();
        _thread = null;
    }

    private Errno Begin()
    {
        if (_thread is not null)
            return Errno.Success;
        SyscallResult made = host.Eventfd(0, EventfdFlags.NonBlocking | EventfdFlags.CloseOnExec);
        if (!made.Succeeded)
            return made.Errno;
        _wake = new KernelFd(host, (int)made.Value);
        _thread = new Thread(Work) { IsBackground = true, Name = $"tidemark eventfds {name}" };
        _thread.Start();
        return Errno.Success;
    }

    private void Signal(int eventfd)
    {
        Span<byte> one = stackalloc byte[sizeof(ulong)];
        one.Clear();
        one[0] = 1;
        host.Write(eventfd, one);
    }

    private void Work()
    {
        var known = new List<Entry>();
        Span<byte> counter = stackalloc byte[sizeof(ulong)];
        while (!_stopping)
        {
            lock (_gate)
            {
                CloseRemoved();
                known.Clear();
                known.AddRange(_entries);
            }

            var polled = new PollDescriptor[known.Count + 1];
            polled[0] = new PollDescriptor(_wake!.Number, PollEvents.In, PollEvents.None);
            for (int index = 0; index < known.Count; index++)
            {
                polled[index + 1] =
                    new PollDescriptor(known[index].Eventfd.Number, PollEvents.In, PollEvents.None);
            }

            if (host.Poll(polled, timeoutMilliseconds: -1).Value <= 0)
                continue;
            if (polled[0].Returned != PollEvents.None)
                host.Read(_wake.Number, counter);
            for (int index = 0; index < known.Count && !_stopping; index++)
            {
                if ((polled[index + 1].Returned & PollEvents.In) != 0)
                    Take(known[index], counter);
            }
        }
    }

    private void CloseRemoved()
    {
        foreach (Entry entry in _removed)
            entry.Eventfd.Dispose();
        _removed.Clear();
    }

    private void Take(Entry entry, Span<byte> counter)
    {
        _reading = entry.Eventfd.Number;
        bool signalled = host.Read(entry.Eventfd.Number, counter).Succeeded;
        _reading = -1;
        while (signalled && !_stopping)
        {
            if (!deviceGate.TryEnter(s_patience))
                continue;
            try
            {
                if (!entry.IsRemoved)
                    entry.Action();
            }
            finally
            {
                deviceGate.Exit();
            }

            return;
        }
    }

    private sealed record Entry(KernelFd Eventfd, Action Action)
    {
        private volatile bool _isRemoved;

        public bool IsRemoved
        {
            get => _isRemoved;
            set => _isRemoved = value;
        }
    }
}
