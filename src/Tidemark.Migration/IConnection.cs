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
