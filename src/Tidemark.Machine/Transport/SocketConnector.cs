using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Tidemark.Kernel;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>Connects to a destination's address. Each handed-in descriptor makes one connection.</summary>
/// <param name="timeout">How long a connect may take, the look-up of the name counted.</param>
/// <param name="kernel">As for <see cref="SocketConnection"/>.</param>
public sealed class SocketConnector(MigrationAddress address, TimeSpan timeout, IKernel? kernel = null) : IConnector
{
    private int _descriptorsUsed;

    /// <summary>A TLS handshake follows; else a peer that begins with TLS is told apart.</summary>
    internal bool ExpectsTls { get; init; }

    public string Address => address.ToString()!;

    public IConnection Connect(CancellationToken cancellation)
    {
        switch (address)
        {
            case MigrationAddress.Descriptor descriptor:
                int turn = Interlocked.Increment(ref _descriptorsUsed);
                if (turn > descriptor.Count)
                {
                    throw new IOException(
                        $"{Address} has no socket number {turn}: a migration takes one for control and one for each channel, as in fd:3-4 with --channels 1.");
                }

                SocketConnection adopted = Adopt(descriptor, turn - 1, kernel);
                adopted.ExpectsPlain = !ExpectsTls;
                return adopted;
            case MigrationAddress.Unix unix:
                return ConnectUnix(unix, cancellation);
            case MigrationAddress.Tcp tcp:
                return ConnectTcp(tcp, cancellation);
            default:
                throw new IOException($"{Address} is not an address to connect to.");
        }
    }

    /// <param name="index">Which of the address's descriptors.</param>
    internal static SocketConnection Adopt(MigrationAddress.Descriptor descriptor, int index, IKernel? kernel)
    {
        descriptor = new MigrationAddress.Descriptor(descriptor.Fd + index);
        // The Socket class takes any descriptor without a word.
        string? what = new FileInfo($"/proc/self/fd/{descriptor.Fd}").LinkTarget;
        if (what?.StartsWith("socket:", StringComparison.Ordinal) != true)
            throw new IOException($"{descriptor} is not an open socket but {what ?? "nothing"}.");
        var handle = new SafeSocketHandle(descriptor.Fd, ownsHandle: true);
        string? problem = "is not a stream socket";
        try
        {
            var socket = new Socket(handle);
            problem = socket.SocketType != SocketType.Stream ? "is not a stream socket"
                : !IsNonBlocking(descriptor.Fd) ? null
                : "is a non-blocking socket (O_NONBLOCK); hand it in blocking, because every call of a migration waits";
            if (problem is null)
                return new SocketConnection(socket, descriptor.ToString(), kernel);
        }
        catch (Exception failure) when (failure is SocketException or ArgumentException)
        {
            // Told below; the descriptor was not ours to close.
        }

        handle.SetHandleAsInvalid();
        throw new IOException($"{descriptor} {problem}.");
    }

    /// <summary>What the Socket class does not ask: such a call would return at once, and look like a timeout.</summary>
    private static bool IsNonBlocking(int fd)
    {
        const int NonBlocking = 0x800;
        string? flags = File.ReadLines($"/proc/self/fdinfo/{fd}").FirstOrDefault(line => line.StartsWith("flags:", StringComparison.Ordinal));
        return flags is not null && (Convert.ToInt32(flags["flags:".Length..].Trim(), 8) & NonBlocking) != 0;
    }

    /// <summary>
    /// Looks the name up and tries its addresses one after the other, all within the limit.
    /// </summary>
    private SocketConnection ConnectTcp(MigrationAddress.Tcp tcp, CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(timeout);
        try
        {
            IPAddress[] found = IPAddress.TryParse(tcp.Host, out IPAddress? literal)
                ? [literal]
                : Dns.GetHostAddressesAsync(tcp.Host, limit.Token).GetAwaiter().GetResult();
            for (int index = 0; ; index++)
            {
                try
                {
                    var socket = new Socket(found[index].AddressFamily, SocketType.Stream, ProtocolType.Tcp);
                    return Connect(socket, new IPEndPoint(found[index], tcp.Port), timeout - Stopwatch.GetElapsedTime(start), limit.Token);
                }
                catch (SocketException) when (index + 1 < found.Length && !limit.IsCancellationRequested)
                {
                    // That address has no connection, and another one is left to try.
                }
            }
        }
        catch (Exception failure) when (failure is SocketException or OperationCanceledException)
        {
            // No connection exists; the socket is closed already.
            throw Refused(failure, limit.IsCancellationRequested, cancellation);
        }
    }

    private SocketConnection ConnectUnix(MigrationAddress.Unix unix, CancellationToken cancellation)
    {
        // A connect that waits for room in a Unix socket's queue ends by nothing but its timeout, so it waits in steps.
        TimeSpan step = TimeSpan.FromMilliseconds(100);
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            TimeSpan left = timeout - Stopwatch.GetElapsedTime(start);
            try
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                return Connect(socket, new UnixDomainSocketEndPoint(unix.Path), left < step ? left : step, CancellationToken.None);
            }
            catch (SocketException failure)
            {
                // No connection exists; the socket is closed already.
                bool waited = failure.SocketErrorCode is SocketError.WouldBlock or SocketError.TimedOut;
                if (!waited || Stopwatch.GetElapsedTime(start) >= timeout)
                    throw Refused(failure, waited, cancellation);
            }
        }
    }

    /// <summary>Connects in blocking mode, so that the descriptor stays so, or closes the socket.</summary>
    private SocketConnection Connect(Socket socket, EndPoint endPoint, TimeSpan limit, CancellationToken cancellation)
    {
        try
        {
            // What connect(2) waits is the socket's send timeout.
            socket.SendTimeout = Math.Max(1, (int)Math.Min(int.MaxValue, limit.TotalMilliseconds));
            using (cancellation.Register(socket.Dispose))
                socket.Connect(endPoint);
            cancellation.ThrowIfCancellationRequested();
            socket.SendTimeout = 0;
            return new SocketConnection(socket, Address, kernel) { ExpectsPlain = !ExpectsTls };
        }
        catch (ObjectDisposedException)
        {
            // The cancellation closed the socket.
            throw new OperationCanceledException(cancellation);
        }
        catch
        {
            // Nobody else has seen the socket.
            socket.Dispose();
            throw;
        }
    }

    private IOException Refused(Exception failure, bool ranOut, CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        SocketError? code = ranOut ? SocketError.TimedOut : (failure as SocketException)?.SocketErrorCode;
        string cause = code switch
        {
            SocketError.ConnectionRefused => "nobody listens there",
            SocketError.HostNotFound or SocketError.NoData or SocketError.TryAgain => "the host name is not known",
            SocketError.AddressNotAvailable or SocketError.InvalidArgument => "there is no such socket",
            SocketError.TimedOut or SocketError.WouldBlock or SocketError.OperationAborted or null =>
                string.Create(CultureInfo.InvariantCulture, $"no answer for {timeout.TotalSeconds:0.#} s"),
            _ => failure.Message,
        };
        return new IOException($"No connection to {Address}: {cause}. Is `tidemark receive` running there?", failure);
    }
}
