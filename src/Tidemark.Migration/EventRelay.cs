namespace Tidemark.Migration;

/// <summary>
/// Events on their way from an observer to whoever looks: a command on a control socket, a terminal. An engine calls its
/// observer wherever it is, also in the pause of a machine; here they are put into words and sent on a thread of their own, so
/// that a command that was stopped with Ctrl-Z, or a terminal that was with Ctrl-S, can not hold a machine.
/// </summary>
/// <remarks>
/// <code>
/// engine --Post--> waiting (at most MostWaiting; more are left out) --thread--> show
///   Dispose: what waits is shown, for so long; what then still waits is not
/// </code>
/// </remarks>
public sealed class EventRelay<T> : IDisposable
{
    /// <summary>LIMIT: more than a reader that reads ever leaves; the result that follows has all figures again.</summary>
    internal const int MostWaiting = 512;

    private static readonly TimeSpan s_farewell = TimeSpan.FromSeconds(2);

    private readonly object _gate = new();
    private readonly Queue<T> _waiting = new();
    private readonly Action<T> _show;
    private readonly Thread _thread;
    private bool _ended;

    /// <param name="show">Called for each, in order, on one thread; what it throws is the end of showing.</param>
    public EventRelay(Action<T> show)
    {
        _show = show;
        _thread = new Thread(ShowAll) { IsBackground = true, Name = "tidemark events" };
        _thread.Start();
    }

    /// <summary>Never waits.</summary>
    public void Post(T happened)
    {
        lock (_gate)
        {
            if (_ended || _waiting.Count >= MostWaiting)
                return;
            _waiting.Enqueue(happened);
            Monitor.Pulse(_gate);
        }
    }

    /// <summary>Returns when all were shown, or it takes too long.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _ended = true;
            Monitor.Pulse(_gate);
        }

        if (_thread.Join(s_farewell))
            return;
        // What comes after the farewell would be shown among what others say by then.
        lock (_gate)
            _waiting.Clear();
    }

    private void ShowAll()
    {
        try
        {
            while (TryTake(out T? happened))
                _show(happened!);
        }
        catch (Exception)
        {
            // Somebody who only watches is gone; nothing of the machine is affected.
            lock (_gate)
                _ended = true;
        }
    }

    private bool TryTake(out T? happened)
    {
        lock (_gate)
        {
            while (_waiting.Count == 0 && !_ended)
                Monitor.Wait(_gate);
            return _waiting.TryDequeue(out happened);
        }
    }
}
