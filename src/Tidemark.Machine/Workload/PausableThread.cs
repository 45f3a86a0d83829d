using System.Diagnostics;

namespace Tidemark.Machine.Workload;

/// <summary>
/// A thread that does small steps and can be made to stand still between two of them.
/// <code>
/// Idle --Start--> Running --Pause--> Paused --Resume--> Running      any --Dispose--> ended
///                    |--TryRest--> resting --Dispose of the rest--> Running, or Paused if somebody paused it meanwhile
/// </code>
/// When <see cref="Pause"/> or <see cref="TryRest"/> returns, no step is in progress and none begins. It steps only while
/// neither its owner nor anybody's rest wants it to stand still.
/// </summary>
public sealed class PausableThread : IDisposable
{
    /// <summary>LIMIT: a pause that takes longer means that a step hangs in a system call.</summary>
    private static readonly TimeSpan s_pauseLimit = TimeSpan.FromSeconds(30);

    private readonly object _gate = new();
    private readonly Func<TimeSpan> _step;
    private readonly Action? _wake;
    private readonly Action? _resumed;
    private readonly string _name;
    private Thread? _thread;
    private bool _pauseWanted;
    private int _rests;

    /// <summary>It waits, or has not noticed yet that it need not any more.</summary>
    private bool _paused;
    private bool _ending;

    /// <param name="step">Does a little work and returns how long to wait before the next step; zero for none.</param>
    /// <param name="wake">Makes a step that waits for something return soon; called from other threads.</param>
    /// <param name="resumed">Called on the thread when it goes on after a pause, before its next step.</param>
    public PausableThread(string name, Func<TimeSpan> step, Action? wake = null, Action? resumed = null)
    {
        _name = name;
        _step = step;
        _wake = wake;
        _resumed = resumed;
    }

    /// <summary>What ended the thread by itself, or null. A step that throws ends it.</summary>
    public Exception? Failure { get; private set; }

    public bool IsRunning
    {
        get { lock (_gate) return Steps; }
    }

    /// <summary>For a step that is long: somebody waits for its end.</summary>
    public bool IsPauseWanted => IsStandstillWanted || Volatile.Read(ref _ending);

    private bool IsStandstillWanted => Volatile.Read(ref _pauseWanted) || Volatile.Read(ref _rests) > 0;

    /// <summary>
    /// Whether a step is in progress or may begin; under the lock. One that was resumed and has not got a processor yet may.
    /// </summary>
    private bool Steps => _thread is not null && !(_paused && IsStandstillWanted) && !_ending && Failure is null;

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

    /// <summary>Returns when the thread stands still (or never ran, or has ended). Idempotent.</summary>
    /// <exception cref="TimeoutException">A step does not come to its end; the thread may still be running.</exception>
    public void Pause()
    {
        lock (_gate)
            _pauseWanted = true;
        if (!ComesToRest(s_pauseLimit))
            throw new TimeoutException($"The thread {_name} did not pause within {s_pauseLimit.TotalSeconds} s.");
    }

    /// <summary>
    /// As <see cref="Pause"/>, for a moment and for whoever does not know who else wants it to stand still.
    /// </summary>
    /// <returns>Ends the rest when disposed, once. Null when a step takes longer than the limit: the thread then goes on as
    /// before.</returns>
    public IDisposable? TryRest(TimeSpan limit)
    {
        lock (_gate)
            _rests++;
        var rest = new Rest(this);
        if (ComesToRest(limit))
            return rest;
        rest.Dispose();
        return null;
    }

    /// <summary>Waits for what somebody wants already.</summary>
    private bool ComesToRest(TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        lock (_gate)
        {
            Monitor.PulseAll(_gate);
            // What wake needs may be gone when the thread is.
            if (Steps)
                _wake?.Invoke();
            while (Steps)
            {
                TimeSpan left = limit - Stopwatch.GetElapsedTime(start);
                if (left <= TimeSpan.Zero)
                    return false;
                Monitor.Wait(_gate, left);
            }

            return true;
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

        if (thread is { IsAlive: true })
            _wake?.Invoke();
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
        bool stoodStill;
        lock (_gate)
        {
            // The way out: Resume or Dispose, both of this object's owner, and the end of a rest, which is a moment.
            while (IsStandstillWanted && !_ending)
            {
                if (!_paused)
                {
                    _paused = true;
                    Monitor.PulseAll(_gate);
                }

                Monitor.Wait(_gate);
            }

            stoodStill = _paused;
            _paused = false;
            if (_ending)
                return false;
        }

        if (stoodStill)
            _resumed?.Invoke();
        return true;
    }

    private void WaitUnlessWanted(TimeSpan wait)
    {
        lock (_gate)
        {
            if (!IsPauseWanted)
                Monitor.Wait(_gate, wait);
        }
    }

    private void EndRest()
    {
        lock (_gate)
        {
            _rests--;
            Monitor.PulseAll(_gate);
        }
    }

    private sealed class Rest(PausableThread thread) : IDisposable
    {
        private bool _ended;

        public void Dispose()
        {
            if (_ended)
                return;
            _ended = true;
            thread.EndRest();
        }
    }
}
