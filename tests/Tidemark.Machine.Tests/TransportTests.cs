using System.Net;
using System.Net.Sockets;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

public sealed class TransportTests : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private readonly string _folder = Directory.CreateTempSubdirectory("tidemark-transport-tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Bytes_arrive_in_order_and_the_end_is_an_end(bool tcp)
    {
        (IConnection near, IConnection far) = Connect(tcp);
        var sent = new byte[3 << 20];
        new Random(1).NextBytes(sent);
        var sender = new Thread(() =>
        {
            near.Send(sent);
            near.Dispose();
        });
        sender.Start();
        var received = new byte[sent.Length + 1];
        int have = 0;
        while (far.Receive(received.AsSpan(have)) is var count && count > 0)
            have += count;
        sender.Join();
        Assert.Equal(sent.Length, have);
        Assert.True(sent.AsSpan().SequenceEqual(received.AsSpan(0, have)));
        far.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Silence_ends_with_a_message_that_names_the_peer_and_the_time(bool tcp)
    {
        (IConnection near, IConnection far) = Connect(tcp);
        near.IdleTimeout = TimeSpan.FromMilliseconds(100);
        IOException failure = Assert.Throws<IOException>(() => near.Receive(new byte[1]));
        Assert.Contains("no progress for 0.1 s", failure.Message, StringComparison.Ordinal);
        Assert.Contains(near.Peer, failure.Message, StringComparison.Ordinal);

        far.IdleTimeout = TimeSpan.FromMilliseconds(100);
        failure = Assert.Throws<IOException>(() => far.Send(new byte[64 << 20]));
        Assert.Contains("no progress for 0.1 s", failure.Message, StringComparison.Ordinal);
        near.Dispose();
        far.Dispose();
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void An_abort_from_another_thread_ends_a_call_in_progress(bool tcp, bool sending)
    {
        (IConnection near, IConnection far) = Connect(tcp);
        Exception? seen = null;
        using var started = new ManualResetEventSlim();
        var worker = new Thread(() =>
        {
            started.Set();
            seen = Record.Exception(() =>
            {
                if (sending)
                    near.Send(new byte[64 << 20]);
                else
                    near.Receive(new byte[1]);
            });
        });
        worker.Start();
        started.Wait();
        Thread.Sleep(30);
        near.Abort();
        near.Abort();
        Assert.True(worker.Join(s_patience));
        IOException failure = Assert.IsType<IOException>(seen);
        Assert.Contains("broken off on this side", failure.Message, StringComparison.Ordinal);
        Assert.Throws<IOException>(() => near.Receive(new byte[1]));
        near.Dispose();
        Assert.Throws<IOException>(() => near.Send(new byte[1]));
        far.Dispose();
    }

    [Fact]
    public void A_peer_that_resets_the_connection_is_named()
    {
        (IConnection near, IConnection far) = Connect(tcp: true);
        near.Send(new byte[10]);
        // Closing with unread bytes resets.
        Thread.Sleep(30);
        far.Dispose();
        IOException failure = Assert.Throws<IOException>(() =>
        {
            near.Receive(new byte[1]);
            near.Receive(new byte[1]);
        });
        Assert.Contains("the other side closed the connection", failure.Message, StringComparison.Ordinal);
        near.Dispose();
    }

    [Fact]
    public void Where_nobody_listens_the_message_says_what_to_look_at()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        int port = ((IPEndPoint)listener.LocalEndpoint).Port;
        listener.Stop();
        IOException failure = Assert.Throws<IOException>(() => Connector(new MigrationAddress.Tcp("127.0.0.1", port)).Connect(default));
        Assert.Contains("nobody listens there", failure.Message, StringComparison.Ordinal);
        Assert.Contains("tidemark receive", failure.Message, StringComparison.Ordinal);

        failure = Assert.Throws<IOException>(() => Connector(new MigrationAddress.Unix(Path.Combine(_folder, "absent"))).Connect(default));
        Assert.Contains("there is no such socket", failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_connect_that_is_not_answered_says_how_long_it_waited_and_can_be_cancelled(bool tcp)
    {
        // A listener that takes nobody: what comes after its queue is full is not answered.
        using var listener = new Socket(
            tcp ? AddressFamily.InterNetwork : AddressFamily.Unix, SocketType.Stream, tcp ? ProtocolType.Tcp : ProtocolType.Unspecified);
        string path = Path.Combine(_folder, "full");
        listener.Bind(tcp ? new IPEndPoint(IPAddress.Loopback, 0) : new UnixDomainSocketEndPoint(path));
        listener.Listen(0);
        MigrationAddress address = tcp
            ? new MigrationAddress.Tcp("127.0.0.1", ((IPEndPoint)listener.LocalEndPoint!).Port)
            : new MigrationAddress.Unix(path);
        var queued = new List<IConnection>();
        IOException? failure = null;
        while (failure is null && queued.Count < 20)
        {
            try
            {
                queued.Add(new SocketConnector(address, TimeSpan.FromMilliseconds(300)).Connect(default));
            }
            catch (IOException full)
            {
                failure = full;
            }
        }

        Assert.Contains("no answer for 0.3 s", failure!.Message, StringComparison.Ordinal);
        using var cancelled = new CancellationTokenSource(30);
        Assert.ThrowsAny<OperationCanceledException>(() => Connector(address).Connect(cancelled.Token));
        queued.ForEach(connection => connection.Dispose());
    }

    [Fact]
    public void A_cancelled_connect_and_accept_end()
    {
        using var cancelled = new CancellationTokenSource();
        using SocketAcceptor acceptor = SocketAcceptor.Listen(new MigrationAddress.Tcp("127.0.0.1", 0));
        cancelled.CancelAfter(30);
        Assert.ThrowsAny<OperationCanceledException>(() => acceptor.Accept(cancelled.Token));
        Assert.ThrowsAny<OperationCanceledException>(() => Connector(new MigrationAddress.Tcp("127.0.0.1", 1)).Connect(cancelled.Token));
    }

    [Fact]
    public void A_unix_socket_is_its_owners_alone_and_goes_with_the_acceptor()
    {
        var address = new MigrationAddress.Unix(Path.Combine(_folder, "s"));
        SocketAcceptor acceptor = SocketAcceptor.Listen(address);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(address.Path));
        IOException failure = Assert.Throws<IOException>(() => SocketAcceptor.Listen(address));
        Assert.Contains("exists already", failure.Message, StringComparison.Ordinal);
        Assert.True(File.Exists(address.Path));
        acceptor.Dispose();
        Assert.False(File.Exists(address.Path));
    }

    [Fact]
    public void A_unix_socket_whose_folder_was_removed_ends_in_order()
    {
        string folder = Directory.CreateDirectory(Path.Combine(_folder, "gone")).FullName;
        using SocketAcceptor acceptor = SocketAcceptor.Listen(new MigrationAddress.Unix(Path.Combine(folder, "s")));
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    public void A_port_that_is_taken_is_told_and_port_0_becomes_a_real_one()
    {
        using SocketAcceptor acceptor = SocketAcceptor.Listen(new MigrationAddress.Tcp("127.0.0.1", 0));
        var address = (MigrationAddress.Tcp)MigrationAddress.Parse(acceptor.Address, out _)!;
        Assert.NotEqual(0, address.Port);
        IOException failure = Assert.Throws<IOException>(() => SocketAcceptor.Listen(address));
        Assert.Contains("another program listens there", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_socket_that_was_handed_in_makes_one_connection_on_each_side()
    {
        (Socket first, Socket second) = UnixSockets.Connect();
        SocketConnector connector = Connector(new MigrationAddress.Descriptor(TakeDescriptor(first)));
        using SocketAcceptor acceptor = SocketAcceptor.Listen(new MigrationAddress.Descriptor(TakeDescriptor(second)));
        using IConnection near = connector.Connect(default);
        using IConnection far = acceptor.Accept(default);
        near.Send([1, 2, 3]);
        var received = new byte[3];
        Assert.Equal(3, far.Receive(received));
        Assert.Equal([1, 2, 3], received);
        IOException failure = Assert.Throws<IOException>(() => connector.Connect(default));
        Assert.Contains("--channels 1", failure.Message, StringComparison.Ordinal);
        using var soon = new CancellationTokenSource(20);
        Assert.ThrowsAny<OperationCanceledException>(() => acceptor.Accept(soon.Token));
    }

    [Fact]
    public void A_descriptor_that_is_no_socket_is_refused()
    {
        using FileStream file = File.Create(Path.Combine(_folder, "file"));
        int fd = (int)file.SafeFileHandle.DangerousGetHandle();
        Assert.Throws<IOException>(() => Connector(new MigrationAddress.Descriptor(fd)).Connect(default));
        // It was not ours to close.
        file.WriteByte(1);
        file.Flush();
        Assert.Throws<IOException>(() => Connector(new MigrationAddress.Descriptor(1_000_000)).Connect(default));
        using var datagrams = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        int number = (int)datagrams.SafeHandle.DangerousGetHandle();
        Assert.Throws<IOException>(() => Connector(new MigrationAddress.Descriptor(number)).Connect(default));
        datagrams.Bind(new IPEndPoint(IPAddress.Loopback, 0));
    }

    private static SocketConnector Connector(MigrationAddress address) => new(address, s_patience);

    private static int TakeDescriptor(Socket socket)
    {
        int fd = (int)socket.SafeHandle.DangerousGetHandle();
        // From here on the descriptor belongs to whoever adopts it.
        socket.SafeHandle.SetHandleAsInvalid();
        return fd;
    }

    private (IConnection Near, IConnection Far) Connect(bool tcp)
    {
        MigrationAddress wanted = tcp ? new MigrationAddress.Tcp("127.0.0.1", 0) : new MigrationAddress.Unix(Path.Combine(_folder, "c"));
        using SocketAcceptor acceptor = SocketAcceptor.Listen(wanted);
        IConnection near = Connector(MigrationAddress.Parse(acceptor.Address, out _)!).Connect(default);
        return (near, acceptor.Accept(default));
    }
}
