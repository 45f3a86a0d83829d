using System.Collections.Concurrent;
using System.Diagnostics;
using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

/// <summary>What goes wrong on one direction of one connection, by byte number.</summary>
public sealed record WireFault
{
    /// <summary>The connection breaks before this byte is delivered.</summary>
    public long CutAt { get; init; } = long.MaxValue;

    /// <summary>One bit of this byte arrives inverted.</summary>
    public long FlipAt { get; init; } = long.MaxValue;

    /// <summary>From this byte on nothing is delivered, and nothing is said about it.</summary>
    public long HangAt { get; init; } = long.MaxValue;
}

/// <summary>One direction of an in-memory connection: a bounded buffer with the semantics of a socket.</summary>
public sealed class FakePipe(WireFault fault, Action cut)
{
    private const int Capacity = 64 * 1024;
    private readonly object _gate = new();
    private readonly byte[] _ring = new byte[Capacity];
    private long _written;
    private long _read;
    private long _deliverable = long.MaxValue;
    private bool _broken;
    private bool _closed;

    /// <summary>What is sent from now on is on its way until <see cref="Release"/>.</summary>
    public void Hold()
    {
        lock (_gate)
            _deliverable = _written;
    }

    public void Release()
    {
        lock (_gate)
        {
            _deliverable = long.MaxValue;
            Monitor.PulseAll(_gate);
        }
    }

    public long Written
    {
        get { lock (_gate) return _written; }
    }

    public void Send(ReadOnlySpan<byte> bytes, TimeSpan timeout)
    {
        while (bytes.Length > 0)
        {
            bool cutNow = false;
            lock (_gate)
            {
                while (_written - _read == Capacity && !_broken)
                {
                    if (!Monitor.Wait(_gate, timeout))
                        throw new IOException("The send made no progress.");
                }

                if (_broken || _closed)
                    throw new IOException("The connection was reset.");
                int count = (int)Math.Min(bytes.Length, Capacity - (_written - _read));
                if (_written + count > fault.CutAt)
                {
                    count = (int)(fault.CutAt - _written);
                    cutNow = true;
                }

                for (int index = 0; index < count; index++)
                    _ring[(_written + index) % Capacity] = bytes[index];
                if (fault.FlipAt >= _written && fault.FlipAt < _written + count)
                    _ring[fault.FlipAt % Capacity] ^= (byte)(1 << (int)(fault.FlipAt % 8));
                _written += count;
                bytes = bytes[count..];
                Monitor.PulseAll(_gate);
            }

            if (cutNow)
            {
                cut();
                throw new IOException("The connection was cut.");
            }
        }
    }

    public int Receive(Span<byte> buffer, TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        lock (_gate)
        {
            while (true)
            {
                long available = Math.Min(Math.Min(_written, _deliverable), fault.HangAt) - _read;
                if (available > 0)
                {
                    int count = (int)Math.Min(buffer.Length, available);
                    for (int index = 0; index < count; index++)
                        buffer[index] = _ring[(_read + index) % Capacity];
                    _read += count;
                    Monitor.PulseAll(_gate);
                    return count;
                }

                if (_broken)
                    throw new IOException("The connection was reset.");
                if (_closed && fault.HangAt == long.MaxValue)
                    return 0;
                // Woken by bytes that will never be delivered is no progress.
                TimeSpan left = timeout == Timeout.InfiniteTimeSpan ? timeout : timeout - Stopwatch.GetElapsedTime(start);
                if (left < TimeSpan.Zero && left != Timeout.InfiniteTimeSpan)
                    throw new IOException("The receive made no progress.");
                Monitor.Wait(_gate, left);
            }
        }
    }

    /// <summary>As a reset: what was delivered can still be read, then both ends fail.</summary>
    public void Break()
    {
        lock (_gate)
        {
            _broken = true;
            Monitor.PulseAll(_gate);
        }
    }

    public void Close()
    {
        lock (_gate)
        {
            _closed = true;
            Monitor.PulseAll(_gate);
        }
    }
}

public sealed class FakeConnection(string peer, FakePipe incoming, FakePipe outgoing) : IConnection
{
    public string Peer => peer;

    public TimeSpan IdleTimeout { get; set; } = TimeSpan.FromSeconds(10);

    public FakePipe Outgoing => outgoing;

    /// <summary>Called with the pages that are about to be read for the wire.</summary>
    public Action<PageRun>? OnSendPages { get; set; }

    public void Send(ReadOnlySpan<byte> bytes) => outgoing.Send(bytes, IdleTimeout);

    public int Receive(Span<byte> buffer) => incoming.Receive(buffer, IdleTimeout);

    public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        foreach (PageRun run in runs)
            OnSendPages?.Invoke(run);
        PageByPage.Send(this, memory, runs);
    }

    public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Receive(this, memory, runs);

    public void Abort()
    {
        incoming.Break();
        outgoing.Break();
    }

    public void Dispose()
    {
        outgoing.Close();
        incoming.Break();
    }
}

/// <summary>
/// A network of one address, where single connections can be made to go wrong. Connection 0 is the first made.
/// </summary>
public sealed class FakeNetwork : IConnector, IAcceptor
{
    private readonly BlockingCollection<FakeConnection> _waiting = [];
    private readonly ConcurrentDictionary<(int Connection, bool ToDestination), WireFault> _faults = new();
    private int _made;

    public string Address => "fake:0";

    /// <summary>For connections made from now on; on a channel's thread.</summary>
    public Action<PageRun>? OnSendPages { get; set; }

    public ConcurrentBag<(int Connection, FakeConnection Source, FakeConnection Destination)> Made { get; } = [];

    public void Plan(int connection, bool toDestination, WireFault fault) => _faults[(connection, toDestination)] = fault;

    public IConnection Connect(CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        int number = Interlocked.Increment(ref _made) - 1;
        FakePipe? there = null;
        FakePipe? back = null;
        void Cut()
        {
            there!.Break();
            back!.Break();
        }

        there = new FakePipe(_faults.GetValueOrDefault((number, true)) ?? new WireFault(), Cut);
        back = new FakePipe(_faults.GetValueOrDefault((number, false)) ?? new WireFault(), Cut);
        var source = new FakeConnection("fake:destination", back, there) { OnSendPages = OnSendPages };
        var destination = new FakeConnection("fake:source", there, back);
        Made.Add((number, source, destination));
        _waiting.Add(destination, cancellation);
        return source;
    }

    public IConnection Accept(CancellationToken cancellation) => _waiting.Take(cancellation);

    public void Dispose() => _waiting.Dispose();
}
