using System.Net.Sockets;
using System.Text.Json.Nodes;

namespace Tidemark.Bench;

/// <summary>The control socket of a QEMU: one command at a time; what happens meanwhile is kept.</summary>
internal sealed class QmpClient : IDisposable
{
    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly StreamReader _reader;
    private readonly StreamWriter _writer;
    private readonly Queue<JsonNode> _events = new();

    internal QmpClient(string path, Func<bool> alive)
    {
        while (true)
        {
            try
            {
                _socket.Connect(new UnixDomainSocketEndPoint(path));
                break;
            }
            catch (SocketException)
            {
                // It makes its socket a while after its start.
                if (!alive())
                    throw new InvalidOperationException("QEMU ended at its start.");
                Thread.Sleep(10);
            }
        }

        var stream = new NetworkStream(_socket, ownsSocket: true);
        _reader = new StreamReader(stream);
        _writer = new StreamWriter(stream) { AutoFlush = true };
        Read();
        Execute("qmp_capabilities");
    }

    internal JsonNode Execute(string command, JsonObject? arguments = null)
    {
        _writer.WriteLine(new JsonObject { ["execute"] = command, ["arguments"] = arguments ?? [] }.ToJsonString());
        while (true)
        {
            JsonNode answer = Read();
            if (answer["event"] is not null)
                _events.Enqueue(answer);
            else
                return answer["return"] ?? throw new InvalidOperationException($"QEMU refuses {command}: {answer.ToJsonString()}");
        }
    }

    /// <summary>Waits for a status of the migration.</summary>
    internal void AwaitMigration(string status)
    {
        while (true)
        {
            JsonNode happened = _events.TryDequeue(out JsonNode? kept) ? kept : Read();
            if (happened["event"]?.GetValue<string>() != "MIGRATION")
                continue;
            string reached = happened["data"]!["status"]!.GetValue<string>();
            if (reached == status)
                return;
            if (reached is "failed" or "cancelled")
                throw new InvalidOperationException($"QEMU's migration {reached}.");
        }
    }

    public void Dispose()
    {
        _reader.Dispose();
        _socket.Dispose();
    }

    private JsonNode Read() => JsonNode.Parse(_reader.ReadLine() ?? throw new InvalidOperationException("QEMU ended."))!;
}
