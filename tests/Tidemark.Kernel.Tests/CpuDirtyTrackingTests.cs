using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Machine.CpuTracking;
using Tidemark.Memory;

namespace Tidemark.Kernel.Tests;

public sealed class CpuDirtyTrackingTests : IDisposable
{
    private readonly LinuxKernel _kernel = new();
    private readonly GuestMemoryFile _guest;

    public CpuDirtyTrackingTests() => _guest = new GuestMemoryFile(_kernel);

    public void Dispose() => _guest.Dispose();

    [Fact]
    public void The_running_kernel_gets_the_tracking_it_has_and_the_reason_says_which()
    {
        using CpuDirtyTracking tracking = CpuDirtyTracking.Choose(_kernel, _guest.Memory);
        Assert.Contains(tracking.Mechanism, new[] { CpuDirtyTracking.Userfaultfd, CpuDirtyTracking.WriteBarrier });
        Assert.Equal(tracking.Mechanism == CpuDirtyTracking.WriteBarrier, _guest.Memory.WriteBarrier is not null);
        Assert.Equal(
            tracking.Mechanism == CpuDirtyTracking.WriteBarrier, tracking.Reason.Contains("6.7", StringComparison.Ordinal));
        tracking.Source.Start();
        _guest.Touch(17);
        Assert.Equal([17UL], GuestMemoryFile.Harvest(tracking.Source, _guest.Memory));
        tracking.Source.Stop();
    }

    [Fact]
    public void A_barrier_that_was_asked_for_is_put_in()
    {
        using CpuDirtyTracking tracking = CpuDirtyTracking.Choose(_kernel, _guest.Memory, forceBarrier: true);
        Assert.Equal("write-barrier", tracking.Mechanism);
        Assert.Same(tracking.Source, _guest.Memory.WriteBarrier);
    }

    [Theory]
    [InlineData(Errno.ENOSYS, Errno.ENOENT,
        "userfaultfd(2) answered ENOSYS and opening /dev/userfaultfd answered ENOENT")]
    [InlineData(Errno.EPERM, Errno.EACCES,
        "userfaultfd(2) answered EPERM and opening /dev/userfaultfd answered EACCES")]
    [InlineData(Errno.Success, Errno.Success, "UFFDIO_API with asynchronous write protection answered EINVAL")]
    public void A_kernel_without_it_is_told_by_call_and_errno(Errno syscall, Errno device, string expected)
    {
        var kernel = new ScriptedKernel
        {
            OnUserfaultfd = _ => syscall == Errno.Success ? SyscallResult.Ok(10) : SyscallResult.Fail(syscall),
            OnOpen = _ => device == Errno.Success ? SyscallResult.Ok(11) : SyscallResult.Fail(device),
            OnIoctl = static (_, _, _) => SyscallResult.Fail(Errno.EINVAL),
        };
        Assert.Null(UserfaultfdDirtySource.TryCreate(kernel, _guest.Memory, out string reason));
        Assert.Equal(
            $"{expected}; tracking processor writes in the kernel needs Linux 6.7 or newer with userfaultfd"
                + " (this is scripted 1.0)",
            reason);
        using CpuDirtyTracking tracking = CpuDirtyTracking.Choose(kernel, _guest.Memory);
        Assert.Equal(CpuDirtyTracking.WriteBarrier, tracking.Mechanism);
        Assert.StartsWith(expected, tracking.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void The_device_is_asked_when_the_system_call_is_forbidden()
    {
        var kernel = new ScriptedKernel
        {
            OnUserfaultfd = static _ => SyscallResult.Fail(Errno.EPERM),
            OnIoctl = static (_, _, _) => SyscallResult.Fail(Errno.EINVAL),
        };
        Assert.Null(UserfaultfdDirtySource.TryCreate(kernel, _guest.Memory, out string reason));
        Assert.StartsWith("UFFDIO_API", reason, StringComparison.Ordinal);
        Assert.Equal(["userfaultfd", "open", "ioctl", "close", "ioctl", "close"], kernel.Calls);
    }

    [Fact]
    public void The_barrier_marks_every_page_that_a_write_touches()
    {
        var source = new WriteBarrierDirtySource(_guest.Memory.SpanPages);
        _guest.Memory.WriteBarrier = source;
        _guest.Touch(1);
        source.Start();
        Assert.Empty(Harvest(source));
        _guest.Touch(0);
        _guest.Touch(63, GuestPage.Size - 1);
        _guest.Memory.Write(new GuestPhysicalAddress((100 << GuestPage.Shift) - 1), new byte[2]);
        _guest.Memory.Write(new GuestPhysicalAddress(200 << GuestPage.Shift), new byte[130 * GuestPage.Size]);
        _guest.Touch(GuestMemoryFile.SecondFirstPage + GuestMemoryFile.PagesPerSlot - 1);
        _guest.Memory.Write(new GuestPhysicalAddress(9 << GuestPage.Shift), ReadOnlySpan<byte>.Empty);
        var expected = new List<ulong> { 0, 63, 99, 100 };
        for (ulong page = 200; page < 330; page++)
            expected.Add(page);
        expected.Add(GuestMemoryFile.SecondFirstPage + GuestMemoryFile.PagesPerSlot - 1);
        Assert.Equal(expected, Harvest(source));
        Assert.Empty(Harvest(source));
        Assert.Throws<ArgumentOutOfRangeException>(
            () => source.Mark(new GuestPhysicalAddress(_guest.Memory.SpanPages << GuestPage.Shift), 1));
    }

    [Fact]
    public void No_mark_is_lost_when_two_writers_meet_in_the_same_word()
    {
        const ulong WordCount = 2000;
        var source = new WriteBarrierDirtySource(WordCount * 64);
        long arrived = 0;
        RunWriters(writer =>
        {
            for (ulong word = 0; word < WordCount; word++)
            {
                // Both begin each word at the same instant; each page is marked once, so a mark that is lost stays
                // lost.
                Interlocked.Increment(ref arrived);
                var wait = new SpinWait();
                while (Volatile.Read(ref arrived) < 2 * ((long)word + 1))
                    wait.SpinOnce(sleep1Threshold: -1);
                for (ulong page = writer; page < 64; page += 2)
                    source.Mark(new GuestPhysicalAddress(word * 64 + page << GuestPage.Shift), 1);
            }
        });
        var seen = new PageBitmap(WordCount * 64);
        source.Harvest(seen);
        Assert.Equal(WordCount * 64, seen.CountSet());
    }

    [Fact]
    public void No_mark_is_lost_while_another_thread_harvests()
    {
        const ulong PageCount = 1_000_000;
        var source = new WriteBarrierDirtySource(PageCount);
        var seen = new PageBitmap(PageCount);
        RunWriters(
            writer =>
            {
                for (ulong page = writer; page < PageCount; page += 2)
                    source.Mark(new GuestPhysicalAddress(page << GuestPage.Shift), 1);
            },
            meanwhile: () => source.Harvest(seen));
        source.Harvest(seen);
        Assert.Equal(PageCount, seen.CountSet());
        var rest = new PageBitmap(PageCount);
        source.Harvest(rest);
        Assert.Equal(0UL, rest.CountSet());
    }

    private static void RunWriters(Action<ulong> body, Action? meanwhile = null)
    {
        int running = 2;
        var writers = new Thread[running];
        for (int index = 0; index < writers.Length; index++)
        {
            ulong writer = (ulong)index;
            writers[index] = new Thread(() =>
            {
                body(writer);
                Interlocked.Decrement(ref running);
            })
            { IsBackground = true, Name = $"tidemark test writer {index}" };
            writers[index].Start();
        }

        while (meanwhile is not null && Volatile.Read(ref running) > 0)
            meanwhile();
        foreach (Thread thread in writers)
            Assert.True(thread.Join(TimeSpan.FromSeconds(60)));
    }

    [Fact]
    public void An_assumed_writer_dirties_all_it_can_reach_at_each_harvest()
    {
        var source = new AssumedDirtySource(
            "nvme2 (assumed)", [new PageRun(4, 2), new PageRun(100, 1), new PageRun(5, 2)]);
        Assert.Equal((DirtySourceKind.Assumed, "nvme2 (assumed)"), (source.Kind, source.Name));
        source.Start();
        for (int harvest = 0; harvest < 2; harvest++)
            Assert.Equal([4UL, 5UL, 6UL, 100UL], Harvest(source));
        source.Stop();
        var outside = new AssumedDirtySource("x", [new PageRun(0, 1UL << 40)]);
        Assert.Throws<ArgumentOutOfRangeException>(() => Harvest(outside));
    }

    private List<ulong> Harvest(IDirtySource source) => GuestMemoryFile.Harvest(source, _guest.Memory);
}
