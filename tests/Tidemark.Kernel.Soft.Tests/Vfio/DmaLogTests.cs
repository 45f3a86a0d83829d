using Tidemark.Abi;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

public sealed class DmaLogTests
{
    private const ulong RangesAt = FakeVfioHost.MemoryStart;
    private const ulong BitmapAt = FakeVfioHost.MemoryStart + 0x2001;
    private const ulong Page = 4096;

    private readonly DeviceFixture _fixture = new();

    public static TheoryData<ulong, uint, ulong[], Errno> Starts => new()
    {
        { Page, 0, [], Errno.EINVAL },
        { Page, 257, [], Errno.E2BIG },
        { Page, 1, [0x1800, Page], Errno.EINVAL },
        { Page, 1, [Page, 0x1800], Errno.EINVAL },
        { Page, 1, [ulong.MaxValue - 4095, Page], Errno.EOVERFLOW },
        { Page, 2, [0, 2 * Page, Page, Page], Errno.EINVAL },
        { 3 * Page, 1, [0, 3 * Page], Errno.EINVAL },
        { 0, 1, [0, Page], Errno.EINVAL },
        { 0, 1, [0, 0], Errno.EINVAL },
        { Page, 1, [Page, 0], Errno.EINVAL },
        { Page, 1, [0, (64UL << 30) + Page], Errno.ENOMEM },
        { Page, 2, [0, 64UL << 30, 1UL << 40, Page], Errno.ENOMEM },
        { Page, 1, [0, 64UL << 30], Errno.Success },
        { Page, 2, [2 * Page, Page, 0, Page], Errno.Success },
        { Page, 1, [ulong.MaxValue - 8191, Page], Errno.Success },
        // Two faults: the first check wins.
        { Page, 1, [ulong.MaxValue - 2047, 0x1800], Errno.EINVAL },
        { Page, 2, [0x1800, Page, ulong.MaxValue - 4095, Page], Errno.EINVAL },
        { Page, 2, [ulong.MaxValue - 4095, Page, 0x1800, Page], Errno.EOVERFLOW },
    };

    [Theory]
    [MemberData(nameof(Starts))]
    public void Start_checks_in_the_kernels_order(ulong pageSize, uint count, ulong[] ranges, Errno answer)
    {
        Assert.Equal(answer, Start(pageSize, ranges, out _, count));
        Assert.Equal(answer == Errno.Success, _fixture.Port.WriteObserver is not null);
    }

    [Fact]
    public void Start_reads_the_ranges_one_by_one()
    {
        ulong end = RangesAt + (ulong)_fixture.Host.Memory.Length;
        byte[] one = DeviceFixture.Longs(0x800, Page);
        one.CopyTo(_fixture.Host.Memory, _fixture.Host.Memory.Length - 16);
        byte[] control = DeviceFixture.Longs(Page, 2, end - 16);
        Assert.Equal(Errno.EINVAL, _fixture.Feature(VfioDeviceFeatureIndex.DmaLoggingStart, Set, control));
        DeviceFixture.Longs(Page, Page).CopyTo(_fixture.Host.Memory, _fixture.Host.Memory.Length - 16);
        Assert.Equal(Errno.EFAULT, _fixture.Feature(VfioDeviceFeatureIndex.DmaLoggingStart, Set, control));
        Assert.Null(_fixture.Port.WriteObserver);
    }

    [Fact]
    public void Start_twice_is_EINVAL_after_its_ranges_were_checked_and_stop_is_always_fine()
    {
        Assert.Equal(Errno.Success, Stop());
        Assert.Equal(Errno.Success, Start(Page, [0, Page], out _));
        Assert.Equal(Errno.EINVAL, Start(Page, [0, Page], out _));
        Assert.Equal(Errno.EOVERFLOW, Start(Page, [ulong.MaxValue - 4095, Page], out _));
        Assert.Equal(Errno.Success, Stop());
        Assert.Null(_fixture.Port.WriteObserver);
        Assert.Equal(Errno.Success, Stop());
        Assert.Equal(Errno.Success, Start(Page, [0, Page], out _));
    }

    [Theory]
    [InlineData(1024, 4096)]
    [InlineData(4096, 4096)]
    [InlineData(65536, 65536)]
    [InlineData(1UL << 21, 1UL << 21)]
    [InlineData(1UL << 30, 1UL << 21)]
    public void The_page_size_is_negotiated(ulong asked, ulong used)
    {
        Assert.Equal(Errno.Success, Start(asked, [0, 1UL << 30], out ulong answered));
        Assert.Equal(used, answered);
    }

    [Fact]
    public void Start_waits_for_stores_that_it_will_not_log()
    {
        _fixture.Port.TryWrite(0x5000, new byte[8]);
        Start(Page, [0, 0x10000], out _);
        Assert.Contains(0x5000UL, _fixture.Port.Landed);
    }

    [Theory]
    [InlineData(0, 0x10000, 2048, Errno.EINVAL)]
    [InlineData(0, 0x10000, 0x3000, Errno.EINVAL)]
    [InlineData(0, 0x10000, 0, Errno.EINVAL)]
    [InlineData(ulong.MaxValue, 1, 4096, Errno.EOVERFLOW)]
    [InlineData(ulong.MaxValue, 1, 2048, Errno.EINVAL)]
    [InlineData(0, 0x10000, 4096, Errno.EINVAL)]
    public void Report_checks_its_request_before_it_sees_that_nothing_is_logged(
        ulong iova, ulong length, ulong pageSize, Errno answer) =>
        Assert.Equal(answer, Report(iova, length, pageSize));

    [Fact]
    public void A_report_gives_each_write_once()
    {
        Start(Page, [0x10000, 0x40000], out _);
        Write(0x12FFF, 2);
        Write(0x4FFFF, 1);
        Write(0x50000, 1);
        Write(0xFFFF, 1);
        Assert.Equal([2, 3, 63], Harvest(0x10000, 0x40000, Page));
        Assert.Empty(Harvest(0x10000, 0x40000, Page));
        Write(0x10000, 0x40000);
        Assert.Equal(64, Harvest(0x10000, 0x40000, Page).Count);
    }

    [Fact]
    public void Nothing_is_reported_that_nobody_wrote_and_nothing_without_a_log()
    {
        Write(0x11000, 8);
        Start(Page, [0x10000, 0x10000], out _);
        Assert.Empty(Harvest(0x10000, 0x10000, Page));
        Stop();
        Write(0x12000, 8);
        Start(Page, [0x10000, 0x10000], out _);
        Assert.Empty(Harvest(0x10000, 0x10000, Page));
    }

    [Fact]
    public void A_report_only_adds_bits_and_touches_no_other_byte()
    {
        Start(Page, [0, 0x100000], out _);
        _fixture.Host.Memory.AsSpan(0x2000, 0x100).Fill(0xA5);
        Write(0x9000, 1);
        Assert.Equal(Errno.Success, Report(0, 0x100000, Page));
        byte[] expected = Enumerable.Repeat((byte)0xA5, 0x100).ToArray();
        expected[2] |= 1 << 1;
        Assert.Equal(expected, _fixture.Host.Memory[0x2000..0x2100]);
    }

    [Fact]
    public void Bits_are_relative_to_the_request_and_its_page_size()
    {
        Start(Page, [0x200000, 0x200000], out _);
        Write(0x204000, 1);
        Assert.Equal([3], Harvest(0x201000, 0x10000, Page));
        Write(0x20F000, 1);
        Write(0x210000, 1);
        Assert.Equal([0, 1], Harvest(0x200000, 0x200000, 0x10000));
    }

    [Fact]
    public void A_device_page_is_several_bits_of_a_finer_request()
    {
        Start(0x10000, [0, 0x100000], out _);
        Write(0x12345, 1);
        Assert.Equal(Enumerable.Range(16, 16), Harvest(0, 0x100000, Page));
        Assert.Empty(Harvest(0, 0x100000, Page));
    }

    [Fact]
    public void A_device_page_that_a_request_cuts_is_reported_inside_it_and_kept()
    {
        Start(0x10000, [0, 0x100000], out _);
        Write(0x12345, 1);
        Assert.Equal(Enumerable.Range(0, 14), Harvest(0x12000, 0x20000, Page));
        Assert.Equal(Enumerable.Range(16, 2), Harvest(0, 0x12000, Page));
        Assert.Equal(Enumerable.Range(16, 16), Harvest(0, 0x20000, Page));
        Assert.Empty(Harvest(0, 0x20000, Page));
    }

    [Fact]
    public void Several_ranges_and_the_holes_between_them()
    {
        Start(Page, [0x80000, 0x4000, 0, 0x4000, 0x40000, 0x4000], out _);
        Write(0x81000, 1);
        Write(0x3000, 1);
        Write(0x43FFF, 0x3D000);
        Assert.Equal([3, 0x43, 0x80, 0x81], Harvest(0, 1UL << 48, Page));
        Assert.Empty(Harvest(0, 1UL << 48, Page));
    }

    [Fact]
    public void Bits_that_can_not_be_delivered_are_kept()
    {
        Start(Page, [0, 64UL << 30], out _);
        Write(0x5000, 1);
        ulong far = 32UL << 30;
        Write(far, 0x2000);
        // The bitmap's first part is the caller's, the part for the far page is not.
        Assert.Equal(Errno.EFAULT, Report(0, 64UL << 30, Page));
        Assert.Equal([5], Bits());
        Assert.Equal([0, 1], Harvest(far, 0x10000, Page));

        Write(0x6000, 1);
        Assert.Equal(Errno.EFAULT, Report(0, 0x10000, Page, bitmap: 0x1000));
        Assert.Equal([6], Harvest(0, 0x10000, Page));
    }

    [Fact]
    public void A_report_returns_only_when_the_stores_it_tells_of_have_landed()
    {
        Start(Page, [0, 0x100000], out _);
        Write(0x7000, 8);
        Assert.DoesNotContain(0x7000UL, _fixture.Port.Landed);
        Assert.Equal([7], Harvest(0, 0x100000, Page));
        Assert.Contains(0x7000UL, _fixture.Port.Landed);
    }

    [Fact]
    public void A_write_during_a_report_is_in_the_next_one()
    {
        Start(Page, [0, 0x100000], out _);
        _fixture.Port.BeforeDrain = () => Write(0x9000, 8);
        Assert.Empty(Harvest(0, 0x100000, Page));
        Assert.Equal([9], Harvest(0, 0x100000, Page));
    }

    [Fact]
    public void A_write_to_a_page_that_is_just_being_reported_is_in_the_next_report_too()
    {
        Start(Page, [0, 0x100000], out _);
        Write(0x9000, 8);
        _fixture.Host.BeforeCopyOut = () => Write(0x9000, 8);
        Assert.Equal([9], Harvest(0, 0x100000, Page));
        Assert.Equal([9], Harvest(0, 0x100000, Page));
        Assert.Empty(Harvest(0, 0x100000, Page));
    }

    /// <summary>
    /// Each page is written once in a lap, so that a mark which a report overwrites is missed at the lap's end.
    /// </summary>
    [Fact]
    public void Writers_beside_reports_lose_nothing()
    {
        const int Pages = 4096;
        const int Laps = 100;
        Start(Page, [0, Pages * Page], out _);
        using var lap = new Barrier(2);
        int finished = 0;
        var writer = new Thread(() =>
        {
            for (int round = 0; round < Laps; round++)
            {
                lap.SignalAndWait();
                for (ulong page = 0; page < Pages; page++)
                    _fixture.Port.WriteObserver!.OnWrite(page * Page, 1);
                Volatile.Write(ref finished, round + 1);
            }
        }) { IsBackground = true };
        writer.Start();
        int lost = 0;
        for (int round = 0; round < Laps; round++)
        {
            _fixture.Host.Memory.AsSpan(0x2000).Clear();
            lap.SignalAndWait();
            while (Volatile.Read(ref finished) == round)
                Assert.Equal(Errno.Success, Report(0, Pages * Page, Page));
            Assert.Equal(Errno.Success, Report(0, Pages * Page, Page));
            lost += _fixture.Host.Memory.AsSpan(0x2001, Pages / 8).ToArray().Count(bits => bits != 0xFF);
        }

        writer.Join();
        Assert.Equal(0, lost);
    }

    [Fact]
    public void A_reset_keeps_the_log_and_closing_stops_it()
    {
        Start(Page, [0, 0x100000], out _);
        Write(0x3000, 1);
        _fixture.Ioctl(VfioRequests.DeviceReset, []);
        Assert.Equal([3], Harvest(0, 0x100000, Page));
        _fixture.File.Release();
        Assert.Null(_fixture.Port.WriteObserver);
    }

    private void Write(ulong iova, int length) => _fixture.Port.TryWrite(iova, new byte[length]);

    private Errno Start(ulong pageSize, ulong[] ranges, out ulong answered, uint? count = null)
    {
        DeviceFixture.Longs(ranges).CopyTo(_fixture.Host.Memory, 0);
        byte[] control = DeviceFixture.Longs(pageSize, count ?? (uint)ranges.Length / 2, RangesAt);
        Errno errno = _fixture.Feature(VfioDeviceFeatureIndex.DmaLoggingStart, Set, control);
        answered = DeviceFixture.Long(control, 0);
        return errno;
    }

    private Errno Stop() => _fixture.Feature(VfioDeviceFeatureIndex.DmaLoggingStop, Set);

    private Errno Report(ulong iova, ulong length, ulong pageSize, ulong bitmap = BitmapAt) => _fixture.Feature(
        VfioDeviceFeatureIndex.DmaLoggingReport, Get, DeviceFixture.Longs(iova, length, pageSize, bitmap));

    private List<int> Harvest(ulong iova, ulong length, ulong pageSize)
    {
        _fixture.Host.Memory.AsSpan(0x2000).Clear();
        Assert.Equal(Errno.Success, Report(iova, length, pageSize));
        return Bits();
    }

    private List<int> Bits()
    {
        var bits = new List<int>();
        byte[] memory = _fixture.Host.Memory;
        for (int bit = 0; bit < (memory.Length - 0x2001) * 8; bit++)
        {
            if ((memory[0x2001 + (bit / 8)] >> (bit % 8) & 1) != 0)
                bits.Add(bit);
        }

        return bits;
    }
}
