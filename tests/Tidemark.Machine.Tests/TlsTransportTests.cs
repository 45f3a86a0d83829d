using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using Tidemark.Machine.Transport;

namespace Tidemark.Machine.Tests;

public sealed class TlsTransportTests : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private readonly TlsRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void Two_sides_with_certificates_of_one_CA_exchange_bytes()
    {
        // The control of everything that is refused below.
        (TlsConnection? source, TlsConnection? destination, _, _) = _rig.Shake(_rig.Load("hosta"), _rig.Load("hostb"), sourceName: "hosta");
        Assert.Equal("unix:far (hostb)", source!.Peer);
        Assert.Equal("unix:near (hosta)", destination!.Peer);
        var sent = new byte[3 << 20];
        new Random(3).NextBytes(sent);
        var received = new byte[sent.Length];
        var sender = new Thread(() => source.Send(sent));
        sender.Start();
        TlsRig.Fill(destination, received);
        Assert.True(sender.Join(s_patience));
        Assert.True(sent.AsSpan().SequenceEqual(received));
        destination.Send([7]);
        Assert.Equal(1, source.Receive(received));
        Assert.Equal(7, received[0]);
    }

    [Fact]
    public void Nothing_of_what_is_sent_can_be_read_on_the_wire()
    {
        (Socket near, Socket middle) = UnixSockets.Connect();
        (Socket onward, Socket far) = UnixSockets.Connect();
        var seen = new MemoryStream();
        var pumps = new[] { (middle, onward), (onward, middle) }.Select(ends => new Thread(() => Pump(ends.Item1, ends.Item2, seen))).ToArray();
        foreach (Thread pump in pumps)
            pump.Start();
        TlsConnection? there = null;
        var other = new Thread(() => there = TlsConnection.Accept(
            new SocketConnection(far, "far"), _rig.Load("hostb"), null, s_patience, TimeProvider.System));
        other.Start();
        TlsConnection here = TlsConnection.Connect(new SocketConnection(near, "near"), _rig.Load("hosta"), "hostb", s_patience, TimeProvider.System);
        Assert.True(other.Join(s_patience));
        byte[] secret = "the guest's memory"u8.ToArray();
        here.Send(secret);
        var received = new byte[secret.Length];
        TlsRig.Fill(there!, received);
        Assert.Equal(secret, received);
        here.Dispose();
        there!.Dispose();
        foreach (Thread pump in pumps)
            Assert.True(pump.Join(s_patience));
        Assert.True(seen.Length > 1000);
        Assert.Equal(-1, seen.ToArray().AsSpan().IndexOf(secret));
        // TLS 1.3 hides the certificates too.
        Assert.Equal(-1, seen.ToArray().AsSpan().IndexOf("hosta"u8));
        middle.Dispose();
        onward.Dispose();
    }

    [Fact]
    public void A_source_with_a_certificate_of_another_CA_is_refused_and_both_are_told()
    {
        (_, _, string? source, string? destination) = _rig.Shake(_rig.LoadForeign("hosta"), _rig.Load("hostb"));
        Assert.Contains("refused: its certificate (of hosta) is not signed by a CA that the destination's ca.pem holds", destination, StringComparison.Ordinal);
        Assert.Contains("refused this side: its certificate (of hosta) is not signed", source, StringComparison.Ordinal);
    }

    [Fact]
    public void A_destination_with_a_certificate_of_another_CA_is_refused_and_both_are_told()
    {
        (_, _, string? source, string? destination) = _rig.Shake(_rig.Load("hosta"), _rig.LoadForeign("hostb"));
        Assert.Contains("refused: its certificate (of hostb) is not signed by a CA that the source's ca.pem holds", source, StringComparison.Ordinal);
        Assert.Contains("refused this side: its certificate", destination, StringComparison.Ordinal);
    }

    [Fact]
    public void A_destination_of_another_name_is_refused()
    {
        (_, _, string? source, _) = _rig.Shake(_rig.Load("hosta"), _rig.Load("127.0.0.1"));
        Assert.Contains("its certificate is for 127.0.0.1, not for hostb; say --tls-peer", source, StringComparison.Ordinal);
        Assert.NotNull(_rig.Shake(_rig.Load("hosta"), _rig.Load("127.0.0.1"), "127.0.0.1").Source);
    }

    [Fact]
    public void A_source_of_another_name_is_refused_where_one_is_asked_for()
    {
        (_, _, string? source, string? destination) = _rig.Shake(_rig.Load("127.0.0.1"), _rig.Load("hostb"), sourceName: "hosta");
        Assert.Contains("its certificate is for 127.0.0.1, not for hosta", destination, StringComparison.Ordinal);
        Assert.Contains("not for hosta", source, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_expired_certificate_is_refused(bool sources)
    {
        // The CA is valid for ten years, the hosts for 30 days.
        var later = new FakeTime(TimeProvider.System.GetUtcNow() + TimeSpan.FromDays(100));
        (_, _, string? source, string? destination) = _rig.Shake(
            _rig.Load("hosta"), _rig.Load("hostb"),
            sourceTime: sources ? null : later, destinationTime: sources ? later : null);
        Assert.Contains("expired on", source, StringComparison.Ordinal);
        Assert.Contains("expired on", destination, StringComparison.Ordinal);
        var earlier = new FakeTime(TimeProvider.System.GetUtcNow() - TimeSpan.FromDays(100));
        (_, _, source, _) = _rig.Shake(_rig.Load("hosta"), _rig.Load("hostb"), sourceTime: earlier);
        Assert.Contains("are both clocks right?", source, StringComparison.Ordinal);
    }

    [Fact]
    public void A_certificate_for_the_other_purpose_is_refused()
    {
        const string ForServers = "1.3.6.1.5.5.7.3.1";
        const string ForClients = "1.3.6.1.5.5.7.3.2";
        Assert.Contains("is not meant for a client", _rig.Shake(_rig.LoadForPurpose("hosta", ForServers), _rig.Load("hostb")).DestinationFailure, StringComparison.Ordinal);
        Assert.Contains("is not meant for a server", _rig.Shake(_rig.Load("hosta"), _rig.LoadForPurpose("hostb", ForClients)).SourceFailure, StringComparison.Ordinal);
        Assert.NotNull(_rig.Shake(_rig.LoadForPurpose("hosta", ForClients), _rig.LoadForPurpose("hostb", ForServers)).Source);
    }

    [Fact]
    public void A_source_without_a_certificate_is_refused() =>
        Assert.Contains("was refused: it showed no certificate", AcceptFrom(SslProtocols.Tls13), StringComparison.Ordinal);

    [Fact]
    public void An_older_version_of_TLS_is_refused() =>
        Assert.Contains("The TLS handshake with unix:near failed", AcceptFrom(SslProtocols.Tls12), StringComparison.Ordinal);

    [Fact]
    public void Somebody_who_begins_a_handshake_and_falls_silent_is_given_up()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        near.Send([0x16, 0x03, 0x01, 0x02]);
        IOException failure = Assert.Throws<IOException>(() => TlsConnection.Accept(
            new SocketConnection(far, "unix:near"), _rig.Load("hostb"), null, TimeSpan.FromMilliseconds(100), TimeProvider.System));
        Assert.Contains("The TLS handshake with unix:near failed", failure.Message, StringComparison.Ordinal);
        Assert.Contains("no progress for 0.1 s", failure.Message, StringComparison.Ordinal);
        near.Dispose();
        (near, far) = UnixSockets.Connect();
        failure = Assert.Throws<IOException>(() => TlsConnection.Connect(
            new SocketConnection(near, "unix:far"), _rig.Load("hosta"), "hostb", TimeSpan.FromMilliseconds(100), TimeProvider.System));
        Assert.Contains("no progress for 0.1 s", failure.Message, StringComparison.Ordinal);
        far.Dispose();
    }

    [Fact]
    public void Garbage_in_place_of_a_handshake_ends_in_one_sentence()
    {
        for (int seed = 0; seed < 20; seed++)
        {
            (Socket near, Socket far) = UnixSockets.Connect();
            var garbage = new byte[1000];
            new Random(seed).NextBytes(garbage);
            near.Send(garbage);
            near.Shutdown(SocketShutdown.Send);
            IOException failure = Assert.Throws<IOException>(() => TlsConnection.Accept(
                new SocketConnection(far, "unix:near"), _rig.Load("hostb"), null, TimeSpan.FromSeconds(2), TimeProvider.System));
            Assert.DoesNotContain('\n', failure.Message);
            near.Dispose();
        }
    }

    [Fact]
    public void Silence_ends_with_the_time_and_an_end_is_an_end()
    {
        (TlsConnection? source, TlsConnection? destination, _, _) = _rig.Shake(_rig.Load("hosta"), _rig.Load("hostb"));
        source!.IdleTimeout = TimeSpan.FromMilliseconds(100);
        Assert.Contains("no progress for 0.1 s", Assert.Throws<IOException>(() => source.Receive(new byte[1])).Message, StringComparison.Ordinal);
        destination!.IdleTimeout = TimeSpan.FromMilliseconds(100);
        Assert.Contains("no progress for 0.1 s", Assert.Throws<IOException>(() => destination.Send(new byte[64 << 20])).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void An_abort_from_another_thread_ends_a_call_in_progress(bool sending)
    {
        (TlsConnection? source, _, _, _) = _rig.Shake(_rig.Load("hosta"), _rig.Load("hostb"));
        Exception? seen = null;
        var worker = new Thread(() => seen = Record.Exception(() =>
        {
            if (sending)
                source!.Send(new byte[64 << 20]);
            else
                source!.Receive(new byte[1]);
        }));
        worker.Start();
        Thread.Sleep(30);
        source!.Abort();
        Assert.True(worker.Join(s_patience));
        Assert.Contains("broken off on this side", Assert.IsType<IOException>(seen).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_changed_on_the_wire_is_not_handed_out()
    {
        (Socket near, Socket middle) = UnixSockets.Connect();
        (Socket onward, Socket far) = UnixSockets.Connect();
        var back = new Thread(() => Pump(onward, middle, new MemoryStream()));
        back.Start();
        bool damage = false;
        var forth = new Thread(() =>
        {
            var buffer = new byte[1 << 16];
            Record.Exception(() =>
            {
                while (middle.Receive(buffer) is var count && count > 0)
                {
                    if (Volatile.Read(ref damage))
                        buffer[count - 1] ^= 1;
                    onward.Send(buffer.AsSpan(0, count));
                }
            });
        });
        forth.Start();
        TlsConnection? there = null;
        var other = new Thread(() => there = TlsConnection.Accept(
            new SocketConnection(far, "far"), _rig.Load("hostb"), null, s_patience, TimeProvider.System));
        other.Start();
        TlsConnection here = TlsConnection.Connect(new SocketConnection(near, "near"), _rig.Load("hosta"), "hostb", s_patience, TimeProvider.System);
        Assert.True(other.Join(s_patience));
        Volatile.Write(ref damage, true);
        here.Send(new byte[100]);
        Assert.Throws<IOException>(() => there!.Receive(new byte[100]));
        here.Dispose();
        there!.Dispose();
        middle.Dispose();
        onward.Dispose();
        Assert.True(forth.Join(s_patience));
        Assert.True(back.Join(s_patience));
    }

    [Fact]
    public void A_later_connection_of_a_migration_with_another_certificate_is_refused()
    {
        using SocketAcceptor acceptor = SocketAcceptor.Listen(new MigrationAddress.Tcp("127.0.0.1", 0));
        string renewed = _rig.Copy("127.0.0.1");
        Directory.Move(Path.Combine(_rig.Folder, "one", "127.0.0.1"), Path.Combine(_rig.Folder, "before"));
        CertificateFolders.Make(Path.Combine(_rig.Folder, "one"), ["127.0.0.1"], TimeSpan.FromDays(30), TimeProvider.System);
        using TlsCredentials before = TlsCredentials.Load(renewed, TimeProvider.System);
        TlsCredentials after = _rig.Load("127.0.0.1");
        var server = new Thread(() =>
        {
            foreach (TlsCredentials credentials in new[] { before, before, after })
                _rig.Own(TlsConnection.Accept(acceptor.Accept(default), credentials, null, s_patience, TimeProvider.System));
        });
        server.Start();
        var connector = new TlsConnector(MigrationAddress.Parse(acceptor.Address, out _)!, s_patience, _rig.Load("hosta"), null, TimeProvider.System);
        _rig.Own(connector.Connect(default));
        _rig.Own(connector.Connect(default));
        IOException failure = Assert.Throws<IOException>(() => connector.Connect(default));
        Assert.Contains("another certificate than on the first connection", failure.Message, StringComparison.Ordinal);
        Assert.True(server.Join(s_patience));
    }

    [Fact]
    public void An_address_without_a_host_needs_a_name()
    {
        var address = new MigrationAddress.Unix(Path.Combine(_rig.Folder, "s"));
        IOException failure = Assert.Throws<IOException>(() => new TlsConnector(address, s_patience, _rig.Load("hosta"), null, TimeProvider.System));
        Assert.Contains("--tls-peer NAME", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Each_mistake_in_a_TLS_folder_is_told()
    {
        Check("does not exist; `tidemark certificates`", folder => Directory.Delete(folder, recursive: true));
        foreach (string file in new[] { "ca.pem", "cert.pem", "key.pem" })
        {
            Check($"{file} is missing", folder => File.Delete(Path.Combine(folder, file)));
            Check($"{file} is empty", folder => File.WriteAllText(Path.Combine(folder, file), ""));
        }

        Check("cert.pem holds no certificate", folder => File.WriteAllText(Path.Combine(folder, "cert.pem"), "nothing"));
        Check("can not be read", folder => File.WriteAllText(Path.Combine(folder, "cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
        Check("ca.pem holds no certificate of a CA", folder => File.Copy(Path.Combine(folder, "cert.pem"), Path.Combine(folder, "ca.pem"), overwrite: true));
        Check("(mode 0644): chmod 600", folder => File.SetUnixFileMode(Path.Combine(folder, "key.pem"), (UnixFileMode)0b110_100_100));
        Check("key.pem is not the key of cert.pem", folder => File.Copy(Path.Combine(_rig.Folder, "two", "hosta", "key.pem"), Path.Combine(folder, "key.pem"), overwrite: true));
        Check("key.pem holds no private key", folder => File.WriteAllText(Path.Combine(folder, "key.pem"), "nothing"));
        Check("is encrypted", folder => File.WriteAllText(Path.Combine(folder, "key.pem"), "-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        string good = _rig.Copy("hosta");
        var later = new FakeTime(TimeProvider.System.GetUtcNow() + TimeSpan.FromDays(100));
        Assert.Contains("cert.pem expired on", Assert.Throws<IOException>(() => TlsCredentials.Load(good, later)).Message, StringComparison.Ordinal);
        // The control.
        TlsCredentials.Load(good, TimeProvider.System).Dispose();
    }

    [Fact]
    public void Certificates_are_made_for_more_hosts_later_and_never_over_others()
    {
        string folder = Path.Combine(_rig.Folder, "one");
        Assert.Equal(
            [Path.Combine(folder, "hostc"), Path.Combine(folder, "::1")],
            CertificateFolders.Make(folder, ["hostc", "::1"], TimeSpan.FromDays(9000), TimeProvider.System));
        Assert.NotNull(_rig.Shake(_rig.Load("hostc"), _rig.Load("::1"), "::1", sourceName: "hostc").Source);
        UnixFileMode mode = File.GetUnixFileMode(Path.Combine(folder, "hostc", "key.pem"));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, mode);
        Assert.Equal(mode, File.GetUnixFileMode(Path.Combine(folder, "ca", "ca-key.pem")));
        foreach (string[] wrong in new string[][] { ["hosta"], ["../x"], ["a b"], ["ca"], ["new", "NEW"] })
            Assert.Throws<IOException>(() => CertificateFolders.Make(folder, wrong, TimeSpan.FromDays(1), TimeProvider.System));
        Assert.False(Directory.Exists(Path.Combine(folder, "new")));
    }

    private void Check(string message, Action<string> spoil)
    {
        string folder = _rig.Copy("hosta");
        spoil(folder);
        IOException failure = Assert.Throws<IOException>(() => TlsCredentials.Load(folder, TimeProvider.System));
        Assert.Contains(message, failure.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', failure.Message);
    }

    /// <summary>What the receiver says of a source that is not ours and shows no certificate.</summary>
    private string AcceptFrom(SslProtocols protocol)
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        var client = new Thread(() => Record.Exception(() =>
        {
            using var stream = new SslStream(new NetworkStream(near, ownsSocket: true));
            stream.AuthenticateAsClient(new SslClientAuthenticationOptions
            {
                TargetHost = "hostb", EnabledSslProtocols = protocol,
                CertificateChainPolicy = Trusting(Path.Combine(_rig.Folder, "one", "ca", "ca.pem")),
            });
            stream.Write([0]);
            stream.ReadByte();
        }));
        client.Start();
        IOException failure = Assert.Throws<IOException>(() => TlsConnection.Accept(
            new SocketConnection(far, "unix:near"), _rig.Load("hostb"), null, s_patience, TimeProvider.System));
        Assert.True(client.Join(s_patience));
        return failure.Message;
    }

    private static X509ChainPolicy Trusting(string path)
    {
        var policy = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust, RevocationMode = X509RevocationMode.NoCheck };
        policy.CustomTrustStore.ImportFromPemFile(path);
        return policy;
    }

    private static void Pump(Socket from, Socket to, MemoryStream seen)
    {
        var buffer = new byte[1 << 16];
        try
        {
            while (from.Receive(buffer) is var count && count > 0)
            {
                lock (seen)
                    seen.Write(buffer, 0, count);
                to.Send(buffer.AsSpan(0, count));
            }

            to.Shutdown(SocketShutdown.Send);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // An end of the wire has gone, which ends this direction.
        }
    }
}
