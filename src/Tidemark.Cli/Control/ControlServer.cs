using System.Net.Sockets;
using System.Text.Json.Nodes;

namespace Tidemark.Cli.Control;

/// <summary>Answers control requests for one machine on a socket that only its user can open (0600).</summary>
internal sealed class ControlServer : IDisposable
{
    /// <summary>LIMIT: enough for a person and a few scripts; more wait in the listen queue.</summary>
    private const int MaximumClients = 16;

    /// <summary>LIMIT: how long a client that does not read may delay an answer; its connection ends then.</summary>
    private static readonly TimeSpan SendLimit = TimeSpan.FromSeconds(1);

    private static readonly TimeSpan SlotPoll = TimeSpan.FromMilliseconds(50);

    private readonly Socket _listener;
    private readonly string _path;
    private readonly Action<JsonObject, ControlChannel> _answer;
    private readonly Thread _thread;
    private readonly SemaphoreSlim _slots = new(MaximumClients);
    private readonly List<ControlChannel> _open = [];
    private volatile bool _ending;

    private ControlServer(Socket listener, string path, Action<JsonObject, ControlChannel> answer)
    {
        _listener = listener;
        _path = path;
        _answer = answer;
        _thread = new Thread(Listen) { IsBackground = true, Name = "tidemark control" };
        _thread.Start();
    }

    /// <param name="answer">Answers one request, on a thread of its own; the last message it sends has
    /// <c>done</c>.</param>
    /// <exception cref="CommandFailure">The name is taken or the folder can not be used.</exception>
    public static ControlServer Open(string machineName, Action<JsonObject, ControlChannel> answer)
    {
        RuntimeFolder.Ensure();
        string path = RuntimeFolder.SocketOf(machineName);
        using (ControlClient? other = ControlClient.TryConnect(machineName))
        {
            if (other is not null)
                throw new CommandFailure($"A machine named \"{machineName}\" runs here already. Say --name to give this one another name.");
        }

        // Nobody answers there: what there is was left by a process that was killed.
        return new ControlServer(OwnSocket.Listen(path, 8, "control socket"), path, answer);
    }

    public void Dispose()
    {
        if (_ending)
            return;
        _ending = true;
        _listener.Dispose();
        _thread.Join();
        lock (_open)
        {
            foreach (ControlChannel channel in _open)
                channel.Close();
        }

        try
        {
            File.Delete(_path);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // A stale socket file is harmless: the next machine of that name removes it.
        }
    }

    private void Listen()
    {
        while (!_ending)
        {
            try
            {
                Socket client = _listener.Accept();
                if (!WaitForSlot())
                {
                    client.Dispose();
                    return;
                }

                // A client that stops reading must not hold up whoever tells it something: a migration does.
                client.SendTimeout = (int)SendLimit.TotalMilliseconds;
                var channel = new ControlChannel(client);
                lock (_open)
                    _open.Add(channel);
                new Thread(() => Serve(channel)) { IsBackground = true, Name = "tidemark control client" }.Start();
            }
            catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
            {
                // Disposed, or out of descriptors for the moment: do not spin.
                if (!_ending)
                    Thread.Sleep(SlotPoll);
            }
        }
    }

    /// <summary>False when the server ends first: clients that hold all slots and say nothing do not keep it.</summary>
    private bool WaitForSlot()
    {
        while (!_slots.Wait(SlotPoll))
        {
            if (_ending)
                return false;
        }

        return true;
    }

    private void Serve(ControlChannel channel)
    {
        try
        {
            while (!_ending && channel.Receive() is { } request)
            {
                try
                {
                    _answer(request, channel);
                }
                catch (CommandFailure failure)
                {
                    // Refused in words; the client may ask again.
                    channel.Send(new JsonObject { ["done"] = true, ["error"] = failure.Message, ["exitCode"] = failure.ExitCode });
                }
                catch (Exception failure) when (failure is not (SocketException or ObjectDisposedException))
                {
                    // Whatever a request was made of, the machine behind this socket goes on; the client is told.
                    channel.Send(new JsonObject { ["done"] = true, ["error"] = $"The request could not be carried out: {failure.Message}" });
                }
            }
        }
        catch (Exception failure) when (failure is SocketException or InvalidDataException or ObjectDisposedException)
        {
            // The client went away or does not speak the protocol: only its connection ends.
        }
        finally
        {
            lock (_open)
                _open.Remove(channel);
            channel.Dispose();
            _slots.Release();
        }
    }
}
