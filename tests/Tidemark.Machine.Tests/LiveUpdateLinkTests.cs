using System.Net.Sockets;
using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Machine.Description;
using Tidemark.Machine.LiveUpdate;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>
/// The live update's protocol over a real socket, between two processes of a soft host that are one here. What a death does
/// to a process's descriptors is done here by disposing; over real processes <c>LiveUpdateProcessTests</c> shows it without
/// devices and <c>./lab/run machines</c> with them.
/// </summary>
public sealed class LiveUpdateLinkTests : IDisposable
{
    private readonly MachineRig _rig = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void A_machine_goes_from_process_to_process_and_its_pages_are_charged_to_the_one_that_runs_it()
    {
        using var rig = new UpdateRig(_rig, _rig.Describe(2));
        ulong charged = rig.ChargedPages;
        Assert.True(charged >= 24 << 8, $"{charged} pages are charged.");
        for (int count = 0; count < 3; count++)
        {
            UpdateProcess before = rig.Process;
            Assert.True(rig.Update(rig.NewProcess()), $"{rig.GiverFailure} {rig.TakerFailure}");
            Assert.Equal((0UL, charged, ""), (before.Process.Pinned.Count, rig.ChargedPages, before.Left));
            MachineRig.AwaitReads(rig.Machine, 10);
        }

        MachineRig.AssertGoodData(rig.Machine);
    }

    [Theory]
    [InlineData(LiveUpdateStep.Adopted)]
    [InlineData(LiveUpdateStep.Charged)]
    public void A_machine_whose_new_process_dies_before_it_runs_it_runs_on_and_is_charged_to_the_old_one(LiveUpdateStep death)
    {
        using var rig = new UpdateRig(_rig, _rig.Describe(2));
        ulong charged = rig.ChargedPages;
        UpdateProcess next = rig.NewProcess();
        rig.Process.Requests.Clear();
        Assert.False(rig.Update(next, atTaker: (step, socket) => DieAt(death, step, socket)));
        // Asked for once to see whether it can be, and then in earnest; and the interrupts of both devices.
        Assert.Equal(2, rig.Process.Requests.Count(request => request == IommufdRequests.IoasChangeProcess.Value));
        Assert.Equal(2, rig.Process.Requests.Count(request => request == VfioRequests.DeviceSetIrqs.Value));
        Assert.Contains("runs on here", Assert.IsType<KernelException>(rig.GiverFailure).Message, StringComparison.Ordinal);
        Assert.Equal((charged, 0UL, ""), (rig.ChargedPages, next.Process.Pinned.Count, next.Left));
        RunsAndMoves(rig);
    }

    [Fact]
    public void A_machine_whose_old_process_dies_while_it_is_offered_runs_in_the_new_one()
    {
        using var rig = new UpdateRig(_rig, _rig.Describe(2));
        GuestMachine old = rig.Machine;
        using var dead = new ManualResetEventSlim();
        Assert.True(rig.Update(
            rig.NewProcess(),
            (step, socket) =>
            {
                // A process that is killed closes its end and says nothing; that the rest of it runs here is this test's.
                old.Relinquish();
                socket.Dispose();
                dead.Set();
                throw new InvalidOperationException("killed");
            },
            (step, _) =>
            {
                if (step == LiveUpdateStep.Adopted)
                    dead.Wait();
            }), $"{rig.TakerFailure}");
        RunsAndMoves(rig);
    }

    [Theory]
    [InlineData(LiveUpdateStep.Adopted)]
    [InlineData(LiveUpdateStep.Charged)]
    public void A_new_process_that_hangs_finds_the_machine_called_back_when_it_wakes(LiveUpdateStep hang)
    {
        using var rig = new UpdateRig(_rig, _rig.Describe(2));
        ulong charged = rig.ChargedPages;
        using var stop = new CancellationTokenSource();
        using var wake = new ManualResetEventSlim();
        UpdateProcess next = rig.NewProcess();
        // Its time over and its being told to stop are one to the giver; nobody waits a minute here.
        GuestMachine machine = rig.Machine;
        var waker = new Thread(() =>
        {
            MachineRig.AwaitReads(machine, 5);
            wake.Set();
        });
        Assert.False(rig.Update(
            next,
            atTaker: (step, _) =>
            {
                if (step != hang)
                    return;
                stop.CancelAfter(TimeSpan.FromMilliseconds(100));
                // It reads again, so it runs; then the new process wakes up.
                waker.Start();
                wake.Wait();
            },
            cancellation: stop.Token));
        waker.Join();
        Assert.Contains("called it back", Assert.IsType<IOException>(rig.TakerFailure).Message, StringComparison.Ordinal);
        Assert.Contains("runs on here", rig.GiverFailure!.Message, StringComparison.Ordinal);
        Assert.Equal("", next.Left);
        // What it was charged with comes back with the next live update at the latest; then nobody else has any.
        Assert.Equal(charged, rig.ChargedPages + next.Process.Pinned.Count);
        RunsAndMoves(rig);
    }

    [Fact]
    public void A_new_process_that_refuses_says_why_to_the_old_one()
    {
        MachineDescription description = _rig.Describe(1);
        using var rig = new UpdateRig(_rig, description);
        UpdateProcess next = rig.NewProcess();
        Assert.False(rig.Update(next, atTaker: (_, _) => throw new InvalidDataException("It is too heavy.")));
        Assert.Contains("too heavy. The machine runs on here.", rig.GiverFailure!.Message, StringComparison.Ordinal);
        Assert.Equal("", next.Left);
        MachineRig.AwaitReads(rig.Machine, 5);
    }

    [Fact]
    public void A_machine_whose_writes_are_being_tracked_is_not_handed_over_and_no_write_is_forgotten()
    {
        using var rig = new UpdateRig(_rig, _rig.Describe(1));
        rig.Machine.DirtyTracker.Start();
        MachineRig.AwaitReads(rig.Machine, 5);
        Assert.False(rig.Update(rig.NewProcess()));
        Assert.IsType<InvalidOperationException>(rig.GiverFailure);
        Assert.IsType<IOException>(rig.TakerFailure);
        MachineRig.AwaitReads(rig.Machine, 5);
        using (Memory.DirtyLease lease = rig.Machine.DirtyTracker.Harvest())
            Assert.All(lease.BySource, source => Assert.True(source.PageCount > 0, source.Source));
        rig.Machine.DirtyTracker.Stop();
    }

    [Fact]
    public void A_socket_of_this_host_takes_a_message_or_refuses_it_and_keeps_what_it_took()
    {
        // What the hand-over rests on: the door is shut, what came before is there, nothing comes after.
        (Socket giver, Socket taker) = UnixSockets.Connect();
        using (giver)
        using (taker)
        {
            Assert.Equal(SocketError.Success, LiveUpdateLink.Say(taker, [LiveUpdateLink.Runs]));
            Assert.Equal(SocketError.Success, LiveUpdateLink.Say(giver, [LiveUpdateLink.Back]));
            giver.Shutdown(SocketShutdown.Receive);
            SocketError refused = LiveUpdateLink.Say(taker, [LiveUpdateLink.Runs]);
            Assert.True(LiveUpdateLink.IsShut(refused), $"{refused}");
            var message = new byte[4];
            Assert.Equal((1, LiveUpdateLink.Runs), (giver.Receive(message), message[0]));
            Assert.Equal(0, giver.Receive(message));
            // The one who died left what it had said before.
            giver.Dispose();
            Assert.Equal((1, LiveUpdateLink.Back), (taker.Receive(message), message[0]));
            Assert.Equal(0, taker.Receive(message));
        }
    }

    [Fact]
    public void Of_a_message_and_a_door_that_is_shut_at_the_same_moment_both_sides_say_the_same()
    {
        int came = 0, rounds = 500;
        for (int round = 0; round < rounds; round++)
        {
            (Socket giver, Socket taker) = UnixSockets.Connect();
            using (giver)
            using (taker)
            using (var start = new Barrier(2))
            {
                SocketError said = default;
                var other = new Thread(() =>
                {
                    start.SignalAndWait();
                    Thread.SpinWait(2_000);
                    said = LiveUpdateLink.Say(taker, [LiveUpdateLink.Runs]);
                });
                other.Start();
                start.SignalAndWait();
                Thread.SpinWait(2_000 * (round % 50));
                giver.Shutdown(SocketShutdown.Receive);
                var message = new byte[1];
                bool isThere = giver.Receive(message) == 1;
                other.Join();
                Assert.Equal(isThere, said == SocketError.Success);
                came += isThere ? 1 : 0;
            }
        }

        Assert.True(came > 0 && came < rounds, $"{came} of {rounds} came before: only one order was seen.");
        TestContext.Current.TestOutputHelper?.WriteLine($"{came} of {rounds} messages came before the door was shut");
    }

    [Theory]
    [InlineData(1u)]
    [InlineData(3u)]
    public void Another_version_of_the_protocol_is_refused_in_words(uint version)
    {
        using var rig = new UpdateRig(_rig, _rig.Describe(1));
        (Socket giver, Socket taker) = UnixSockets.Connect();
        using (giver)
        using (taker)
        {
            var head = new byte[LiveUpdateLink.HeadLength];
            BitConverter.TryWriteBytes(head, LiveUpdateLink.Magic);
            BitConverter.TryWriteBytes(head.AsSpan(4), version);
            int file = (int)rig.Process.MemfdCreate("manifest", MemfdFlags.None).Value;
            Assert.True(rig.Process.SendRights((int)giver.Handle, head, [file]).Succeeded);
            UpdateProcess next = rig.NewProcess();
            Assert.Throws<InvalidDataException>(() => LiveUpdateLink.TakeOver(rig.Description, next, rig.Soft.Sysfs, taker, out _));
            var answer = new byte[4096];
            int length = giver.Receive(answer);
            Assert.Contains("does not speak", Encoding.UTF8.GetString(answer, 1, length - 1), StringComparison.Ordinal);
            Assert.Equal("", next.Left);
            rig.Process.Close(file);
        }
    }

    private static void DieAt(LiveUpdateStep death, LiveUpdateStep step, Socket socket)
    {
        if (step != death)
            return;
        socket.Dispose();
        throw new InvalidOperationException("killed");
    }

    private void RunsAndMoves(UpdateRig rig)
    {
        MachineRig.AwaitReads(rig.Machine, 10);
        MachineRig.AssertGoodData(rig.Machine);
        GuestMachine there = _rig.Assemble(rig.Description);
        (MigrationOutcome outcome, _) = _rig.Migrate(rig.Machine, there);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        MachineRig.AwaitReads(there, 10);
        MachineRig.AssertGoodData(there);
    }
}
