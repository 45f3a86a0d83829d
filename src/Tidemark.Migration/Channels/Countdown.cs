namespace Tidemark.Migration;

/// <summary>
/// An event that so many have to signal. Never disposed by hand: who waits may be gone before the last of those who signal
/// has left <see cref="Signal"/>.
/// </summary>
#pragma warning disable CA1001 // see the summary; the handle goes with this object
internal sealed class Countdown(int count)
#pragma warning restore CA1001
{
    private readonly ManualResetEvent _done = new(count == 0);
    private int _left = count;

    public WaitHandle Done => _done;

    public bool IsDone => Volatile.Read(ref _left) <= 0;

    public void Signal()
    {
        if (Interlocked.Decrement(ref _left) == 0)
            _done.Set();
    }
}
