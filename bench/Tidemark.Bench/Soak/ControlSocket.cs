using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Tidemark.Bench.Soak;

/// <summary>Asks a machine's process over its control socket, without a process for each question.</summary>
internal static class ControlSocket
{
    /// <summary>The answer, or null when nobody answers (or the request was refused: then it has <c>error</c>).</summary>
    internal static JsonObject? Ask(string folder, string machine, string operation, int limitMilliseconds = 10_000)
    {
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified)
        {
            ReceiveTimeout = limitMilliseconds, SendTimeout = limitMilliseconds,
        };
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(Path.Combine(folder, machine + ".sock")));
            socket.Send(Encoding.UTF8.GetBytes(new JsonObject { ["op"] = operation }.ToJsonString() + "\n"));
            using var stream = new NetworkStream(socket);
            using var reader = new StreamReader(stream, Encoding.UTF8);
            return reader.ReadLine() is { } line ? JsonNode.Parse(line)!.AsObject() : null;
        }
        catch (Exception failure) when (failure is SocketException or IOException or JsonException)
        {
            // It is just starting, just ending, or gone; the caller looks at the process.
            return null;
        }
    }
}
