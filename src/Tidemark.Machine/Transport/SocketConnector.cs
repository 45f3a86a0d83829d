using System.Net;
using System.Net.Sockets;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>Connects to a destination's address. A handed-in descriptor makes one connection.</summary>
public sealed class SocketConnector(MigrationAddress address, TimeSpan timeout) : IConnector
{
    private int _descriptorUsed;

    public string Address => address.ToString()!;

    public IConnection Connect(CancellationToken cancellation)
    {
        switch (address)
        {
            case MigrationAddress.Descriptor descriptor:
                if (Interlocked.Exchange(ref _descriptorUsed, 1) != 0)
                    throw new IOException($"{Address} is one connection; say --channels 1 to migrate through it.");
                return Adopt(descriptor);
            case MigrationAddress.Unix unix:
                return Connect(new UnixDomainSocketEndPoint(unix.Path), AddressFamily.Unix, ProtocolType.Unspecified, cancellation);
            case MigrationAddress.Tcp tcp:
                return Connect(new DnsEndPoint(tcp.Host, tcp.Port), AddressFamily.Unspecified, ProtocolType.Tcp, cancellation);
            default:
                throw new IOException($"{Address} is not an address to connect to.");
        }
    }

    internal static SocketConnection Adopt(MigrationAddress.Descriptor descriptor)
    {
        try
        {
            return new SocketConnection(new Socket(new SafeSocketHandle(descriptor.Fd, ownsHandle: true)), descriptor.ToString());
        }
        catch (Exception failure) when (failure is SocketException or ArgumentException)
        {
            // The descriptor is untouched: it was not ours to close.
            throw new IOException($"{descriptor} is not an open stream socket: {failure.Message}", failure);
        }
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
