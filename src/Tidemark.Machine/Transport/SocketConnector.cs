using System.Net;
using System.Net.Sockets;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>Connects to a destination's address. Each handed-in descriptor makes one connection.</summary>
public sealed class SocketConnector(MigrationAddress address, TimeSpan timeout) : IConnector
{
    private int _descriptorsUsed;

    public string Address => address.ToString()!;

    public IConnection Connect(CancellationToken cancellation)
    {
        switch (address)
        {
            case MigrationAddress.Descriptor descriptor:
                int turn = Interlocked.Increment(ref _descriptorsUsed);
                if (turn > descriptor.Count)
                {
                    throw new IOException(
                        $"{Address} has no socket number {turn}: a migration takes one for control and one for each channel, as in fd:3-4 with --channels 1.");
                }

                return Adopt(descriptor, turn - 1);
            case MigrationAddress.Unix unix:
                return Connect(new UnixDomainSocketEndPoint(unix.Path), AddressFamily.Unix, ProtocolType.Unspecified, cancellation);
            case MigrationAddress.Tcp tcp:
                return Connect(new DnsEndPoint(tcp.Host, tcp.Port), AddressFamily.Unspecified, ProtocolType.Tcp, cancellation);
            default:
                throw new IOException($"{Address} is not an address to connect to.");
        }
    }

    /// <param name="index">Which of the address's descriptors.</param>
    internal static SocketConnection Adopt(MigrationAddress.Descriptor descriptor, int index)
    {
        descriptor = new MigrationAddress.Descriptor(descriptor.Fd + index);
        // The Socket class takes any descriptor without a word.
        string? what = new FileInfo($"/proc/self/fd/{descriptor.Fd}").LinkTarget;
        if (what?.StartsWith("socket:", StringComparison.Ordinal) != true)
            throw new IOException($"{descriptor} is not an open socket but {what ?? "nothing"}.");
        var handle = new SafeSocketHandle(descriptor.Fd, ownsHandle: true);
        try
        {
            var socket = new Socket(handle);
            if (socket.SocketType == SocketType.Stream)
                return new SocketConnection(socket, descriptor.ToString());
        }
        catch (Exception failure) when (failure is SocketException or ArgumentException)
        {
            // Told below; the descriptor was not ours to close.
        }

        handle.SetHandleAsInvalid();
        throw new IOException($"{descriptor} is not a stream socket.");
    }

    private SocketConnection Connect(EndPoint endPoint, AddressFamily family, ProtocolType protocol, CancellationToken cancellation)
    {
        Socket socket = family == AddressFamily.Unspecified
            ? new Socket(SocketType.Stream, protocol)
            : new Socket(family, SocketType.Stream, protocol);
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(timeout);
        try
        {
            socket.ConnectAsync(endPoint, limit.Token).AsTask().GetAwaiter().GetResult();
            return new SocketConnection(socket, Address);
        }
        catch (Exception failure) when (failure is SocketException or OperationCanceledException)
        {
            // No connection exists; the socket is closed here.
            socket.Dispose();
            cancellation.ThrowIfCancellationRequested();
            string cause = failure is SocketException refused ? refused.SocketErrorCode switch
            {
                SocketError.ConnectionRefused => "nobody listens there",
                SocketError.HostNotFound or SocketError.NoData or SocketError.TryAgain => "the host name is not known",
                SocketError.AddressNotAvailable or SocketError.InvalidArgument => "there is no such socket",
                _ => refused.Message,
            } : $"no answer for {timeout.TotalSeconds:0.#} s";
            throw new IOException($"No connection to {Address}: {cause}. Is `tidemark receive` running there?", failure);
        }
    }
}
