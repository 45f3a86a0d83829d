namespace Tidemark.Migration;

/// <summary>Cuts the time since the stop into named parts that sum to the downtime.</summary>
internal sealed class DowntimeClock(TimeProvider time)
{
    private readonly List<DowntimePart> _parts = [];
    private long _mark;

    public IReadOnlyList<DowntimePart> Parts => [.. _parts];

    public TimeSpan Total { get; private set; }

    /// <summary>Time that does not count: verification.</summary>
    public TimeSpan LeftOut { get; private set; }

    /// <summary>The stop was undone: what was measured of it is void.</summary>
    public void Forget()
    {
        _parts.Clear();
        Total = default;
        LeftOut = default;
    }

    public void Start() => _mark = time.GetTimestamp();

    /// <summary>Everything since the last mark was this.</summary>
    public void Mark(string name)
    {
        TimeSpan duration = Lap();
        _parts.Add(new DowntimePart(name, duration));
        Total += duration;
    }

    /// <summary>Everything since the last mark does not count.</summary>
    public void LeaveOut() => LeftOut += Lap();

    private TimeSpan Lap()
    {
        long now = time.GetTimestamp();
        TimeSpan duration = time.GetElapsedTime(_mark, now);
        _mark = now;
        return duration;
    }
}
