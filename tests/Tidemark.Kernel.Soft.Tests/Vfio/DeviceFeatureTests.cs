using Tidemark.Abi;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

public sealed class DeviceFeatureTests
{
    private const VfioMigrationFlags NoPreCopy = VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P;

    /// <summary>Index, what it offers, its payload's length; what answers when the device lacks it.</summary>
    public static TheoryData<VfioDeviceFeatureIndex, VfioDeviceFeatureFlags, int> Offered => new()
    {
        { VfioDeviceFeatureIndex.Migration, Get, 8 },
        { VfioDeviceFeatureIndex.MigDeviceState, Get | Set, 8 },
        { VfioDeviceFeatureIndex.LowPowerEntry, Set, 0 },
        { VfioDeviceFeatureIndex.LowPowerEntryWithWakeup, Set, 8 },
        { VfioDeviceFeatureIndex.LowPowerExit, Set, 0 },
        { VfioDeviceFeatureIndex.DmaLoggingStart, Set, 24 },
        { VfioDeviceFeatureIndex.DmaLoggingStop, Set, 0 },
        { VfioDeviceFeatureIndex.DmaLoggingReport, Get, 32 },
        { VfioDeviceFeatureIndex.MigDataSize, Get, 8 },
        { VfioDeviceFeatureIndex.MigPrecopyInfoV2, Set, 0 },
    };

    [Theory]
    [MemberData(nameof(Offered))]
    public void A_probe_tells_what_a_feature_offers_and_does_nothing(
        VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags offered, int length)
    {
        var fixture = new DeviceFixture();
        Assert.Equal(Errno.Success, fixture.Feature(index, Probe));
        Assert.Equal(Errno.Success, fixture.Feature(index, Probe | offered));
        Assert.Equal(offered.HasFlag(Get) ? Errno.Success : Errno.EINVAL, fixture.Feature(index, Probe | Get));
        Assert.Equal(offered.HasFlag(Set) ? Errno.Success : Errno.EINVAL, fixture.Feature(index, Probe | Set));
        Assert.Equal(Errno.EINVAL, fixture.Feature(index, None, new byte[length]));
        Assert.Equal(VfioDeviceMigState.Running, fixture.State);
        Assert.Null(fixture.Port.WriteObserver);
    }

    [Theory]
    [MemberData(nameof(Offered))]
    public void A_payload_that_argsz_does_not_cover_is_EINVAL_and_an_unreadable_one_EFAULT(
        VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags offered, int length)
    {
        if (length == 0)
            return;
        var fixture = new DeviceFixture();
        VfioDeviceFeatureFlags operation = offered.HasFlag(Get) ? Get : Set;
        uint flags = (uint)operation | (uint)index;
        byte[] header = DeviceFixture.Words((uint)(8 + length - 1), flags);
        Assert.Equal(Errno.EINVAL, fixture.Ioctl(VfioRequests.DeviceFeature, [.. header, .. new byte[length]]));
        header = DeviceFixture.Words((uint)(8 + length), flags);
        Assert.Equal(Errno.EFAULT, fixture.Ioctl(VfioRequests.DeviceFeature, [.. header, .. new byte[length - 1]]));
    }

    [Theory]
    [InlineData(VfioDeviceFeatureIndex.Migration, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.MigDeviceState, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.MigDataSize, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.DmaLoggingStart, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.DmaLoggingStop, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.DmaLoggingReport, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.MigPrecopyInfoV2, Errno.EINVAL)]
    [InlineData(VfioDeviceFeatureIndex.PciVfToken, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.BusMaster, Errno.ENOTTY)]
    [InlineData(VfioDeviceFeatureIndex.ZpciError, Errno.ENOTTY)]
    [InlineData((VfioDeviceFeatureIndex)0xFFFF, Errno.ENOTTY)]
    public void A_feature_the_device_lacks(VfioDeviceFeatureIndex index, Errno answer)
    {
        var fixture = new DeviceFixture(VfioMigrationFlags.None, dmaLogging: false);
        Assert.Equal(answer, fixture.Feature(index, Probe));
        Assert.Equal(answer, fixture.Feature(index, Get, new byte[64]));
        Assert.Equal(answer, fixture.Feature(index, Set, new byte[64]));
    }

    [Fact]
    public void Precopy_info_version_2_needs_pre_copy()
    {
        var fixture = new DeviceFixture(NoPreCopy);
        Assert.Equal(Errno.EINVAL, fixture.Feature(VfioDeviceFeatureIndex.MigPrecopyInfoV2, Probe));
        Assert.Equal(Errno.EINVAL, fixture.Feature(VfioDeviceFeatureIndex.MigPrecopyInfoV2, Set));
    }

    [Fact]
    public void The_header_is_checked_before_the_feature()
    {
        var fixture = new DeviceFixture(VfioMigrationFlags.None);
        uint lacking = (uint)VfioDeviceFeatureIndex.Migration;
        Assert.Equal(Errno.EFAULT, fixture.Ioctl(VfioRequests.DeviceFeature, new byte[7]));
        Assert.Equal(Errno.EINVAL, Header(7, lacking | (uint)Get));
        Assert.Equal(Errno.EINVAL, Header(16, lacking | 0x80000));
        Assert.Equal(Errno.EINVAL, Header(16, lacking | (uint)(Get | Set)));
        Assert.Equal(Errno.ENOTTY, Header(16, lacking | (uint)(Get | Set | Probe)));
        Assert.Equal(Errno.ENOTTY, Header(16, lacking));

        Errno Header(uint argsz, uint flags) => fixture.Ioctl(
            VfioRequests.DeviceFeature, [.. DeviceFixture.Words(argsz, flags), .. new byte[8]]);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(5)]
    [InlineData(7)]
    public void Migration_tells_its_abilities(int flags)
    {
        var payload = new byte[8];
        var fixture = new DeviceFixture((VfioMigrationFlags)flags);
        Assert.Equal(Errno.Success, fixture.Feature(VfioDeviceFeatureIndex.Migration, Get, payload));
        Assert.Equal((ulong)flags, DeviceFixture.Long(payload, 0));
        Assert.Equal(Errno.Success, fixture.Feature(VfioDeviceFeatureIndex.MigDataSize, Get, payload));
        Assert.Equal(fixture.Model.FinalStateSize, DeviceFixture.Long(payload, 0));
    }

    [Fact]
    public void Low_power_is_entered_once_and_left_at_will()
    {
        var fixture = new DeviceFixture();
        Assert.Equal(Errno.Success, fixture.Feature(VfioDeviceFeatureIndex.LowPowerExit, Set));
        Assert.Equal(Errno.Success, fixture.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set));
        Assert.Equal(Errno.EINVAL, fixture.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set));
        Assert.Equal(Errno.Success, fixture.Feature(VfioDeviceFeatureIndex.LowPowerExit, Set));
        Assert.Equal(Errno.EINVAL, WithWakeup(-1));
        Assert.Equal(Errno.EBADF, WithWakeup(9999));
        Assert.Equal(Errno.EINVAL, WithWakeup(fixture.Host.HostKernel.NewFile()));
        int wakeup = fixture.Host.HostKernel.NewEventfd();
        Assert.Equal(Errno.Success, WithWakeup(wakeup));
        // The caller's file and eventfd, and the driver's duplicate, until the next call wakes the device.
        Assert.Equal(3, fixture.Host.HostKernel.OpenCount);
        Assert.Equal(0UL, fixture.Host.HostKernel.Counter(wakeup));
        Assert.Equal(Errno.Success, fixture.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set));
        Assert.Equal(1UL, fixture.Host.HostKernel.Counter(wakeup));
        Assert.Equal(2, fixture.Host.HostKernel.OpenCount);
        Assert.True(fixture.File.Pread(new byte[4], 0).Succeeded);

        Errno WithWakeup(int eventfd) => fixture.Feature(
            VfioDeviceFeatureIndex.LowPowerEntryWithWakeup, Set, DeviceFixture.Words((uint)eventfd, 0));
    }
}
