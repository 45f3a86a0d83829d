using System.Net.Sockets;

namespace Tidemark.Tests;

/// <summary>Two ends of one Unix socket, without a name.</summary>
internal static class UnixSockets
{
    internal static (Socket Here, Socket There) Connect()
    {
        string path = Path.Combine(Path.GetTempPath(), $"tidemark-{Guid.NewGuid():n}");
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        var here = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        here.Connect(new UnixDomainSocketEndPoint(path));
        Socket there = listener.Accept();
        File.Delete(path);
        return (here, there);
    }
}
