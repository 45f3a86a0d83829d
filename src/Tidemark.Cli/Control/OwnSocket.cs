using System.Net.Sockets;

namespace Tidemark.Cli.Control;

/// <summary>Sockets in the runtime folder: nobody but their user can connect (0600).</summary>
internal static class OwnSocket
{
    /// <summary>Listens at a path of the runtime folder; what a process that was killed left there goes.</summary>
    /// <param name="what">For the message: <c>control socket</c>.</param>
    /// <exception cref="CommandFailure">It can not be made; nothing listens.</exception>
    public static Socket Listen(string path, int backlog, string what)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            File.Delete(path);
            socket.Bind(new UnixDomainSocketEndPoint(path));
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            socket.Listen(backlog);
            return socket;
        }
        catch (Exception failure) when (failure is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            // Nothing listens.
            socket.Dispose();
            throw new CommandFailure(
                $"The {what} {path} can not be made: {failure.Message} Set TIDEMARK_RUNTIME_DIR to a folder of yours with a short path.");
        }
    }

    /// <summary>After the listener was closed.</summary>
    public static void Remove(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // A stale socket file is harmless: nobody answers there, and the next listener removes it.
        }
    }
}
