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
        return new LiveUpdateSocket(name, path, OwnSocket.Listen(path, 1, "socket for the hand-over"));
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
        OwnSocket.Remove(_path);
    }
}
