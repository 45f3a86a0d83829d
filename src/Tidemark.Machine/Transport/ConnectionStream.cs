using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>
/// A connection as the stream that TLS is spoken on: synchronous only, one reader beside one writer.
/// </summary>
/// <remarks>
/// A TLS record has 16 KiB at most, and SslStream writes one at a time. Once the handshake is over they are gathered here, so
/// that a frame of pages goes out in one call and wakes the peer once; whoever writes says <see cref="Flush"/>.
/// </remarks>
internal sealed class ConnectionStream(IConnection connection, TimeProvider time) : Stream
{
    /// <summary>LIMIT: a frame of pages with its records' heads, nearly.</summary>
    private const int BufferBytes = 256 << 10;

    private byte[]? _out;
    private byte[]? _in;
    private int _outCount;
    private int _inStart;
    private int _inEnd;
    private long _start;
    private TimeSpan _limit = Timeout.InfiniteTimeSpan;

    public override bool CanRead => true;

    public override bool CanWrite => true;

    public override bool CanSeek => false;

    public override long Length => throw new NotSupportedException();

    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    /// <summary>
    /// All reads and writes from now on together end within the limit, however slowly the peer drips.
    /// </summary>
    public void BeginLimit(TimeSpan limit)
    {
        _start = time.GetTimestamp();
        _limit = limit;
    }

    public void EndLimit(TimeSpan idleTimeout)
    {
        _limit = Timeout.InfiniteTimeSpan;
        connection.IdleTimeout = idleTimeout;
        _out = GC.AllocateUninitializedArray<byte>(BufferBytes);
        _in = GC.AllocateUninitializedArray<byte>(BufferBytes);
    }

    public override int Read(Span<byte> buffer)
    {
        Spend();
        if (_in is null)
            return connection.Receive(buffer);
        if (_inStart == _inEnd)
        {
            (_inStart, _inEnd) = (0, 0);
            _inEnd = connection.Receive(_in);
        }

        int count = Math.Min(buffer.Length, _inEnd - _inStart);
        _in.AsSpan(_inStart, count).CopyTo(buffer);
        _inStart += count;
        return count;
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        Spend();
        if (_out is null)
        {
            connection.Send(buffer);
            return;
        }

        if (buffer.Length > _out.Length - _outCount)
            Flush();
        if (buffer.Length > _out.Length)
        {
            connection.Send(buffer);
            return;
        }

        buffer.CopyTo(_out.AsSpan(_outCount));
        _outCount += buffer.Length;
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Flush()
    {
        int count = _outCount;
        // Also after a failure: what went out of it is unknown, and it must not go out twice.
        _outCount = 0;
        if (count > 0)
            connection.Send(_out.AsSpan(0, count));
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        if (disposing)
            connection.Dispose();
        base.Dispose(disposing);
    }

    private void Spend()
    {
        if (_limit == Timeout.InfiniteTimeSpan)
            return;
        TimeSpan left = _limit - time.GetElapsedTime(_start);
        if (left <= TimeSpan.Zero)
            throw new IOException($"it took longer than {_limit.TotalSeconds:0.#} s");
        connection.IdleTimeout = left;
    }
}
