using System.Globalization;
using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text;

namespace Tidemark.Machine.Transport;

/// <summary>
/// Who this side is, and whom it trusts: what a folder with <c>ca.pem</c>, <c>cert.pem</c> and <c>key.pem</c> says.
/// </summary>
/// <remarks>
/// Trusted is what <c>ca.pem</c> holds and nothing else: not the system's store, nothing downloaded.
/// </remarks>
public sealed class TlsCredentials : IDisposable
{
    public const string AuthorityFile = "ca.pem";
    public const string CertificateFile = "cert.pem";
    public const string KeyFile = "key.pem";

    /// <summary>LIMIT: a chain of certificates has a few KiB.</summary>
    private const long MaximumBytes = 1 << 20;

    private readonly X509Certificate2Collection _authorities;
    private readonly X509Certificate2Collection _own;

    private TlsCredentials(string folder, X509Certificate2Collection authorities, X509Certificate2Collection own, X509Certificate2 leaf)
    {
        Folder = folder;
        _authorities = authorities;
        _own = own;
        Leaf = leaf;
        X509Certificate2Collection between = [.. own.Skip(1)];
        // Offline: a certificate must not make this process fetch anything.
        Context = SslStreamCertificateContext.Create(leaf, between, offline: true);
    }

    public string Folder { get; }

    /// <summary>This side's certificate, with its key.</summary>
    public X509Certificate2 Leaf { get; }

    internal SslStreamCertificateContext Context { get; }

    /// <exception cref="IOException">
    /// The folder can not be used; the message says which file, why, and what to do.
    /// </exception>
    public static TlsCredentials Load(string folder, TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(time);
        if (!Directory.Exists(folder))
            throw new IOException($"The TLS folder {folder} does not exist; `tidemark certificates` makes one for each host.");
        X509Certificate2Collection authorities = ReadCertificates(Path.Combine(folder, AuthorityFile));
        X509Certificate2Collection own = ReadCertificates(Path.Combine(folder, CertificateFile));
        string keyPath = Path.Combine(folder, KeyFile);
        string key = ReadFile(keyPath, isSecret: true);
        if (!authorities.Any(IsAuthority))
            throw new IOException($"{Path.Combine(folder, AuthorityFile)} holds no certificate of a CA: its certificates may not sign others.");
        CheckTime(Path.Combine(folder, CertificateFile), own[0], time);
        foreach (X509Certificate2 authority in authorities)
            CheckTime(Path.Combine(folder, AuthorityFile), authority, time);
        return new TlsCredentials(folder, authorities, own, Join(own[0], key, keyPath));
    }

    /// <summary>How a peer's certificate is judged: for one use, because the chain changes it.</summary>
    internal X509ChainPolicy CreatePolicy(bool peerIsServer, DateTimeOffset now)
    {
        var policy = new X509ChainPolicy
        {
            TrustMode = X509ChainTrustMode.CustomRootTrust,
            RevocationMode = X509RevocationMode.NoCheck,
            DisableCertificateDownloads = true,
            VerificationTimeIgnored = false,
            VerificationTime = now.LocalDateTime,
        };
        policy.CustomTrustStore.AddRange(_authorities);
        policy.ApplicationPolicy.Add(peerIsServer ? Purposes.Server : Purposes.Client);
        return policy;
    }

    public void Dispose()
    {
        Leaf.Dispose();
        foreach (X509Certificate2 certificate in _authorities.Concat(_own))
            certificate.Dispose();
    }

    private static bool IsAuthority(X509Certificate2 certificate) =>
        certificate.Extensions.OfType<X509BasicConstraintsExtension>().Any(constraints => constraints.CertificateAuthority);

    private static X509Certificate2Collection ReadCertificates(string path)
    {
        string text = ReadFile(path, isSecret: false);
        var certificates = new X509Certificate2Collection();
        try
        {
            certificates.ImportFromPem(text);
        }
        catch (CryptographicException failure)
        {
            // Nothing was taken from the file.
            throw new IOException($"{path} holds a certificate that can not be read: {failure.Message}", failure);
        }

        return certificates.Count > 0
            ? certificates
            : throw new IOException($"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----).");
    }

    private static X509Certificate2 Join(X509Certificate2 certificate, string key, string keyPath)
    {
        if (key.Contains("BEGIN ENCRYPTED PRIVATE KEY", StringComparison.Ordinal))
            throw new IOException($"{keyPath} is encrypted; nobody is there to type its password, so keep it unencrypted with mode 0600.");
        try
        {
            return X509Certificate2.CreateFromPem(certificate.ExportCertificatePem(), key);
        }
        catch (Exception failure) when (failure is CryptographicException or ArgumentException)
        {
            // No object with a key exists.
            bool isKey = key.Contains("PRIVATE KEY-----", StringComparison.Ordinal);
            throw new IOException(
                isKey ? $"{keyPath} is not the key of {CertificateFile} beside it." : $"{keyPath} holds no private key in PEM form.",
                failure);
        }
    }

    private static string ReadFile(string path, bool isSecret)
    {
        var file = new FileInfo(path);
        if (!file.Exists)
            throw new IOException($"{path} is missing: a TLS folder holds {AuthorityFile}, {CertificateFile} and {KeyFile}.");
        // Length 0: also a FIFO or a device, which could block or never end.
        if (file.ResolveLinkTarget(returnFinalTarget: true) is FileInfo target)
            file = target;
        if (file.Length is 0 or > MaximumBytes)
            throw new IOException($"{path} is empty, too large, or no ordinary file.");
        try
        {
            using FileStream stream = File.OpenRead(path);
            const UnixFileMode Others = UnixFileMode.OtherRead | UnixFileMode.OtherWrite | UnixFileMode.GroupWrite;
            UnixFileMode mode = File.GetUnixFileMode(stream.SafeFileHandle);
            if (isSecret && (mode & Others) != 0)
            {
                throw new IOException(
                    $"{path} can be read or changed by other users (mode {Convert.ToString((int)mode, 8).PadLeft(4, '0')}): chmod 600 it, and make a new key if the host is shared.");
            }

            using var reader = new StreamReader(stream, Encoding.UTF8);
            return reader.ReadToEnd();
        }
        catch (UnauthorizedAccessException failure)
        {
            // Nothing was read.
            throw new IOException($"{path} can not be read by the user of this process: {failure.Message}", failure);
        }
    }

    private static void CheckTime(string path, X509Certificate2 certificate, TimeProvider time)
    {
        if (FindTimeProblem(certificate, time.GetUtcNow()) is { } problem)
            throw new IOException($"The certificate of {Words.NameOf(certificate)} in {path} {problem}.");
    }

    /// <summary>Null while it is valid.</summary>
    internal static string? FindTimeProblem(X509Certificate2 certificate, DateTimeOffset now)
    {
        if (now > certificate.NotAfter.ToUniversalTime())
            return string.Create(CultureInfo.InvariantCulture, $"expired on {certificate.NotAfter.ToUniversalTime():yyyy-MM-dd HH:mm} UTC");
        return now < certificate.NotBefore.ToUniversalTime()
            ? string.Create(CultureInfo.InvariantCulture, $"is valid only from {certificate.NotBefore.ToUniversalTime():yyyy-MM-dd HH:mm} UTC on; are both clocks right?")
            : null;
    }

    internal static class Purposes
    {
        public static Oid Server => new("1.3.6.1.5.5.7.3.1");

        public static Oid Client => new("1.3.6.1.5.5.7.3.2");
    }

    /// <summary>What comes from a peer is shown to people: short, and without anything that moves a cursor.</summary>
    internal static class Words
    {
        private const int MaximumLength = 200;

        public static string Clean(string text)
        {
            var clean = new StringBuilder();
            foreach (char character in text.AsSpan(0, Math.Min(text.Length, MaximumLength)))
                clean.Append(character is >= ' ' and < (char)127 ? character : '?');
            return clean.ToString();
        }

        /// <summary>The names a certificate is for, else its subject.</summary>
        public static string NameOf(X509Certificate2 certificate)
        {
            var names = certificate.Extensions.OfType<X509SubjectAlternativeNameExtension>()
                .SelectMany(extension => extension.EnumerateDnsNames()
                    .Concat(extension.EnumerateIPAddresses().Select(address => address.ToString())))
                .Take(4).ToList();
            return Clean(names.Count > 0 ? string.Join(", ", names) : certificate.Subject);
        }
    }
}
