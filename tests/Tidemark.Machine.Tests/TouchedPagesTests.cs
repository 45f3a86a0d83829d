using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Kernel.Linux;
using Tidemark.Machine.Description;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine.Tests;

/// <summary>Holes of a memory file on this host's kernel, against the set of pages that were written.</summary>
public sealed class TouchedPagesTests : IDisposable
{
    private const ulong LowPages = 700;
    private const ulong HighFirstPage = 1000;
    private const ulong HighPages = 300;

    private readonly FaultInjectingKernel _kernel = new(new LinuxKernel());
    private readonly GuestMemoryFile _file;

    public TouchedPagesTests() => _file = GuestMemoryFile.Create(_kernel, Layout(), prefault: false);

    public void Dispose() => _file.Dispose();

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Exactly_the_pages_that_were_written_are_touched_and_looking_touches_none(int seed)
    {
        var random = new Random(seed);
        var written = new HashSet<ulong>();
        AssertTouched(written);
        for (int round = 0; round < 20; round++)
        {
            for (int run = random.Next(8); run > 0; run--)
            {
                bool low = random.Next(2) == 0;
                ulong first = (ulong)random.NextInt64((long)(low ? LowPages : HighPages));
                ulong count = Math.Min((ulong)random.Next(1, 20), (low ? LowPages : HighPages) - first);
                for (ulong page = first; page < first + count; page++)
                    Touch(written, page + (low ? 0 : HighFirstPage));
            }

            AssertTouched(written);
        }
    }

    [Fact]
    public void Pages_at_the_borders_of_slots_are_told_apart_though_they_are_neighbours_in_the_file()
    {
        var written = new HashSet<ulong>();
        foreach (ulong page in (ulong[])[LowPages - 1, HighFirstPage, 0, HighFirstPage + HighPages - 1])
        {
            Touch(written, page);
            AssertTouched(written);
        }
    }

    [Fact]
    public void A_hole_that_is_read_is_one_no_more_which_is_why_nobody_should()
    {
        _file.Memory.Read(new GuestPhysicalAddress(5 << GuestPage.Shift), new byte[1]);
        AssertTouched([5]);
    }

    [Fact]
    public void A_prefaulted_machine_is_touched_all_over()
    {
        using GuestMemoryFile file = GuestMemoryFile.Create(_kernel, Layout(), prefault: true);
        Assert.Equal(LowPages + HighPages, file.FindTouched(out string? reason).CountSet());
        Assert.Null(reason);
    }

    [Theory]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ESPIPE)]
    public void Whichever_call_is_refused_everything_counts_as_touched_with_the_reason(Errno errno)
    {
        Touch([], 3);
        Touch([], 30);
        Touch([], HighFirstPage + 7);
        _kernel.FailNth(0, Errno.Success);
        _file.FindTouched(out _);
        long calls = _kernel.CallCount;
        Assert.True(calls >= 6);
        for (long nth = 1; nth <= calls; nth++)
        {
            _kernel.FailNth(nth, errno);
            PageBitmap touched = _file.FindTouched(out string? reason);
            Assert.Equal(_file.Memory.AllPages().Words, touched.Words);
            Assert.Contains(errno.ToString(), reason, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Memory_in_too_many_pieces_counts_as_touched_from_there_to_the_end_of_its_slot()
    {
        for (ulong page = 0; page < 100; page += 2)
            Touch([], page);
        Touch([], HighFirstPage + 4);
        PageBitmap touched = TouchedPages.Find(
            _file.Memory, (offset, whence) => _kernel.Lseek(_file.File.Number, offset, whence), 10, out string? reason);
        var expected = new PageBitmap(_file.Memory.SpanPages);
        for (ulong page = 0; page < 19; page += 2)
            expected.Set(page);
        expected.SetRange(19, LowPages - 19);
        expected.Set(HighFirstPage + 4);
        Assert.Equal(expected.Words, touched.Words);
        Assert.Contains("0x13000", reason, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(-4096, 4096)]
    [InlineData(0, 0)]
    [InlineData(4096, 4096)]
    [InlineData(4096, 0)]
    [InlineData(4096, -1)]
    public void A_kernel_that_answers_nonsense_is_not_believed(long data, long hole)
    {
        PageBitmap touched = TouchedPages.Find(
            _file.Memory, (_, whence) => SyscallResult.Ok(whence == SeekWhence.Data ? data : hole), 10, out string? reason);
        Assert.Equal(_file.Memory.AllPages().Words, touched.Words);
        Assert.NotNull(reason);
    }

    [Fact]
    public void A_part_of_a_page_is_a_page()
    {
        PageBitmap touched = TouchedPages.Find(
            _file.Memory,
            (offset, whence) => whence == SeekWhence.Hole ? SyscallResult.Ok(3 * 4096 + 1)
                : offset > 100 ? SyscallResult.Fail(Errno.ENXIO) : SyscallResult.Ok(4096 + 4095),
            10, out string? reason);
        Assert.Null(reason);
        var expected = new PageBitmap(_file.Memory.SpanPages);
        expected.SetRange(1, 3);
        Assert.Equal(expected.Words, touched.Words);
    }

    private static MemoryLayout Layout() => new()
    {
        Slots =
        [
            (new GuestPhysicalAddress(0), LowPages << GuestPage.Shift),
            (new GuestPhysicalAddress(HighFirstPage << GuestPage.Shift), HighPages << GuestPage.Shift),
        ],
        Arenas = [], WorkingSet = default, FillBytes = 0, Heartbeat = default, NeededBytes = 0,
    };

    private void Touch(HashSet<ulong> written, ulong page)
    {
        _file.Memory.Write(new GuestPhysicalAddress((page << GuestPage.Shift) + page % GuestPage.Size), (byte)0);
        written.Add(page);
    }

    private void AssertTouched(HashSet<ulong> written)
    {
        PageBitmap touched = _file.FindTouched(out string? reason);
        Assert.Null(reason);
        Assert.Equal((ulong)written.Count, touched.CountSet());
        Assert.All(written, page => Assert.True(touched[page]));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void New_memory_reads_as_zeros_wherever_it_lies_until_it_is_filled_or_runs(bool prefault)
    {
        using var rig = new MachineRig();
        GuestMachine machine = rig.Assemble(rig.Describe() with { Prefault = prefault });
        MemoryBeforeFilling fresh = machine.BeginFilling();
        Assert.Equal(0UL, fresh.Touched.CountSet());
        Assert.Equal(prefault, fresh.Absent is null);
        // Filled by a first migration that failed, say.
        Assert.True(machine.TryPut(new PageRun(3, 2), new byte[2 * GuestPage.Size].Select(_ => (byte)7).ToArray()));
        Assert.Equal(7, machine.Memory.PagesSpan(3, 2)[GuestPage.Size]);
        MemoryBeforeFilling again = machine.BeginFilling();
        Assert.True(again.Touched[3] && again.Touched[4]);
        Assert.False(again.Absent?[3] ?? false);
    }

    [Fact]
    public void A_machine_that_has_run_has_memory_that_was_touched()
    {
        using var rig = new MachineRig();
        GuestMachine machine = rig.AssembleRunning(rig.Describe());
        Assert.NotEqual(0UL, machine.BeginFilling().Touched.CountSet());
    }
}
