using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Tests.Vfio;
using static Tidemark.Abi.VfioDeviceFeatureFlags;
using static Tidemark.Abi.VfioIrqSetFlags;

namespace Tidemark.Kernel.Soft.Tests.Mtty;

public sealed class MttyDeviceTests : IDisposable
{
    private const uint Intx = 0;
    private const uint Msi = 1;

    private readonly MttyFixture _mtty = new();

    public void Dispose() => _mtty.Dispose();

    [Fact]
    public void Sysfs_has_it_on_the_mdev_bus()
    {
        ISysfs sysfs = _mtty.Kernel.Sysfs;
        Assert.Equal(3, sysfs.List("/sys/bus/mdev/devices").Count);
        Assert.Equal(["vfio1"], sysfs.List($"/sys/bus/mdev/devices/{MttyFixture.Second}/vfio-dev"));
        Assert.True(sysfs.TryReadLink($"/sys/bus/mdev/devices/{MttyFixture.First}/mdev_type", out string? type));
        Assert.EndsWith("mtty-2", type, StringComparison.Ordinal);
        Assert.True(sysfs.TryReadText(
            "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/available_instances", out string? left));
        Assert.Equal("9", left);
        Assert.True(sysfs.Exists($"/sys/class/mdev_bus/mtty/{MttyFixture.First}/iommu_group/devices"));
        Assert.True(sysfs.Exists("/dev/vfio/devices/vfio2"));
        Assert.False(sysfs.Exists("/dev/vfio/devices/vfio3"));
    }

    [Fact]
    public void It_attaches_to_an_ioas_and_to_nothing_else()
    {
        var ioas = IommuIoasAlloc.Create();
        Assert.Equal(Errno.Success, _mtty.Call(ref ioas));
        byte[] attach = DeviceFixture.Words(12, 0, ioas.OutIoasId);
        Assert.Equal(Errno.Success, _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceAttachIommufdPt, attach));
        Assert.Equal(ioas.OutIoasId, DeviceFixture.Word(attach, 8));
        // An object that is no IOAS: the device itself.
        Assert.Equal(Errno.ENOENT, _mtty.Ioctl(
            _mtty.Card, VfioRequests.DeviceAttachIommufdPt, DeviceFixture.Words(12, 0, 1)));
        Assert.Equal(Errno.EOPNOTSUPP, _mtty.Ioctl(
            _mtty.Card, VfioRequests.DeviceAttachIommufdPt, DeviceFixture.Words(16, 1, ioas.OutIoasId, 1)));
        var destroy = IommuDestroy.Create(ioas.OutIoasId);
        Assert.Equal(Errno.EBUSY, _mtty.Call(ref destroy));
        Assert.Equal(Errno.Success, _mtty.Ioctl(
            _mtty.Card, VfioRequests.DeviceDetachIommufdPt, DeviceFixture.Words(8, 0)));
        Assert.Equal(Errno.Success, _mtty.Call(ref destroy));
    }

    [Fact]
    public void No_hardware_is_behind_it()
    {
        int other = _mtty.Open(1);
        Assert.Equal(Errno.Success, _mtty.Bind(other, out uint deviceId));
        var info = new IommuHwInfo { Size = IommuHwInfo.StructSize, DevId = deviceId };
        Assert.Equal(Errno.ENOENT, _mtty.Call(ref info));
    }

    [Fact]
    public void A_token_is_wrong_whatever_it_holds()
    {
        int other = _mtty.Open(1);
        byte[] bind = [.. DeviceFixture.Words(24, 1, (uint)_mtty.Iommufd.Number, 0), .. DeviceFixture.Longs(0x10)];
        Assert.Equal(Errno.EINVAL, _mtty.Ioctl(other, VfioRequests.DeviceBindIommufd, bind));
    }

    [Fact]
    public void What_vfio_pci_has_it_has_not()
    {
        foreach (uint index in new uint[] { 0, 3, 4, 5, 10, 11, 13, 99 })
        {
            Assert.Equal(Errno.ENOTTY, _mtty.Feature(
                _mtty.Card, (VfioDeviceFeatureIndex)index, Probe | Get | Set));
        }

        Assert.Equal(Errno.ENOTTY,
            _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceGetPciHotResetInfo, new byte[64]));
        Assert.Equal(Errno.ENOTTY, _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceIoeventfd, new byte[64]));
        Assert.Equal(Errno.EINVAL, _mtty.Kernel.Mmap(
            4096, MemoryProtection.Read, MapFlags.Shared, _mtty.Card, 0).Errno);
    }

    [Fact]
    public void Regions_are_two_bars_of_eight_bytes_and_a_short_config_space()
    {
        uint[] sizes = [8, 8, 0, 0, 0, 0, 0, 255, 0];
        for (uint index = 0; index < 9; index++)
        {
            byte[] info = [.. DeviceFixture.Words(32, 0, index, 7), .. new byte[16]];
            Assert.Equal(Errno.Success, _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceGetRegionInfo, info));
            Assert.Equal(3U, DeviceFixture.Word(info, 4));
            Assert.Equal(sizes[index], DeviceFixture.Long(info, 16));
            Assert.Equal((ulong)index << 40, DeviceFixture.Long(info, 24));
        }

        Assert.Equal(Errno.EINVAL, _mtty.Ioctl(
            _mtty.Card, VfioRequests.DeviceGetRegionInfo, [.. DeviceFixture.Words(32, 0, 9, 0), .. new byte[16]]));
        byte[] device = DeviceFixture.Words(24, 0, 0, 0, 0, 0);
        Assert.Equal(Errno.Success, _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceGetInfo, device));
        // PCI without the RESET flag, nine regions, five interrupt indices.
        Assert.Equal((2U, 9U, 5U),
            (DeviceFixture.Word(device, 4), DeviceFixture.Word(device, 8), DeviceFixture.Word(device, 12)));
    }

    [Fact]
    public void Config_space_says_what_it_is_and_sizes_its_bars()
    {
        var config = new byte[256];
        Assert.Equal(256, _mtty.Kernel.Pread(_mtty.Card, config, 7UL << 40).Value);
        Assert.Equal("HCS2"u8.ToArray(), config[..4]);
        Assert.Equal([1, 0, 0, 2, 0x10, 2, 0, 7], config[4..12]);
        Assert.Equal(1, config[0x3D]);
        Assert.Equal(4, _mtty.Kernel.Pwrite(_mtty.Card, [0xFF, 0xFF, 0xFF, 0xFF], (7UL << 40) + 0x14).Value);
        Assert.Equal(4, _mtty.Kernel.Pread(_mtty.Card, config.AsSpan(0, 4), (7UL << 40) + 0x14).Value);
        Assert.Equal(0xFFFF_FFF9U, DeviceFixture.Word(config, 0));
        Assert.Equal(Errno.EFAULT, _mtty.Kernel.Pread(_mtty.Card, config, 6UL << 40).Errno);
        Assert.Equal(Errno.EFAULT, _mtty.Kernel.Pwrite(_mtty.Card, config, 8UL << 40).Errno);
    }

    [Fact]
    public void A_port_receives_what_it_sends()
    {
        _mtty.Register(_mtty.Card, 0, 2, 0x07);
        Assert.Equal(0x60, _mtty.Register(_mtty.Card, 0, 5));
        _mtty.Register(_mtty.Card, 0, 0, (byte)'a');
        _mtty.Register(_mtty.Card, 0, 0, (byte)'b');
        Assert.Equal(0x01, _mtty.Register(_mtty.Card, 0, 5));
        Assert.Equal((byte)'a', _mtty.Register(_mtty.Card, 0, 0));
        Assert.Equal((byte)'b', _mtty.Register(_mtty.Card, 0, 0));
        Assert.Equal(0x60, _mtty.Register(_mtty.Card, 0, 5));
        // Divisor latch: the registers behind it.
        _mtty.Register(_mtty.Card, 0, 3, 0x80);
        _mtty.Register(_mtty.Card, 0, 0, 0x0C);
        _mtty.Register(_mtty.Card, 0, 1, 0x01);
        Assert.Equal(0x0C, _mtty.Register(_mtty.Card, 0, 0));
        Assert.Equal(0x01, _mtty.Register(_mtty.Card, 0, 1));
        _mtty.Register(_mtty.Card, 0, 3, 0x03);
        Assert.Equal(0x00, _mtty.Register(_mtty.Card, 0, 1));
        Assert.Equal(0xB3, _mtty.Register(_mtty.Card, 0, 6));
    }

    [Fact]
    public void A_full_fifo_of_sixteen_overruns_and_looks_empty()
    {
        _mtty.Register(_mtty.Card, 0, 2, 0x07);
        for (int count = 0; count < 17; count++)
            _mtty.Register(_mtty.Card, 0, 0, (byte)count);
        Assert.Equal(0x62, _mtty.Register(_mtty.Card, 0, 5));
    }

    [Fact]
    public void Interrupts_are_unknown_before_the_first_GET_INFO()
    {
        byte[] info = DeviceFixture.Words(16, 0, Intx, 0);
        Assert.Equal(Errno.EINVAL, _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceGetIrqInfo, info));
        Assert.Equal(Errno.EINVAL, _mtty.SetIrqs(_mtty.Card, DataNone | ActionMask, 2));
        GetInfo();
        Assert.Equal(Errno.Success, _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceGetIrqInfo, info));
        Assert.Equal((7U, 1U), (DeviceFixture.Word(info, 4), DeviceFixture.Word(info, 12)));
        info = DeviceFixture.Words(16, 0, Msi, 0);
        Assert.Equal(Errno.Success, _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceGetIrqInfo, info));
        Assert.Equal((9U, 1U), (DeviceFixture.Word(info, 4), DeviceFixture.Word(info, 12)));
        Assert.Equal(Errno.EINVAL,
            _mtty.Ioctl(_mtty.Card, VfioRequests.DeviceGetIrqInfo, DeviceFixture.Words(16, 0, 2, 0)));
        Assert.Equal(Errno.ENOTTY, _mtty.SetIrqs(_mtty.Card, DataNone | ActionTrigger, 2));
        Assert.Equal(Errno.Success, _mtty.SetIrqs(_mtty.Card, DataNone, Msi));
    }

    [Fact]
    public void INTx_masks_itself_until_it_is_unmasked()
    {
        GetInfo();
        int eventfd = _mtty.Eventfd();
        Assert.Equal(Errno.Success, _mtty.SetIrqs(_mtty.Card, DataEventfd | ActionTrigger, Intx, data: Fd(eventfd)));
        _mtty.Register(_mtty.Card, 0, 2, 0x07);
        _mtty.Register(_mtty.Card, 0, 1, 0x01);
        _mtty.Register(_mtty.Card, 0, 0, 1);
        Assert.Equal(1UL, _mtty.Signals(eventfd));
        Assert.Equal(0xC4, _mtty.Register(_mtty.Card, 0, 2));
        _ = _mtty.Register(_mtty.Card, 0, 0);
        _mtty.Register(_mtty.Card, 0, 0, 2);
        Assert.Equal(0UL, _mtty.Signals(eventfd));
        Assert.Equal(Errno.Success, _mtty.SetIrqs(_mtty.Card, DataNone | ActionUnmask, Intx));
        Assert.Equal(Errno.Success, _mtty.SetIrqs(_mtty.Card, DataNone | ActionTrigger, Intx));
        Assert.Equal(1UL, _mtty.Signals(eventfd));
        // While INTx is there, MSI is not to be had.
        Assert.Equal(Errno.EINVAL, _mtty.SetIrqs(_mtty.Card, DataEventfd | ActionTrigger, Msi, data: Fd(eventfd)));
        Assert.Equal(Errno.ENOTTY, _mtty.SetIrqs(_mtty.Card, DataEventfd | ActionMask, Intx, data: Fd(eventfd)));
        Assert.Equal(Errno.Success, _mtty.SetIrqs(_mtty.Card, DataNone | ActionTrigger, Intx, count: 0));
        Assert.Equal(Errno.Success, _mtty.SetIrqs(_mtty.Card, DataEventfd | ActionTrigger, Msi, data: Fd(eventfd)));
        Assert.Equal(Errno.Success, _mtty.SetIrqs(_mtty.Card, DataBool | ActionTrigger, Msi, data: [1]));
        Assert.Equal(1UL, _mtty.Signals(eventfd));
        Assert.Equal(Errno.EBADF, _mtty.SetIrqs(_mtty.Card, DataEventfd | ActionTrigger, Msi, data: Fd(9999)));
        // The old eventfd went with the failed one.
        Assert.Equal(Errno.EINVAL, _mtty.SetIrqs(_mtty.Card, DataBool | ActionTrigger, Msi, data: [1]));
        _mtty.Kernel.Close(eventfd);
    }

    [Fact]
    public void Bad_descriptions_are_refused()
    {
        Assert.Throws<ArgumentException>(() => Host(new SoftMtty("no", 1)));
        Assert.Throws<ArgumentException>(() => Host(new SoftMtty(MttyFixture.First, 3)));
        Assert.Throws<ArgumentException>(
            () => Host(new SoftMtty(MttyFixture.First, 1), new SoftMtty(MttyFixture.First, 1)));

        static SoftKernel Host(params SoftMtty[] devices) =>
            new(new FakeHostKernel(), new SoftHost([], []) { Mediated = devices });
    }

    private static byte[] Fd(int fd)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteInt32LittleEndian(bytes, fd);
        return bytes;
    }

    private void GetInfo() =>
        Assert.Equal(Errno.Success, _mtty.Ioctl(
            _mtty.Card, VfioRequests.DeviceGetInfo, DeviceFixture.Words(16, 0, 0, 0)));
}
