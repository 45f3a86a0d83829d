using Tidemark.Migration;
using Tidemark.Migration.Stream;

namespace Tidemark.Machine.Transport;

/// <summary>
/// The room between the door and the engine: newcomers introduce themselves side by side, and the engine gets only those
/// that have, so that a stranger who says nothing keeps nobody waiting.
/// </summary>
/// <remarks>
/// <code>
/// door --> newcomers (side by side, at most MaximumNewcomers, each at most so long) --> ready --Accept--> engine
///              | too many: the oldest of the host that has most here goes               pages: token of a migration that
///              '--> nobody of ours: closed, told                                        the engine has, same certificate
/// </code>
/// A source that comes back with its token ends its own old connection, and one that asks what became of its machine is
/// let through at any time. One migration at a time: while the engine holds a control connection, the next one waits here. Connections that were
/// handed in have no door: they are taken in their order.
/// Any number of threads may call <see cref="Accept"/>.
/// </remarks>
public sealed class Lobby : IAcceptor
{
    /// <summary>LIMIT: threads and handshakes that strangers can keep busy.</summary>
    public const int MaximumNewcomers = 32;

    /// <summary>LIMIT: introduced and not taken yet; a source opens its connections one after the other.</summary>
    private const int MaximumReady = 8;

    /// <summary>LIMIT: what strangers can make this process say.</summary>
    private const int MaximumTold = 32;

    /// <summary>How long somebody may take to say who it is.</summary>
    public static readonly TimeSpan DefaultLimit = TimeSpan.FromSeconds(5);

    private static readonly TimeSpan DoorRest = TimeSpan.FromMilliseconds(100);

    private readonly object _gate = new();
    private readonly SocketAcceptor _door;
    private readonly TlsAdmission? _tls;
    private readonly TimeProvider _time;
    private readonly Action<string> _tell;
    private readonly TimeSpan _limit;
    private readonly CancellationTokenSource _closing = new();
    private readonly List<Newcomer> _newcomers = [];
    private readonly List<Guest> _ready = [];
    private readonly Dictionary<Guid, Migration> _migrations = [];
    private readonly Queue<(Guid Token, string? Certificate)> _past = new();
    private Thread? _doorkeeper;
    private int _threads;
    private int _told;

    /// <param name="door">This object's from now on.</param>
    /// <param name="tls">Null: nothing is encrypted.</param>
    /// <param name="tell">Is told, on any thread, who was turned away and why.</param>
    public Lobby(SocketAcceptor door, TlsAdmission? tls, TimeProvider time, Action<string> tell, TimeSpan? limit = null)
    {
        _door = door;
        _tls = tls;
        _time = time;
        _tell = tell;
        _limit = limit ?? DefaultLimit;
    }

    public string Address => _door.Address;

    /// <summary>Who is being looked at now; for tests.</summary>
    internal int NewcomerCount
    {
        get
        {
            lock (_gate)
                return _newcomers.Count;
        }
    }

    public IConnection Accept(CancellationToken cancellation)
    {
        if (_door.IsHandedIn)
            return AcceptHandedIn(cancellation);
        using CancellationTokenRegistration wake = cancellation.Register(Wake);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_closing.IsCancellationRequested, this);
            if (_doorkeeper is null)
            {
                _doorkeeper = new Thread(KeepDoor) { IsBackground = true, Name = "tidemark door" };
                _doorkeeper.Start();
            }

            while (true)
            {
                cancellation.ThrowIfCancellationRequested();
                ObjectDisposedException.ThrowIf(_closing.IsCancellationRequested, this);
                int next = _ready.FindIndex(guest => guest.Introduction.Kind != IntroductionKind.Control || _migrations.Count == 0);
                if (next >= 0)
                {
                    Guest guest = _ready[next];
                    _ready.RemoveAt(next);
                    return LetIn(guest);
                }

                Monitor.Wait(_gate);
            }
        }
    }

    public void Dispose()
    {
        lock (_gate)
        {
            if (_closing.IsCancellationRequested)
                return;
            _closing.Cancel();
            foreach (Newcomer newcomer in _newcomers)
                newcomer.Abort();
            Monitor.PulseAll(_gate);
        }

        _doorkeeper?.Join();
        lock (_gate)
        {
            // Each is aborted, so each ends.
            while (_threads > 0)
                Monitor.Wait(_gate);
            foreach (Guest guest in _ready)
                guest.Connection.Dispose();
            _ready.Clear();
        }

        _door.Dispose();
        _closing.Dispose();
    }

    private IConnection AcceptHandedIn(CancellationToken cancellation)
    {
        IConnection connection = _door.Accept(cancellation);
        if (_tls is null)
            return connection;
        try
        {
            using CancellationTokenRegistration registration = cancellation.Register(connection.Abort);
            Guest guest = Introduce(new Newcomer(connection, _tls, _limit, _time), waitForFirst: true);
            lock (_gate)
                return LetIn(guest);
        }
        catch (IOException)
        {
            // The connection is closed already.
            cancellation.ThrowIfCancellationRequested();
            throw;
        }
    }

    private void KeepDoor()
    {
        while (!_closing.IsCancellationRequested)
        {
            try
            {
                IConnection connection = _door.Accept(_closing.Token);
                Admit(new Newcomer(connection, _tls, _limit, _time));
            }
            catch (OperationCanceledException)
            {
                // The room is being closed.
                return;
            }
            catch (Exception failure)
            {
                // Nobody came in. Out of descriptors, for one: those who are inside will leave some.
                Tell(failure.Message);
                _closing.Token.WaitHandle.WaitOne(DoorRest);
            }
        }
    }

    private void Admit(Newcomer newcomer)
    {
        lock (_gate)
        {
            if (_newcomers.Count >= MaximumNewcomers)
            {
                Newcomer victim = FindVictim();
                victim.Abort();
                _newcomers.Remove(victim);
            }

            // The thread of one that was sent away needs a moment to end.
            while (_threads >= 2 * MaximumNewcomers && !_closing.IsCancellationRequested)
                Monitor.Wait(_gate);
            _newcomers.Add(newcomer);
            _threads++;
            if (_closing.IsCancellationRequested)
                newcomer.Abort();
        }

        try
        {
            new Thread(() => Receive(newcomer)) { IsBackground = true, Name = "tidemark newcomer" }.Start();
        }
        catch
        {
            // No thread, so nobody looks at it.
            newcomer.Close();
            Leave(newcomer);
            throw;
        }
    }

    /// <summary>The oldest of the host that has most here: whoever comes from elsewhere is never in its way.</summary>
    private Newcomer FindVictim()
    {
        string crowd = _newcomers.GroupBy(newcomer => newcomer.Host).MaxBy(group => group.Count())!.Key;
        return _newcomers.First(newcomer => newcomer.Host == crowd);
    }

    private void Receive(Newcomer newcomer)
    {
        try
        {
            Guest guest = Introduce(newcomer, waitForFirst: false);
            lock (_gate)
            {
                if (_ready.Count >= MaximumReady)
                {
                    _ready[0].Connection.Dispose();
                    _ready.RemoveAt(0);
                }

                // ORDER: from here on nobody may send it away as a newcomer.
                _newcomers.Remove(newcomer);
                _ready.Add(guest);
            }
        }
        catch (Exception failure)
        {
            // That connection alone is closed; nothing of the machine was touched.
            Tell(failure.Message);
        }
        finally
        {
            Leave(newcomer);
        }
    }

    private Guest Introduce(Newcomer newcomer, bool waitForFirst)
    {
        (IConnection connection, Introduction introduction, byte[] read, string? certificate) = newcomer.Introduce(waitForFirst);
        string? refusal = null;
        lock (_gate)
        {
            bool isKnown = _migrations.TryGetValue(introduction.Token, out Migration? migration);
            string? expected = isKnown
                ? migration!.Certificate
                : _past.FirstOrDefault(
                    past => past.Token == introduction.Token, (Token: introduction.Token, Certificate: certificate)).Certificate;
            if (introduction.Kind == IntroductionKind.Pages && !isKnown)
                refusal = "it belongs to a migration that is not this one";
            else if (expected != certificate)
                refusal = "its certificate is another one than that of the migration's control connection";
            else if (introduction.Kind == IntroductionKind.Control && isKnown)
                // The source has given its old connection up, and this side has not seen it break yet.
                migration!.Connection.Abort();
        }

        if (refusal is null)
            return new Guest(connection, introduction, read, certificate);
        connection.Dispose();
        throw new IOException($"The peer {connection.Peer} was turned away: {refusal}.");
    }

    /// <summary>Under the gate.</summary>
    private IntroducedConnection LetIn(Guest guest)
    {
        Guid token = guest.Introduction.Token;
        if (guest.Introduction.Kind != IntroductionKind.Control)
            return new IntroducedConnection(guest.Connection, guest.Read);
        var connection = new IntroducedConnection(guest.Connection, guest.Read, () => Forget(token));
        _migrations[token] = new Migration(guest.Certificate, connection);
        return connection;
    }

    /// <summary>The engine has closed a migration's control connection. Its source may come back, or ask.</summary>
    private void Forget(Guid token)
    {
        lock (_gate)
        {
            if (_migrations.Remove(token, out Migration? migration))
                _past.Enqueue((token, migration.Certificate));
            if (_past.Count > MaximumReady)
                _past.Dequeue();
            Monitor.PulseAll(_gate);
        }
    }

    private void Leave(Newcomer newcomer)
    {
        lock (_gate)
        {
            _newcomers.Remove(newcomer);
            _threads--;
            Monitor.PulseAll(_gate);
        }
    }

    private void Wake()
    {
        lock (_gate)
            Monitor.PulseAll(_gate);
    }

    private void Tell(string what)
    {
        if (_closing.IsCancellationRequested)
            return;
        int told = Interlocked.Increment(ref _told);
        if (told <= MaximumTold)
            _tell(told < MaximumTold ? what : $"{what} (Who else is turned away is not told any more.)");
    }

    /// <summary>One that the engine has the control connection of.</summary>
    private sealed record Migration(string? Certificate, IntroducedConnection Connection);

    /// <summary>Introduced, and not taken by the engine yet.</summary>
    private sealed record Guest(IConnection Connection, Introduction Introduction, byte[] Read, string? Certificate);
}
