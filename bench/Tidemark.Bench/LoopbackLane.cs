using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Tidemark.Memory;

namespace Tidemark.Bench;

/// <summary>What a probe of loopback does to the bytes besides moving them.</summary>
[Flags]
internal enum LoopbackWork
{
    Nothing = 0,

    /// <summary>
    /// Each page is looked at and hashed on both sides, a frame at a time, as whoever promises that no page arrives other than
    /// it was sent must do.
    /// </summary>
    Checks = 1,

    /// <summary>Through an SslStream, the platform's own ciphers, and nobody looks at a certificate.</summary>
    Tls = 2,
}

/// <summary>One stream of a probe of loopback, already connected.</summary>
internal sealed class LoopbackLane : IDisposable
{
    /// <summary>Of a migration's frame.</summary>
    private const int FrameBytes = 32 * GuestPage.Size;

    private readonly Socket _socket;
    private readonly LoopbackWork _work;
    private readonly SslStream? _tls;
    private readonly ulong[] _hashes = new ulong[FrameBytes / GuestPage.Size];
    private ulong _hash;

    private LoopbackLane(Socket socket, LoopbackWork work, SslStream? tls)
    {
        _socket = socket;
        _work = work;
        _tls = tls;
    }

    internal static LoopbackLane OfSender(Socket socket, LoopbackWork work)
    {
        SslStream? tls = work.HasFlag(LoopbackWork.Tls) ? new SslStream(new NetworkStream(socket)) : null;
        // CA5359: it is a yardstick of ciphers and copies, between two processes of one bench.
#pragma warning disable CA5359
        tls?.AuthenticateAsClient(new SslClientAuthenticationOptions
        {
            TargetHost = "localhost", EnabledSslProtocols = SslProtocols.Tls13, RemoteCertificateValidationCallback = (_, _, _, _) => true,
        });
#pragma warning restore CA5359
        return new LoopbackLane(socket, work, tls);
    }

    internal static LoopbackLane OfReceiver(Socket socket, LoopbackWork work)
    {
        if (!work.HasFlag(LoopbackWork.Tls))
            return new LoopbackLane(socket, work, null);
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using X509Certificate2 certificate = new CertificateRequest("CN=localhost", key, HashAlgorithmName.SHA256)
            .CreateSelfSigned(DateTimeOffset.UtcNow.AddHours(-1), DateTimeOffset.UtcNow.AddHours(1));
        var tls = new SslStream(new NetworkStream(socket));
        tls.AuthenticateAsServer(new SslServerAuthenticationOptions { ServerCertificate = certificate, EnabledSslProtocols = SslProtocols.Tls13 });
        return new LoopbackLane(socket, work, tls);
    }

    internal void Send(ReadOnlySpan<byte> bytes)
    {
        if (!_work.HasFlag(LoopbackWork.Checks))
        {
            Put(bytes);
            return;
        }

        for (; !bytes.IsEmpty; bytes = bytes[Math.Min(FrameBytes, bytes.Length)..])
        {
            ReadOnlySpan<byte> frame = bytes[..Math.Min(FrameBytes, bytes.Length)];
            for (int offset = 0; offset < frame.Length; offset += GuestPage.Size)
                _hash ^= PageKernels.IsZero(frame.Slice(offset, GuestPage.Size)) ? 1UL : 0;
            Check(frame);
            Put(frame);
        }
    }

    internal void Receive(Span<byte> bytes)
    {
        if (!_work.HasFlag(LoopbackWork.Checks))
        {
            Take(bytes);
            return;
        }

        for (; !bytes.IsEmpty; bytes = bytes[Math.Min(FrameBytes, bytes.Length)..])
        {
            Span<byte> frame = bytes[..Math.Min(FrameBytes, bytes.Length)];
            Take(frame);
            Check(frame);
        }
    }

    /// <summary>The receiver has everything.</summary>
    internal void TellEnd() => Put([1]);

    internal void TakeEnd() => Take(new byte[1]);

    public void Dispose()
    {
        _tls?.Dispose();
        _socket.Dispose();
    }

    private void Check(ReadOnlySpan<byte> frame)
    {
        int pages = frame.Length / GuestPage.Size;
        for (int page = 0; page < pages; page++)
            _hashes[page] = PageHash.Compute(frame.Slice(page * GuestPage.Size, GuestPage.Size));
        _hash ^= PageHash.Combine(_hashes.AsSpan(0, pages));
    }

    private void Put(ReadOnlySpan<byte> bytes)
    {
        _tls?.Write(bytes);
        while (_tls is null && !bytes.IsEmpty)
            bytes = bytes[_socket.Send(bytes)..];
    }

    private void Take(Span<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int count = _tls?.Read(bytes) ?? _socket.Receive(bytes);
            if (count == 0)
                throw new IOException("The other side ended too early.");
            bytes = bytes[count..];
        }
    }
}
