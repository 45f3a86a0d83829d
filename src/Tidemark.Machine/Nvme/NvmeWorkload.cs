using System.Diagnostics;
using Tidemark.Machine.Workload;
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

    private readonly object _gate = new();

    /// <summary>Held by who uses the driver while the thread stands still: a reset of the guest, or who keeps the device idle.</summary>
    private readonly object _driverGate = new();
    private readonly NvmeDriver _driver;
    private readonly GuestMemory _memory;
    private readonly IExpectedContent? _expected;
    private readonly NvmeWorkloadOptions _options;
    private readonly PausableThread _thread;
    private bool _started;
    private long _rateStart;
    private ulong _rateBytes;

    /// <param name="driver">Ready, or restored together with this object. Used by this object's thread alone while it
    /// runs.</param>
    /// <param name="expected">What the disk holds; null: what is read once must be read again, also on the other side
    /// of a move.</param>
    /// <exception cref="ArgumentException">The options do not fit each other, the driver's queue, or guest
    /// memory.</exception>
    public NvmeWorkload(NvmeDriver driver, GuestMemory memory, IExpectedContent? expected, NvmeWorkloadOptions options)
    {
        ArgumentNullException.ThrowIfNull(driver);
        ArgumentNullException.ThrowIfNull(memory);
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
        _learned = expected is null ? new LearnedContent() : null;
        _options = options;
        _random = options.Seed;
        _operations = new Operation[(int)Math.Min(
            options.BufferByteLength / (ulong)options.BlockBytes, MaximumBuffers)];
        _actual = new byte[options.BlockBytes];
        _wanted = new byte[options.BlockBytes];
        _thread = new PausableThread($"workload {options.Name}", DoStep, driver.Wake, GoOn);
    }

    /// <summary>Why the thread ended by itself, or null.</summary>
    public Exception? Failure => _thread.Failure;

    /// <summary>A consistent copy, at any time.</summary>
    public NvmeWorkloadCounters Counters
    {
        get { lock (_gate) return _counters; }
    }

    /// <summary>Whether a guest page is one of the data buffers.</summary>
    public bool IsBuffer(ulong page) =>
        page >= _options.BufferStart.Page && page < _options.BufferStart.Page + (_options.BufferByteLength >> GuestPage.Shift);

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
    /// <exception cref="TimeoutException">The thread does not come to rest; it may still be running.</exception>
    public void Pause() => _thread.Pause();

    /// <summary>
    /// The controller is shut down and set up anew; what was in flight is forgotten. While paused.
    /// </summary>
    /// <exception cref="NvmeException">It does not work any more.</exception>
    public void Reset()
    {
        Invariant.Require(!_thread.IsRunning, $"The reader of {_options.Name} is to be reset while it runs.");
        // The way out: a rest is the change of a page table.
        lock (_driverGate)
        {
            _driver.Shutdown();
            foreach (Operation operation in _operations)
            {
                if (operation.Kind != OperationKind.None)
                    _options.Dma?.Unmap(operation.Bus);
            }

            Array.Clear(_operations);
            // What a write in flight left on the disk is not known.
            if (_generations is not null)
                Array.Clear(_generations);
            _readBackUnit = ulong.MaxValue;
            SetUp();
        }
    }

    /// <summary>Goes on after <see cref="Pause"/>. Idempotent.</summary>
    public void Resume() => _thread.Resume();

    /// <summary>
    /// Ends the thread and waits for it. The controller keeps the commands in flight: reset or close it before their
    /// memory goes.
    /// </summary>
    public void Dispose() => _thread.Dispose();

    private void GoOn()
    {
        _driver.RestartTimeouts();
        _rateStart = 0;
    }

    /// <summary>Fills the queue, then takes what has come back or waits a little for it.</summary>
    private TimeSpan DoStep()
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
        }

        if (any)
            return TimeSpan.Zero;
        TimeSpan wait = untilAllowed > TimeSpan.Zero && untilAllowed < s_waitSlice ? untilAllowed : s_waitSlice;
        _driver.WaitForCompletion(wait);
        return TimeSpan.Zero;
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
