using System.Net.Sockets;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>
/// A stream socket as the engine's connection: blocking calls on the engine's own threads, no copies in between.
/// </summary>
public sealed class SocketConnection : IConnection
{
    private readonly Socket _socket;
    private TimeSpan _idleTimeout = Timeout.InfiniteTimeSpan;
    private int _aborted;

    public SocketConnection(Socket socket, string peer)
    {
        ArgumentNullException.ThrowIfNull(socket);
        _socket = socket;
        Peer = peer;
        if (socket.ProtocolType == ProtocolType.Tcp)
            socket.NoDelay = true;
    }

    public string Peer { get; }

    public TimeSpan IdleTimeout
    {
        get => _idleTimeout;
        set
        {
            _idleTimeout = value;
            int milliseconds = value == Timeout.InfiniteTimeSpan ? 0 : Math.Max(1, (int)Math.Min(int.MaxValue, value.TotalMilliseconds));
            try
            {
                _socket.SendTimeout = milliseconds;
                _socket.ReceiveTimeout = milliseconds;
            }
            catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
            {
                // The connection is gone; the next call says so.
            }
        }
    }

    public void Send(ReadOnlySpan<byte> bytes)
    {
        try
        {
            while (!bytes.IsEmpty)
                bytes = bytes[_socket.Send(bytes, SocketFlags.None)..];
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // How much of the bytes arrived is unknown: the stream is broken for good.
            throw Broken("sending to", failure);
        }
    }

    public int Receive(Span<byte> buffer)
    {
        int count;
        try
        {
            count = _socket.Receive(buffer, SocketFlags.None);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // Nothing was consumed that the caller could still use.
            throw Broken("receiving from", failure);
        }

        // A shutdown by this side looks like an end in order by the other.
        if (count == 0 && !buffer.IsEmpty && Volatile.Read(ref _aborted) != 0)
            throw Broken("receiving from", null);
        return count;
    }

    public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Send(this, memory, runs);

    public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Receive(this, memory, runs);

    public void Abort()
    {
        if (Interlocked.Exchange(ref _aborted, 1) != 0)
            return;
        try
        {
            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // Not connected any more, which is what was wanted.
        }
    }

    public void Dispose() => _socket.Dispose();

    private IOException Broken(string doing, Exception? failure)
    {
        if (Volatile.Read(ref _aborted) != 0)
            return new IOException($"The connection with {Peer} was broken off on this side.", failure);
        string cause = (failure as SocketException)?.SocketErrorCode switch
        {
            SocketError.TimedOut or SocketError.WouldBlock => $"no progress for {_idleTimeout.TotalSeconds:0.#} s",
            SocketError.ConnectionReset or SocketError.Shutdown or SocketError.ConnectionAborted => "the other side closed the connection",
            { } code => code.ToString(),
            null => "the connection is closed",
        };
        return new IOException($"The connection with {Peer} broke while {doing} it: {cause}.", failure);
    }
}
