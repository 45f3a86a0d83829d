using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;

namespace Tidemark.Bench.Soak;

/// <summary>What becomes of a connection when a certain frame comes by on it.</summary>
internal enum TrapAction
{
    /// <summary>The frame and everything after it waits until <see cref="CutProxy.Release"/>.</summary>
    Hold,

    /// <summary>All connections break and the frame is lost.</summary>
    CutBefore,

    /// <summary>The frame still arrives, then all connections break.</summary>
    CutAfter,
}

/// <summary>A frame of the control connection to wait for; docs/reference/stream-format.md has the numbers.</summary>
internal sealed record FrameTrap(bool ToDestination, ushort Type, TrapAction Action);

/// <summary>
/// Stands between a source and a destination, and breaks their connections: after so many bytes, or at a frame.
/// <code>
/// source --connects--> CutProxy --connects--> destination        two threads for each connection, one each way
///                        |-- bytes are counted over all connections; at the end of the allowance: cut
///                        '-- the control connection's frames are walked; at the trap's: hold, or cut
/// </code>
/// </summary>
internal sealed class CutProxy : IDisposable
{
    private const int PreambleBytes = 48;
    private const int HeaderBytes = 32;

    private readonly Socket _listener;
    private readonly string _target;
    private readonly bool _hard;
    private readonly bool _walks;
    private readonly Lock _gate = new();
    private readonly List<Pair> _pairs = [];
    private readonly Queue<long> _allowances;
    private readonly ManualResetEventSlim _released = new();
    private readonly Thread _thread;
    private FrameTrap? _trap;
    private long _left;
    private long _passed;
    private int _cuts;
    private volatile bool _ended;
    private volatile bool _refuses;

    /// <param name="listen">A Unix socket's path, or null for TCP.</param>
    /// <param name="allowances">Bytes until the first cut, from there to the second, and so on.</param>
    /// <param name="hard">Connections are reset, not closed.</param>
    internal CutProxy(string? listen, string target, IEnumerable<long> allowances, FrameTrap? trap, bool hard)
    {
        _target = target;
        _hard = hard;
        _trap = trap;
        // Without a trap nothing is looked at: it may be encrypted.
        _walks = trap is not null;
        _allowances = new Queue<long>(allowances);
        _left = _allowances.TryDequeue(out long first) ? first : long.MaxValue;
        EndPoint place = listen is null ? new IPEndPoint(IPAddress.Loopback, 0) : new UnixDomainSocketEndPoint(listen);
        _listener = NewSocket(place);
        _listener.Bind(place);
        _listener.Listen(80);
        Address = listen is null ? $"tcp:127.0.0.1:{((IPEndPoint)_listener.LocalEndPoint!).Port}" : $"unix:{listen}";
        _thread = new Thread(Accept) { IsBackground = true, Name = "soak proxy" };
        _thread.Start();
    }

    /// <summary>Where the source is to connect.</summary>
    internal string Address { get; }

    internal int Cuts => Volatile.Read(ref _cuts);

    internal long BytesPassed => Interlocked.Read(ref _passed);

    /// <summary>Set when the trap has seen its frame.</summary>
    internal ManualResetEventSlim Sprung { get; } = new();

    /// <summary>Whether newcomers are turned away: the destination can not be reached.</summary>
    internal bool Refuses
    {
        get => _refuses;
        set => _refuses = value;
    }

    /// <summary>After the trap has cut, newcomers are turned away.</summary>
    internal bool RefusesAfterTrap { get; init; }

    internal void Release() => _released.Set();

    internal void Cut()
    {
        Pair[] pairs;
        lock (_gate)
        {
            pairs = [.. _pairs];
            _pairs.Clear();
        }

        Interlocked.Increment(ref _cuts);
        foreach (Pair pair in pairs)
            pair.Close(_hard);
    }

    public void Dispose()
    {
        _ended = true;
        _listener.Dispose();
        _released.Set();
        Cut();
        _thread.Join();
    }

    private static Socket NewSocket(EndPoint place) => new(
        place.AddressFamily, SocketType.Stream, place is IPEndPoint ? ProtocolType.Tcp : ProtocolType.Unspecified);

    private void Accept()
    {
        while (!_ended)
        {
            Socket? source = null;
            try
            {
                source = _listener.Accept();
                if (_refuses)
                {
                    source.Dispose();
                    continue;
                }

                Serve(source, ConnectOn());
            }
            catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
            {
                // Nobody listens there any more, or this object ends: the newcomer is turned away.
                source?.Dispose();
            }
        }
    }

    private Socket ConnectOn()
    {
        string[] words = _target.Split(':');
        EndPoint place = words[0] == "unix"
            ? new UnixDomainSocketEndPoint(_target["unix:".Length..])
            : new IPEndPoint(IPAddress.Loopback, int.Parse(words[^1], System.Globalization.CultureInfo.InvariantCulture));
        Socket socket = NewSocket(place);
        try
        {
            socket.Connect(place);
            return socket;
        }
        catch
        {
            // Nobody is there; the caller turns its newcomer away.
            socket.Dispose();
            throw;
        }
    }

    private void Serve(Socket source, Socket destination)
    {
        foreach (Socket socket in new[] { source, destination })
        {
            if (socket.AddressFamily != AddressFamily.Unix)
                socket.NoDelay = true;
        }

        var pair = new Pair(source, destination);
        lock (_gate)
            _pairs.Add(pair);
        new Thread(() => Pump(pair, toDestination: true)) { IsBackground = true, Name = "soak proxy there" }.Start();
        new Thread(() => Pump(pair, toDestination: false)) { IsBackground = true, Name = "soak proxy back" }.Start();
    }

    private void Pump(Pair pair, bool toDestination)
    {
        Socket from = toDestination ? pair.Source : pair.Destination;
        Socket to = toDestination ? pair.Destination : pair.Source;
        byte[] buffer = new byte[128 << 10];
        var walk = new FrameWalk();
        try
        {
            int count;
            while ((count = from.Receive(buffer)) > 0)
                Forward(pair, to, buffer.AsSpan(0, count), walk, toDestination);
            to.Shutdown(SocketShutdown.Send);
            if (pair.EndsOneWay())
                Forget(pair);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
            // Cut here, or by an end that died: the other end learns it in the same way.
            Forget(pair);
        }
    }

    private void Forget(Pair pair)
    {
        lock (_gate)
            _pairs.Remove(pair);
        pair.Close(hard: false);
    }

    private void Forward(Pair pair, Socket to, ReadOnlySpan<byte> bytes, FrameWalk walk, bool toDestination)
    {
        if (!_walks)
        {
            Send(to, bytes);
            return;
        }

        while (!bytes.IsEmpty)
        {
            int take = walk.Take(bytes, out ReadOnlySpan<byte> whole);
            bytes = bytes[take..];
            if (walk.PreambleRole is { } role && toDestination)
                pair.IsControl = role == 1;
            FrameTrap? trap = Volatile.Read(ref _trap);
            bool springs = walk.HeaderType is { } type && pair.IsControl && trap is not null
                && trap.ToDestination == toDestination && trap.Type == type;
            if (!springs)
            {
                Send(to, whole);
                continue;
            }

            Spring(trap!, to, whole, bytes, walk);
        }
    }

    private void Spring(FrameTrap trap, Socket to, ReadOnlySpan<byte> header, ReadOnlySpan<byte> rest, FrameWalk walk)
    {
        Volatile.Write(ref _trap, null);
        if (trap.Action == TrapAction.Hold)
        {
            Sprung.Set();
            _released.Wait();
            Send(to, header);
            return;
        }

        if (trap.Action == TrapAction.CutAfter)
        {
            // A frame of the control connection that a trap waits for is short and comes whole.
            int payload = Math.Min(walk.PayloadLeft, rest.Length);
            Send(to, header);
            Send(to, rest[..payload]);
            // It is to arrive: a reset would throw away what the receiver has not read yet.
            Thread.Sleep(30);
        }

        _refuses = RefusesAfterTrap;
        Cut();
        Sprung.Set();
        throw new SocketException((int)SocketError.ConnectionAborted);
    }

    private void Send(Socket to, ReadOnlySpan<byte> bytes)
    {
        if (bytes.IsEmpty)
            return;
        long left = Interlocked.Add(ref _left, -bytes.Length);
        bool ends = left <= 0 && left + bytes.Length > 0;
        ReadOnlySpan<byte> rest = ends ? bytes[..(int)(left + bytes.Length)] : bytes;
        Interlocked.Add(ref _passed, rest.Length);
        while (!rest.IsEmpty)
            rest = rest[to.Send(rest)..];
        if (!ends)
            return;
        Interlocked.Exchange(ref _left, _allowances.TryDequeue(out long next) ? next : long.MaxValue);
        Cut();
        throw new SocketException((int)SocketError.ConnectionAborted);
    }

    /// <summary>One connection: its two ends here.</summary>
    private sealed class Pair(Socket source, Socket destination)
    {
        private int _ways = 2;
        private volatile bool _isControl;

        public Socket Source => source;

        public Socket Destination => destination;

        public bool IsControl
        {
            get => _isControl;
            set => _isControl = value;
        }

        /// <summary>True for the second of its two directions.</summary>
        public bool EndsOneWay() => Interlocked.Decrement(ref _ways) == 0;

        public void Close(bool hard)
        {
            foreach (Socket socket in new[] { source, destination })
            {
                try
                {
                    if (hard && socket.AddressFamily != AddressFamily.Unix)
                        socket.LingerState = new LingerOption(true, 0);
                    else
                        socket.Shutdown(SocketShutdown.Both);
                }
                catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
                {
                    // It has ended already.
                }

                socket.Dispose();
            }
        }
    }

    /// <summary>Where one direction of a connection stands: in the preamble, in a header, or in a payload.</summary>
    private sealed class FrameWalk
    {
        private readonly byte[] _head = new byte[PreambleBytes];
        private int _have;
        private bool _afterPreamble;

        /// <summary>Set by the <see cref="Take"/> that completed the preamble.</summary>
        public ushort? PreambleRole { get; private set; }

        /// <summary>Set by the <see cref="Take"/> that completed a header.</summary>
        public ushort? HeaderType { get; private set; }

        public int PayloadLeft { get; private set; }

        /// <summary>Takes bytes; preambles and headers are held back until they are whole.</summary>
        public int Take(ReadOnlySpan<byte> bytes, out ReadOnlySpan<byte> forward)
        {
            PreambleRole = null;
            HeaderType = null;
            if (PayloadLeft > 0)
            {
                int payload = Math.Min(PayloadLeft, bytes.Length);
                PayloadLeft -= payload;
                forward = bytes[..payload];
                return payload;
            }

            int whole = _afterPreamble ? HeaderBytes : PreambleBytes;
            int take = Math.Min(whole - _have, bytes.Length);
            bytes[..take].CopyTo(_head.AsSpan(_have));
            _have += take;
            forward = default;
            if (_have < whole)
                return take;
            _have = 0;
            forward = _head.AsSpan(0, whole);
            if (_afterPreamble)
            {
                HeaderType = BinaryPrimitives.ReadUInt16LittleEndian(_head);
                PayloadLeft = (int)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(_head.AsSpan(12)), int.MaxValue);
            }
            else
            {
                PreambleRole = BinaryPrimitives.ReadUInt16LittleEndian(_head.AsSpan(12));
                _afterPreamble = true;
            }

            return take;
        }
    }
}
