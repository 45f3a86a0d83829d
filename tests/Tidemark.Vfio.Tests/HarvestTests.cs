using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>Reading dirty bits so that none is lost, and switching tracking.</summary>
public sealed class HarvestTests : IDisposable
{
    private const ulong GiB = 1UL << 30;

    private readonly ScriptedKernel _kernel = new();
    private readonly Ioas _ioas;
    private readonly Hwpt _hwpt;
    private readonly DirtyBuffer _buffer;

    public HarvestTests()
    {
        _kernel.ExpectIoasAlloc(1);
        _ioas = _kernel.OpenIommufd().AllocateIoas();
        _kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 30);
        _hwpt = Hwpt.Allocate(_ioas, 5, IommuHwptAllocFlags.DirtyTracking).Hwpt!;
        _buffer = DirtyBuffer.Create(_kernel);
    }

    public void Dispose() => _buffer.Dispose();

    [Fact]
    public void Reads_are_cut_at_multiples_of_64_GiB_of_IOVA_and_at_the_ends_of_a_mapping()
    {
        MappedArea area = Map(60 * GiB, 70 * GiB, guest: 0);
        var pages = new PageBitmap(70 * GiB >> 12);
        _kernel.ExpectDirtyRead(60 * GiB, 4 * GiB, Errno.Success, 0, (4 * GiB >> 12) - 1);
        _kernel.ExpectDirtyRead(64 * GiB, 64 * GiB, Errno.Success, 7);
        _kernel.ExpectDirtyRead(128 * GiB, 2 * GiB, Errno.Success, 1);

        _hwpt.HarvestDirty(area, _buffer, pages);

        Assert.Equal(0, _kernel.Remaining);
        ulong[] expected = [0, (4 * GiB >> 12) - 1, (4 * GiB >> 12) + 7, (68 * GiB >> 12) + 1];
        Assert.Equal(4UL, pages.CountSet());
        Assert.All(expected, page => Assert.True(pages[page]));
    }

    [Theory]
    [InlineData(0x1000UL, 0x1000UL)]
    [InlineData(0UL, 1UL << 40)]
    [InlineData((64 * GiB) - 0x1000, 0x2000UL)]
    [InlineData(unchecked(0UL - (65 * GiB)), 65 * GiB)]
    [InlineData(3 * GiB, 200 * GiB)]
    public void Chunks_cover_an_area_exactly_and_no_border_inside_it_cuts_a_leaf(ulong first, ulong length)
    {
        IovaRange area = IovaRange.FromLength(new Iova(first), length);
        IovaRange[] chunks = [.. DirtyHarvester.Cut(area)];
        Assert.Equal(area.First, chunks[0].First);
        Assert.Equal(area.Last, chunks[^1].Last);
        for (int index = 1; index < chunks.Length; index++)
        {
            Assert.Equal(chunks[index - 1].Last.Value + 1, chunks[index].First.Value);
            Assert.Equal(0UL, chunks[index].First.Value % GiB);
        }

        Assert.All(chunks, chunk => Assert.True(chunk.ByteLength <= DirtyBuffer.ChunkLength));
    }

    [Fact]
    public void Bits_are_relative_to_the_read_and_land_at_the_guest_page_whatever_the_IOVA()
    {
        MappedArea area = Map(0x7000_0000, 0x10_0000, guest: 0x12_3000);
        var pages = new PageBitmap(4096);
        _kernel.ExpectDirtyRead(0x7000_0000, 0x10_0000, Errno.Success, 0, 63, 64, 255);
        _hwpt.HarvestDirty(area, _buffer, pages);
        Assert.Equal(4UL, pages.CountSet());
        Assert.All([0x123UL, 0x123UL + 63, 0x123UL + 64, 0x123UL + 255], page => Assert.True(pages[page]));
    }

    [Fact]
    public void A_hole_between_mappings_is_never_inside_a_read()
    {
        Map(0, 0x4000, guest: 0);
        Map(0x10_0000, 0x4000, guest: 0x4000);
        var source = TableDirtySource.Of(_hwpt, _buffer, ["nvme0", "nvme1"]);
        var pages = new PageBitmap(8);
        _kernel.ExpectDirtyRead(0, 0x4000, Errno.Success, 3);
        _kernel.ExpectDirtyRead(0x10_0000, 0x4000, Errno.Success, 0);
        source.Harvest(pages);
        Assert.Equal(0b0001_1000UL, pages.Words[0]);
        Assert.Equal("nvme0, nvme1 (iommu)", source.Name);
    }

    [Fact]
    public void What_is_not_guest_memory_or_not_writable_is_not_asked_about()
    {
        Map(0, 0x4000, guest: null);
        _kernel.ExpectMap(0x8000);
        _ioas.Map(new Iova(0x8000), new HostAddress(0x1000), 0x4000, DmaAccess.Read, new GuestPhysicalAddress(0));
        TableDirtySource.Of(_hwpt, _buffer, ["nvme0"]).Harvest(new PageBitmap(8));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_failing_read_keeps_the_bits_taken_before_it_and_during_it()
    {
        MappedArea area = Map(0, 128 * GiB, guest: 0);
        var pages = new PageBitmap(128 * GiB >> 12);
        _kernel.ExpectDirtyRead(0, 64 * GiB, Errno.Success, 5);
        _kernel.ExpectDirtyRead(64 * GiB, 64 * GiB, Errno.ENOMEM, 9);
        KernelException failure =
            Assert.Throws<KernelException>(() => _hwpt.HarvestDirty(area, _buffer, pages));
        Assert.Contains("0x1000000000", failure.Message, StringComparison.Ordinal);
        Assert.True(pages[5]);
        Assert.True(pages[(64 * GiB >> 12) + 9]);
    }

    [Fact]
    public void Bits_beyond_the_end_of_a_read_are_neither_reported_nor_left_for_the_next_one()
    {
        MappedArea area = Map(0, 3 * 0x1000, guest: 0);
        var pages = new PageBitmap(200);
        _kernel.ExpectDirtyRead(0, 0x3000, Errno.Success, 1, 3, 63, 64, 32767);
        _hwpt.HarvestDirty(area, _buffer, pages);
        Assert.Equal(1UL, pages.CountSet());
        Assert.True(pages[1]);

        pages.Clear();
        MappedArea longer = Map(0x1000_0000, 200 * 0x1000, guest: 0);
        _kernel.ExpectDirtyRead(0x1000_0000, 200 * 0x1000);
        _hwpt.HarvestDirty(longer, _buffer, pages);
        Assert.Equal(0UL, pages.CountSet());
    }

    [Fact]
    public void Peeking_asks_not_to_clear_and_harvesting_clears()
    {
        MappedArea area = Map(0, 0x1000, guest: 0);
        var flags = new List<int>();
        for (int call = 0; call < 2; call++)
        {
            _kernel.Expect(IommufdRequests.HwptGetDirtyBitmap, (_, argument) =>
            {
                flags.Add(argument.Read32(8));
                return Errno.Success;
            });
        }

        _hwpt.PeekDirty(area, _buffer, new PageBitmap(1));
        _hwpt.HarvestDirty(area, _buffer, new PageBitmap(1));
        Assert.Equal([1, 0], flags);
    }

    [Fact]
    public void A_failing_stop_counts_as_stopped_and_never_turns_tracking_on()
    {
        var source = TableDirtySource.Of(_hwpt, _buffer, ["nvme0"]);
        _kernel.ExpectTracking(30, on: true);
        source.Start();
        _kernel.ExpectTracking(30, on: false, Errno.EIO);
        Assert.Throws<KernelException>(source.Stop);
        Assert.False(_hwpt.IsTracking);
        source.Stop();
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Turning_tracking_on_twice_asks_the_kernel_once_because_each_time_throws_bits_away()
    {
        _kernel.ExpectTracking(30, on: true);
        _hwpt.SetDirtyTracking(true);
        _hwpt.SetDirtyTracking(true);
        Assert.True(_hwpt.IsTracking);
    }

    [Fact]
    public void When_one_source_fails_to_start_exactly_the_started_ones_are_stopped()
    {
        _kernel.ExpectHwptAlloc(6, IommuHwptAllocFlags.DirtyTracking, 31);
        Hwpt second = Hwpt.Allocate(_ioas, 6, IommuHwptAllocFlags.DirtyTracking).Hwpt!;
        _kernel.ExpectHwptAlloc(7, IommuHwptAllocFlags.DirtyTracking, 32);
        Hwpt third = Hwpt.Allocate(_ioas, 7, IommuHwptAllocFlags.DirtyTracking).Hwpt!;
        var tracker = new DirtyTracker(8,
            [.. new[] { _hwpt, second, third }.Select(hwpt => TableDirtySource.Of(hwpt, _buffer, ["x"]))]);
        _kernel.ExpectTracking(30, on: true);
        _kernel.ExpectTracking(31, on: true, Errno.ENODEV);
        _kernel.ExpectTracking(30, on: false);
        Assert.Throws<KernelException>(tracker.Start);
        Assert.Equal(0, _kernel.Remaining);
    }

    private MappedArea Map(ulong iova, ulong length, ulong? guest)
    {
        _kernel.ExpectMap(iova);
        _ioas.Map(new Iova(iova), new HostAddress(0x1000), length, DmaAccess.ReadWrite,
            guest is { } address ? new GuestPhysicalAddress(address) : null);
        return _ioas.Areas.Single(area => area.Range.First.Value == iova);
    }
}
