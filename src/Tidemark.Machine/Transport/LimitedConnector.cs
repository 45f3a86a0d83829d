using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>
/// Connections that share a bandwidth limit. The first one is the control connection: what it sends counts and never
/// waits, because a machine may be standing still for it.
/// </summary>
public sealed class LimitedConnector(IConnector inner, BandwidthLimit limit) : IConnector
{
    private int _made;

    public string Address => inner.Address;

    public IConnection Connect(CancellationToken cancellation)
    {
        IConnection connection = inner.Connect(cancellation);
        return new LimitedConnection(connection, limit, waits: Interlocked.Increment(ref _made) > 1);
    }
}

/// <summary>A connection whose sends keep to a limit; what it receives is the peer's to limit.</summary>
/// <param name="waits">False: everything counts and nothing waits.</param>
public sealed class LimitedConnection(IConnection inner, BandwidthLimit limit, bool waits = true) : IConnection
{
    /// <summary>LIMIT: no pages; frames of this size end passes and answer, and the peer waits for them.</summary>
    private const int SmallFrame = 1024;

    /// <summary>A timer is no better than this; what is less is waited for with the next piece.</summary>
    private static readonly TimeSpan Shortest = TimeSpan.FromMilliseconds(1);

    private readonly object _gate = new();
    private readonly PageRun[] _piece = new PageRun[64];
    private ITimer? _timer;
    private bool _due;
    private bool _gone;

    public string Peer => inner.Peer;

    public TimeSpan IdleTimeout
    {
        get => inner.IdleTimeout;
        set => inner.IdleTimeout = value;
    }

    public void Send(ReadOnlySpan<byte> bytes)
    {
        if (!waits || bytes.Length <= SmallFrame)
        {
            limit.Reserve(bytes.Length);
            inner.Send(bytes);
            return;
        }

        while (!bytes.IsEmpty)
        {
            int piece = Math.Min(bytes.Length, limit.PieceBytes);
            Pause(limit.Reserve(piece));
            inner.Send(bytes[..piece]);
            bytes = bytes[piece..];
        }
    }

    public int Receive(Span<byte> buffer) => inner.Receive(buffer);

    public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        ulong piecePages = Math.Max(1, (ulong)limit.PieceBytes >> GuestPage.Shift);
        int count = 0;
        ulong pages = 0;
        foreach (PageRun run in runs)
        {
            for (ulong done = 0; done < run.Count;)
            {
                ulong taken = Math.Min(run.Count - done, piecePages - pages);
                _piece[count++] = new PageRun(run.FirstPage + done, taken);
                pages += taken;
                done += taken;
                if (pages < piecePages && count < _piece.Length)
                    continue;
                SendPiece(memory, _piece.AsSpan(0, count), pages);
                count = 0;
                pages = 0;
            }
        }

        if (count > 0)
            SendPiece(memory, _piece.AsSpan(0, count), pages);
    }

    public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => inner.ReceivePages(memory, runs);

    public void Abort()
    {
        // ORDER: who is woken sends at once, and must find the connection broken.
        inner.Abort();
        lock (_gate)
        {
            _gone = true;
            Monitor.PulseAll(_gate);
        }
    }

    public void Dispose()
    {
        inner.Dispose();
        lock (_gate)
        {
            _gone = true;
            Monitor.PulseAll(_gate);
            _timer?.Dispose();
        }
    }

    private void SendPiece(GuestMemory memory, ReadOnlySpan<PageRun> runs, ulong pages)
    {
        TimeSpan wait = limit.Reserve((long)(pages << GuestPage.Shift));
        if (waits)
            Pause(wait);
        inner.SendPages(memory, runs);
    }

    /// <summary>Waits so long, or until the connection is aborted: the send that follows then says so.</summary>
    private void Pause(TimeSpan wait)
    {
        if (wait < Shortest)
            return;
        lock (_gate)
        {
            if (_gone)
                return;
            _due = false;
            _timer ??= limit.Time.CreateTimer(_ => Wake(), null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
            _timer.Change(wait, Timeout.InfiniteTimeSpan);
            while (!_due && !_gone)
                Monitor.Wait(_gate);
        }
    }

    private void Wake()
    {
        lock (_gate)
        {
            _due = true;
            Monitor.PulseAll(_gate);
        }
    }
}
