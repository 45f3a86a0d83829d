using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>One reliable, ordered, two-way byte stream to the other side.</summary>
/// <remarks>One thread may send while another receives. Every wait ends: by data, by the peer, by the timeout, or by
/// <see cref="Abort"/>.</remarks>
public interface IConnection : IDisposable
{
    /// <summary>The peer, for messages: <c>tcp:127.0.0.1:4711</c>.</summary>
    string Peer { get; }

    /// <summary>Sends all bytes.</summary>
    /// <exception cref="IOException">The connection is gone, aborted, or made no progress for its timeout.</exception>
    void Send(ReadOnlySpan<byte> bytes);

    /// <summary>Receives at least one byte, at most the buffer's length; 0 when the peer has closed in order.</summary>
    /// <exception cref="IOException">As for <see cref="Send"/>.</exception>
    int Receive(Span<byte> buffer);

    /// <summary>Sends whole pages of guest memory in this order, straight from there where the transport can.</summary>
    /// <param name="runs">Each lies in one slot.</param>
    /// <exception cref="IOException">As for <see cref="Send"/>.</exception>
    void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs);

    /// <summary>Sends bytes and, right behind them, pages: where the transport can, in one piece.</summary>
    /// <param name="runs">Each lies in one slot.</param>
    /// <exception cref="IOException">As for <see cref="Send"/>.</exception>
    void SendWithPages(ReadOnlySpan<byte> bytes, GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        Send(bytes);
        SendPages(memory, runs);
    }

    /// <summary>Fills whole pages of guest memory in this order, straight there where the transport can.</summary>
    /// <param name="runs">Each lies in one slot.</param>
    /// <exception cref="IOException">As for <see cref="Send"/>, or the peer closed before all had come; what had come is
    /// in memory.</exception>
    void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs);

    /// <summary>
    /// How long a call may wait without progress before it fails; <see cref="Timeout.InfiniteTimeSpan"/> for ever.
    /// </summary>
    TimeSpan IdleTimeout { get; set; }

    /// <summary>
    /// Breaks the connection now, from any thread; calls in progress fail with <see cref="IOException"/>.
    /// </summary>
    void Abort();
}

/// <summary>Makes connections to a destination.</summary>
public interface IConnector
{
    /// <summary>The address, for messages.</summary>
    string Address { get; }

    /// <exception cref="IOException">Nobody answers there within the connector's timeout.</exception>
    IConnection Connect(CancellationToken cancellation);
}

/// <summary>Takes connections from a source.</summary>
public interface IAcceptor : IDisposable
{
    /// <summary>The address it listens on, in the form a connector takes.</summary>
    string Address { get; }

    /// <exception cref="OperationCanceledException">Cancelled before anybody came.</exception>
    IConnection Accept(CancellationToken cancellation);
}

/// <summary>Pages one run after the other: for transports that have nothing better.</summary>
public static class PageByPage
{
    /// <summary>LIMIT: a span has at most 2^31 bytes; also what is handed to a transport at a time.</summary>
    private const ulong Piece = 1 << 16;

    /// <inheritdoc cref="IConnection.SendPages"/>
    public static void Send(IConnection connection, GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        ArgumentNullException.ThrowIfNull(connection);
        ArgumentNullException.ThrowIfNull(memory);
        foreach (PageRun run in runs)
        {
            for (ulong done = 0; done < run.Count; done += Piece)
                connection.Send(memory.PagesSpan(run.FirstPage + done, (int)Math.Min(Piece, run.Count - done)));
        }
    }

    /// <inheritdoc cref="IConnection.ReceivePages"/>
    public static void Receive(IConnection connection, GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        ArgumentNullException.ThrowIfNull(connection);
        ArgumentNullException.ThrowIfNull(memory);
        foreach (PageRun run in runs)
        {
            for (ulong done = 0; done < run.Count; done += Piece)
                Fill(connection, memory.PagesSpan(run.FirstPage + done, (int)Math.Min(Piece, run.Count - done)));
        }
    }

    private static void Fill(IConnection connection, Span<byte> buffer)
    {
        while (!buffer.IsEmpty)
        {
            int count = connection.Receive(buffer);
            if (count == 0)
                throw new IOException($"The peer {connection.Peer} closed the connection in the middle of pages.");
            buffer = buffer[count..];
        }
    }
}
