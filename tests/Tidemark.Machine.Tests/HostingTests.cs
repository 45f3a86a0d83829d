using Tidemark.Machine.Description;
using Tidemark.Machine.Hosting;

namespace Tidemark.Machine.Tests;

public sealed class HostingTests : IDisposable
{
    private const ulong MiB = 1UL << 20;
    private readonly MachineRig _rig = new();
    private readonly FakeSysfs _sysfs = new();

    public void Dispose() => _rig.Dispose();

    [Fact]
    public void A_host_that_says_nothing_has_no_shortages() =>
        Assert.Empty(HostLimits.FindShortages(_sysfs, 1UL << 50, memoryIsTouched: false, channels: 64));

    [Fact]
    public void Memory_that_will_not_suffice_is_a_shortage_unless_it_is_touched_already()
    {
        _sysfs.Entries["/proc/meminfo"] = "MemTotal:  4096 kB\nMemAvailable:   2048 kB\n";
        Assert.Empty(HostLimits.FindShortages(_sysfs, 2 * MiB, memoryIsTouched: false, channels: 1));
        Assert.Contains("2 MiB", Assert.Single(HostLimits.FindShortages(_sysfs, 3 * MiB, memoryIsTouched: false, channels: 1)), StringComparison.Ordinal);
        Assert.Empty(HostLimits.FindShortages(_sysfs, 3 * MiB, memoryIsTouched: true, channels: 1));
    }

    [Fact]
    public void A_control_group_may_allow_less_than_the_host_has()
    {
        _sysfs.Entries["/proc/meminfo"] = "MemAvailable:   999999999 kB\n";
        _sysfs.Entries["/sys/fs/cgroup/memory.max"] = "8388608\n";
        _sysfs.Entries["/sys/fs/cgroup/memory.current"] = "4194304\n";
        Assert.Empty(HostLimits.FindShortages(_sysfs, 4 * MiB, memoryIsTouched: false, channels: 1));
        Assert.Single(HostLimits.FindShortages(_sysfs, 5 * MiB, memoryIsTouched: false, channels: 1));
        _sysfs.Entries["/sys/fs/cgroup/memory.stat"] = "anon 4096\nfile 4194304\ninactive_file 1048576\nactive_file 1048576\nshmem 2097152\n";
        Assert.Empty(HostLimits.FindShortages(_sysfs, 6 * MiB, memoryIsTouched: false, channels: 1));
        Assert.Single(HostLimits.FindShortages(_sysfs, 7 * MiB, memoryIsTouched: false, channels: 1));
        _sysfs.Entries["/sys/fs/cgroup/memory.max"] = "max\n";
        Assert.Empty(HostLimits.FindShortages(_sysfs, 5 * MiB, memoryIsTouched: false, channels: 1));
    }

    [Fact]
    public void Descriptors_that_will_not_suffice_are_a_shortage()
    {
        _sysfs.Entries["/proc/self/limits"] = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            32                   4096                 files\n";
        for (int number = 0; number < 10; number++)
            _sysfs.Entries[$"/proc/self/fd/{number}"] = "";
        Assert.Empty(HostLimits.FindShortages(_sysfs, 0, memoryIsTouched: true, channels: 6));
        Assert.Contains("ulimit -n", Assert.Single(HostLimits.FindShortages(_sysfs, 0, memoryIsTouched: true, channels: 7)), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("MemAvailable:")]
    [InlineData("MemAvailable: many kB")]
    [InlineData("MemAvailable: 99999999999999999999 kB")]
    [InlineData("MemAvailable: 18446744073709551615 kB")]
    [InlineData("")]
    public void Figures_that_can_not_be_read_are_no_shortage(string meminfo)
    {
        _sysfs.Entries["/proc/meminfo"] = meminfo;
        _sysfs.Entries["/proc/self/limits"] = "Max open files\n";
        Assert.Empty(HostLimits.FindShortages(_sysfs, 1UL << 40, memoryIsTouched: false, channels: 1));
    }

    [Theory]
    [InlineData(DiskMode.Overlay)]
    [InlineData(DiskMode.WriteThrough)]
    public void A_disk_that_is_written_has_one_holder_at_a_time(DiskMode mode)
    {
        SoftHostDescription host = Host(mode);
        using var first = new DiskLocks(host);
        using var second = new DiskLocks(host);
        first.Acquire(TimeSpan.Zero);
        Assert.Empty(second.FindObstacles());
        IOException refused = Assert.Throws<IOException>(() => second.Acquire(TimeSpan.FromMilliseconds(60)));
        Assert.Contains("in use by another machine", refused.Message, StringComparison.Ordinal);
        first.Release();
        second.Acquire(TimeSpan.Zero);
        Assert.Throws<IOException>(() => first.Acquire(TimeSpan.Zero));
    }

    [Fact]
    public void Who_waits_gets_the_disk_when_it_is_released()
    {
        SoftHostDescription host = Host(DiskMode.Overlay);
        using var first = new DiskLocks(host);
        using var second = new DiskLocks(host);
        first.Acquire(TimeSpan.Zero);
        var waiter = new Thread(() => second.Acquire(TimeSpan.FromSeconds(20)));
        waiter.Start();
        first.Release();
        waiter.Join();
        Assert.Throws<IOException>(() => first.Acquire(TimeSpan.Zero));
    }

    [Fact]
    public void Read_only_disks_are_anybodys()
    {
        SoftHostDescription host = Host(DiskMode.ReadOnly);
        using var first = new DiskLocks(host);
        using var second = new DiskLocks(host);
        first.Acquire(TimeSpan.Zero);
        second.Acquire(TimeSpan.Zero);
    }

    [Fact]
    public void A_failed_attempt_keeps_none_of_the_locks()
    {
        SoftHostDescription both = new() { Devices = [Host(DiskMode.Overlay, 0).Devices[0], Host(DiskMode.Overlay, 1).Devices[0]] };
        using var holder = new DiskLocks(Host(DiskMode.Overlay, 1));
        using var greedy = new DiskLocks(both);
        using var other = new DiskLocks(Host(DiskMode.Overlay, 0));
        holder.Acquire(TimeSpan.Zero);
        Assert.Throws<IOException>(() => greedy.Acquire(TimeSpan.Zero));
        other.Acquire(TimeSpan.Zero);
    }

    [Fact]
    public void A_disk_that_can_not_be_written_is_an_obstacle()
    {
        var absent = new SoftDeviceDescription
        {
            Address = "0000:01:00.0", Iommu = "i", Disk = "d", Mode = DiskMode.Overlay, Overlay = Path.Combine(_rig.Folder, "absent", "o"),
        };
        using var locks = new DiskLocks(new SoftHostDescription { Devices = [absent] });
        Assert.Contains("absent/o", Assert.Single(locks.FindObstacles()), StringComparison.Ordinal);
        Assert.Throws<IOException>(() => locks.Acquire(TimeSpan.Zero));
    }

    private SoftHostDescription Host(DiskMode mode, int number = 0) => new()
    {
        Devices =
        [
            new SoftDeviceDescription
            {
                Address = "0000:01:00.0", Iommu = "i", Disk = _rig.CreateDisk(number), Mode = mode,
                Overlay = mode == DiskMode.Overlay ? Path.Combine(_rig.Folder, $"overlay{number}") : null,
            },
        ],
    };
}
