namespace Tidemark.Machine.Tests;

/// <summary>A clock that only moves when it is told to, or when somebody waits: waiting takes no time at all.</summary>
internal sealed class FakeTime(DateTimeOffset start) : TimeProvider
{
    private readonly Lock _gate = new();
    private TimeSpan _passed;

    public TimeSpan Passed
    {
        get
        {
            lock (_gate)
                return _passed;
        }
    }

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public void Advance(TimeSpan step)
    {
        lock (_gate)
            _passed += step;
    }

    public override DateTimeOffset GetUtcNow() => start + Passed;

    public override long GetTimestamp() => Passed.Ticks;

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = new FakeTimer(this, callback, state);
        timer.Change(dueTime, period);
        return timer;
    }

    private sealed class FakeTimer(FakeTime time, TimerCallback callback, object? state) : ITimer
    {
        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            if (dueTime == Timeout.InfiniteTimeSpan)
                return true;
            time.Advance(dueTime);
            callback(state);
            return true;
        }

        public void Dispose()
        {
            // Nothing waits.
        }

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
