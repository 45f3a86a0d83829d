using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>A connection of which something was read already, which is read again first.</summary>
/// <param name="left">Called once, when the connection is disposed.</param>
internal sealed class IntroducedConnection(IConnection inner, ReadOnlyMemory<byte> read, Action? left = null) : IConnection
{
    private ReadOnlyMemory<byte> _read = read;
    private int _disposed;

    public string Peer => inner.Peer;

    public TimeSpan IdleTimeout
    {
        get => inner.IdleTimeout;
        set => inner.IdleTimeout = value;
    }

    public void Send(ReadOnlySpan<byte> bytes) => inner.Send(bytes);

    public int Receive(Span<byte> buffer)
    {
        if (_read.IsEmpty)
            return inner.Receive(buffer);
        int count = Math.Min(buffer.Length, _read.Length);
        _read.Span[..count].CopyTo(buffer);
        _read = _read[count..];
        return count;
    }

    public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => inner.SendPages(memory, runs);

    public void SendWithPages(ReadOnlySpan<byte> bytes, GuestMemory memory, ReadOnlySpan<PageRun> runs) =>
        inner.SendWithPages(bytes, memory, runs);

    public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        if (_read.IsEmpty)
            inner.ReceivePages(memory, runs);
        else
            PageByPage.Receive(this, memory, runs);
    }

    public void Abort() => inner.Abort();

    public void Dispose()
    {
        inner.Dispose();
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
            left?.Invoke();
    }
}
