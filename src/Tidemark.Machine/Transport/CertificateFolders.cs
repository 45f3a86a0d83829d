using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Tidemark.Machine.Transport;

/// <summary>
/// Makes what migrations with TLS need: a CA, and a folder for each host with <c>ca.pem</c>, <c>cert.pem</c> and
/// <c>key.pem</c>. Keys are ECDSA P-256, in files of mode 0600 that never replace others.
/// </summary>
public static class CertificateFolders
{
    /// <summary>The folder, beside those of the hosts, with the CA and its key.</summary>
    public const string AuthorityFolder = "ca";

    private const string AuthorityKeyFile = "ca-key.pem";
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    /// <summary>Clocks differ a little.</summary>
    private static readonly TimeSpan s_skew = TimeSpan.FromHours(1);

    private static readonly TimeSpan s_authorityLife = TimeSpan.FromDays(3650);

    /// <summary>Makes a CA in <paramref name="folder"/>, or takes the one that is there, and the hosts' folders.</summary>
    /// <returns>The folders made, the CA's first if it is new.</returns>
    /// <exception cref="IOException">A host has a folder already, a name is none, or files can not be written.</exception>
    public static IReadOnlyList<string> Make(string folder, IReadOnlyList<string> hosts, TimeSpan life, TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(hosts);
        ArgumentNullException.ThrowIfNull(time);
        foreach (string host in hosts)
        {
            if (host == AuthorityFolder || Uri.CheckHostName(host) == UriHostNameType.Unknown || host.Contains('/', StringComparison.Ordinal))
                throw new IOException($"\"{host}\" is not a host name or IP address{(host == AuthorityFolder ? " that can be used here: the CA's folder has this name" : "")}.");
            if (Path.Exists(Path.Combine(folder, host)))
                throw new IOException($"{Path.Combine(folder, host)} exists already; move it away if this host shall get a new key.");
        }

        if (hosts.Distinct(StringComparer.OrdinalIgnoreCase).Count() != hosts.Count)
            throw new IOException("A host is named twice.");
        try
        {
            var made = new List<string>();
            MakeFolder(folder);
            string authorityFolder = Path.Combine(folder, AuthorityFolder);
            if (!Directory.Exists(authorityFolder))
            {
                MakeAuthority(authorityFolder, time.GetUtcNow());
                made.Add(authorityFolder);
            }

            using X509Certificate2 authority = X509Certificate2.CreateFromPemFile(
                Path.Combine(authorityFolder, TlsCredentials.AuthorityFile), Path.Combine(authorityFolder, AuthorityKeyFile));
            foreach (string host in hosts)
            {
                MakeHost(Path.Combine(folder, host), host, authority, life, time.GetUtcNow());
                made.Add(Path.Combine(folder, host));
            }

            return made;
        }
        catch (Exception failure) when (failure is UnauthorizedAccessException or CryptographicException)
        {
            // What was made before is whole and can be used.
            throw new IOException($"Certificates can not be made in {folder}: {failure.Message}", failure);
        }
    }

    private static void MakeAuthority(string folder, DateTimeOffset now)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        // A number in the name, because two CAs of one name could not be told apart in messages.
        string name = $"Tidemark CA {Convert.ToHexString(RandomNumberGenerator.GetBytes(4))}";
        var request = new CertificateRequest($"CN={name}", key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, true, 0, critical: true));
        request.CertificateExtensions.Add(
            new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign | X509KeyUsageFlags.CrlSign, critical: true));
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, critical: false));
        using X509Certificate2 certificate = request.CreateSelfSigned(now - s_skew, now + s_authorityLife);
        MakeFolder(folder);
        Write(Path.Combine(folder, AuthorityKeyFile), key.ExportPkcs8PrivateKeyPem());
        Write(Path.Combine(folder, TlsCredentials.AuthorityFile), certificate.ExportCertificatePem());
    }

    private static void MakeHost(string folder, string host, X509Certificate2 authority, TimeSpan life, DateTimeOffset now)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest($"CN={host}", key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        if (IPAddress.TryParse(host, out IPAddress? address))
            names.AddIpAddress(address);
        else
            names.AddDnsName(host);
        request.CertificateExtensions.Add(names.Build());
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(false, false, 0, critical: true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature, critical: true));
        // One certificate for both: a host gives machines away and takes them.
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension(
            [TlsCredentials.Purposes.Server, TlsCredentials.Purposes.Client], critical: false));
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, critical: false));
        request.CertificateExtensions.Add(X509AuthorityKeyIdentifierExtension.CreateFromCertificate(
            authority, includeKeyIdentifier: true, includeIssuerAndSerial: false));
        DateTimeOffset first = Later(now - s_skew, authority.NotBefore);
        DateTimeOffset last = now + life;
        if (last > authority.NotAfter)
            last = authority.NotAfter;
        if (last <= now)
            throw new IOException($"The CA in {Path.GetDirectoryName(folder)}/{AuthorityFolder} expired; move it away, and make new folders for all hosts.");
        using X509Certificate2 certificate = request.Create(authority, first, last, RandomNumberGenerator.GetBytes(16));
        MakeFolder(folder);
        Write(Path.Combine(folder, TlsCredentials.KeyFile), key.ExportPkcs8PrivateKeyPem());
        Write(Path.Combine(folder, TlsCredentials.CertificateFile), certificate.ExportCertificatePem());
        Write(Path.Combine(folder, TlsCredentials.AuthorityFile), authority.ExportCertificatePem());
    }

    private static DateTimeOffset Later(DateTimeOffset one, DateTimeOffset other) => one > other ? one : other;

    private static void MakeFolder(string folder) => Directory.CreateDirectory(folder, Private | UnixFileMode.UserExecute);

    private static void Write(string path, string pem)
    {
        using var stream = new FileStream(path, new FileStreamOptions
        {
            // Never over another file, and never readable by others, not even for a moment.
            Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = Private,
        });
        using var writer = new StreamWriter(stream);
        writer.Write(pem);
        writer.Write('\n');
    }
}
