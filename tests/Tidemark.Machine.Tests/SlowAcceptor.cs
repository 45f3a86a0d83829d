using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>Connections whose other end is far away: what was sent arrives a while later, and is not known to have.</summary>
internal sealed class SlowAcceptor(IAcceptor inner, TimeSpan delay) : IAcceptor
{
    public string Address => inner.Address;

    public IConnection Accept(CancellationToken cancellation) => new SlowConnection(inner.Accept(cancellation), delay);

    public void Dispose() => inner.Dispose();

    private sealed class SlowConnection(IConnection inner, TimeSpan delay) : IConnection
    {
        public string Peer => inner.Peer;

        public TimeSpan IdleTimeout
        {
            get => inner.IdleTimeout;
            set => inner.IdleTimeout = value;
        }

        public void Send(ReadOnlySpan<byte> bytes)
        {
            Thread.Sleep(delay);
            inner.Send(bytes);
        }

        public int Receive(Span<byte> buffer) => inner.Receive(buffer);

        public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => inner.SendPages(memory, runs);

        public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => inner.ReceivePages(memory, runs);

        public void Abort() => inner.Abort();

        public void Dispose() => inner.Dispose();
    }
}
