using System.Text.Json.Nodes;
using Tidemark.Kernel;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Cli.Hosting;

/// <summary>Both ends of what a migration goes over, as the command line or a control request asks for it.</summary>
internal sealed class MigrationWire : IDisposable
{
    /// <summary>LIMIT: an address that swallows packets is given up; a host that is merely very busy is not.</summary>
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    private readonly TlsCredentials? _credentials;

    private MigrationWire(IConnector connector, TlsCredentials? credentials)
    {
        Connector = connector;
        _credentials = credentials;
    }

    public IConnector Connector { get; }

    /// <param name="request">A control request; the folder in it is an absolute path.</param>
    /// <exception cref="CommandFailure">The TLS folder or the name can not be used.</exception>
    public static MigrationWire Connect(MigrationAddress address, JsonObject request, IKernel kernel)
    {
        TlsCredentials? credentials = LoadCredentials((string?)request["tls"]);
        try
        {
            IConnector connector = credentials is null
                ? new SocketConnector(address, s_patience, kernel)
                : new TlsConnector(address, s_patience, credentials, (string?)request["tlsPeer"], TimeProvider.System, kernel);
            if (request["bandwidthLimit"]?.GetValue<ulong>() is { } rate)
                connector = new LimitedConnector(connector, new BandwidthLimit(rate, TimeProvider.System));
            return new MigrationWire(connector, credentials);
        }
        catch (Exception failure)
        {
            // Nothing was connected.
            credentials?.Dispose();
            if (failure is IOException)
                throw new CommandFailure(failure.Message, ExitCode.Usage);
            throw;
        }
    }

    /// <summary>Listens; strangers are told to <paramref name="tell"/> and keep nobody waiting.</summary>
    /// <param name="credentials">Null: not encrypted. Stays the caller's.</param>
    public static Lobby Listen(
        MigrationAddress address, TlsCredentials? credentials, string? peerName, IKernel kernel, Action<string> tell) =>
        new(SocketAcceptor.Listen(address, kernel), credentials is null ? null : new TlsAdmission(credentials, peerName),
            TimeProvider.System, tell);

    /// <exception cref="CommandFailure">The folder can not be used.</exception>
    public static TlsCredentials? LoadCredentials(string? folder)
    {
        try
        {
            return folder is null ? null : TlsCredentials.Load(folder, TimeProvider.System);
        }
        catch (IOException failure)
        {
            // The message names the file and the remedy.
            throw new CommandFailure(failure.Message, ExitCode.Usage);
        }
    }

    public void Dispose() => _credentials?.Dispose();
}
