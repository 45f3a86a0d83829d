using System.Diagnostics;
using Tidemark.Memory;

namespace Tidemark.Machine.Nvme;

/// <summary>
/// A thread that keeps commands in flight on one controller and compares everything it reads with what it should be.
/// </summary>
/// <remarks>
/// <code>
/// new --Start--> Running --Pause--> Paused --Resume--> Running        Dispose ends it from anywhere
///                            |--SaveState           (commands stay in flight while paused)
/// new --RestoreState--> (not started) --Start--> Running, with the saved commands still in flight
///     Running --a failure--> Ended; Failure says why
/// </code>
/// While Paused the thread touches neither guest memory nor the controller.
/// </remarks>
public sealed partial class NvmeWorkload : IDisposable
{
    /// <summary>LIMIT: how long the thread waits before it looks at requests again, should a wake-up be lost.</summary>
    private static readonly TimeSpan s_waitSlice = TimeSpan.FromMilliseconds(50);

    /// <summary>LIMIT: a pause that takes longer means that the thread hangs in a system call.</summary>
    private static readonly TimeSpan s_pauseLimit = TimeSpan.FromSeconds(30);

    private readonly object _gate = new();
    private readonly NvmeDriver _driver;
    private readonly GuestMemory _memory;
    private readonly IExpectedContent _expected;
    private readonly NvmeWorkloadOptions _options;
    private readonly Thread _thread;
    private bool _started;
    private bool _pauseRequested;
    private bool _parked;
    private bool _ended;
    private volatile bool _stopping;
    private long _rateStart;
    private ulong _rateBytes;

    /// <param name="driver">Ready, or restored together with this object. Used by this object's thread alone while it
    /// runs.</param>
    /// <exception cref="ArgumentException">The options do not fit each other, the driver's queue, or guest
    /// memory.</exception>
    public NvmeWorkload(NvmeDriver driver, GuestMemory memory, IExpectedContent expected, NvmeWorkloadOptions options)
    {
        ArgumentNullException.ThrowIfNull(driver);
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(expected);
        ArgumentNullException.ThrowIfNull(options);
        bool usable = options.Depth is >= 1 and <= 1023 && options.BlockBytes is >= 4096 and <= 1 << 20
            && options.BlockBytes % GuestPage.Size == 0 && options.BufferStart.Value % GuestPage.Size == 0
            && options.WritePercent is >= 0 and <= 100 && options.WriteUnits is >= 0 and <= 1 << 20
            && options.BufferByteLength >= (ulong)options.Depth * (ulong)options.BlockBytes
            && memory.FindSlot(options.BufferStart, options.BufferByteLength) is not null;
        if (!usable)
            throw new ArgumentException(
                $"NVMe workload {options.Name} has options that can not work together: {options}.", nameof(options));
        _driver = driver;
        _memory = memory;
        _expected = expected;
        _options = options;
        _random = options.Seed;
        _operations = new Operation[(int)Math.Min(
            options.BufferByteLength / (ulong)options.BlockBytes, MaximumBuffers)];
        _actual = new byte[options.BlockBytes];
        _wanted = new byte[options.BlockBytes];
        _thread = new Thread(Work) { IsBackground = true, Name = $"tidemark workload {options.Name}" };
    }

    /// <summary>Why the thread ended by itself, or null.</summary>
    public Exception? Failure { get; private set; }

    /// <summary>A consistent copy, at any time.</summary>
    public NvmeWorkloadCounters Counters
    {
        get { lock (_gate) return _counters; }
    }

    /// <summary>Starts the thread, once. The controller may run or start to run later.</summary>
    public void Start()
    {
        lock (_gate)
        {
            if (_started)
                throw new InvalidOperationException($"NVMe workload {_options.Name} was started already.");
            _started = true;
        }

        _driver.ConnectInterrupts();
        _driver.RestartTimeouts();
        _thread.Start();
    }

    /// <summary>
    /// Returns when the thread touches nothing any more (or was never started, or has ended). Commands stay in flight.
    /// Idempotent.
    /// </summary>
    /// <exception cref="NvmeException">The thread does not come to rest; it may still be running.</exception>
    public void Pause()
    {
        lock (_gate)
        {
            _pauseRequested = true;
            if (!_started)
                return;
            _driver.Wake();
            long start = Stopwatch.GetTimestamp();
            while (!_parked && !_ended)
            {
                TimeSpan left = s_pauseLimit - Stopwatch.GetElapsedTime(start);
                if (left <= TimeSpan.Zero || !Monitor.Wait(_gate, left))
                    throw new NvmeException(
                        $"NVMe workload {_options.Name} did not pause within {s_pauseLimit.TotalSeconds} s.");
            }
        }
    }

    /// <summary>Goes on after <see cref="Pause"/>. Idempotent.</summary>
    public void Resume()
    {
        lock (_gate)
        {
            _pauseRequested = false;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>
    /// Ends the thread and waits for it. The controller keeps the commands in flight: reset or close it before their
    /// memory goes.
    /// </summary>
    public void Dispose()
    {
        bool started;
        lock (_gate)
        {
            _stopping = true;
            started = _started;
            _started = true;
            Monitor.PulseAll(_gate);
        }

        _driver.Wake();
        if (started)
            _thread.Join();
    }

    private void Work()
    {
        try
        {
            while (!_stopping)
            {
                ParkWhenAsked();
                if (!_stopping)
                    DoStep();
            }
        }
        catch (Exception failure)
        {
            // The thread's end is a fact that others read: Failure says why, Pause and Dispose return at once.
            Failure = failure;
        }
        finally
        {
            lock (_gate)
            {
                _ended = true;
                Monitor.PulseAll(_gate);
            }
        }
    }

    private void ParkWhenAsked()
    {
        lock (_gate)
        {
            if (!_pauseRequested)
                return;
            _parked = true;
            Monitor.PulseAll(_gate);
            // The way out: Resume or Dispose, both of this object's owner.
            while (_pauseRequested && !_stopping)
                Monitor.Wait(_gate);
            _parked = false;
        }

        _driver.RestartTimeouts();
        _rateStart = 0;
    }

    /// <summary>Fills the queue, then takes what has come back or waits a little for it.</summary>
    private void DoStep()
    {
        TimeSpan untilAllowed = TimeSpan.Zero;
        while (_driver.OutstandingCount < _options.Depth && _driver.HasRoom)
        {
            untilAllowed = TimeUntilAllowed();
            if (untilAllowed > TimeSpan.Zero || !TryIssue())
                break;
        }

        bool any = false;
        while (_driver.TryComplete(out NvmeCompletion completion))
        {
            any = true;
            Finish(completion);
            if (_stopping)
                return;
        }

        if (any)
            return;
        TimeSpan wait = untilAllowed > TimeSpan.Zero && untilAllowed < s_waitSlice ? untilAllowed : s_waitSlice;
        _driver.WaitForCompletion(wait);
    }

    private TimeSpan TimeUntilAllowed()
    {
        if (_options.RateLimit == 0)
            return TimeSpan.Zero;
        // A new account each second: what was not used in a pause is not made up for.
        if (_rateStart == 0 || Stopwatch.GetElapsedTime(_rateStart) > TimeSpan.FromSeconds(1))
        {
            _rateStart = Stopwatch.GetTimestamp();
            _rateBytes = 0;
        }

        double due = _rateBytes / (double)_options.RateLimit - Stopwatch.GetElapsedTime(_rateStart).TotalSeconds;
        return due > 0 ? TimeSpan.FromSeconds(Math.Min(due, 1)) : TimeSpan.Zero;
    }
}
