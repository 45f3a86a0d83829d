using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>A device's own log: ranges, start, report, stop.</summary>
public sealed class DmaLoggingTests : IDisposable
{
    private readonly ScriptedKernel _kernel = new();
    private readonly DirtyBuffer _buffer;
    private readonly DmaLogging _log;
    private readonly Ioas _ioas;

    public DmaLoggingTests()
    {
        _buffer = DirtyBuffer.Create(_kernel);
        _log = new DmaLogging(VfioDevice.FromFd(new KernelFd(_kernel, 20, owned: false), "nvme1"));
        _kernel.ExpectIoasAlloc(1);
        _ioas = _kernel.OpenIommufd().AllocateIoas();
    }

    public void Dispose() => _buffer.Dispose();

    [Fact]
    public void Ranges_that_touch_are_joined_and_order_does_not_matter()
    {
        IReadOnlyList<IovaRange> fitted = LoggedRanges.Fit(
            [Range(0x4000, 0x1000), Range(0, 0x1000), Range(0x1000, 0x1000)], 0x1000, 256, out ulong excess);
        Assert.Equal([Range(0, 0x2000), Range(0x4000, 0x1000)], fitted);
        Assert.Equal(0UL, excess);
    }

    [Fact]
    public void Too_many_ranges_are_merged_across_the_smallest_gaps_and_the_excess_is_stated()
    {
        IReadOnlyList<IovaRange> fitted = LoggedRanges.Fit(
            [Range(0, 0x1000), Range(0x3000, 0x1000), Range(0x10000, 0x1000), Range(0x12000, 0x1000)],
            0x1000, 2, out ulong excess);
        Assert.Equal([Range(0, 0x4000), Range(0x10000, 0x3000)], fitted);
        Assert.Equal(0x3000UL, excess);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(7)]
    public void Whatever_the_limit_nothing_asked_for_is_left_out(int limit)
    {
        var random = new Random(20261122);
        for (int round = 0; round < 200; round++)
        {
            IovaRange[] wanted = [.. Enumerable.Range(0, random.Next(1, 12)).Select(_ => Range(
                (ulong)random.Next(0, 400) << 12, (ulong)random.Next(1, 9) << 12))];
            IReadOnlyList<IovaRange> fitted = LoggedRanges.Fit(wanted, 0x1000, limit, out ulong excess);

            HashSet<ulong> wantedPages = [.. wanted.SelectMany(Pages)];
            ulong[] fittedPages = [.. fitted.SelectMany(Pages)];
            Assert.True(fitted.Count <= limit);
            Assert.Equal(fittedPages.Length, fittedPages.Distinct().Count());
            Assert.Superset(wantedPages, fittedPages.ToHashSet());
            Assert.Equal((ulong)(fittedPages.Length - wantedPages.Count) << 12, excess);
        }
    }

    [Fact]
    public void Start_hands_over_the_ranges_and_keeps_the_page_size_the_device_chose()
    {
        ExpectStart([(0UL, 0x2000UL), (0x8000, 0x1000)], answerPageSize: 0x2000);
        _log.Start([Range(0, 0x2000), Range(0x8000, 0x1000)]);
        Assert.True(_log.IsStarted);
        Assert.Equal(0x2000UL, _log.DevicePageSize);
        Assert.Equal(1, _kernel.LiveMappings);
        Assert.Throws<InvalidOperationException>(() => _log.Start([Range(0, 0x1000)]));
    }

    [Fact]
    public void A_refused_start_is_off()
    {
        ExpectStart([(0UL, 0x2000UL)], 0, Errno.EOPNOTSUPP);
        Assert.Throws<KernelException>(() => _log.Start([Range(0, 0x2000)]));
        Assert.False(_log.IsStarted);
        _log.Stop();
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_range_up_to_the_top_of_the_address_space_is_refused_before_the_device_sees_it() =>
        Assert.Equal(Errno.EOVERFLOW, Assert.Throws<KernelException>(
            () => _log.Start([new IovaRange(new Iova(0), new Iova(ulong.MaxValue))])).Errno);

    [Fact]
    public void A_source_logs_what_is_mapped_and_reports_it_by_guest_page()
    {
        var source = new DeviceLogDirtySource("nvme1", _log, () => _ioas.Areas, _buffer);
        Map(0x10_0000, 0x4000, guest: 0x2000);
        ExpectStart([(0x10_0000UL, 0x4000UL)], 0x1000);
        source.Start();
        ExpectReport(0x10_0000, 0x4000, Errno.Success, 0, 3);
        var pages = new PageBitmap(16);
        source.Harvest(pages);
        Assert.Equal(0b10_0100UL, pages.Words[0]);
        _kernel.ExpectFeature(
            VfioDeviceFeatureIndex.DmaLoggingStop, VfioDeviceFeatureFlags.Set, (_, _) => Errno.EIO);
        Assert.Throws<KernelException>(source.Stop);
        source.Stop();
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Memory_mapped_after_the_start_counts_as_written_as_a_whole()
    {
        var source = new DeviceLogDirtySource("nvme1", _log, () => _ioas.Areas, _buffer);
        Map(0, 0x1000, guest: 0);
        ExpectStart([(0UL, 0x1000UL)], 0x1000);
        source.Start();
        Map(0x4000, 0x2000, guest: 0x4000);
        ExpectReport(0, 0x1000, Errno.Success);
        _kernel.ExpectFeature(
            VfioDeviceFeatureIndex.DmaLoggingStop, VfioDeviceFeatureFlags.Set, (_, _) => Errno.Success);
        ExpectStart([(0UL, 0x10000UL)], 0x1000);
        var pages = new PageBitmap(16);
        source.Harvest(pages);
        // All that is mapped: what was written between the report and the new start is in no log.
        Assert.Equal(0b11_0001UL, pages.Words[0]);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Theory]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ENOMEM)]
    public void A_device_that_refuses_wider_ranges_gets_the_exact_ones(Errno refusal)
    {
        DeviceLogDirtySource source = StartWithOneOutside();
        ExpectReport(0, 0x1000, Errno.Success);
        ExpectStop();
        ExpectStart([(0UL, 0x10000UL)], 0, refusal);
        ExpectStart([(0UL, 0x1000UL), (0x4000, 0x2000)], 0x1000);
        Assert.Equal(0b11_0001UL, Harvest(source));
        ExpectReport(0, 0x1000, Errno.Success);
        ExpectReport(0x4000, 0x2000, Errno.Success, 1);
        Assert.Equal(0b10_0000UL, Harvest(source));
        Assert.Equal(1, source.RearmCount);
    }

    [Theory]
    [InlineData(Errno.Success)]
    [InlineData(Errno.EIO)]
    public void A_device_that_refuses_both_costs_all_at_each_harvest_until_it_accepts_one(Errno stop)
    {
        DeviceLogDirtySource source = StartWithOneOutside();
        ExpectReport(0, 0x1000, Errno.Success);
        ExpectStop(stop);
        ExpectStart([(0UL, 0x10000UL)], 0, Errno.EINVAL);
        ExpectStart([(0UL, 0x1000UL), (0x4000, 0x2000)], 0, Errno.EINVAL);
        Assert.Equal(0b11_0001UL, Harvest(source));
        ExpectStart([(0UL, 0x10000UL)], 0, Errno.EINVAL);
        ExpectStart([(0UL, 0x1000UL), (0x4000, 0x2000)], 0, Errno.EINVAL);
        Assert.Equal(0b11_0001UL, Harvest(source));
        ExpectStart([(0UL, 0x10000UL)], 0x1000);
        Assert.Equal(0b11_0001UL, Harvest(source));
        ExpectReport(0, 0x1000, Errno.Success, 0);
        ExpectReport(0x4000, 0x2000, Errno.Success);
        Assert.Equal(1UL, Harvest(source));
        Assert.Equal(3, source.RearmCount);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_device_that_stands_still_is_not_armed_again()
    {
        bool standsStill = false;
        var source = new DeviceLogDirtySource("nvme1", _log, () => _ioas.Areas, _buffer, () => standsStill);
        Map(0, 0x1000, guest: 0);
        ExpectStart([(0UL, 0x1000UL)], 0x1000);
        source.Start();
        Map(0x4000, 0x2000, guest: 0x4000);
        standsStill = true;
        ExpectReport(0, 0x1000, Errno.Success);
        Assert.Equal(0b11_0000UL, Harvest(source));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Fewer_ranges_are_tried_one_by_one_down_until_the_device_accepts_them_and_the_excess_is_stated()
    {
        ExpectStart([(0, 0x1000), (0x3000, 0x1000), (0x10000, 0x1000), (0x12000, 0x1000)], 0, Errno.E2BIG);
        ExpectStart([(0, 0x4000), (0x10000, 0x3000)], 0x1000);
        _log.Start([Range(0, 0x1000), Range(0x3000, 0x1000), Range(0x10000, 0x1000), Range(0x12000, 0x1000)]);
        Assert.Equal(0x3000UL, _log.ExcessBytes);
        Assert.True(_log.Covers(Range(0x10000, 0x3000)));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Theory]
    [InlineData(Errno.E2BIG)]
    [InlineData(Errno.ENOSPC)]
    [InlineData(Errno.ENOMEM)]
    [InlineData(Errno.EOPNOTSUPP)]
    public void A_device_that_takes_two_ranges_is_not_made_to_log_across_4_GiB(Errno refusal)
    {
        // The hole at 4 GiB is the smallest, and it stays: firmware puts windows of devices there.
        const ulong Low = 0xffff_f000, High = 0x1_0000_1000, Far = 0x2_0000_0000;
        ExpectStart([(Low - 0x1000, 0x1000), (High, 0x1000), (Far, 0x1000)], 0, refusal);
        ExpectStart([(Low - 0x1000, 0x1000), (High, Far + 0x1000 - High)], 0x1000);
        _log.Start([Range(Low - 0x1000, 0x1000), Range(High, 0x1000), Range(Far, 0x1000)]);
        Assert.Equal(Far - High - 0x1000, _log.ExcessBytes);
    }

    [Fact]
    public void Another_refusal_is_the_answer_and_no_other_ranges_are_tried()
    {
        ExpectStart([(0, 0x1000), (0x3000, 0x1000)], 0, Errno.EIO);
        Assert.Equal(Errno.EIO, Assert.Throws<KernelException>(
            () => _log.Start([Range(0, 0x1000), Range(0x3000, 0x1000)])).Errno);
        Assert.False(_log.IsStarted);
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void Wider_ranges_hold_what_is_mapped_and_stay_apart_at_4_GiB_whatever_is_mapped()
    {
        var random = new Random(20261123);
        for (int round = 0; round < 500; round++)
        {
            IovaRange[] mapped = [.. Enumerable.Range(0, random.Next(1, 6)).Select(_ => Range(
                (ulong)random.NextInt64(0, 1L << random.Next(20, 52)) & ~0xfffUL, (ulong)random.Next(1, 512) << 12))];
            IReadOnlyList<IovaRange> widened = LoggedRanges.Widen(mapped);
            Assert.InRange(widened.Count, 1, 2);
            Assert.All(mapped, range => Assert.Contains(widened, wide => wide.Contains(range)));
            bool straddles = mapped.Any(range => range.First.Value < 1UL << 32 && range.Last.Value >= 1UL << 32);
            if (!straddles)
            {
                Assert.All(widened, wide =>
                    Assert.False(wide.First.Value < 1UL << 32 && wide.Last.Value >= 1UL << 32, $"round {round}: {wide}"));
            }
        }

        // A usual machine: 3 GiB below the hole, 8 GiB above.
        Assert.Equal(
            [new IovaRange(new Iova(0), new Iova((1UL << 32) - 1)), new IovaRange(new Iova(1UL << 32), new Iova((1UL << 34) - 1))],
            LoggedRanges.Widen([Range(0, 3UL << 30), Range(1UL << 32, 8UL << 30)]));

        // The top of the address space can not be logged, and is not asked for.
        IovaRange top = new(new Iova(1UL << 62), new Iova(ulong.MaxValue - 0x1000));
        Assert.Equal([top], LoggedRanges.Widen([top]));
    }

    [Fact]
    public void Memory_on_both_sides_of_another_devices_window_is_not_joined_across_it()
    {
        // The gap with the window is the smaller one, and stays as long as there is another one to join.
        IovaRange window = Range(0x2_0000_2000, 0x1000);
        IovaRange[] wanted = [Range(0x2_0000_0000, 0x1000), Range(0x2_0000_4000, 0x1000), Range(0x2_0010_0000, 0x1000)];
        Assert.Equal(
            [wanted[0], new IovaRange(wanted[1].First, wanted[2].Last)], LoggedRanges.Fit(wanted, 0x1000, 2, out ulong excess, [window]));
        Assert.Equal(0xfb000UL, excess);
        Assert.Equal(2, LoggedRanges.Fit(wanted, 0x1000, 2, out excess).Count);
        Assert.Equal(0x3000UL, excess);
        Assert.Single(LoggedRanges.Fit(wanted, 0x1000, 1, out _, [window]));

        // Room for mappings to come, as far as the windows: 32-bit memory, 64-bit memory and what lies between windows.
        IovaRange high = Range(6UL << 30, 1UL << 30);
        Assert.Equal(
            [
                new IovaRange(new Iova(0), new Iova((1UL << 32) - 1)), Range(1UL << 32, 2UL << 30),
                new IovaRange(new Iova(7UL << 30), new Iova((8UL << 30) - 1)),
            ],
            LoggedRanges.Widen([Range(0, 2UL << 30), Range(1UL << 32, 1UL << 30), Range(7UL << 30, 1UL << 29)], [high]));
        var random = new Random(20261130);
        for (int round = 0; round < 500; round++)
        {
            // Pieces without overlap, some of which are windows.
            ulong at = 0;
            var pieces = new List<IovaRange>();
            for (int count = random.Next(2, 9); count > 0; count--)
            {
                at += (ulong)random.NextInt64(1, 1L << random.Next(1, 24)) << 12;
                ulong length = (ulong)random.Next(1, 4096) << 12;
                pieces.Add(Range(at, length));
                at += length;
            }

            ILookup<bool, IovaRange> kinds = pieces.ToLookup(_ => random.Next(3) == 0);
            IReadOnlyList<IovaRange> widened = LoggedRanges.Widen([.. kinds[false]], [.. kinds[true]]);
            Assert.All(kinds[false], range => Assert.Contains(widened, wide => wide.Contains(range)));
            Assert.All(kinds[true], other => Assert.DoesNotContain(
                widened, wide => wide.First.Value <= other.Last.Value && other.First.Value <= wide.Last.Value));
        }
    }

    [Fact]
    public void A_window_of_another_device_is_not_logged_when_the_log_is_armed_again()
    {
        var source = new DeviceLogDirtySource("nvme1", _log, () => _ioas.Areas, _buffer);
        Map(0, 0x1000, guest: 0);
        ExpectStart([(0UL, 0x1000UL)], 0x1000);
        source.Start();
        _kernel.ExpectMap(0x2000);
        _ioas.Map(new Iova(0x2000), new HostAddress(0x1000), 0x1000, DmaAccess.ReadWrite);
        Map(0x4000, 0x2000, guest: 0x4000);
        ExpectReport(0, 0x1000, Errno.Success);
        ExpectStop();
        ExpectStart([(0UL, 0x2000UL), (0x4000, 0x4000)], 0x1000);
        Assert.Equal(0b11_0001UL, Harvest(source));
        Assert.Equal(0, _kernel.Remaining);
    }

    [Fact]
    public void A_failing_report_keeps_what_the_device_gave()
    {
        Map(0, 0x4000, guest: 0);
        ExpectReport(0, 0x4000, Errno.EIO, 2);
        var pages = new PageBitmap(16);
        Assert.Throws<KernelException>(() => _log.Report(_ioas.Areas[0], _buffer, pages));
        Assert.True(pages[2]);
    }

    /// <summary>A page in the log, and two beside it that were mapped later.</summary>
    private DeviceLogDirtySource StartWithOneOutside()
    {
        var source = new DeviceLogDirtySource("nvme1", _log, () => _ioas.Areas, _buffer);
        Map(0, 0x1000, guest: 0);
        ExpectStart([(0UL, 0x1000UL)], 0x1000);
        source.Start();
        Map(0x4000, 0x2000, guest: 0x4000);
        return source;
    }

    private static ulong Harvest(DeviceLogDirtySource source)
    {
        var pages = new PageBitmap(64);
        source.Harvest(pages);
        return pages.Words[0];
    }

    private void ExpectStop(Errno errno = Errno.Success) => _kernel.ExpectFeature(
        VfioDeviceFeatureIndex.DmaLoggingStop, VfioDeviceFeatureFlags.Set, (_, _) => errno);

    private static IovaRange Range(ulong first, ulong length) => IovaRange.FromLength(new Iova(first), length);

    private static IEnumerable<ulong> Pages(IovaRange range)
    {
        for (ulong page = range.First.Value >> 12; page <= range.Last.Value >> 12; page++)
            yield return page;
    }

    private void Map(ulong iova, ulong length, ulong guest)
    {
        _kernel.ExpectMap(iova);
        _ioas.Map(
            new Iova(iova), new HostAddress(0x1000), length, DmaAccess.ReadWrite, new GuestPhysicalAddress(guest));
    }

    private unsafe void ExpectStart((ulong, ulong)[] ranges, ulong answerPageSize, Errno errno = Errno.Success) =>
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.DmaLoggingStart, VfioDeviceFeatureFlags.Set, (_, payload) =>
        {
            Assert.Equal(24, payload.Length);
            Assert.Equal(0x1000UL, payload.Read64(0));
            Assert.Equal(ranges.Length, payload.Read32(8));
            var list = (ulong*)payload.Read64(16);
            foreach ((ulong first, ulong length) in ranges)
            {
                Assert.Equal(first, *list++);
                Assert.Equal(length, *list++);
            }

            BinaryPrimitives.WriteUInt64LittleEndian(payload, answerPageSize);
            return errno;
        });

    private void ExpectReport(ulong iova, ulong length, Errno errno, params ulong[] pages) =>
        _kernel.ExpectFeature(VfioDeviceFeatureIndex.DmaLoggingReport, VfioDeviceFeatureFlags.Get, (_, payload) =>
        {
            Assert.Equal(32, payload.Length);
            Assert.Equal(iova, payload.Read64(0));
            Assert.Equal(length, payload.Read64(8));
            Assert.Equal(0x1000UL, payload.Read64(16));
            Script.SetBits(payload.Read64(24), pages);
            return errno;
        });
}
