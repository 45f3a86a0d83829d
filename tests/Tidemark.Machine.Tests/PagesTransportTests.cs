using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text.RegularExpressions;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Machine.Transport;
using Tidemark.Memory;

namespace Tidemark.Machine.Tests;

/// <summary>Pages straight from and to guest memory, and sockets that stay blocking.</summary>
public sealed partial class PagesTransportTests : IDisposable
{
    private const ulong Pages = 4096;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private readonly string _folder = Directory.CreateTempSubdirectory("tidemark-pages-tests-").FullName;
    private readonly LinuxKernel _linux = new();
    private readonly List<ulong> _mapped = [];
    private readonly ConcurrentQueue<(string Call, int Vectors)> _calls = new();

    public void Dispose()
    {
        foreach (ulong address in _mapped)
            _linux.Munmap(address, Pages * GuestPage.Size);
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public void Runs_of_pages_leave_and_arrive_in_one_call_without_a_copy()
    {
        PageRun[] runs = [new(1, 2), new(7, 1), new(9, 4), new(100, 3)];
        Transfer(runs, Counting(), Counting());
        Assert.Equal(("writev", runs.Length), Assert.Single(_calls, call => call.Call == "writev"));
        Assert.Contains(("readv", runs.Length), _calls);
    }

    [Fact]
    public void Without_a_kernel_pages_go_one_run_after_the_other()
    {
        // The control of the test above: the same bytes, and none of the calls.
        Transfer([new(1, 2), new(7, 1), new(9, 4), new(100, 3)], null, null);
        Assert.Empty(_calls);
    }

    [Fact]
    public void More_runs_than_one_call_takes_go_in_several()
    {
        PageRun[] runs = [.. Enumerable.Range(0, 1500).Select(index => new PageRun((ulong)index * 2, 1))];
        Transfer(runs, Counting(), Counting());
        Assert.Contains(("writev", 1024), _calls);
        Assert.Contains(("writev", 476), _calls);
        Assert.All(_calls, call => Assert.InRange(call.Vectors, 1, 1024));
    }

    [Fact]
    public void A_single_run_needs_no_vectors()
    {
        Transfer([new(3, 700)], Counting(), Counting());
        Assert.Empty(_calls);
    }

    [Theory]
    [InlineData(100, 1, true)]
    [InlineData(4096, 3, true)]
    [InlineData(4097, 3, false)]
    [InlineData(100, 1500, true)]
    public void Bytes_ahead_of_pages_leave_in_the_same_call(int ahead, int runCount, bool together)
    {
        PageRun[] runs = [.. Enumerable.Range(0, runCount).Select(index => new PageRun((ulong)index * 2, 1))];
        byte[] sent = new byte[ahead];
        new Random(3).NextBytes(sent);
        (Socket near, Socket far) = UnixSockets.Connect();
        using var source = new SocketConnection(near, "near", Counting());
        using var destination = new SocketConnection(far, "far");
        GuestMemory from = Map(seed: 5);
        GuestMemory to = Map(seed: null);
        var sender = new Thread(() => source.SendWithPages(sent, from, runs));
        sender.Start();
        byte[] received = new byte[ahead];
        for (int have = 0; have < ahead;)
            have += destination.Receive(received.AsSpan(have));
        destination.ReceivePages(to, runs);
        Assert.True(sender.Join(s_patience));
        Assert.Equal(sent, received);
        Assert.All(runs, run => Assert.True(from.PagesSpan(run.FirstPage, 1).SequenceEqual(to.PagesSpan(run.FirstPage, 1))));
        Assert.Equal(Math.Min(1024, runCount + (together ? 1 : 0)), _calls.First().Vectors);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void A_call_that_a_signal_interrupts_is_made_again(int nth)
    {
        var kernel = new FaultInjectingKernel(_linux);
        kernel.FailNth(nth, Errno.EINTR);
        Transfer([.. Enumerable.Range(0, 1500).Select(index => new PageRun((ulong)index * 2, 1))], kernel, null);
        Assert.Equal("writev", kernel.FailedCall);
        var reading = new FaultInjectingKernel(_linux);
        reading.FailNth(nth, Errno.EINTR);
        Transfer([.. Enumerable.Range(0, 1500).Select(index => new PageRun((ulong)index * 2, 1))], null, reading);
        Assert.Equal("readv", reading.FailedCall);
    }

    [Fact]
    public void A_non_blocking_socket_is_not_taken_and_stays_open()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        near.Blocking = false;
        var address = new MigrationAddress.Descriptor((int)near.SafeHandle.DangerousGetHandle());
        IOException failure = Assert.Throws<IOException>(() => new SocketConnector(address, s_patience).Connect(default));
        Assert.Contains("O_NONBLOCK", failure.Message, StringComparison.Ordinal);
        far.Send([1]);
        Assert.True(near.Poll(s_patience, SelectMode.SelectRead));
        Assert.Equal(1, near.Receive(new byte[1]));
        near.Dispose();
        far.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Connected_and_accepted_sockets_stay_blocking(bool tcp)
    {
        MigrationAddress wanted = tcp ? new MigrationAddress.Tcp("127.0.0.1", 0) : new MigrationAddress.Unix(Path.Combine(_folder, "b"));
        using SocketAcceptor acceptor = SocketAcceptor.Listen(wanted);
        HashSet<string> before = [.. Sockets().Keys];
        using Migration.IConnection near = new SocketConnector(MigrationAddress.Parse(acceptor.Address, out _)!, s_patience).Connect(default);
        using Migration.IConnection far = acceptor.Accept(default);
        near.IdleTimeout = s_patience;
        near.Send([1]);
        far.Receive(new byte[1]);
        // O_NONBLOCK, in octal. Other tests run meanwhile, so at least these two must be among the blocking ones.
        const int NonBlocking = 0x800;
        int blocking = Sockets().Count(socket => !before.Contains(socket.Key) && (socket.Value & NonBlocking) == 0);
        Assert.True(blocking >= 2, $"{blocking} new sockets are blocking.");
    }

    [Fact]
    public void A_peer_that_does_not_take_pages_ends_the_call_after_its_timeout()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        using var sending = new SocketConnection(near, "near", Counting());
        using (far)
        {
            sending.IdleTimeout = TimeSpan.FromMilliseconds(100);
            IOException failure = Assert.Throws<IOException>(() => sending.SendPages(Map(1), [new(0, 2000), new(2001, 2000)]));
            Assert.Contains("no progress for 0.1 s", failure.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void An_abort_ends_a_transfer_of_pages(bool sending)
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        using var connection = new SocketConnection(near, "near", Counting());
        using (far)
        {
            GuestMemory memory = Map(1);
            Exception? seen = null;
            var worker = new Thread(() => seen = Record.Exception(() =>
            {
                if (sending)
                    connection.SendPages(memory, [new(0, 2000), new(2001, 2000)]);
                else
                    connection.ReceivePages(memory, [new(0, 1), new(2, 1)]);
            }));
            worker.Start();
            Thread.Sleep(30);
            connection.Abort();
            Assert.True(worker.Join(s_patience));
            Assert.Contains("broken off on this side", Assert.IsType<IOException>(seen).Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_peer_that_closes_in_the_middle_of_pages_is_named()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        using var connection = new SocketConnection(near, "near", Counting());
        far.Send(new byte[100]);
        far.Dispose();
        IOException failure = Assert.Throws<IOException>(() => connection.ReceivePages(Map(1), [new(0, 1), new(2, 1)]));
        Assert.Contains("near closed the connection in the middle of pages", failure.Message, StringComparison.Ordinal);
        failure = Assert.Throws<IOException>(() => connection.SendPages(Map(2), [new(0, 1), new(2, 1)]));
        Assert.Contains("the other side closed the connection", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_run_outside_guest_memory_is_refused_before_anything_is_sent()
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        using (far)
        using (var connection = new SocketConnection(near, "near", Counting()))
            Assert.Throws<ArgumentOutOfRangeException>(() => connection.SendPages(Map(1), [new(0, 1), new(Pages - 1, 2)]));
        Assert.Empty(_calls);
    }

    private void Transfer(PageRun[] runs, IKernel? sending, IKernel? receiving)
    {
        (Socket near, Socket far) = UnixSockets.Connect();
        using var source = new SocketConnection(near, "near", sending);
        using var destination = new SocketConnection(far, "far", receiving);
        GuestMemory from = Map(seed: 5);
        GuestMemory to = Map(seed: null);
        var sender = new Thread(() => source.SendPages(from, runs));
        sender.Start();
        destination.ReceivePages(to, runs);
        Assert.True(sender.Join(s_patience));
        var sent = new HashSet<ulong>();
        foreach (PageRun run in runs)
        {
            for (ulong page = run.FirstPage; page < run.FirstPage + run.Count; page++)
                sent.Add(page);
        }

        for (ulong page = 0; page < Pages; page++)
        {
            if (sent.Contains(page))
                Assert.True(from.PagesSpan(page, 1).SequenceEqual(to.PagesSpan(page, 1)), $"page {page}");
            else
                Assert.False(to.PagesSpan(page, 1).ContainsAnyExcept((byte)0), $"page {page} was written");
        }
    }

    private TracingKernel Counting() => new(_linux, line =>
    {
        Match call = VectorCall().Match(line);
        if (call.Success)
            _calls.Enqueue((call.Groups[1].Value, int.Parse(call.Groups[2].Value)));
    });

    /// <summary>One slot that does not begin at 0 in this process's memory, of course, nor all at once.</summary>
    private GuestMemory Map(int? seed)
    {
        SyscallResult mapped = _linux.Mmap(
            Pages * GuestPage.Size, MemoryProtection.Read | MemoryProtection.Write, MapFlags.Private | MapFlags.Anonymous, -1, 0);
        Assert.True(mapped.Succeeded);
        _mapped.Add((ulong)mapped.Value);
        var memory = new GuestMemory([new MemorySlot(new GuestPhysicalAddress(0), Pages * GuestPage.Size, new HostAddress((ulong)mapped.Value), 0)]);
        if (seed is { } number)
            new Random(number).NextBytes(memory.PagesSpan(0, (int)Pages));
        return memory;
    }

    /// <summary>This process's sockets with the flags of their descriptors.</summary>
    private static Dictionary<string, int> Sockets()
    {
        var found = new Dictionary<string, int>();
        foreach (string path in Directory.EnumerateFileSystemEntries("/proc/self/fd"))
        {
            try
            {
                if (new FileInfo(path).LinkTarget is not { } target || !target.StartsWith("socket:", StringComparison.Ordinal))
                    continue;
                string flags = File.ReadLines($"/proc/self/fdinfo/{Path.GetFileName(path)}")
                    .First(line => line.StartsWith("flags:", StringComparison.Ordinal));
                found[target] = Convert.ToInt32(flags[6..].Trim(), 8);
            }
            catch (IOException)
            {
                // Closed between the look at the folder and the look at it.
            }
        }

        return found;
    }

    [GeneratedRegex(@"^(writev|readv)\(\d+, \[\.\.\.\], (\d+)\)")]
    private static partial Regex VectorCall();
}
