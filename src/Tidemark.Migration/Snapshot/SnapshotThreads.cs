namespace Tidemark.Migration.Snapshot;

/// <summary>
/// A few threads that do the same piece of work together, again and again: a pass, a load, a verification.
/// </summary>
/// <remarks>
/// The work looks at <see cref="IsStopping"/> between two requests to the file. The first failure stops all of them.
/// </remarks>
internal sealed class SnapshotThreads : IDisposable
{
    private readonly Thread[] _threads;
    private readonly SemaphoreSlim _begin = new(0);
    private readonly CountdownEvent _left;
    private readonly Lock _gate = new();
    private Action<int>? _work;
    private Exception? _failure;
    private volatile bool _stopping;

    public SnapshotThreads(int count)
    {
        _left = new CountdownEvent(count);
        _threads = new Thread[count];
        for (int index = 0; index < count; index++)
        {
            int number = index;
            _threads[index] = new Thread(() => Serve(number)) { IsBackground = true, Name = $"tidemark snapshot {index}" };
            _threads[index].Start();
        }
    }

    public int Count => _threads.Length;

    /// <summary>Somebody failed or cancelled: what is not begun is left.</summary>
    public bool IsStopping => _stopping;

    /// <summary>Begins; the work gets the number of its thread.</summary>
    public void Begin(Action<int> work)
    {
        _left.Reset();
        _work = work;
        _begin.Release(_threads.Length);
    }

    /// <summary>Waits until all threads are through or the time is over; false when they still work.</summary>
    /// <exception cref="Exception">What the first thread that failed failed with.</exception>
    public bool Wait(TimeSpan limit, CancellationToken cancel)
    {
        bool through = _left.Wait(limit, cancel);
        lock (_gate)
        {
            if (_failure is not null)
                System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(_failure);
        }

        return through;
    }

    /// <summary>
    /// From here on no thread begins another request; <see cref="Dispose"/> waits for those under way.
    /// </summary>
    public void Stop() => _stopping = true;

    /// <summary>Stops and joins: nobody reads or writes memory or file any more when it returns.</summary>
    public void Dispose()
    {
        _stopping = true;
        _work = null;
        _begin.Release(_threads.Length);
        foreach (Thread thread in _threads)
            thread.Join();
        _begin.Dispose();
        _left.Dispose();
    }

    private void Serve(int number)
    {
        while (true)
        {
            _begin.Wait();
            Action<int>? work = _work;
            if (work is null)
                return;
            try
            {
                if (!_stopping)
                    work(number);
            }
            catch (Exception failure)
            {
                // The others stop; whoever waits for the work gets the first failure.
                lock (_gate)
                    _failure ??= failure;
                _stopping = true;
            }

            _left.Signal();
        }
    }
}
