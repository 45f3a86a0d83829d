namespace Tidemark.Migration;

/// <summary>
/// The last three measurements of something that is done while the machine writes and channels send. In the pause nobody
/// competes with it: the least of them is what it will take, and a longer one says how busy the moment was.
/// </summary>
internal sealed class RecentTimes
{
    private const int Kept = 3;

    private readonly Queue<TimeSpan> _times = new(Kept);

    public void Add(TimeSpan time)
    {
        if (_times.Count == Kept)
            _times.Dequeue();
        _times.Enqueue(time);
    }

    /// <param name="now">What stands in its place as long as nothing was measured.</param>
    public TimeSpan LeastOr(TimeSpan now) => _times.Count == 0 ? now : _times.Min();
}
