using Tidemark.Machine.Transport;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>The bandwidth limit, on a clock that waits for nobody.</summary>
public sealed class LimitTransportTests
{
    private const ulong MiB = 1 << 20;
    private readonly FakeTime _time = new(DateTimeOffset.UnixEpoch);

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Connections_that_share_a_limit_send_no_faster_together(int channels)
    {
        var connector = new LimitedConnector(new SinkConnector(), new BandwidthLimit(10 * MiB, _time));
        using IConnection control = connector.Connect(default);
        IConnection[] connections = [.. Enumerable.Range(0, channels).Select(_ => connector.Connect(default))];
        var frame = new byte[MiB];
        for (int round = 0; round < 12; round++)
            connections[round % channels].Send(frame);
        // 12 MiB at 10 MiB/s, and the first 20 ms and one piece for nothing.
        Assert.InRange(_time.Passed.TotalSeconds, 1.15, 1.21);
        Assert.Equal(12 * (long)MiB, connections.Sum(connection => Inner(connection).Bytes));
    }

    [Fact]
    public void A_pause_saves_up_no_more_than_a_short_burst()
    {
        var limit = new BandwidthLimit(10 * MiB, _time);
        _time.Advance(TimeSpan.FromHours(1));
        long sent = 0;
        while (limit.Reserve(4096) == TimeSpan.Zero)
            sent += 4096;
        Assert.InRange(sent, 1, 10 * (long)MiB / 50 + 8192);
    }

    [Fact]
    public void The_control_connection_never_waits_and_counts()
    {
        var connector = new LimitedConnector(new SinkConnector(), new BandwidthLimit(1 * MiB, _time));
        using IConnection control = connector.Connect(default);
        using IConnection pages = connector.Connect(default);
        control.Send(new byte[2 * MiB]);
        Assert.Equal(TimeSpan.Zero, _time.Passed);
        pages.Send(new byte[MiB]);
        Assert.InRange(_time.Passed.TotalSeconds, 2.8, 3.1);
    }

    [Fact]
    public void Small_frames_on_a_channel_do_not_wait()
    {
        using var pages = new LimitedConnection(new Sink(), new BandwidthLimit(1 * MiB, _time));
        pages.Send(new byte[MiB]);
        TimeSpan before = _time.Passed;
        pages.Send(new byte[64]);
        Assert.Equal(before, _time.Passed);
    }

    [Fact]
    public void Pages_are_cut_into_pieces_and_keep_their_order()
    {
        var sink = new Sink();
        using var pages = new LimitedConnection(sink, new BandwidthLimit(1 * MiB, _time));
        PageRun[] runs = [new(5, 1), new(10, 300), new(400, 2), .. Enumerable.Range(0, 100).Select(index => new PageRun(1000 + (ulong)index * 2, 1))];
        pages.SendPages(new GuestMemory([]), runs);
        IEnumerable<ulong> wanted = runs.SelectMany(Each);
        Assert.Equal(wanted, sink.Runs.SelectMany(Each));
        Assert.All(sink.Runs, run => Assert.InRange(run.Count, 1UL, 6UL));
        Assert.InRange(_time.Passed.TotalSeconds, 403 * 4096.0 / MiB - 0.05, 403 * 4096.0 / MiB);
    }

    [Fact]
    public void An_abort_ends_the_wait()
    {
        using var pages = new LimitedConnection(new Sink(), new BandwidthLimit(BandwidthLimit.Minimum, TimeProvider.System));
        Exception? seen = null;
        // At 64 KiB/s this takes a quarter of an hour.
        var worker = new Thread(() => seen = Record.Exception(() => pages.Send(new byte[64 << 20])));
        worker.Start();
        Thread.Sleep(30);
        pages.Abort();
        Assert.True(worker.Join(TimeSpan.FromSeconds(20)));
        Assert.IsType<IOException>(seen);
    }

    [Fact]
    public void A_rate_that_would_look_like_a_standstill_is_refused() =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new BandwidthLimit(BandwidthLimit.Minimum - 1, _time));

    private static IEnumerable<ulong> Each(PageRun run)
    {
        for (ulong page = run.FirstPage; page < run.FirstPage + run.Count; page++)
            yield return page;
    }

    private static Sink Inner(IConnection connection) => SinkConnector.Made[connection.Peer];

    private sealed class SinkConnector : IConnector
    {
        public static Dictionary<string, Sink> Made { get; } = [];

        public string Address => "sink:";

        public IConnection Connect(CancellationToken cancellation)
        {
            var sink = new Sink();
            lock (Made)
                Made.Add(sink.Peer, sink);
            return sink;
        }
    }

    private sealed class Sink : IConnection
    {
        private volatile bool _gone;

        public string Peer { get; } = $"sink:{Guid.NewGuid()}";

        public long Bytes { get; private set; }

        public List<PageRun> Runs { get; } = [];

        public TimeSpan IdleTimeout { get; set; }

        public void Send(ReadOnlySpan<byte> bytes)
        {
            if (_gone)
                throw new IOException("It is gone.");
            Bytes += bytes.Length;
        }

        public int Receive(Span<byte> buffer) => 0;

        public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => Runs.AddRange(runs);

        public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs)
        {
        }

        public void Abort() => _gone = true;

        public void Dispose() => _gone = true;
    }
}
