namespace Tidemark.Migration;

/// <summary>
/// Keeps the order of passes over several channels: a page of pass n+1 is taken only when all channels have ended pass n,
/// so that a page sent twice ends as its newer version whichever channel was faster.
/// </summary>
internal sealed class PassFence(int channels, uint firstPass)
{
    private readonly object _gate = new();
    private readonly int _channels = channels;
    private uint _pass = firstPass;
    private int _ended;
    private bool _broken;

    /// <summary>The pass whose pages are taken now.</summary>
    public uint Current
    {
        get { lock (_gate) return _pass; }
    }

    /// <summary>One more channel has ended the current pass.</summary>
    public void End()
    {
        lock (_gate)
        {
            if (++_ended < _channels)
                return;
            _ended = 0;
            _pass++;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Waits until the pass may begin; false when the migration has failed meanwhile.</summary>
    public bool Await(uint pass)
    {
        lock (_gate)
        {
            while (_pass < pass && !_broken)
                Monitor.Wait(_gate);
            return !_broken;
        }
    }

    /// <summary>Waits at most so long until all channels have ended all passes before this one; false when they have not.</summary>
    public bool AwaitEnd(uint pass, TimeSpan limit)
    {
        lock (_gate)
        {
            if (_pass < pass && !_broken)
                Monitor.Wait(_gate, limit);
            return _pass >= pass;
        }
    }

    /// <summary>Nobody waits any more.</summary>
    public void Break()
    {
        lock (_gate)
        {
            _broken = true;
            Monitor.PulseAll(_gate);
        }
    }
}
