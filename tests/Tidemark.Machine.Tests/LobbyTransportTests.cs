using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>Strangers at the door of a receiver.</summary>
public sealed class LobbyTransportTests : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan s_long = TimeSpan.FromMinutes(10);
    private readonly TlsRig _rig = new();
    private readonly ConcurrentQueue<string> _told = new();
    private readonly Guid _token = Guid.NewGuid();

    public void Dispose() => _rig.Dispose();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Strangers_who_hold_the_door_do_not_keep_a_source_waiting(bool tls)
    {
        // With this limit anybody who waits for a stranger would wait for ten minutes.
        using Lobby lobby = Open(tls, s_long);
        using var engine = new Engine(lobby);
        Socket[] strangers = [.. Enumerable.Range(0, Lobby.MaximumNewcomers + 8).Select(_ => Knock(lobby))];
        MachineRig.Await(() => lobby.NewcomerCount == Lobby.MaximumNewcomers, () => "a full room");
        using IConnection source = Connector(lobby, tls).Connect(default);
        source.Send(TlsRig.Preamble(_token, isControl: true));
        var preamble = new byte[48];
        using IConnection taken = engine.Take();
        TlsRig.Fill(taken, preamble);
        Assert.Equal(TlsRig.Preamble(_token, isControl: true), preamble);
        // Whoever was there first had to go for those who came later.
        Assert.InRange(lobby.NewcomerCount, 1, Lobby.MaximumNewcomers);
        Assert.Equal(0, strangers[0].Receive(new byte[1]));
        taken.Send([9]);
        Assert.Equal(1, source.Receive(preamble));
        Assert.Equal(9, preamble[0]);
        foreach (Socket stranger in strangers)
            stranger.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_stranger_who_says_nothing_or_little_is_sent_away_in_time(bool tls)
    {
        using Lobby lobby = Open(tls, TimeSpan.FromMilliseconds(200));
        using var engine = new Engine(lobby);
        using Socket silent = Knock(lobby);
        using Socket dripping = Knock(lobby);
        var drip = new Thread(() => Record.Exception(() =>
        {
            foreach (byte value in tls ? new byte[] { 0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3 } : TlsRig.Preamble(_token, true))
            {
                dripping.Send([value]);
                Thread.Sleep(50);
            }
        }));
        drip.Start();
        Assert.Equal(0, ReceiveEnd(silent));
        Assert.Equal(0, ReceiveEnd(dripping));
        Assert.True(drip.Join(s_patience));
        MachineRig.Await(() => _told.Count >= 2, () => "two messages");
    }

    [Fact]
    public void Who_is_not_Tidemark_is_sent_away_at_once()
    {
        using Lobby lobby = Open(tls: false, s_long);
        using var engine = new Engine(lobby);
        foreach (byte[] greeting in new[] { "GET / HTTP/1.1\r\n"u8.ToArray(), "TIDEMARX"u8.ToArray(), new byte[48] })
        {
            using Socket stranger = Knock(lobby);
            stranger.Send(greeting);
            Assert.Equal(0, ReceiveEnd(stranger));
        }

        byte[] damaged = TlsRig.Preamble(_token, isControl: true);
        damaged[30] ^= 1;
        using Socket last = Knock(lobby);
        last.Send(damaged);
        Assert.Equal(0, ReceiveEnd(last));
        MachineRig.Await(() => _told.Count == 4, () => "four messages");
        Assert.Contains(_told, line => line.EndsWith("its introduction is damaged.", StringComparison.Ordinal));
        Assert.Equal(3, _told.Count(line => line.EndsWith("it is not Tidemark.", StringComparison.Ordinal)));
    }

    [Fact]
    public void A_source_that_does_not_encrypt_is_told_what_to_say()
    {
        using Lobby lobby = Open(tls: true, s_patience);
        using var engine = new Engine(lobby);
        using IConnection source = Connector(lobby, tls: false).Connect(default);
        source.Send(TlsRig.Preamble(_token, isControl: true));
        IOException failure = Assert.Throws<IOException>(() => source.Receive(new byte[48]));
        Assert.Contains("takes only encrypted migrations; say --tls FOLDER", failure.Message, StringComparison.Ordinal);
        AwaitTold("it does not encrypt");
    }

    [Fact]
    public void A_source_that_encrypts_for_a_receiver_that_does_not_is_told_what_to_look_at()
    {
        using Lobby lobby = Open(tls: false, s_patience);
        using var engine = new Engine(lobby);
        IOException failure = Assert.Throws<IOException>(() => Connector(lobby, tls: true).Connect(default));
        Assert.Contains("The TLS handshake with tcp:127.0.0.1", failure.Message, StringComparison.Ordinal);
        Assert.Contains("is it started with --tls?", failure.Message, StringComparison.Ordinal);
        AwaitTold("started without --tls");
    }

    [Fact]
    public void A_channel_with_another_certificate_than_the_control_connection_is_turned_away()
    {
        using Lobby lobby = Open(tls: true, s_patience);
        using var engine = new Engine(lobby);
        using IConnection control = Connector(lobby, tls: true).Connect(default);
        control.Send(TlsRig.Preamble(_token, isControl: true));
        using IConnection taken = engine.Take();

        // Somebody whom the CA knows, and who has learned the token.
        using IConnection other = Connector(lobby, tls: true, "127.0.0.1").Connect(default);
        other.Send(TlsRig.Preamble(_token, isControl: false, channel: 1));
        Assert.Equal(0, other.Receive(new byte[1]));
        AwaitTold("its certificate is another one");

        // The control: the same from the right one.
        using IConnection channel = Connector(lobby, tls: true).Connect(default);
        channel.Send(TlsRig.Preamble(_token, isControl: false, channel: 1));
        engine.Take().Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_channel_of_no_migration_is_turned_away_before_the_engine_sees_it(bool tls)
    {
        using Lobby lobby = Open(tls, s_patience);
        using var engine = new Engine(lobby);
        using IConnection early = Connector(lobby, tls).Connect(default);
        early.Send(TlsRig.Preamble(_token, isControl: false, channel: 1));
        Assert.Equal(0, early.Receive(new byte[1]));
        AwaitTold("a migration that is not this one");
    }

    [Fact]
    public void A_second_migration_waits_until_the_engine_has_closed_the_first()
    {
        using Lobby lobby = Open(tls: false, s_patience);
        using var engine = new Engine(lobby);
        using IConnection first = Connector(lobby, tls: false).Connect(default);
        first.Send(TlsRig.Preamble(_token, isControl: true));
        IConnection taken = engine.Take();
        using IConnection second = Connector(lobby, tls: false).Connect(default);
        second.Send(TlsRig.Preamble(Guid.NewGuid(), isControl: true));
        using IConnection channel = Connector(lobby, tls: false).Connect(default);
        channel.Send(TlsRig.Preamble(_token, isControl: false, channel: 1));
        using IConnection next = engine.Take();
        var preamble = new byte[48];
        TlsRig.Fill(next, preamble);
        Assert.Equal(TlsRig.Preamble(_token, isControl: false, channel: 1), preamble);
        taken.Dispose();
        using IConnection last = engine.Take();
        TlsRig.Fill(last, preamble);
        Assert.Equal(1, preamble[12]);
    }

    [Fact]
    public void Closing_ends_every_wait()
    {
        Lobby lobby = Open(tls: true, s_long);
        var engine = new Engine(lobby);
        using Socket silent = Knock(lobby);
        MachineRig.Await(() => lobby.NewcomerCount == 1, () => "a newcomer");
        long start = Stopwatch.GetTimestamp();
        using (var soon = new CancellationTokenSource(20))
            Assert.ThrowsAny<OperationCanceledException>(() => lobby.Accept(soon.Token));
        lobby.Dispose();
        engine.Dispose();
        Assert.Equal(0, ReceiveEnd(silent));
        Assert.True(Stopwatch.GetElapsedTime(start) < s_long);
        Assert.Throws<ObjectDisposedException>(() => lobby.Accept(default));
    }

    [Fact]
    public void Sockets_that_were_handed_in_are_encrypted_too()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        using var lobby = new Lobby(
            SocketAcceptor.Listen(Descriptor(far)), new TlsAdmission(_rig.Load("hostb"), null), TimeProvider.System, _told.Enqueue, TimeSpan.FromSeconds(5));
        using var engine = new Engine(lobby);
        var connector = new TlsConnector(Descriptor(near), s_patience, _rig.Load("hosta"), "hostb", TimeProvider.System);
        using IConnection source = connector.Connect(default);
        source.Send(TlsRig.Preamble(_token, isControl: true));
        var preamble = new byte[48];
        using IConnection taken = engine.Take();
        TlsRig.Fill(taken, preamble);
        Assert.Equal((byte)'T', preamble[0]);
        Assert.Contains("hosta", taken.Peer, StringComparison.Ordinal);
    }

    [Fact]
    public void A_socket_that_was_handed_in_may_be_silent_for_longer_than_a_stranger()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        var time = new FakeTime(TimeProvider.System.GetUtcNow());
        using var lobby = new Lobby(SocketAcceptor.Listen(Descriptor(far)), new TlsAdmission(_rig.Load("hostb"), null), time, _told.Enqueue);
        using var engine = new Engine(lobby);
        // Either before or after the receiver begins to wait: its limit counts from the first byte.
        Thread.Sleep(30);
        time.Advance(TimeSpan.FromHours(1));
        var connector = new TlsConnector(Descriptor(near), s_patience, _rig.Load("hosta"), "hostb", TimeProvider.System);
        using IConnection source = connector.Connect(default);
        source.Send(TlsRig.Preamble(_token, isControl: true));
        engine.Take().Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_machine_moves_through_the_lobby_while_strangers_hold_the_door(bool tls)
    {
        using var rig = new MachineRig();
        GuestMachine source = rig.AssembleRunning(rig.Describe());
        GuestMachine destination = rig.Assemble(rig.Describe());
        var strangers = new List<Socket>();
        string path = Path.Combine(rig.Folder, "migration.sock");
        Lobby? lobby = null;
        (MigrationOutcome sent, MigrationOutcome received) = rig.Migrate(
            source, destination,
            wire: door =>
            {
                for (int index = 0; index < 5; index++)
                {
                    var stranger = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                    stranger.Connect(new UnixDomainSocketEndPoint(path));
                    strangers.Add(stranger);
                }

                return lobby = new Lobby((SocketAcceptor)door, tls ? new TlsAdmission(_rig.Load("hostb"), "hosta") : null, TimeProvider.System, _told.Enqueue, s_long);
            },
            connect: address => tls
                ? new TlsConnector(address, s_patience, _rig.Load("hosta"), "hostb", TimeProvider.System)
                : new SocketConnector(address, s_patience));
        Assert.True(sent.Result == MigrationResult.Completed, $"{sent.Cause} {string.Join(" ", _told)}");
        Assert.Equal(MigrationResult.Completed, received.Result);
        Assert.Equal(0UL, sent.Report.LostPages);
        MachineRig.AwaitReads(destination, 20);
        MachineRig.AssertGoodData(destination);
        foreach (Socket stranger in strangers)
            stranger.Dispose();
        lobby!.Dispose();
    }

    [Fact]
    public void A_machine_is_not_given_to_a_destination_that_the_CA_does_not_know_and_goes_on_running()
    {
        using var rig = new MachineRig();
        GuestMachine source = rig.AssembleRunning(rig.Describe());
        using var lobby = new Lobby(
            SocketAcceptor.Listen(new MigrationAddress.Tcp("127.0.0.1", 0)),
            new TlsAdmission(_rig.LoadForeign("127.0.0.1"), null), TimeProvider.System, _told.Enqueue);
        using var engine = new Engine(lobby);
        MigrationOutcome sent = new MigrationSource(
            source, Connector(lobby, tls: true), new MigrationOptions(), new MachineRig.SilentObserver(), TimeProvider.System).Run(default);
        Assert.Equal(MigrationResult.Failed, sent.Result);
        Assert.Contains("is not signed by a CA", sent.Cause, StringComparison.Ordinal);
        MachineRig.AwaitReads(source, 20);
        MachineRig.AssertGoodData(source);
    }

    private void AwaitTold(string what) => MachineRig.Await(
        () => _told.Any(line => line.Contains(what, StringComparison.Ordinal)), () => $"\"{what}\" among {string.Join(" ", _told)}");

    private static MigrationAddress.Descriptor Descriptor(Socket socket)
    {
        var address = new MigrationAddress.Descriptor((int)socket.SafeHandle.DangerousGetHandle());
        socket.SafeHandle.SetHandleAsInvalid();
        return address;
    }

    private static int ReceiveEnd(Socket socket)
    {
        socket.ReceiveTimeout = (int)s_patience.TotalMilliseconds;
        try
        {
            int count = socket.Receive(new byte[100]);
            return count == 0 ? 0 : ReceiveEnd(socket);
        }
        catch (SocketException failure) when (failure.SocketErrorCode == SocketError.ConnectionReset)
        {
            // Closed with bytes unread: an end as well.
            return 0;
        }
    }

    private static Socket Knock(Lobby lobby)
    {
        var address = (MigrationAddress.Tcp)MigrationAddress.Parse(lobby.Address, out _)!;
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Connect(IPAddress.Loopback, address.Port);
        return socket;
    }

    private Lobby Open(bool tls, TimeSpan limit) => new(
        SocketAcceptor.Listen(new MigrationAddress.Tcp("127.0.0.1", 0)),
        tls ? new TlsAdmission(_rig.Load("127.0.0.1"), null) : null, TimeProvider.System, _told.Enqueue, limit);

    private IConnector Connector(Lobby lobby, bool tls, string host = "hosta")
    {
        MigrationAddress address = MigrationAddress.Parse(lobby.Address, out _)!;
        return tls
            ? new TlsConnector(address, s_patience, _rig.Load(host), null, TimeProvider.System)
            : new SocketConnector(address, s_patience);
    }

    /// <summary>Takes whatever the lobby lets in, on a thread of its own as the engine does.</summary>
    private sealed class Engine : IDisposable
    {
        private readonly BlockingCollection<IConnection> _taken = [];
        private readonly CancellationTokenSource _end = new();
        private readonly Thread _thread;

        public Engine(Lobby lobby)
        {
            _thread = new Thread(() => TakeAll(lobby));
            _thread.Start();
        }

        private void TakeAll(Lobby lobby)
        {
            try
            {
                while (true)
                    _taken.Add(lobby.Accept(_end.Token));
            }
            catch (Exception failure) when (failure is OperationCanceledException or ObjectDisposedException)
            {
                // The end of the test.
            }
        }

        public IConnection Take()
        {
            Assert.True(_taken.TryTake(out IConnection? connection, s_patience), "Nobody was let in.");
            return connection;
        }

        public void Dispose()
        {
            _end.Cancel();
            _thread.Join();
            while (_taken.TryTake(out IConnection? connection))
                connection.Dispose();
        }
    }
}
