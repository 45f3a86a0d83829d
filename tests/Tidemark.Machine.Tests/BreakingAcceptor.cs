using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>Lets the second connection, which carries pages, break at this end after so many bytes.</summary>
internal sealed class BreakingAcceptor(IAcceptor inner, long breakAfter) : IAcceptor
{
    private readonly List<IConnection> _connections = [];
    private int _accepted;

    public string Address => inner.Address;

    public IConnection Accept(CancellationToken cancellation)
    {
        IConnection connection = inner.Accept(cancellation);
        lock (_connections)
            _connections.Add(connection);
        return ++_accepted == 2 ? new BreakingConnection(connection, breakAfter) : connection;
    }

    /// <summary>Breaks all of them now, as the death of this side would.</summary>
    public void Cut()
    {
        lock (_connections)
            _connections.ForEach(connection => connection.Abort());
    }

    public void Dispose() => inner.Dispose();

    private sealed class BreakingConnection(IConnection inner, long left) : IConnection
    {
        private long _left = left;

        public string Peer => inner.Peer;

        public TimeSpan IdleTimeout
        {
            get => inner.IdleTimeout;
            set => inner.IdleTimeout = value;
        }

        public void Send(ReadOnlySpan<byte> bytes) => inner.Send(bytes);

        public int Receive(Span<byte> buffer)
        {
            if (_left <= 0)
                inner.Abort();
            int count = inner.Receive(buffer);
            _left -= count;
            return count;
        }

        public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Send(this, memory, runs);

        public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Receive(this, memory, runs);

        public void Abort() => inner.Abort();

        public void Dispose() => inner.Dispose();
    }
}
