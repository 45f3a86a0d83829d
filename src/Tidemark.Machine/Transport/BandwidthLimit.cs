namespace Tidemark.Machine.Transport;

/// <summary>
/// How many bytes all connections of a migration may send a second: who wants to send asks when it may.
/// </summary>
/// <remarks>
/// Each request is paid for after it was granted, so the long-run rate is exact and a pause saves up no more than
/// <see cref="Burst"/>. Requests are granted in the order in which they come. Any thread.
/// </remarks>
public sealed class BandwidthLimit
{
    /// <summary>LIMIT: below this a migration of any machine would only look like one that hangs.</summary>
    public const ulong Minimum = 64 << 10;

    /// <summary>LIMIT: what may be sent at once, as time at the full rate.</summary>
    public static readonly TimeSpan Burst = TimeSpan.FromMilliseconds(20);

    private readonly Lock _gate = new();
    private readonly double _bytesPerSecond;
    private readonly long _start;
    private double _paidUntil;

    /// <exception cref="ArgumentOutOfRangeException">Less than <see cref="Minimum"/>.</exception>
    public BandwidthLimit(ulong bytesPerSecond, TimeProvider time)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bytesPerSecond, Minimum);
        ArgumentNullException.ThrowIfNull(time);
        _bytesPerSecond = bytesPerSecond;
        Time = time;
        _start = time.GetTimestamp();
        PieceBytes = (int)Math.Clamp(bytesPerSecond * Burst.TotalSeconds, 4096, 256 << 10);
    }

    /// <summary>What is sent at a time, so that the connections take turns.</summary>
    public int PieceBytes { get; }

    public TimeProvider Time { get; }

    /// <summary>Takes the place in the queue; returns how long to wait before these bytes may go.</summary>
    public TimeSpan Reserve(long bytes)
    {
        lock (_gate)
        {
            double now = Time.GetElapsedTime(_start).TotalSeconds;
            _paidUntil = Math.Max(_paidUntil, now - Burst.TotalSeconds);
            double wait = _paidUntil - now;
            _paidUntil += bytes / _bytesPerSecond;
            return wait <= 0 ? TimeSpan.Zero : TimeSpan.FromSeconds(wait);
        }
    }
}
