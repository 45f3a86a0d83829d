using System.Net.Sockets;
using System.Text.Json.Nodes;
using Tidemark.Cli.Control;

namespace Tidemark.Cli.Hosting;

/// <summary>Where a process waits for a machine of this host: a socket beside the machine's control socket.</summary>
internal sealed class LiveUpdateSocket : IDisposable
{
    /// <summary>LIMIT: the machine connects before it answers; a process that is stopped does neither.</summary>
    private static readonly TimeSpan ConnectLimit = TimeSpan.FromSeconds(20);

    private readonly string _name;
    private readonly string _path;
    private readonly Socket _listener;

    private LiveUpdateSocket(string name, string path, Socket listener)
    {
        _name = name;
        _path = path;
        _listener = listener;
    }

    /// <exception cref="CommandFailure">The socket can not be made, or another process waits for this machine.</exception>
    public static LiveUpdateSocket Open(string name)
    {
        RuntimeFolder.Ensure();
        string path = Path.ChangeExtension(RuntimeFolder.SocketOf(name), $".{Environment.ProcessId}");
        var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            File.Delete(path);
            listener.Bind(new UnixDomainSocketEndPoint(path));
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            listener.Listen(1);
            return new LiveUpdateSocket(name, path, listener);
        }
        catch (Exception failure) when (failure is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            // Nothing listens.
            listener.Dispose();
            throw new CommandFailure($"The socket {path} for the hand-over can not be made: {failure.Message} Set TIDEMARK_RUNTIME_DIR to a shorter folder of yours.");
        }
    }

    /// <summary>Asks the machine's process to hand it over; returns the connection on which it does.</summary>
    /// <param name="processId">The process that has the machine.</param>
    /// <exception cref="CommandFailure">No such machine runs, or it refuses.</exception>
    public Socket Ask(out int processId)
    {
        using ControlClient client = ControlClient.Connect(_name);
        JsonObject answer = client.Request(new JsonObject { ["op"] = "hand-over", ["to"] = _path });
        processId = answer["processId"]?.GetValue<int>() ?? 0;
        if (!_listener.Poll(ConnectLimit, SelectMode.SelectRead))
            throw new CommandFailure($"The process of {_name} answered and did not connect to {_path} within {ConnectLimit.TotalSeconds:0} s.", ExitCode.Inconclusive);
        return _listener.Accept();
    }

    public void Dispose()
    {
        _listener.Dispose();
        try
        {
            File.Delete(_path);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // A stale socket file is harmless.
        }
    }
}
