using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

/// <summary>A peer that has said all it will ever say; what is sent to it is kept.</summary>
internal sealed class ByteConnection(byte[] incoming) : IConnection
{
    private readonly MemoryStream _sent = new();
    private int _read;

    public string Peer => "bytes";

    public TimeSpan IdleTimeout { get; set; }

    public byte[] Sent => _sent.ToArray();

    public void Send(ReadOnlySpan<byte> bytes) => _sent.Write(bytes);

    public int Receive(Span<byte> buffer)
    {
        int count = Math.Min(buffer.Length, incoming.Length - _read);
        incoming.AsSpan(_read, count).CopyTo(buffer);
        _read += count;
        return count;
    }

    public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Send(this, memory, runs);

    public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Receive(this, memory, runs);

    public void Abort()
    {
        // Nobody waits in it.
    }

    public void Dispose() => _sent.Dispose();
}
