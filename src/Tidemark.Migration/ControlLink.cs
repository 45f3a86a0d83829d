using System.Buffers;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>A frame of the control connection; give it back after use.</summary>
internal readonly struct ControlFrame(FrameType type, byte[] rented, int length, ulong offset) : IDisposable
{
    public FrameType Type => type;

    public PayloadReader Reader => new(rented.AsSpan(0, length), type.Name(), offset);

    public void Dispose() => ArrayPool<byte>.Shared.Return(rented);
}

/// <summary>
/// The control connection of one migration: a thread that receives into a short queue, a thread that pings, and the one
/// place where the first failure of any thread of the migration is kept.
/// </summary>
/// <remarks>
/// <code>
///            frames                        Abort, Cancel
///  peer ----------> queue --> Receive     ------------> PeerWord, fault
///            end, damage, idle -> fault;  Fail (any thread) -> fault
/// </code>
/// What was queued is delivered before the fault is thrown: a Commit that arrived counts, whatever came after it.
/// </remarks>
internal sealed class ControlLink : IDisposable
{
    // LIMIT: bounds what a fast peer can make us hold (a frame is at most about 1 MiB).
    private const int QueueLength = 8;
    internal static readonly TimeSpan WakeInterval = TimeSpan.FromMilliseconds(50);

    private readonly object _gate = new();
    private readonly IConnection _connection;
    private readonly TimeSpan _idleTimeout;
    private readonly TimeProvider _time;
    private readonly Queue<ControlFrame> _queue = new();
    private readonly ManualResetEvent _faulted = new(false);
    private readonly ManualResetEvent _stop = new(false);
    private readonly Thread _reader;
    private readonly Thread _pinger;
    private Exception? _fault;
    private PeerException? _peerWord;
    private bool _readerEnded;
    private bool _disposed;

    public ControlLink(IConnection connection, TimeSpan idleTimeout, TimeProvider time)
    {
        _connection = connection;
        _idleTimeout = idleTimeout;
        _time = time;
        connection.IdleTimeout = idleTimeout;
        Writer = new FrameWriter(connection, 0);
        _reader = new Thread(Read) { IsBackground = true, Name = "tidemark control reader" };
        _pinger = new Thread(Ping) { IsBackground = true, Name = "tidemark keep-alive" };
        _reader.Start();
        _pinger.Start();
    }

    public string Peer => _connection.Peer;

    public FrameWriter Writer { get; }

    /// <summary>LIMIT: a peer that pings but never gets on with it is given up as well, only much later than a silent one.</summary>
    public TimeSpan Patience => _idleTimeout > TimeSpan.Zero ? _idleTimeout * 30 : TimeSpan.MaxValue;

    /// <summary>Set once the migration has failed on any thread.</summary>
    public WaitHandle Faulted => _faulted;

    /// <summary>Keeps the first failure; later ones are its consequences.</summary>
    public void Fail(Exception failure)
    {
        lock (_gate)
        {
            _fault ??= failure;
            _faulted.Set();
            Monitor.PulseAll(_gate);
        }
    }

    public void ThrowIfFaulted()
    {
        lock (_gate)
        {
            if (_fault is not null)
                throw new LinkFailedException(_fault);
        }
    }

    /// <summary>For a look now and then at something that the peer says it has sent.</summary>
    /// <param name="since">Timestamp at which the wait began.</param>
    /// <param name="missing">What has not come yet; null: all has, and only this side keeps it waiting.</param>
    /// <exception cref="OperationCanceledException">Cancelled.</exception>
    /// <exception cref="LinkFailedException">The migration has failed, here, on the wire, or at the peer.</exception>
    /// <exception cref="IOException">It did not come within <see cref="Patience"/>, although the peer lives.</exception>
    public void CheckWait(long since, string? missing, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        ThrowIfFaulted();
        if (missing is null || _time.GetElapsedTime(since) <= Patience)
            return;
        throw new IOException(
            $"The peer {Peer} lives and says that it has sent all, but {missing} did not arrive within {Words.Of(Patience)}. "
                + "Look for what lets the control connection through and holds another one, such as a firewall or one path of several.");
    }

    /// <summary>The next frame that is not a ping.</summary>
    /// <exception cref="LinkFailedException">The migration has failed, here, on the wire, or at the peer.</exception>
    public ControlFrame Receive(CancellationToken cancel)
    {
        long start = _time.GetTimestamp();
        lock (_gate)
        {
            while (_queue.Count == 0)
            {
                cancel.ThrowIfCancellationRequested();
                if (_fault is not null)
                    throw new LinkFailedException(_fault);
                if (_time.GetElapsedTime(start) > Patience)
                    throw new IOException($"The peer {Peer} lives but did not answer within {Words.Of(Patience)}.");
                Monitor.Wait(_gate, WakeInterval);
            }

            ControlFrame frame = _queue.Dequeue();
            Monitor.PulseAll(_gate);
            return frame;
        }
    }

    /// <summary>The next frame, which must be of this type.</summary>
    public ControlFrame Expect(FrameType type, CancellationToken cancel)
    {
        ControlFrame frame = Receive(cancel);
        if (frame.Type == type)
            return frame;
        using (frame)
            throw frame.Reader.Bad($"{type} is due here");
    }

    /// <summary>
    /// Whether the peer's last frame is of this type. The peer closes its channels right after it, and that may be seen
    /// first; so it may still come for a moment after something has failed.
    /// </summary>
    public bool AwaitLast(FrameType type, TimeSpan limit, TimeSpan graceAfterFault)
    {
        long start = _time.GetTimestamp();
        lock (_gate)
        {
            bool faulted = false;
            while (_queue.Count == 0 && !_readerEnded && _time.GetElapsedTime(start) < limit)
            {
                if (_fault is not null && !faulted)
                    (faulted, start, limit) = (true, _time.GetTimestamp(), graceAfterFault);
                Monitor.Wait(_gate, WakeInterval);
            }

            if (!_queue.TryDequeue(out ControlFrame frame))
                return false;
            using (frame)
                return frame.Type == type;
        }
    }

    /// <summary>
    /// Tells the peer why this side gives up, if that can be done within the limit. Nothing is sent afterwards.
    /// </summary>
    public bool SayLast(FrameType type, string reason, TimeSpan limit)
    {
        _connection.IdleTimeout = limit;
        return Writer.TrySend(type, Messages.WriteReason(reason), limit);
    }

    /// <summary>A last frame without words, if it can be sent within the limit.</summary>
    public bool SayLast(FrameType type, TimeSpan limit)
    {
        _connection.IdleTimeout = limit;
        return Writer.TrySend(type, default, limit);
    }

    /// <summary>Why the peer gave up, when it says so within the limit; else null.</summary>
    public PeerException? AwaitPeerWord(TimeSpan limit)
    {
        long start = _time.GetTimestamp();
        lock (_gate)
        {
            while (_peerWord is null && !_readerEnded && _time.GetElapsedTime(start) < limit)
                Monitor.Wait(_gate, WakeInterval);
            return _peerWord;
        }
    }

    /// <summary>
    /// Waits until the peer has closed, because what was sent has then been read; or has given up by itself, because
    /// then
    /// it does not matter.
    /// </summary>
    public void AwaitPeerEnd(TimeSpan limit)
    {
        long start = _time.GetTimestamp();
        lock (_gate)
        {
            while (!_readerEnded && _peerWord is null && _time.GetElapsedTime(start) < limit)
                Monitor.Wait(_gate, WakeInterval);
        }
    }

    public void Abort() => _connection.Abort();

    /// <summary>Closes the connection and joins both threads.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_disposed)
                return;
            _disposed = true;
            Monitor.PulseAll(_gate);
        }

        _stop.Set();
        _connection.Abort();
        _reader.Join();
        _pinger.Join();
        _connection.Dispose();
        while (_queue.TryDequeue(out ControlFrame frame))
            frame.Dispose();
        _faulted.Dispose();
        _stop.Dispose();
    }

    private void Read()
    {
        try
        {
            var reader = new FrameReader(_connection, 0, _idleTimeout, _time);
            while (reader.TryReadHeader(out FrameHeader header))
                Take(reader, header);
            End(new IOException($"The peer {Peer} closed the connection."));
        }
        catch (Exception failure)
        {
            // Whatever it was: this connection yields nothing more, and whoever waits for it learns why.
            End(failure);
        }
    }

    private void Take(FrameReader reader, FrameHeader header)
    {
        byte[] rented = ArrayPool<byte>.Shared.Rent(header.PayloadLength);
        ulong offset = reader.Offset;
        try
        {
            reader.ReadPayload(header, rented.AsSpan(0, header.PayloadLength));
        }
        catch
        {
            ArrayPool<byte>.Shared.Return(rented);
            throw;
        }

        if (header.Type is FrameType.Ping or FrameType.Abort or FrameType.Cancel)
        {
            string reason = Messages.ReadReason(rented.AsSpan(0, header.PayloadLength));
            ArrayPool<byte>.Shared.Return(rented);
            if (header.Type == FrameType.Ping)
                return;
            var word = new PeerException(reason, header.Type == FrameType.Cancel);
            lock (_gate)
                _peerWord ??= word;
            Fail(word);
            return;
        }

        lock (_gate)
        {
            while (_queue.Count >= QueueLength && !_disposed)
                Monitor.Wait(_gate, WakeInterval);
            _queue.Enqueue(new ControlFrame(header.Type, rented, header.PayloadLength, offset));
            Monitor.PulseAll(_gate);
        }
    }

    private void End(Exception failure)
    {
        lock (_gate)
            _readerEnded = true;
        Fail(failure);
    }

    private void Ping()
    {
        TimeSpan interval = TimeSpan.FromSeconds(1);
        if (_idleTimeout > TimeSpan.Zero && _idleTimeout / 4 < interval)
            interval = _idleTimeout / 4;
        try
        {
            while (!_stop.WaitOne(interval))
                Writer.SendUnlessBusy(FrameType.Ping);
        }
        catch (Exception failure)
        {
            // The reader learns the same, usually with the better reason.
            Fail(failure);
        }
    }
}
