using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>
/// A connection as the stream that TLS is spoken on: synchronous only, one reader beside one writer.
/// </summary>
internal sealed class ConnectionStream(IConnection connection, TimeProvider time) : Stream
{
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
    }

    public override int Read(Span<byte> buffer)
    {
        Spend();
        return connection.Receive(buffer);
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        Spend();
        connection.Send(buffer);
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Flush()
    {
        // A connection holds nothing back.
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
