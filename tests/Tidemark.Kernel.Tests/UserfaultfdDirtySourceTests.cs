using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Machine.CpuTracking;
using Tidemark.Memory;

namespace Tidemark.Kernel.Tests;

/// <summary>
/// The kernel's own tracking, on the kernel that runs the tests. Where that kernel has none, each test checks the
/// reason that the source gives instead.
/// </summary>
public sealed class UserfaultfdDirtySourceTests : IDisposable
{
    private readonly LinuxKernel _kernel = new();
    private readonly GuestMemoryFile _guest;
    private readonly UserfaultfdDirtySource? _source;

    public UserfaultfdDirtySourceTests()
    {
        _guest = new GuestMemoryFile(_kernel);
        _source = UserfaultfdDirtySource.TryCreate(_kernel, _guest.Memory, out string reason);
        if (_source is not null)
            Assert.Equal("", reason);
        else
            Assert.Matches(@"answered|lacks.*needs Linux 6\.7 or newer.*\(this is linux ", reason);
    }

    public void Dispose()
    {
        _source?.Dispose();
        _guest.Dispose();
    }

    [Fact]
    public void Exactly_the_written_pages_are_harvested_once()
    {
        if (_source is null)
            return;
        Assert.Equal((DirtySourceKind.Cpu, "cpu (userfaultfd)"), (_source.Kind, _source.Name));
        _guest.Touch(7);
        _source.Start();
        Assert.Empty(Harvest());
        var random = new Random(11);
        for (int round = 0; round < 20; round++)
        {
            var model = new SortedSet<ulong>();
            for (int write = random.Next(200); write > 0; write--)
            {
                ulong page = (ulong)random.NextInt64((long)GuestMemoryFile.PagesPerSlot)
                    + (ulong)random.Next(2) * GuestMemoryFile.SecondFirstPage;
                _guest.Touch(page, random.Next(GuestPage.Size));
                model.Add(page);
            }

            Assert.Equal(model, Harvest());
        }

        Assert.Empty(Harvest());
    }

    [Fact]
    public void First_and_last_pages_of_each_slot_and_a_write_across_a_border_count()
    {
        if (_source is null)
            return;
        _source.Start();
        ulong last = GuestMemoryFile.PagesPerSlot - 1;
        _guest.Touch(0);
        _guest.Touch(last, GuestPage.Size - 1);
        _guest.Touch(GuestMemoryFile.SecondFirstPage);
        _guest.Memory.Write(new GuestPhysicalAddress((100 << GuestPage.Shift) - 1), [1, 2]);
        Assert.Equal([0, 99, 100, last, GuestMemoryFile.SecondFirstPage], Harvest());
    }

    [Fact]
    public void More_written_runs_than_one_call_reports_are_all_found()
    {
        if (_source is null)
            return;
        using Mapping mapping = Mapping.CreateAnonymous(
            _kernel, 25_000UL * GuestPage.Size);
        ulong pageCount = mapping.ByteLength >> GuestPage.Shift;
        var memory = new GuestMemory(
            [new MemorySlot(new GuestPhysicalAddress(0), mapping.ByteLength, mapping.Address, 0)]);
        using UserfaultfdDirtySource source = UserfaultfdDirtySource.TryCreate(_kernel, memory, out _)!;
        source.Start();
        for (ulong page = 0; page < pageCount; page += 2)
            memory.Write(new GuestPhysicalAddress(page << GuestPage.Shift), (byte)1);
        List<ulong> found = GuestMemoryFile.Harvest(source, memory);
        Assert.Equal((int)pageCount / 2, found.Count);
        Assert.All(found, page => Assert.Equal(0UL, page % 2));
        Assert.Empty(GuestMemoryFile.Harvest(source, memory));
    }

    /// <summary>Memory so large that several processors protect it, a part each.</summary>
    [Fact]
    public void A_part_that_can_not_be_protected_ends_the_start_with_its_cause_and_all_protection_lifted()
    {
        if (_source is null)
            return;
        using Mapping mapping = Mapping.CreateAnonymous(_kernel, 96UL << 20);
        var memory = new GuestMemory([new MemorySlot(new GuestPhysicalAddress(0), mapping.ByteLength, mapping.Address, 0)]);
        var kernel = new FaultInjectingKernel(_kernel);
        using UserfaultfdDirtySource source = UserfaultfdDirtySource.TryCreate(kernel, memory, out _)!;
        // REGISTER is the first call, and then one for each part.
        for (int nth = 2; nth <= 9; nth += 3)
        {
            kernel.FailNth(nth, Errno.ENOMEM);
            KernelException failure = Assert.Throws<KernelException>(source.Start);
            Assert.Equal(Errno.ENOMEM, failure.Errno);
            Assert.Contains("UFFDIO_WRITEPROTECT", failure.Operation, StringComparison.Ordinal);
            Assert.Throws<InvalidOperationException>(() => GuestMemoryFile.Harvest(source, memory));
            source.Start();
            Assert.Empty(GuestMemoryFile.Harvest(source, memory));
            source.Stop();
        }
    }

    /// <summary>Parts so small that several processors scan them, of slots that begin in the middle of a word.</summary>
    [Fact]
    public void What_several_processors_scan_is_what_was_written()
    {
        if (_source is null)
            return;
        using Mapping mapping = Mapping.CreateAnonymous(_kernel, 4000UL * GuestPage.Size);
        const ulong First = 1000;
        GuestMemory memory = SlotsOf(mapping, First);
        using UserfaultfdDirtySource source = UserfaultfdDirtySource.TryCreate(_kernel, memory, out _)!;
        source.ScannedPages = 64;
        source.Start();
        var random = new Random(5);
        for (int round = 0; round < 50; round++)
        {
            var model = new SortedSet<ulong>();
            for (int write = random.Next(3000); write > 0; write--)
            {
                ulong page = First + (ulong)random.Next(4000);
                memory.Write(new GuestPhysicalAddress(page << GuestPage.Shift), (byte)write);
                model.Add(page);
            }

            Assert.Equal(model, GuestMemoryFile.Harvest(source, memory));
        }
    }

    [Fact]
    public void A_part_that_can_not_be_scanned_fails_the_harvest_and_no_written_page_is_lost()
    {
        if (_source is null)
            return;
        using Mapping mapping = Mapping.CreateAnonymous(_kernel, 4000UL * GuestPage.Size);
        GuestMemory memory = SlotsOf(mapping, 1000);
        var kernel = new FaultInjectingKernel(_kernel);
        using UserfaultfdDirtySource source = UserfaultfdDirtySource.TryCreate(kernel, memory, out _)!;
        source.ScannedPages = 64;
        source.Start();
        for (int nth = 1; nth <= 60; nth += 7)
        {
            var model = new SortedSet<ulong>();
            for (ulong page = 1000 + (ulong)nth; page < 5000; page += 13)
            {
                memory.Write(new GuestPhysicalAddress(page << GuestPage.Shift), (byte)nth);
                model.Add(page);
            }

            kernel.FailNth(nth, Errno.ENOMEM);
            var pages = new PageBitmap(memory.SpanPages);
            KernelException failure = Assert.Throws<KernelException>(() => source.Harvest(pages));
            // And never the mapping of a buffer: the room for all processors was made at the start.
            Assert.Contains("PAGEMAP_SCAN", failure.Operation, StringComparison.Ordinal);
            source.Harvest(pages);
            Assert.All(model, page => Assert.True(pages[page], $"page {page} was lost, call {nth} failed"));
        }
    }

    /// <summary>Two slots side by side in one mapping.</summary>
    private static GuestMemory SlotsOf(Mapping mapping, ulong firstPage)
    {
        const ulong FirstBytes = 1111UL * GuestPage.Size;
        return new GuestMemory(
        [
            new MemorySlot(new GuestPhysicalAddress(firstPage << GuestPage.Shift), FirstBytes, mapping.Address, 0),
            new MemorySlot(
                new GuestPhysicalAddress((firstPage << GuestPage.Shift) + FirstBytes), mapping.ByteLength - FirstBytes,
                new HostAddress(mapping.Address.Value + FirstBytes), FirstBytes),
        ]);
    }

    [Fact]
    public void Writes_through_another_mapping_are_invisible_and_those_of_the_kernel_through_ours_are_not()
    {
        if (_source is null)
            return;
        using Mapping device = _guest.Map();
        _source.Start();
        device.Bytes(5 * GuestPage.Size, 1)[0] = 9;
        Assert.Equal(9, _guest.Memory.PagesSpan(5, 1)[0]);
        Assert.Equal(1, _kernel.Pwrite(_guest.File.Number, [8], 6 * GuestPage.Size).Value);
        // That is why DMA needs a source of its own: a device's stores do not go through this mapping either.
        Assert.Empty(Harvest());
        using var zero = new KernelFd(_kernel, (int)_kernel.Open("/dev/zero", OpenFlags.ReadOnly).Value);
        Assert.Equal(10, _kernel.Read(zero.Number, _guest.Memory.PagesSpan(8, 1)[..10]).Value);
        Assert.Equal([8UL], Harvest());
    }

    [Fact]
    public void A_written_page_whose_entry_the_kernel_dropped_is_still_reported()
    {
        if (_source is null)
            return;
        _source.Start();
        _guest.Touch(40);
        ulong address = _guest.Memory.Slots[0].Host.Value + 40 * GuestPage.Size;
        Assert.True(_kernel.Madvise(address, GuestPage.Size, MemoryAdvice.DontNeed).Succeeded);
        Assert.Contains(40UL, Harvest());
        Assert.Equal(1, _guest.Memory.PagesSpan(40, 1)[0]);
    }

    [Fact]
    public void Stopping_is_idempotent_and_starting_again_begins_clean()
    {
        if (_source is null)
            return;
        _source.Start();
        Assert.Throws<InvalidOperationException>(_source.Start);
        _guest.Touch(3);
        _source.Stop();
        _source.Stop();
        _guest.Touch(4);
        Assert.Throws<InvalidOperationException>(() => Harvest());
        _source.Start();
        Assert.Empty(Harvest());
        _guest.Touch(5);
        Assert.Equal([5UL], Harvest());
        _source.Dispose();
        _source.Dispose();
        _guest.Touch(6);
    }

    [Fact]
    public void Whatever_call_fails_nothing_stays_open_and_no_bit_is_lost()
    {
        if (_source is null)
            return;
        var counting = new FaultInjectingKernel(_kernel);
        RunCycle(counting, out _);
        long calls = counting.CallCount;
        Assert.InRange(calls, 10, 100);
        for (int nth = 1; nth <= calls; nth++)
        {
            var made = new List<RecordedCall>();
            var kernel = new FaultInjectingKernel(new RecordingKernel(_kernel, made.Add));
            kernel.FailNth(nth, Errno.ENOMEM);
            bool completed = RunCycle(kernel, out bool complete);
            Assert.NotNull(kernel.FailedCall);
            Assert.False(completed && !complete, $"Call {nth} ({kernel.FailedCall}) lost a write.");
            Assert.Equal(
                made.Count(call => call.Name is "open" or "userfaultfd" or "ioctl_value" && call.Result.Succeeded),
                made.Count(call => call.Name == "close"));
            Assert.Equal(made.Count(call => call.Name == "mmap"), made.Count(call => call.Name == "munmap"));
        }

        _source.Start();
        _guest.Touch(1);
        Assert.Equal([1UL], Harvest());
    }

    /// <returns>Whether a harvest was obtained, also one that ended with an exception.</returns>
    private bool RunCycle(FaultInjectingKernel kernel, out bool complete)
    {
        complete = false;
        using UserfaultfdDirtySource? source =
            UserfaultfdDirtySource.TryCreate(kernel, _guest.Memory, out string reason);
        if (source is null)
        {
            Assert.Contains("ENOMEM", reason, StringComparison.Ordinal);
            return false;
        }

        var pages = new PageBitmap(_guest.Memory.SpanPages);
        bool harvesting = false;
        try
        {
            source.Start();
            _guest.Touch(2);
            harvesting = true;
            source.Harvest(pages);
            source.Stop();
        }
        catch (KernelException failure)
        {
            Assert.Equal(Errno.ENOMEM, failure.Errno);
        }

        complete = pages[2];
        return harvesting;
    }

    private List<ulong> Harvest() => GuestMemoryFile.Harvest(_source!, _guest.Memory);
}
