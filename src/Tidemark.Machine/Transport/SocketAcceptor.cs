using System.Net;
using System.Net.Sockets;
using Tidemark.Kernel;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>Listens for a source. Unix sockets are made 0600 and removed at the end.</summary>
public sealed class SocketAcceptor : IAcceptor
{
    /// <summary>
    /// How often a waiting acceptor looks whether it was cancelled. An asynchronous accept needs no look, but starts the
    /// runtime's socket engine and its threads in the middle of the first migration.
    /// </summary>
    private static readonly TimeSpan LookInterval = TimeSpan.FromMilliseconds(100);

    private readonly Socket? _listener;
    private readonly string? _unlink;
    private readonly MigrationAddress.Descriptor? _descriptor;
    private readonly IKernel? _kernel;
    private int _descriptorsUsed;

    private SocketAcceptor(Socket? listener, string address, string? unlink, MigrationAddress.Descriptor? descriptor, IKernel? kernel)
    {
        _kernel = kernel;
        _listener = listener;
        Address = address;
        _unlink = unlink;
        _descriptor = descriptor;
    }

    public string Address { get; }

    /// <summary>Whether its connections were handed in: they come from whoever started this process.</summary>
    public bool IsHandedIn => _descriptor is not null;

    /// <param name="kernel">As for <see cref="SocketConnection"/>.</param>
    /// <exception cref="IOException">The address can not be listened on; nothing is left behind.</exception>
    public static SocketAcceptor Listen(MigrationAddress address, IKernel? kernel = null)
    {
        switch (address)
        {
            case MigrationAddress.Descriptor descriptor:
                return new SocketAcceptor(null, descriptor.ToString(), null, descriptor, kernel);
            case MigrationAddress.Unix unix:
                return ListenUnix(unix, kernel);
            case MigrationAddress.Tcp tcp:
                return ListenTcp(tcp, kernel);
            default:
                throw new IOException($"{address} is not an address to listen on.");
        }
    }

    public IConnection Accept(CancellationToken cancellation)
    {
        if (_descriptor is not null)
        {
            int turn = Interlocked.Increment(ref _descriptorsUsed);
            if (turn <= _descriptor.Count)
                return SocketConnector.Adopt(_descriptor, turn - 1, _kernel);
            cancellation.WaitHandle.WaitOne();
            throw new OperationCanceledException(cancellation);
        }

        try
        {
            while (true)
            {
                cancellation.ThrowIfCancellationRequested();
                // On Linux a connection that was reset meanwhile is still there to be accepted, so this does not block.
                if (!_listener!.Poll(LookInterval, SelectMode.SelectRead))
                    continue;
                Socket socket = _listener.Accept();
                return new SocketConnection(socket, PeerName(socket), _kernel);
            }
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // The listener is gone, which only Dispose does, or the system is out of descriptors.
            cancellation.ThrowIfCancellationRequested();
            throw new IOException($"Accepting a connection on {Address} failed: {failure.Message}", failure);
        }
    }

    public void Dispose()
    {
        _listener?.Dispose();
        if (_unlink is null)
            return;
        try
        {
            File.Delete(_unlink);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Its folder is gone, or not ours any more: nobody listens there all the same.
        }
    }

    private static SocketAcceptor ListenUnix(MigrationAddress.Unix unix, IKernel? kernel)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            if (File.Exists(unix.Path))
                throw new IOException($"{unix} exists already. Remove it if nobody uses it, or choose another path.");
            socket.Bind(new UnixDomainSocketEndPoint(unix.Path));
            File.SetUnixFileMode(unix.Path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            socket.Listen(16);
            return new SocketAcceptor(socket, unix.ToString(), unix.Path, null, kernel);
        }
        catch (Exception failure) when (failure is SocketException or IOException or UnauthorizedAccessException)
        {
            // Nothing listens; the socket is closed.
            socket.Dispose();
            throw failure as IOException ?? new IOException($"Listening on {unix} failed: {failure.Message}", failure);
        }
    }

    private static SocketAcceptor ListenTcp(MigrationAddress.Tcp tcp, IKernel? kernel)
    {
        Socket? socket = null;
        try
        {
            IPAddress ip = IPAddress.TryParse(tcp.Host, out IPAddress? parsed)
                ? parsed
                : Dns.GetHostAddresses(tcp.Host).First();
            socket = new Socket(ip.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            socket.Bind(new IPEndPoint(ip, tcp.Port));
            socket.Listen(80);
            int port = ((IPEndPoint)socket.LocalEndPoint!).Port;
            return new SocketAcceptor(socket, new MigrationAddress.Tcp(tcp.Host, port).ToString(), null, null, kernel);
        }
        catch (SocketException failure)
        {
            // Nothing listens; the socket is closed.
            socket?.Dispose();
            string cause = failure.SocketErrorCode == SocketError.AddressAlreadyInUse
                ? "another program listens there; choose another port, or 0 for any free one"
                : failure.Message;
            throw new IOException($"Listening on {tcp} failed: {cause}.", failure);
        }
    }

    private string PeerName(Socket socket)
    {
        try
        {
            return socket.RemoteEndPoint is IPEndPoint ip
                ? new MigrationAddress.Tcp(ip.Address.ToString(), ip.Port).ToString()
                : Address;
        }
        catch (SocketException)
        {
            // The peer is gone already; the first read will say so.
            return Address;
        }
    }
}
