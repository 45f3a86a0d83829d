namespace Tidemark.Machine.Workload;

/// <summary>
/// A thread that does small steps and can be made to stand still between two of them.
/// <code>
/// Idle --Start--> Running --Pause--> Paused --Resume--> Running      any --Dispose--> ended
/// </code>
/// When <see cref="Pause"/> returns, no step is in progress and none begins.
/// </summary>
public sealed class PausableThread : IDisposable
{
    private readonly object _gate = new();
    private readonly Func<TimeSpan> _step;
    private readonly string _name;
    private Thread? _thread;
    private bool _pauseWanted;
    private bool _paused;
    private bool _ending;

    /// <param name="step">Does a little work and returns how long to wait before the next step; zero for none.</param>
    public PausableThread(string name, Func<TimeSpan> step)
    {
        _name = name;
        _step = step;
    }

    /// <summary>What ended the thread by itself, or null. A step that throws ends it.</summary>
    public Exception? Failure { get; private set; }

    public bool IsRunning
    {
        get { lock (_gate) return _thread is not null && !_paused && !_ending && Failure is null; }
    }

    public void Start()
    {
        lock (_gate)
        {
            if (_thread is not null)
                return;
            _thread = new Thread(Loop) { IsBackground = true, Name = $"tidemark {_name}" };
            _thread.Start();
        }
    }

    /// <summary>Returns when the thread stands still (or never ran). Idempotent.</summary>
    public void Pause()
    {
        lock (_gate)
        {
            _pauseWanted = true;
            Monitor.PulseAll(_gate);
            while (_thread is not null && !_paused && !_ending && Failure is null)
                Monitor.Wait(_gate);
        }
    }

    public void Resume()
    {
        lock (_gate)
        {
            _pauseWanted = false;
            Monitor.PulseAll(_gate);
        }
    }

    public void Dispose()
    {
        Thread? thread;
        lock (_gate)
        {
            _ending = true;
            Monitor.PulseAll(_gate);
            thread = _thread;
        }

        thread?.Join();
    }

    private void Loop()
    {
        try
        {
            while (WaitForTurn())
            {
                TimeSpan wait = _step();
                if (wait > TimeSpan.Zero)
                    WaitUnlessWanted(wait);
            }
        }
        catch (Exception failure)
        {
            // The owner sees Failure; waiters in Pause are released because the thread will do no more steps.
            lock (_gate)
            {
                Failure = failure;
                Monitor.PulseAll(_gate);
            }
        }
    }

    private bool WaitForTurn()
    {
        lock (_gate)
        {
            while (_pauseWanted && !_ending)
            {
                if (!_paused)
                {
                    _paused = true;
                    Monitor.PulseAll(_gate);
                }

                Monitor.Wait(_gate);
            }

            _paused = false;
            return !_ending;
        }
    }

    private void WaitUnlessWanted(TimeSpan wait)
    {
        lock (_gate)
        {
            if (!_pauseWanted && !_ending)
                Monitor.Wait(_gate, wait);
        }
    }
}
