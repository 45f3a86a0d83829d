using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>A connection through TLS 1.3 whose two sides have shown certificates and accepted each other's.</summary>
/// <remarks>
/// <code>
/// connection --TLS handshake, both certificates--> each side judges --verdicts cross--> both accept: open
///      '--anything else, or out of time--> closed, one sentence says why          '--either refuses--> closed
/// </code>
/// With TLS 1.3 a source has finished its handshake before the receiver has seen its certificate, so without the
/// verdicts it would learn of a refusal by a connection that closes. A verdict is a length (one byte) and so many bytes
/// of UTF-8: why the peer is refused, nothing when it is accepted. No byte of a migration goes in either direction
/// before both verdicts are good.
/// </remarks>
public sealed class TlsConnection : IConnection
{
    /// <summary>LIMIT: a span has at most 2^31 bytes.</summary>
    private const ulong PieceOfPages = 1 << 16;

    /// <summary>
    /// All that TLS 1.3 must have or should, in the order of preference; of two sides that differ the receiver's counts.
    /// With 128 bits the cipher takes a fifth less processor time (`openssl speed` on Zen 4: 4.3 against 3.5 GB/s), and it
    /// is the one that every implementation has.
    /// </summary>
    private static readonly CipherSuitesPolicy s_ciphers = new(
        [TlsCipherSuite.TLS_AES_128_GCM_SHA256, TlsCipherSuite.TLS_AES_256_GCM_SHA384, TlsCipherSuite.TLS_CHACHA20_POLY1305_SHA256]);

    private readonly IConnection _inner;
    private readonly SslStream _stream;
    private readonly ConnectionStream _wire;

    private TlsConnection(IConnection inner, ConnectionStream wire, SslStream stream, string peer, string peerCertificate)
    {
        _inner = inner;
        _wire = wire;
        _stream = stream;
        Peer = peer;
        PeerCertificate = peerCertificate;
    }

    public string Peer { get; }

    /// <summary>SHA-256 of the peer's certificate.</summary>
    public string PeerCertificate { get; }

    public TimeSpan IdleTimeout
    {
        get => _inner.IdleTimeout;
        set => _inner.IdleTimeout = value;
    }

    /// <summary>The source's side. The connection is this object's, or closed.</summary>
    /// <param name="peerName">The host name or IP address that the receiver's certificate must be for.</param>
    /// <exception cref="IOException">There is no such connection; the message says why.</exception>
    public static TlsConnection Connect(
        IConnection inner, TlsCredentials credentials, string peerName, TimeSpan limit, TimeProvider time) =>
        Open(inner, credentials, new TlsJudge(credentials, peerIsServer: true, peerName, time), limit, time);

    /// <summary>The receiver's side. The connection is this object's, or closed.</summary>
    /// <param name="peerName">What the source's certificate must be for, or null: any that the CA has signed.</param>
    /// <exception cref="IOException">There is no such connection; the message says why.</exception>
    public static TlsConnection Accept(
        IConnection inner, TlsCredentials credentials, string? peerName, TimeSpan limit, TimeProvider time) =>
        Open(inner, credentials, new TlsJudge(credentials, peerIsServer: false, peerName, time), limit, time);

    public void Send(ReadOnlySpan<byte> bytes)
    {
        Put(bytes);
        Flush();
    }

    public int Receive(Span<byte> buffer)
    {
        if (buffer.IsEmpty)
            return 0;
        try
        {
            return _stream.Read(buffer);
        }
        catch (Exception failure) when (failure is not IOException)
        {
            // What did not pass the check of its record was not handed out.
            throw Broken("receiving from", failure);
        }
    }

    public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => SendWithPages(default, memory, runs);

    public void SendWithPages(ReadOnlySpan<byte> bytes, GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        ArgumentNullException.ThrowIfNull(memory);
        if (!bytes.IsEmpty)
            Put(bytes);
        foreach (PageRun run in runs)
        {
            for (ulong done = 0; done < run.Count; done += PieceOfPages)
                Put(memory.PagesSpan(run.FirstPage + done, (int)Math.Min(PieceOfPages, run.Count - done)));
        }

        Flush();
    }

    public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => PageByPage.Receive(this, memory, runs);

    public void Abort() => _inner.Abort();

    public void Dispose() => _stream.Dispose();

    private void Flush() => _wire.Flush();

    private void Put(ReadOnlySpan<byte> bytes)
    {
        try
        {
            _stream.Write(bytes);
        }
        catch (Exception failure) when (failure is not IOException)
        {
            // How much arrived is unknown: the stream is broken for good.
            throw Broken("sending to", failure);
        }
    }

    private static TlsConnection Open(
        IConnection inner, TlsCredentials credentials, TlsJudge judge, TimeSpan limit, TimeProvider time)
    {
        var wire = new ConnectionStream(inner, time);
        var stream = new SslStream(wire, leaveInnerStreamOpen: false);
        TimeSpan idleTimeout = inner.IdleTimeout;
        IOException? verdict = null;
        wire.BeginLimit(limit);
        try
        {
            if (judge.PeerIsServer)
                stream.AuthenticateAsClient(ClientOptions(credentials, judge));
            else
                stream.AuthenticateAsServer(ServerOptions(credentials, judge));
            string? refused = judge.Refusal;
            Tell(stream, refused);
            string? refuses = Hear(stream);
            if (refused is not null)
                throw verdict = new IOException($"The {judge.PeerRole} {inner.Peer} was refused: {refused}.");
            if (refuses is not null)
                throw verdict = new IOException($"The {judge.PeerRole} {inner.Peer} refused this side: {refuses}.");
            wire.EndLimit(idleTimeout);
            string certificate = Convert.ToHexString(SHA256.HashData(judge.Certificate!.RawData));
            return new TlsConnection(inner, wire, stream, $"{inner.Peer} ({TlsCredentials.Words.NameOf(judge.Certificate)})", certificate);
        }
        catch (Exception failure)
        {
            // Whatever a stranger did to the handshake: this connection is closed, and nothing but it.
            stream.Dispose();
            if (failure == verdict)
                throw;
            // A peer that this side refuses need not wait to be told.
            string refused = judge.Refusal is { } refusal && judge.Certificate is not null ? $" (this side refuses: {refusal})" : "";
            string cause = CauseOf(failure);
            string hint = judge.PeerIsServer && cause.Contains("closed", StringComparison.Ordinal) ? "; is it started with --tls?" : "";
            throw new IOException($"The TLS handshake with {inner.Peer} failed: {cause}{refused}{hint}.", failure);
        }
    }

    // CA5359 sees that the callback always lets the handshake go on. The verdict is the judge's, and Open acts on it.
#pragma warning disable CA5359
    private static SslClientAuthenticationOptions ClientOptions(TlsCredentials credentials, TlsJudge judge) => new()
    {
        TargetHost = judge.PeerName,
        EnabledSslProtocols = SslProtocols.Tls13,
        CipherSuitesPolicy = s_ciphers,
        ClientCertificateContext = credentials.Context,
        CertificateChainPolicy = judge.CreatePolicy(),
        RemoteCertificateValidationCallback = judge.Judge,
        // A resumed session would skip the certificates.
        AllowTlsResume = false,
        AllowRenegotiation = false,
    };

    private static SslServerAuthenticationOptions ServerOptions(TlsCredentials credentials, TlsJudge judge) => new()
    {
        EnabledSslProtocols = SslProtocols.Tls13,
        CipherSuitesPolicy = s_ciphers,
        ServerCertificateContext = credentials.Context,
        ClientCertificateRequired = true,
        CertificateChainPolicy = judge.CreatePolicy(),
        RemoteCertificateValidationCallback = judge.Judge,
        AllowTlsResume = false,
        AllowRenegotiation = false,
    };

#pragma warning restore CA5359

    private static void Tell(SslStream stream, string? refusal)
    {
        byte[] words = Encoding.UTF8.GetBytes(refusal ?? "");
        int length = Math.Min(words.Length, byte.MaxValue);
        stream.Write([(byte)length, .. words.AsSpan(0, length)]);
    }

    private static string? Hear(SslStream stream)
    {
        Span<byte> words = stackalloc byte[byte.MaxValue + 1];
        stream.ReadExactly(words[..1]);
        if (words[0] == 0)
            return null;
        words = words.Slice(1, words[0]);
        stream.ReadExactly(words);
        return TlsCredentials.Words.Clean(Encoding.UTF8.GetString(words));
    }

    private static string CauseOf(Exception failure)
    {
        // The outermost of OpenSSL's exceptions only says where to look.
        while (failure is AuthenticationException && failure.InnerException is { } inner)
            failure = inner;
        string text = failure is EndOfStreamException
            ? "the other side closed the connection in the middle of it"
            : failure.Message;
        return TlsCredentials.Words.Clean(text).TrimEnd('.');
    }

    private IOException Broken(string doing, Exception failure) =>
        new($"The encrypted connection with {Peer} broke while {doing} it: {CauseOf(failure)}.", failure);
}

/// <summary>What this side makes of the certificate that the peer shows in one handshake.</summary>
internal sealed class TlsJudge(TlsCredentials credentials, bool peerIsServer, string? peerName, TimeProvider time)
{
    private bool _judged;
    private string? _refusal;

    public bool PeerIsServer => peerIsServer;

    public string? PeerName => peerName;

    public string PeerRole => peerIsServer ? "destination" : "source";

    public X509Certificate2? Certificate { get; private set; }

    /// <summary>Null only after a certificate was shown and accepted.</summary>
    public string? Refusal => _judged ? _refusal : "it showed no certificate";

    public X509ChainPolicy CreatePolicy() => credentials.CreatePolicy(peerIsServer, time.GetUtcNow());

    /// <summary>
    /// Called by SslStream within the handshake. True: go on, so that a refusal can be told through what was agreed;
    /// <see cref="Refusal"/> is asked before anything else is read or written.
    /// </summary>
    public bool Judge(object sender, X509Certificate? certificate, X509Chain? chain, SslPolicyErrors errors)
    {
        _judged = true;
        _refusal = Find(certificate as X509Certificate2, chain, errors);
        return true;
    }

    private string? Find(X509Certificate2? certificate, X509Chain? chain, SslPolicyErrors errors)
    {
        if (certificate is null || chain is null)
            return "it showed no certificate";
        // A copy: SslStream disposes its own.
        Certificate = X509CertificateLoader.LoadCertificate(certificate.RawData);
        string name = TlsCredentials.Words.NameOf(certificate);
        if (TlsCredentials.FindTimeProblem(certificate, time.GetUtcNow()) is { } problem)
            return $"its certificate (of {name}) {problem}";
        X509ChainStatusFlags status = X509ChainStatusFlags.NoError;
        foreach (X509ChainStatus part in chain.ChainStatus)
            status |= part.Status;
        if ((status & (X509ChainStatusFlags.UntrustedRoot | X509ChainStatusFlags.PartialChain | X509ChainStatusFlags.NotSignatureValid)) != 0)
            return $"its certificate (of {name}) is not signed by a CA that the {(peerIsServer ? "source" : "destination")}'s {TlsCredentials.AuthorityFile} holds";
        if ((status & X509ChainStatusFlags.NotTimeValid) != 0)
            return $"a CA of its certificate (of {name}) has expired";
        if ((status & X509ChainStatusFlags.NotValidForUsage) != 0)
            return $"its certificate (of {name}) is not meant for a {(peerIsServer ? "server" : "client")}";
        if (status != X509ChainStatusFlags.NoError || (errors & SslPolicyErrors.RemoteCertificateChainErrors) != 0)
            return $"its certificate (of {name}) is not valid: {status}";
        bool isNamed = peerName is null || certificate.MatchesHostname(peerName, allowCommonName: false);
        if (!isNamed || (peerIsServer && errors != SslPolicyErrors.None))
            return $"its certificate is for {name}, not for {TlsCredentials.Words.Clean(peerName!)}{(peerIsServer ? "; say --tls-peer if that is right" : "")}";
        return errors == SslPolicyErrors.None ? null : $"its certificate (of {name}) is not valid: {errors}";
    }
}
