using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

public sealed class DispatchTests
{
    [Theory]
    [InlineData(0x3B7Fu, 64, 8u, Errno.ENOTTY)]
    [InlineData(0x3B96u, 64, 8u, Errno.ENOTTY)]
    [InlineData(0x3B81u, 0, 0u, Errno.EFAULT)]
    [InlineData(0x3C81u, 0, 0u, Errno.EFAULT)]
    [InlineData(0x3C81u, 64, 12u, Errno.ENOTTY)]
    [InlineData(0xC0043B81u, 64, 12u, Errno.ENOTTY)]
    [InlineData(0x3B81u, 64, 11u, Errno.EINVAL)]
    [InlineData(0x3B81u, 8, 12u, Errno.EFAULT)]
    [InlineData(0x3B81u, 64, 12u, Errno.Success)]
    [InlineData(0x3B81u, 64, 64u, Errno.Success)]
    [InlineData(0x3B81u, 64, 65u, Errno.EFAULT)]
    [InlineData(0x3B81u, 64, uint.MaxValue, Errno.EFAULT)]
    [InlineData(0x3B90u, 64, 40u, Errno.EOPNOTSUPP)]
    [InlineData(0x3B90u, 64, 23u, Errno.EINVAL)]
    [InlineData(0x3B95u, 64, 40u, Errno.EINVAL)]
    public void Requests_are_checked_in_the_kernels_order(uint request, int given, uint size, Errno expected)
    {
        using var fixture = new IommufdFixture();
        byte[] argument = new byte[given];
        if (given >= 4)
            BitConverter.TryWriteBytes(argument, size);
        Assert.Equal(expected, fixture.Kernel.Ioctl(fixture.Fd.Number, request, argument).Errno);
    }

    [Fact]
    public void A_tail_that_is_not_zero_is_too_big()
    {
        using var fixture = new IommufdFixture();
        byte[] argument = new byte[64];
        argument[0] = 64;
        argument[63] = 1;
        Assert.Equal(Errno.E2BIG, fixture.Kernel.Ioctl(fixture.Fd.Number, 0x3B81, argument).Errno);
        argument[63] = 0;
        Assert.Equal(Errno.Success, fixture.Kernel.Ioctl(fixture.Fd.Number, 0x3B81, argument).Errno);
        Assert.Equal(1, argument[8]);
    }

    [Fact]
    public void A_short_struct_gets_only_its_own_bytes_back()
    {
        using var fixture = new IommufdFixture();
        var device = fixture.Bind();
        byte[] argument = new byte[40];
        argument[0] = 32;
        argument[8] = (byte)device.DeviceId;
        argument[32] = 0x77;
        Assert.Equal(Errno.Success, fixture.Kernel.Ioctl(fixture.Fd.Number, 0x3B8A, argument).Errno);
        Assert.Equal((byte)IommuHwInfoType.IntelVtd, argument[24]);
        Assert.Equal(0x77, argument[32]);
        device.Unbind();
    }

    [Fact]
    public void Ids_start_at_one_and_are_recycled()
    {
        using var fixture = new IommufdFixture();
        Assert.Equal([1u, 2u, 3u], [fixture.NewIoas(), fixture.NewIoas(), fixture.NewIoas()]);
        Assert.Equal(Errno.Success, fixture.Destroy(2));
        Assert.Equal(Errno.ENOENT, fixture.Destroy(2));
        Assert.Equal(Errno.ENOENT, fixture.Destroy(0));
        Assert.Equal(Errno.ENOENT, fixture.Destroy(uint.MaxValue));
        Assert.Equal(2u, fixture.NewIoas());
    }

    [Fact]
    public void Busy_objects_are_not_destroyed()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, var device) = fixture.AttachTracking();
        Assert.Equal(Errno.EBUSY, fixture.Destroy(ioas));
        Assert.Equal(Errno.EBUSY, fixture.Destroy(hwpt));
        Assert.Equal(Errno.EBUSY, fixture.Destroy(device.DeviceId));
        device.Detach();
        Assert.Equal(Errno.Success, fixture.Destroy(hwpt));
        Assert.Equal(Errno.Success, fixture.Destroy(ioas));
        Assert.Equal(Errno.EBUSY, fixture.Destroy(device.DeviceId));
        device.Unbind();
        Assert.Equal(Errno.ENOENT, fixture.Destroy(device.DeviceId));
    }

    [Fact]
    public void A_device_keeps_the_context_alive_and_its_dma_going()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, var device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(4096);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x10000, memory.Address.Value, 4096));
        fixture.Fd.Dispose();
        Assert.True(fixture.Port().TryWrite(0x10000, [7]));
        Assert.NotEqual(0, fixture.Kernel.CountOpen().IommufdObjects);
        device.Unbind();
        Assert.False(fixture.Port().TryWrite(0x10000, [8]));
        Assert.Equal(7, memory.Bytes(0, 1)[0]);
        memory.Dispose();
        Assert.Equal(default, fixture.Kernel.CountOpen());
    }

    [Fact]
    public void Everything_is_counted_and_returns_to_zero()
    {
        using var fixture = new IommufdFixture();
        Assert.Equal(1, fixture.Kernel.CountOpen().Descriptors);
        (uint ioas, uint hwpt, var device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(5 << 20);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x10000, memory.Address.Value, 4 << 20));
        SoftKernelUsage usage = fixture.Kernel.CountOpen();
        Assert.Equal((1, 1, 3, 1024L), (usage.Descriptors, usage.Mappings, usage.IommufdObjects, usage.PinnedPages));
        Assert.True(usage.TablePages > 3);
        memory.Dispose();
        Assert.Equal(1024, fixture.Kernel.CountOpen().PinnedPages);
        device.Unbind();
        Assert.Equal(Errno.Success, fixture.Destroy(hwpt));
        Assert.Equal(0, fixture.Kernel.CountOpen().PinnedPages);
        Assert.Equal(Errno.Success, fixture.Destroy(ioas));
        fixture.Fd.Dispose();
        Assert.Equal(default, fixture.Kernel.CountOpen());
    }

    [Fact]
    public void A_group_has_one_owner()
    {
        using var fixture = new IommufdFixture();
        var device = fixture.Bind();
        using var other = new KernelFd(
            fixture.Kernel, (int)fixture.Kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
        Assert.Equal(Errno.Success,
            ((Soft.Vfio.IVfioHost)fixture.Kernel).FindIommu(other.Number, out Soft.Vfio.IIommuBinder? binder));
        Assert.Equal(Errno.EPERM, binder!.Bind(fixture.Port(), out _));
        device.Unbind();
        fixture.Bind().Unbind();
    }
}
