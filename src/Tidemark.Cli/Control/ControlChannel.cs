using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Tidemark.Cli.Control;

/// <summary>
/// One connection of the control protocol: JSON objects, one a line, both ways.
/// <code>
/// client: {"op":"status"}                      server: {"done":true, ...}
/// client: {"op":"migrate","to":"tcp:...",...}  server: {"event":"pass",...} ... {"done":true,"result":{...}}
/// client: {"op":"cancel"} | {"op":"stop"}      server: {"done":true} or {"done":true,"error":"..."}
/// </code>
/// </summary>
internal sealed class ControlChannel : IDisposable
{
    /// <summary>LIMIT: the longest line is a result with the heat map of a hundred passes.</summary>
    private const int MaximumLine = 8 << 20;

    private readonly Socket _socket;
    private readonly Lock _sendGate = new();
    private readonly MemoryStream _line = new();
    private readonly byte[] _buffer = new byte[16 << 10];
    private int _start;
    private int _end;

    public ControlChannel(Socket socket)
    {
        _socket = socket;
    }

    /// <summary>How long <see cref="Receive"/> waits before it throws a SocketException; zero for ever.</summary>
    public TimeSpan AnswerLimit
    {
        set => _socket.ReceiveTimeout = (int)value.TotalMilliseconds;
    }

    /// <exception cref="SocketException">The other side is gone, or does not read; the channel is closed then.</exception>
    public void Send(JsonObject message)
    {
        byte[] line = Encoding.UTF8.GetBytes(message.ToJsonString() + "\n");
        lock (_sendGate)
        {
            ReadOnlySpan<byte> rest = line;
            try
            {
                while (!rest.IsEmpty)
                    rest = rest[_socket.Send(rest)..];
            }
            catch (SocketException)
            {
                // Half a line may be out: what came behind it could not be understood.
                Close();
                throw;
            }
        }
    }

    /// <summary>Null at the end of the connection.</summary>
    /// <exception cref="InvalidDataException">The line is no JSON object or too long.</exception>
    public JsonObject? Receive()
    {
        while (true)
        {
            int newline = Array.IndexOf(_buffer, (byte)'\n', _start, _end - _start);
            int length = (newline < 0 ? _end : newline) - _start;
            _line.Write(_buffer, _start, length);
            _start += length;
            if (_line.Length > MaximumLine)
                throw new InvalidDataException("A control message is longer than allowed.");
            if (newline >= 0)
            {
                _start++;
                JsonObject message = Parse(_line.ToArray());
                _line.SetLength(0);
                return message;
            }

            _start = 0;
            _end = _socket.Receive(_buffer);
            if (_end == 0)
                return null;
        }
    }

    /// <summary>Ends waits in other threads.</summary>
    public void Close()
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // It was not connected any more.
        }
    }

    public void Dispose()
    {
        _socket.Dispose();
        _line.Dispose();
    }

    private static JsonObject Parse(byte[] line)
    {
        try
        {
            return JsonNode.Parse(line) as JsonObject ?? throw new InvalidDataException("A control message is not a JSON object.");
        }
        catch (JsonException failure)
        {
            // The channel can not be resynchronised; the caller closes it.
            throw new InvalidDataException("A control message is not JSON.", failure);
        }
    }
}
