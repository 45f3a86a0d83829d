using System.Net.Sockets;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Transport;

/// <summary>
/// A stream socket as the engine's connection: blocking calls on the engine's own threads, and pages straight from and
/// to guest memory.
/// </summary>
/// <remarks>
/// The descriptor stays blocking for the operating system too: then a call is one system call, and the timeouts are the
/// socket's own. One asynchronous call of the Socket class would end that for the socket's life.
/// Measured on loopback with runs of one page, two busy processors: 1.3 times as fast as through a buffer, 2.5 times as
/// fast as a call for each page. Larger socket buffers changed nothing beyond the spread, so the kernel's choice stays.
/// </remarks>
public sealed class SocketConnection : IConnection
{
    /// <summary>LIMIT: IOV_MAX, what readv and writev take in one call.</summary>
    private const int MaximumVectors = 1024;

    /// <summary>LIMIT: what goes ahead of pages in one piece; above the longest table of a frame.</summary>
    private const int MaximumAhead = 4096;

    /// <summary>The first byte of a TLS alert; ours is the T of TIDEMARK.</summary>
    private const byte TlsAlert = 0x15;

    private readonly Socket _socket;
    private readonly IKernel? _kernel;
    private IoVector[]? _sendVectors;
    private IoVector[]? _receiveVectors;
    private byte[]? _ahead;
    private TimeSpan _idleTimeout = Timeout.InfiniteTimeSpan;
    private int _aborted;
    private bool _expectsPlain;

    /// <param name="kernel">
    /// Makes the calls that move several runs of pages at once; without one they go one run after the other.
    /// </param>
    public SocketConnection(Socket socket, string peer, IKernel? kernel = null)
    {
        ArgumentNullException.ThrowIfNull(socket);
        _socket = socket;
        _kernel = kernel;
        Peer = peer;
        if (socket.ProtocolType == ProtocolType.Tcp)
            socket.NoDelay = true;
    }

    public string Peer { get; }

    /// <summary>The peer's first byte must not be that of a TLS alert; if it is, the message says what to do.</summary>
    internal bool ExpectsPlain
    {
        get => _expectsPlain;
        set => _expectsPlain = value;
    }

    public TimeSpan IdleTimeout
    {
        get => _idleTimeout;
        set
        {
            _idleTimeout = value;
            int milliseconds = value == Timeout.InfiniteTimeSpan ? 0 : Math.Max(1, (int)Math.Min(int.MaxValue, value.TotalMilliseconds));
            try
            {
                _socket.SendTimeout = milliseconds;
                _socket.ReceiveTimeout = milliseconds;
            }
            catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
            {
                // The connection is gone; the next call says so.
            }
        }
    }

    public void Send(ReadOnlySpan<byte> bytes)
    {
        try
        {
            while (!bytes.IsEmpty)
                bytes = bytes[_socket.Send(bytes, SocketFlags.None)..];
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // How much of the bytes arrived is unknown: the stream is broken for good.
            throw Broken("sending to", failure);
        }
    }

    public int Receive(Span<byte> buffer)
    {
        int count;
        try
        {
            count = _socket.Receive(buffer, SocketFlags.None);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // Nothing was consumed that the caller could still use.
            throw Broken("receiving from", failure);
        }

        // A shutdown by this side looks like an end in order by the other.
        if (count == 0 && !buffer.IsEmpty && Volatile.Read(ref _aborted) != 0)
            throw Broken("receiving from", null);
        if (_expectsPlain && count > 0)
            CheckFirst(buffer[0]);
        return count;
    }

    public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        ArgumentNullException.ThrowIfNull(memory);
        if (_kernel is null || runs.Length == 1)
            PageByPage.Send(this, memory, runs);
        else
            Move(memory, runs, _sendVectors ??= new IoVector[MaximumVectors], sending: true);
    }

    /// <remarks>
    /// One call instead of two: the peer is woken once, and not for a hundred bytes ahead of what it waits for.
    /// </remarks>
    public void SendWithPages(ReadOnlySpan<byte> bytes, GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        ArgumentNullException.ThrowIfNull(memory);
        if (_kernel is null || bytes.Length > MaximumAhead)
        {
            Send(bytes);
            SendPages(memory, runs);
            return;
        }

        _ahead ??= GC.AllocateUninitializedArray<byte>(MaximumAhead, pinned: true);
        bytes.CopyTo(_ahead);
        IoVector[] vectors = _sendVectors ??= new IoVector[MaximumVectors];
        vectors[0] = IoVector.Of(_ahead, bytes.Length);
        Move(memory, runs, vectors, sending: true, given: 1);
    }

    public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs)
    {
        ArgumentNullException.ThrowIfNull(memory);
        if (_kernel is null || runs.Length == 1)
            PageByPage.Receive(this, memory, runs);
        else
            Move(memory, runs, _receiveVectors ??= new IoVector[MaximumVectors], sending: false);
    }

    public void Abort()
    {
        if (Interlocked.Exchange(ref _aborted, 1) != 0)
            return;
        try
        {
            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // Not connected any more, which is what was wanted.
        }
    }

    public void Dispose() => _socket.Dispose();

    /// <param name="given">Vectors at the front that are filled in already.</param>
    private void Move(GuestMemory memory, ReadOnlySpan<PageRun> runs, IoVector[] vectors, bool sending, int given = 0)
    {
        SafeSocketHandle handle = _socket.SafeHandle;
        bool held = false;
        try
        {
            // The descriptor's number must not become another file's in the middle of a call.
            handle.DangerousAddRef(ref held);
            int fd = (int)handle.DangerousGetHandle();
            while (!runs.IsEmpty)
            {
                int count = Math.Min(runs.Length, vectors.Length - given);
                for (int index = 0; index < count; index++)
                    vectors[given + index] = Locate(memory, runs[index]);
                MoveAll(fd, vectors.AsSpan(0, given + count), sending);
                runs = runs[count..];
                given = 0;
            }
        }
        catch (ObjectDisposedException failure)
        {
            // Nothing of this call went out or came in: the descriptor was closed before.
            throw Broken(sending ? "sending to" : "receiving from", failure);
        }
        finally
        {
            if (held)
                handle.DangerousRelease();
        }
    }

    private void MoveAll(int fd, Span<IoVector> vectors, bool sending)
    {
        int first = Advance(vectors, 0, 0);
        while (first < vectors.Length)
        {
            SyscallResult result = sending ? _kernel!.Writev(fd, vectors[first..]) : _kernel!.Readv(fd, vectors[first..]);
            if (result.Errno == Errno.EINTR)
                continue;
            // EAGAIN on a blocking socket: its timeout has passed. (SIGPIPE is ignored by .NET, so EPIPE arrives here.)
            if (!result.Succeeded)
                throw Broken(sending ? "sending to" : "receiving from", result.Errno);
            if (result.Value <= 0)
                throw Ended();
            first = Advance(vectors, first, (ulong)result.Value);
        }
    }

    private static IoVector Locate(GuestMemory memory, PageRun run)
    {
        var address = new GuestPhysicalAddress(run.FirstPage << GuestPage.Shift);
        ulong byteLength = run.Count << GuestPage.Shift;
        MemorySlot slot = memory.FindSlot(address, byteLength) ?? throw new ArgumentOutOfRangeException(
            nameof(run), $"Guest memory has no 0x{byteLength:x} bytes at {address}.");
        return new IoVector(slot.Host.Value + (address.Value - slot.Start.Value), byteLength);
    }

    /// <summary>Takes bytes off the front of the vectors; returns the first that has any left.</summary>
    private static int Advance(Span<IoVector> vectors, int first, ulong bytes)
    {
        while (first < vectors.Length && bytes >= vectors[first].ByteLength)
            bytes -= vectors[first++].ByteLength;
        if (bytes > 0)
            vectors[first] = new IoVector(vectors[first].Address + bytes, vectors[first].ByteLength - bytes);
        return first;
    }

    private void CheckFirst(byte first)
    {
        _expectsPlain = false;
        if (first == TlsAlert)
            throw new IOException($"{Peer} takes only encrypted migrations; say --tls FOLDER.");
    }

    private IOException Ended() => Volatile.Read(ref _aborted) != 0
        ? Broken("receiving from", null)
        : new IOException($"The peer {Peer} closed the connection in the middle of pages.");

    private IOException Broken(string doing, Exception? failure) => Broken(
        doing,
        (failure as SocketException)?.SocketErrorCode switch
        {
            SocketError.TimedOut or SocketError.WouldBlock => Errno.EAGAIN,
            SocketError.ConnectionReset or SocketError.Shutdown or SocketError.ConnectionAborted => Errno.EPIPE,
            { } => null,
            null => Errno.EBADF,
        },
        failure);

    private IOException Broken(string doing, Errno? errno, Exception? failure = null)
    {
        if (Volatile.Read(ref _aborted) != 0)
            return new IOException($"The connection with {Peer} was broken off on this side.", failure);
        string cause = errno switch
        {
            Errno.EAGAIN => $"no progress for {_idleTimeout.TotalSeconds:0.#} s",
            Errno.EPIPE or Errno.ECONNRESET or Errno.ECONNABORTED => "the other side closed the connection",
            Errno.EBADF => "the connection is closed",
            { } other => other.ToString(),
            null => failure?.Message ?? "the connection is closed",
        };
        return new IOException($"The connection with {Peer} broke while {doing} it: {cause}.", failure);
    }
}
