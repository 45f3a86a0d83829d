using Tidemark.Migration;
using Tidemark.Migration.Stream;

namespace Tidemark.Machine.Transport;

/// <summary>Somebody at the door, until it is known who it is.</summary>
/// <remarks>
/// <code>
/// accepted --(TLS: first byte, handshake, verdicts)--> preamble, whole and undamaged --> introduced
///     '--something else, silence, out of time, aborted--> IOException, closed by the caller
/// </code>
/// LIMIT: what one of them can make this process hold is a thread, 48 bytes and, with TLS, OpenSSL's state and a chain of
/// certificates (100 KiB at most, OpenSSL's own limit).
/// </remarks>
internal sealed class Newcomer(IConnection connection, TlsAdmission? tls, TimeSpan limit, TimeProvider time)
{
    private const byte TlsHandshake = 0x16;

    /// <summary>TLS 1.2 in a record's header is how 1.3 looks too: alert, fatal, handshake_failure.</summary>
    private static readonly byte[] s_alert = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

    private long _start = time.GetTimestamp();

    /// <summary>Without the port: whom to count together.</summary>
    public string Host { get; } = connection.Peer.LastIndexOf(':') is > 3 and var colon ? connection.Peer[..colon] : connection.Peer;

    public void Abort() => connection.Abort();

    /// <summary>When nobody will introduce it.</summary>
    public void Close() => connection.Dispose();

    /// <exception cref="IOException">It is nobody of ours.</exception>
    public (IConnection Connection, Introduction Introduction, byte[] Read, string? Certificate) Introduce(bool waitForFirst)
    {
        IConnection current = connection;
        string? certificate = null;
        try
        {
            if (tls is not null)
            {
                TlsConnection secured = Secure(waitForFirst);
                current = secured;
                certificate = secured.PeerCertificate;
            }

            byte[] bytes = ReadPreamble(current);
            Introduction introduction = Introduction.Read(bytes)
                ?? throw new IOException($"The peer {current.Peer} was turned away: its introduction is damaged.");
            current.IdleTimeout = Timeout.InfiniteTimeSpan;
            return (current, introduction, bytes, certificate);
        }
        catch
        {
            // Nothing was taken from it, and nobody else has seen it.
            current.Dispose();
            throw;
        }
    }

    private TlsConnection Secure(bool waitForFirst)
    {
        var first = new byte[1];
        connection.IdleTimeout = waitForFirst ? Timeout.InfiniteTimeSpan : Left();
        if (connection.Receive(first) == 0)
            throw new IOException($"The peer {connection.Peer} closed the connection before it introduced itself.");
        // The two ends of a socket that was handed in need not be used at the same time.
        if (waitForFirst)
            _start = time.GetTimestamp();
        if (Introduction.MayBegin(first))
            RefusePlain();
        return TlsConnection.Accept(
            new IntroducedConnection(connection, first), tls!.Credentials, tls.PeerName, Left(), time);
    }

    /// <summary>A source that was started without --tls understands an alert, and says so to its user.</summary>
    private void RefusePlain()
    {
        connection.Send(s_alert);
        // What it has sent is taken in: closing on it would reset the connection, and the alert with it.
        var rest = new byte[Introduction.Size - 1];
        connection.IdleTimeout = Left();
        connection.Receive(rest);
        throw new IOException($"The peer {connection.Peer} was turned away: it does not encrypt; the migration needs --tls there too.");
    }

    private byte[] ReadPreamble(IConnection from)
    {
        var bytes = new byte[Introduction.Size];
        int have = 0;
        while (have < bytes.Length)
        {
            from.IdleTimeout = Left();
            int count = from.Receive(bytes.AsSpan(have));
            if (count == 0)
                throw new IOException($"The peer {from.Peer} closed the connection before it introduced itself.");
            have += count;
            if (tls is null && bytes[0] == TlsHandshake)
                throw new IOException($"The peer {from.Peer} was turned away: it begins with TLS, and this receiver was started without --tls.");
            if (!Introduction.MayBegin(bytes.AsSpan(0, have)))
                throw new IOException($"The peer {from.Peer} was turned away: it is not Tidemark.");
        }

        return bytes;
    }

    private TimeSpan Left()
    {
        TimeSpan left = limit - time.GetElapsedTime(_start);
        return left > TimeSpan.Zero
            ? left
            : throw new IOException($"The peer {connection.Peer} did not introduce itself within {limit.TotalSeconds:0.#} s.");
    }
}

/// <summary>What a receiver with TLS asks of everybody.</summary>
/// <param name="PeerName">What a source's certificate must be for, or null: any that the CA has signed.</param>
public sealed record TlsAdmission(TlsCredentials Credentials, string? PeerName);
