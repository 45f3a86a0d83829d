using Tidemark.Machine.Transport;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>Commit or its acknowledgement is lost on its way, and the destination is asked over what a real one is.</summary>
public sealed class LostAnswerTests : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);
    private readonly MachineRig _machines = new();
    private readonly TlsRig _certificates = new();

    public void Dispose()
    {
        _machines.Dispose();
        _certificates.Dispose();
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void A_destination_that_can_be_reached_again_says_whether_it_runs_the_machine(bool tls, bool arrived)
    {
        GuestMachine source = _machines.AssembleRunning(_machines.Describe(1));
        GuestMachine destination = _machines.Assemble(_machines.Describe(1));
        using var lobby = new Lobby(
            SocketAcceptor.Listen(new MigrationAddress.Tcp("127.0.0.1", 0)),
            tls ? new TlsAdmission(_certificates.Load("127.0.0.1"), "hosta") : null, TimeProvider.System, _ => { });
        MigrationAddress address = MigrationAddress.Parse(lobby.Address, out _)!;
        IConnector plain = tls
            ? new TlsConnector(address, s_patience, _certificates.Load("hosta"), null, TimeProvider.System)
            : new SocketConnector(address, s_patience);
        var connector = new LosingConnector(plain, arrived);
        using var end = new CancellationTokenSource();
        MigrationOutcome? received = null;
        var receiver = new Thread(() =>
        {
            received = new MigrationDestination(
                destination, lobby, new DestinationOptions(), new MachineRig.SilentObserver(), TimeProvider.System).Run(end.Token);
            received.Witness?.Run(TimeProvider.System, end.Token);
        });
        receiver.Start();

        MigrationOutcome sent = new MigrationSource(
            source, connector,
            new MigrationOptions { DowntimeLimit = TimeSpan.FromSeconds(3), RetryFor = TimeSpan.Zero, QueryFor = TimeSpan.FromMilliseconds(300) },
            new MachineRig.SilentObserver(), TimeProvider.System).Run(default);

        Assert.True(sent.Result == MigrationResult.StateUnknown, $"{sent}");
        // Nobody answers yet, and nobody guesses.
        Assert.Equal(MachineFate.NotTold, sent.Pending!.Ask(TimeSpan.FromMilliseconds(200)));
        connector.Refuses = false;
        Assert.Equal(arrived ? MachineFate.RunsThere : MachineFate.NeverThere, sent.Pending.Ask(s_patience));
        if (arrived)
            sent.Pending.LetGo();
        else
            Assert.Empty(sent.Pending.TakeBack());
        // The destination is done when the source has its answer.
        Assert.True(receiver.Join(s_patience), "the destination waits on");
        Assert.Equal(arrived ? MigrationResult.Completed : MigrationResult.Failed, received!.Result);
        GuestMachine runner = arrived ? destination : source;
        MachineRig.AwaitReads(runner, 20);
        MachineRig.AssertGoodData(runner);
        Assert.False((arrived ? source : destination).Processor.IsRunning);
        end.Cancel();
    }

    /// <summary>The first connection breaks around Commit, seen in clear text; then nobody is connected for a while.</summary>
    private sealed class LosingConnector(IConnector inner, bool arrives) : IConnector
    {
        private const byte CommitType = 64;
        private int _count;

        public volatile bool Refuses;

        public string Address => inner.Address;

        public IConnection Connect(CancellationToken cancellation)
        {
            if (Refuses)
                throw new IOException("Nobody is there.");
            IConnection connection = inner.Connect(cancellation);
            return Interlocked.Increment(ref _count) == 1 ? new Losing(this, connection, arrives) : connection;
        }

        private sealed class Losing(LosingConnector owner, IConnection inner, bool arrives) : IConnection
        {
            /// <summary>Held while Commit is on its way out, so that what comes in is looked at before it or after it.</summary>
            private readonly Lock _gate = new();
            private bool _committed;

            public string Peer => inner.Peer;

            public TimeSpan IdleTimeout
            {
                get => inner.IdleTimeout;
                set => inner.IdleTimeout = value;
            }

            public void Send(ReadOnlySpan<byte> bytes)
            {
                // A frame's header is its first 32 bytes, and its type the first two of them.
                if (bytes.Length < 32 || bytes[0] != CommitType || bytes[1] != 0)
                {
                    inner.Send(bytes);
                    return;
                }

                lock (_gate)
                {
                    _committed = true;
                    if (!arrives)
                        throw Break();
                    inner.Send(bytes);
                }
            }

            public int Receive(Span<byte> buffer)
            {
                int count = inner.Receive(buffer);
                lock (_gate)
                    return _committed ? throw Break() : count;
            }

            public void SendPages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => inner.SendPages(memory, runs);

            public void ReceivePages(GuestMemory memory, ReadOnlySpan<PageRun> runs) => inner.ReceivePages(memory, runs);

            public void Abort() => inner.Abort();

            public void Dispose() => inner.Dispose();

            private IOException Break()
            {
                owner.Refuses = true;
                inner.Abort();
                return new IOException("The connection broke.");
            }
        }
    }
}
