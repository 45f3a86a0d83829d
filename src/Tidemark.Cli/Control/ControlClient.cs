using System.Net.Sockets;
using System.Text.Json.Nodes;

namespace Tidemark.Cli.Control;

/// <summary>Talks to a machine of this user by its name.</summary>
internal sealed class ControlClient : IDisposable
{
    /// <summary>Longer than a machine takes to cancel a migration and stop.</summary>
    private static readonly TimeSpan AnswerLimit = TimeSpan.FromSeconds(20);

    private readonly ControlChannel _channel;

    private ControlClient(ControlChannel channel) => _channel = channel;

    /// <summary>Null when no such machine runs.</summary>
    public static ControlClient? TryConnect(string machineName)
    {
        string path = RuntimeFolder.SocketOf(machineName);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(path));
            return new ControlClient(new ControlChannel(socket));
        }
        catch (SocketException)
        {
            // Nobody answers: no socket, or one left behind by a process that was killed.
            socket.Dispose();
            return null;
        }
    }

    /// <exception cref="CommandFailure">No such machine runs; the message lists those that do.</exception>
    public static ControlClient Connect(string machineName) =>
        TryConnect(machineName) ?? throw new CommandFailure(
            RuntimeFolder.Names().Count == 0
                ? $"No machine \"{machineName}\" runs here; none does. `tidemark run MACHINE.json` starts one."
                : $"No machine \"{machineName}\" answers here. `tidemark list` shows those that do ({RuntimeFolder.Path}).");

    /// <summary>Sends a request and returns the last answer; earlier ones go to <paramref name="onEvent"/>.</summary>
    /// <exception cref="CommandFailure">The machine refused, or its process ended before it answered.</exception>
    public JsonObject Request(JsonObject request, Action<JsonObject>? onEvent = null)
    {
        JsonObject answer = Exchange(request, onEvent);
        if (answer["error"] is { } error)
            throw new CommandFailure(error.GetValue<string>(), answer["exitCode"]?.GetValue<int>() ?? ExitCode.Failed);
        return answer;
    }

    /// <summary>Ends a request in progress, from another thread.</summary>
    public void Close() => _channel.Close();

    public void Dispose() => _channel.Dispose();

    private JsonObject Exchange(JsonObject request, Action<JsonObject>? onEvent)
    {
        try
        {
            // A migration is silent while memory is compared, however long that takes; all else is answered at once.
            _channel.AnswerLimit = onEvent is null ? AnswerLimit : TimeSpan.Zero;
            _channel.Send(request);
            while (_channel.Receive() is { } message)
            {
                if (message["done"] is not null)
                    return message;
                onEvent?.Invoke(message);
            }
        }
        catch (SocketException failure) when (failure.SocketErrorCode is SocketError.TimedOut or SocketError.WouldBlock)
        {
            throw new CommandFailure(
                $"The machine's process has not answered for {AnswerLimit.TotalSeconds:0} s; is it stopped (SIGSTOP) or is the host overloaded?",
                ExitCode.Inconclusive);
        }
        catch (Exception failure) when (failure is SocketException or InvalidDataException or ObjectDisposedException)
        {
            // Whether the request was carried out is unknown; said below.
        }

        throw new CommandFailure(
            "The machine's process ended before it answered, or gave up on this command, which did not read for a while; `tidemark status` tells.",
            ExitCode.Inconclusive);
    }
}
