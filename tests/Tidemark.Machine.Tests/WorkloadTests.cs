using System.Diagnostics;
using System.Runtime.CompilerServices;
using Tidemark.Kernel.Linux;
using Tidemark.Machine.Description;
using Tidemark.Machine.Workload;
using Tidemark.Memory;

namespace Tidemark.Machine.Tests;

public sealed class WorkloadTests : IDisposable
{
    private const ulong MiB = 1UL << 20;
    private static readonly GuestPhysicalAddress s_heartbeat = new((8 * MiB) - GuestPage.Size);
    private readonly GuestMemoryFile _file = GuestMemoryFile.Create(
        new LinuxKernel(), MemoryLayout.Plan(new MachineDescription { Name = "m", MemoryBytes = 8 * MiB }), prefault: false);

    private GuestMemory Memory => _file.Memory;

    public void Dispose() => _file.Dispose();

    [Fact]
    public void The_processor_writes_at_about_its_rate_and_beats()
    {
        using CpuWriter writer = CreateWriter(16 * MiB);
        long start = Stopwatch.GetTimestamp();
        writer.Start();
        MachineRig.Await(() => writer.PagesWritten >= 512, () => "512 pages");
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        writer.Pause();
        // 4096 pages a second, never much faster; how much slower is the host's affair.
        Assert.True(writer.PagesWritten <= (seconds + 0.5) * 4096 * 1.2, $"{writer.PagesWritten} pages in {seconds} s");
        Assert.Equal(writer.Beats, Memory.ReadVolatile<ulong>(s_heartbeat));
        Assert.Equal(0UL, writer.StalePages);
    }

    [Fact]
    public void At_rate_0_only_the_heartbeat_is_written()
    {
        using CpuWriter writer = CreateWriter(0);
        writer.Start();
        MachineRig.Await(() => writer.Beats > 5, () => "beats");
        writer.Pause();
        Assert.Equal(0UL, writer.PagesWritten);
        Assert.All(Enumerable.Range(0, 256), page => Assert.True(PageKernels.IsZero(Memory.PagesSpan((ulong)page, 1))));
    }

    [Fact]
    public void While_paused_nothing_is_written()
    {
        using CpuWriter writer = CreateWriter(64 * MiB);
        writer.Start();
        for (int round = 0; round < 30; round++)
        {
            ulong goal = writer.Beats + 1;
            MachineRig.Await(() => writer.Beats >= goal, () => "a beat");
            writer.Pause();
            Assert.False(writer.IsRunning);
            ulong beats = writer.Beats;
            ulong hash = PageHash.Compute(Memory.PagesSpan(0, (int)(8 * MiB / GuestPage.Size)));
            Thread.Sleep(5);
            Assert.Equal(beats, writer.Beats);
            Assert.Equal(hash, PageHash.Compute(Memory.PagesSpan(0, (int)(8 * MiB / GuestPage.Size))));
            writer.Resume();
        }
    }

    [Fact]
    public void An_old_page_put_back_is_noticed()
    {
        using CpuWriter writer = CreateWriter(256 * MiB, workingSet: 16 * GuestPage.Size);
        writer.Start();
        MachineRig.Await(() => writer.PagesWritten > 500, () => "pages");
        writer.Pause();
        byte[] old = Memory.PagesSpan(3, 1).ToArray();
        writer.Resume();
        ulong goal = writer.PagesWritten + 500;
        MachineRig.Await(() => writer.PagesWritten > goal, () => "pages");
        writer.Pause();
        Assert.Equal(0UL, writer.StalePages);
        old.CopyTo(Memory.PagesSpan(3, 1));
        writer.Resume();
        MachineRig.Await(() => writer.StalePages == 1, () => "the stale page");
    }

    [Fact]
    public void A_saved_processor_goes_on_where_it_stopped_and_misses_what_is_missing()
    {
        using CpuWriter first = CreateWriter(256 * MiB);
        first.Start();
        MachineRig.Await(() => first.PagesWritten > 2000, () => "pages");
        first.Pause();
        using var saved = new MemoryStream();
        first.Save(new BinaryWriter(saved));
        ulong beats = first.Beats;

        using CpuWriter second = Load(saved);
        Assert.Equal(beats, second.Beats);
        second.Start();
        MachineRig.Await(() => second.PagesWritten > 2000, () => "pages");
        second.Pause();
        Assert.True(second.Beats > beats);
        Assert.Equal(0UL, second.StalePages);

        // The first one's state is old now: whoever goes on from it finds pages that do not fit.
        using CpuWriter third = Load(saved);
        third.Start();
        MachineRig.Await(() => third.StalePages > 0, () => "stale pages");
    }

    [Fact]
    public void A_state_of_another_working_set_is_refused()
    {
        using CpuWriter first = CreateWriter(0);
        using var saved = new MemoryStream();
        first.Save(new BinaryWriter(saved));
        saved.Position = 0;
        using CpuWriter second = CreateWriter(0, workingSet: 2 * MiB);
        Assert.Throws<InvalidDataException>(() => second.Load(new BinaryReader(saved)));
        using var cut = new MemoryStream(saved.ToArray()[..100]);
        using CpuWriter third = CreateWriter(0);
        Assert.Throws<EndOfStreamException>(() => third.Load(new BinaryReader(cut)));
    }

    [Fact]
    public void A_processor_that_has_much_to_write_stops_in_the_middle_of_it()
    {
        // More than it can do: each step has as many pages as a step may have.
        const ulong mostOfAStep = 4096;
        using CpuWriter writer = CreateWriter(1UL << 40);
        writer.Start();
        bool stoppedInside = false;
        for (int round = 0; round < 1000 && !stoppedInside; round++)
        {
            ulong before = writer.PagesWritten;
            MachineRig.Await(() => writer.PagesWritten > before, () => "a page is written");
            // That was the end of a step: after some of these times it is in another one.
            Thread.Sleep(round % 4);
            writer.Pause();
            stoppedInside = writer.PagesWritten % mostOfAStep != 0;
            writer.Resume();
        }

        Assert.True(stoppedInside);
    }

    [Fact]
    public void After_a_pause_no_step_is_taken_until_resumed()
    {
        var steps = new StrongBox<int>();
        using PausableThread thread = StartCounting(steps);
        thread.Start();
        for (int round = 0; round < 200; round++)
        {
            thread.Pause();
            int before = Volatile.Read(ref steps.Value);
            thread.Pause();
            Thread.Yield();
            Assert.Equal(before, Volatile.Read(ref steps.Value));
            thread.Resume();
            if (round % 2 == 0)
                MachineRig.Await(() => Volatile.Read(ref steps.Value) > before, () => "a step");
        }
    }

    [Fact]
    public void A_rest_right_after_it_was_resumed_leaves_a_thread_running()
    {
        var steps = new StrongBox<int>();
        using PausableThread thread = StartCounting(steps);
        for (int round = 0; round < 200; round++)
        {
            thread.Pause();
            int before = Volatile.Read(ref steps.Value);
            thread.Resume();
            // It has hardly had a processor since.
            using (IDisposable? rest = thread.TryRest(TimeSpan.FromSeconds(20)))
                Assert.NotNull(rest);
            MachineRig.Await(() => Volatile.Read(ref steps.Value) > before, () => "a step");
        }
    }

    [Fact]
    public void A_thread_stands_still_until_neither_its_owner_nor_a_rest_wants_it_to()
    {
        var steps = new StrongBox<int>();
        using PausableThread thread = StartCounting(steps);
        IDisposable? rest = thread.TryRest(TimeSpan.FromSeconds(20));
        Assert.NotNull(rest);
        int before = Volatile.Read(ref steps.Value);
        thread.Pause();
        thread.Resume();
        thread.Pause();
        rest.Dispose();
        rest.Dispose();
        Thread.Sleep(20);
        Assert.Equal(before, Volatile.Read(ref steps.Value));
        Assert.False(thread.IsRunning);
        rest = thread.TryRest(TimeSpan.FromSeconds(20));
        thread.Resume();
        Thread.Sleep(20);
        Assert.Equal(before, Volatile.Read(ref steps.Value));
        rest!.Dispose();
        MachineRig.Await(() => Volatile.Read(ref steps.Value) > before, () => "a step");
    }

    private static PausableThread StartCounting(StrongBox<int> steps)
    {
        var thread = new PausableThread("test", () =>
        {
            Volatile.Write(ref steps.Value, steps.Value + 1);
            return TimeSpan.Zero;
        });
        thread.Start();
        return thread;
    }

    [Fact]
    public void A_pause_does_not_wait_for_the_time_between_steps()
    {
        using var stepped = new ManualResetEventSlim();
        using var thread = new PausableThread("test", () =>
        {
            stepped.Set();
            return TimeSpan.FromHours(1);
        });
        thread.Start();
        Assert.True(stepped.Wait(TimeSpan.FromSeconds(20)));
        thread.Pause();
        Assert.False(thread.IsRunning);
    }

    [Fact]
    public void A_step_that_fails_ends_the_thread_and_a_pause_returns()
    {
        using var go = new ManualResetEventSlim();
        using var entered = new ManualResetEventSlim();
        using var thread = new PausableThread("test", () =>
        {
            entered.Set();
            go.Wait();
            throw new InvalidDataException("planted");
        });
        thread.Start();
        // A pause that comes first would keep the step from being made.
        Assert.True(entered.Wait(TimeSpan.FromSeconds(20)));
        var pauser = new Thread(thread.Pause);
        pauser.Start();
        go.Set();
        Assert.True(pauser.Join(TimeSpan.FromSeconds(20)));
        Assert.Equal("planted", thread.Failure?.Message);
        Assert.False(thread.IsRunning);
        thread.Pause();
    }

    [Fact]
    public void A_pause_wakes_a_step_that_waits_and_going_on_is_announced_before_the_next_step()
    {
        using var woken = new SemaphoreSlim(0);
        int waits = 0;
        int resumes = 0;
        int stepsBeforeResume = 0;
        using var thread = new PausableThread(
            "test",
            () =>
            {
                Interlocked.Increment(ref waits);
                woken.Wait();
                return TimeSpan.Zero;
            },
            () => woken.Release(),
            () =>
            {
                stepsBeforeResume = waits;
                Interlocked.Increment(ref resumes);
            });
        thread.Start();
        MachineRig.Await(() => Volatile.Read(ref waits) == 1, () => "the first step");
        thread.Pause();
        Assert.Equal(0, Volatile.Read(ref resumes));
        thread.Resume();
        MachineRig.Await(() => Volatile.Read(ref waits) == 2, () => "the second step");
        Assert.Equal(1, Volatile.Read(ref resumes));
        Assert.Equal(1, stepsBeforeResume);
    }

    [Theory]
    [InlineData("new")]
    [InlineData("paused before the start")]
    [InlineData("running")]
    [InlineData("paused")]
    [InlineData("failed")]
    [InlineData("disposed")]
    public void It_can_be_disposed_of_in_any_state(string state)
    {
        int steps = 0;
        var thread = new PausableThread("test", () =>
        {
            Interlocked.Increment(ref steps);
            return state == "failed" ? throw new InvalidDataException("planted") : TimeSpan.FromMilliseconds(1);
        });
        if (state == "paused before the start")
            thread.Pause();
        if (state != "new")
            thread.Start();
        if (state is "running" or "paused" or "failed")
            MachineRig.Await(() => Volatile.Read(ref steps) > 0, () => "a step");
        if (state == "paused")
            thread.Pause();
        if (state == "disposed")
            thread.Dispose();
        thread.Dispose();
        int after = Volatile.Read(ref steps);
        Thread.Sleep(5);
        Assert.Equal(after, Volatile.Read(ref steps));
        if (state == "paused before the start")
            Assert.Equal(0, after);
        thread.Pause();
        thread.Resume();
    }

    private CpuWriter CreateWriter(ulong bytesPerSecond, ulong workingSet = 4 * MiB) =>
        new(Memory, (new GuestPhysicalAddress(0), workingSet), s_heartbeat, bytesPerSecond, seed: 1);

    private CpuWriter Load(MemoryStream saved)
    {
        CpuWriter writer = CreateWriter(256 * MiB);
        saved.Position = 0;
        writer.Load(new BinaryReader(saved));
        return writer;
    }
}
