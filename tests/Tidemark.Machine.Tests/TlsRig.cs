using System.Net.Sockets;
using System.Numerics;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>TLS folders of two CAs, connected sockets, and both sides of a handshake at once.</summary>
internal sealed class TlsRig : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private readonly List<IDisposable> _owned = [];
    private int _number;

    public TlsRig()
    {
        foreach (string authority in new[] { "one", "two" })
            CertificateFolders.Make(Path.Combine(Folder, authority), ["127.0.0.1", "hosta", "hostb"], TimeSpan.FromDays(30), TimeProvider.System);
    }

    public string Folder { get; } = Directory.CreateTempSubdirectory("tidemark-tls-tests-").FullName;

    public TlsCredentials Load(string name, string authority = "one") =>
        Own(TlsCredentials.Load(Path.Combine(Folder, authority, name), TimeProvider.System));

    /// <summary>A folder that is one of the others, to be changed.</summary>
    public string Copy(string name, string authority = "one")
    {
        string copy = Path.Combine(Folder, $"copy{_number++}");
        Directory.CreateDirectory(copy);
        foreach (string file in Directory.EnumerateFiles(Path.Combine(Folder, authority, name)))
            File.Copy(file, Path.Combine(copy, Path.GetFileName(file)));
        return copy;
    }

    /// <summary>Signed by the second CA, and trusting the first: the peer must notice.</summary>
    public TlsCredentials LoadForeign(string name)
    {
        string copy = Copy(name, "two");
        File.Copy(Path.Combine(Folder, "one", name, "ca.pem"), Path.Combine(copy, "ca.pem"), overwrite: true);
        return Own(TlsCredentials.Load(copy, TimeProvider.System));
    }

    /// <summary>A certificate of the first CA that is made for one purpose only.</summary>
    public TlsCredentials LoadForPurpose(string host, string purpose)
    {
        string copy = Copy(host);
        using X509Certificate2 authority = X509Certificate2.CreateFromPemFile(
            Path.Combine(Folder, "one", "ca", "ca.pem"), Path.Combine(Folder, "one", "ca", "ca-key.pem"));
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest($"CN={host}", key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        names.AddDnsName(host);
        request.CertificateExtensions.Add(names.Build());
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid(purpose)], critical: false));
        using X509Certificate2 certificate = request.Create(
            authority, authority.NotBefore, authority.NotBefore.AddDays(20), [1, 2, 3, 4]);
        File.WriteAllText(Path.Combine(copy, "cert.pem"), certificate.ExportCertificatePem());
        File.WriteAllText(Path.Combine(copy, "key.pem"), key.ExportPkcs8PrivateKeyPem());
        File.SetUnixFileMode(Path.Combine(copy, "key.pem"), UnixFileMode.UserRead | UnixFileMode.UserWrite);
        return Own(TlsCredentials.Load(copy, TimeProvider.System));
    }

    public (SocketConnection Near, SocketConnection Far) Pair()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        return (Own(new SocketConnection(near, "unix:far")), Own(new SocketConnection(far, "unix:near")));
    }

    /// <summary>Both sides at once. Each is a connection, or why it is none.</summary>
    public (TlsConnection? Source, TlsConnection? Destination, string? SourceFailure, string? DestinationFailure) Shake(
        TlsCredentials source, TlsCredentials destination, string peerName = "hostb", string? sourceName = null,
        TimeProvider? sourceTime = null, TimeProvider? destinationTime = null)
    {
        (SocketConnection near, SocketConnection far) = Pair();
        TlsConnection? there = null;
        Exception? thereFailure = null;
        var other = new Thread(() => thereFailure = Record.Exception(() =>
            there = TlsConnection.Accept(far, destination, sourceName, s_patience, destinationTime ?? TimeProvider.System)));
        other.Start();
        TlsConnection? here = null;
        Exception? hereFailure = Record.Exception(() =>
            here = TlsConnection.Connect(near, source, peerName, s_patience, sourceTime ?? TimeProvider.System));
        Assert.True(other.Join(s_patience));
        foreach (Exception failure in new[] { hereFailure, thereFailure }.OfType<Exception>())
            Assert.IsType<IOException>(failure);
        if (here is not null)
            Own(here);
        if (there is not null)
            Own(there);
        return (here, there, hereFailure?.Message, thereFailure?.Message);
    }

    public T Own<T>(T item)
        where T : IDisposable
    {
        lock (_owned)
            _owned.Add(item);
        return item;
    }

    /// <summary>What a source says first.</summary>
    public static byte[] Preamble(Guid token, bool isControl, int channel = 0)
    {
        var bytes = new byte[48];
        "TIDEMARK"u8.CopyTo(bytes);
        bytes[8] = 1;
        bytes[10] = 1;
        bytes[12] = (byte)(isControl ? 1 : 2);
        bytes[14] = (byte)channel;
        token.TryWriteBytes(bytes.AsSpan(24));
        uint crc = uint.MaxValue;
        foreach (byte value in bytes.AsSpan(0, 44))
            crc = BitOperations.Crc32C(crc, value);
        BitConverter.TryWriteBytes(bytes.AsSpan(44), ~crc);
        return bytes;
    }

    public static void Fill(IConnection connection, Span<byte> buffer)
    {
        while (!buffer.IsEmpty)
        {
            int count = connection.Receive(buffer);
            Assert.NotEqual(0, count);
            buffer = buffer[count..];
        }
    }

    public void Dispose()
    {
        for (int index = _owned.Count - 1; index >= 0; index--)
            _owned[index].Dispose();
        Directory.Delete(Folder, recursive: true);
    }
}
