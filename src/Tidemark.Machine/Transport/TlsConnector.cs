using Tidemark.Kernel;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>
/// Encrypted connections to one destination, for one migration: all must show the certificate that the first showed.
/// </summary>
public sealed class TlsConnector : IConnector
{
    private readonly SocketConnector _inner;
    private readonly TlsCredentials _credentials;
    private readonly string _peerName;
    private readonly TimeSpan _timeout;
    private readonly TimeProvider _time;
    private string? _certificate;

    /// <param name="peerName">
    /// What the destination's certificate must be for; null: the address's host.
    /// </param>
    /// <exception cref="IOException">The address has no host, and no name was given.</exception>
    public TlsConnector(
        MigrationAddress address, TimeSpan timeout, TlsCredentials credentials, string? peerName, TimeProvider time,
        IKernel? kernel = null)
    {
        _inner = new SocketConnector(address, timeout, kernel) { ExpectsTls = true };
        _credentials = credentials;
        _peerName = peerName ?? (address as MigrationAddress.Tcp)?.Host
            ?? throw new IOException($"{address} has no host name for the destination's certificate to be checked against; say --tls-peer NAME.");
        _timeout = timeout;
        _time = time;
    }

    public string Address => _inner.Address;

    public IConnection Connect(CancellationToken cancellation)
    {
        IConnection connection = _inner.Connect(cancellation);
        TlsConnection secured;
        try
        {
            using CancellationTokenRegistration registration = cancellation.Register(connection.Abort);
            secured = TlsConnection.Connect(connection, _credentials, _peerName, _timeout, _time);
        }
        catch (IOException)
        {
            // The connection is closed already.
            cancellation.ThrowIfCancellationRequested();
            throw;
        }

        string first = Interlocked.CompareExchange(ref _certificate, secured.PeerCertificate, null) ?? secured.PeerCertificate;
        if (first == secured.PeerCertificate)
            return secured;
        secured.Dispose();
        throw new IOException($"{secured.Peer} showed another certificate than on the first connection of this migration.");
    }
}
