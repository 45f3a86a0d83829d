using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Tests.Vfio;

public sealed class DeviceIoctlTests
{
    [Fact]
    public void Before_the_bind_everything_else_is_EINVAL()
    {
        var fixture = new DeviceFixture(bound: false);
        foreach (uint request in Enumerable.Range(0x3B64, 24).Select(number => (uint)number))
        {
            if (request != VfioRequests.DeviceBindIommufd.Value)
                Assert.Equal(Errno.EINVAL, fixture.File.Ioctl(request, new byte[64]).Errno);
        }

        Assert.Equal(Errno.EINVAL, fixture.File.IoctlValue(VfioRequests.DeviceReset.Value, 0).Errno);
        Assert.Equal(Errno.EINVAL, fixture.File.Pread(new byte[4], 0).Errno);
        Assert.Equal(Errno.EINVAL, fixture.File.Pwrite(new byte[4], 0).Errno);
        Assert.Equal(Errno.EINVAL, Mmap(fixture.File, 0x1000, 0x2000, out _, out _));
    }

    public static TheoryData<byte[], Errno> Binds => new()
    {
        { [], Errno.EFAULT },
        { DeviceFixture.Words(15, 0, FakeVfioHost.Iommufd, 0), Errno.EINVAL },
        { DeviceFixture.Words(16, 0, FakeVfioHost.Iommufd), Errno.EFAULT },
        { DeviceFixture.Words(32, 0, FakeVfioHost.Iommufd, 0, 0, 0, 0, 1), Errno.E2BIG },
        { DeviceFixture.Words(32, 8, 0xFFFFFFFF, 0, 0, 0, 0, 1), Errno.E2BIG },
        { DeviceFixture.Words(32, 0, FakeVfioHost.Iommufd, 0, 0, 0, 0, 0), Errno.Success },
        { DeviceFixture.Words(24, 0, FakeVfioHost.Iommufd, 0, 7, 7), Errno.Success },
        { DeviceFixture.Words(16, 0, FakeVfioHost.Iommufd, 0), Errno.Success },
        { DeviceFixture.Words(16, 0, 0xFFFFFFFF, 0), Errno.EINVAL },
        { DeviceFixture.Words(16, 2, FakeVfioHost.Iommufd, 0), Errno.EINVAL },
        { DeviceFixture.Words(24, 1, 9999, 0, 0x1000, 0), Errno.EFAULT },
        { DeviceFixture.Words(24, 1, 9999, 0, (uint)FakeVfioHost.MemoryStart, 0), Errno.EINVAL },
        { DeviceFixture.Words(16, 0, 9999, 0), Errno.EBADF },
        { DeviceFixture.Words(16, 0, FakeVfioHost.NotIommufd, 0), Errno.EBADFD },
    };

    [Theory]
    [MemberData(nameof(Binds))]
    public void Bind_checks_in_the_kernels_order(byte[] argument, Errno answer)
    {
        var fixture = new DeviceFixture(bound: false);
        Assert.Equal(answer, fixture.Ioctl(VfioRequests.DeviceBindIommufd, argument));
        Assert.Equal(answer == Errno.Success, fixture.Host.Bound is not null);
        if (answer == Errno.Success)
            Assert.Equal(3u, DeviceFixture.Word(argument, 12));
    }

    [Fact]
    public void One_file_of_several_is_bound()
    {
        var fixture = new DeviceFixture();
        SoftFile second = fixture.Device.Open();
        Assert.Equal(Errno.EINVAL, DeviceFixture.Bind(fixture.File, 9999));
        Assert.Equal(Errno.EBADF, DeviceFixture.Bind(second, 9999));
        Assert.Equal(Errno.EINVAL, DeviceFixture.Bind(second));
        byte[] info = DeviceFixture.Words(16, 0, 0, 0);
        Assert.Equal(Errno.EINVAL, second.Ioctl(VfioRequests.DeviceGetInfo.Value, info).Errno);
        second.Release();
        Assert.DoesNotContain("Reset", fixture.Model.Calls);
        fixture.File.Release();
        SoftFile third = fixture.Device.Open();
        Assert.Equal(Errno.Success, DeviceFixture.Bind(third));
    }

    [Fact]
    public void A_failed_bind_leaves_the_device_free()
    {
        var fixture = new DeviceFixture(bound: false);
        fixture.Host.BindAnswer = Errno.EBUSY;
        Assert.Equal(Errno.EBUSY, DeviceFixture.Bind(fixture.File));
        fixture.Host.BindAnswer = Errno.Success;
        Assert.Equal(Errno.Success, DeviceFixture.Bind(fixture.File));
    }

    [Fact]
    public void Closing_resets_detaches_and_unbinds_and_keeps_no_descriptor()
    {
        var fixture = new DeviceFixture();
        int eventfd = fixture.Host.HostKernel.NewEventfd();
        byte[] set = DeviceFixture.Words(24, 0x24, 2, 0, 1, (uint)eventfd);
        Assert.Equal(Errno.Success, fixture.Ioctl(VfioRequests.DeviceSetIrqs, set));
        Assert.Equal(2, fixture.Host.HostKernel.OpenCount);
        Assert.NotNull(fixture.Model.Raise[0]);
        fixture.File.Release();
        Assert.Equal(["Reset"], fixture.Model.Calls);
        Assert.Equal(["Detach", "Unbind"], fixture.Host.Bound!.Calls);
        Assert.Equal(1, fixture.Host.HostKernel.OpenCount);
        Assert.Null(fixture.Model.Raise[0]);
        Assert.Equal(Errno.EINVAL, fixture.Ioctl(VfioRequests.DeviceReset, []));
    }

    public static TheoryData<byte[], Errno, string> Attaches => new()
    {
        { new byte[11], Errno.EFAULT, "" },
        { DeviceFixture.Words(11, 0, 5), Errno.EINVAL, "" },
        { DeviceFixture.Words(12, 2, 5), Errno.EINVAL, "" },
        { DeviceFixture.Words(12, 1, 5), Errno.EOPNOTSUPP, "" },
        { DeviceFixture.Words(12, 0, 5), Errno.Success, "Attach 5" },
        { DeviceFixture.Words(20, 0, 5, 99, 99), Errno.Success, "Attach 5" },
    };

    [Theory]
    [MemberData(nameof(Attaches))]
    public void Attach_checks_in_the_kernels_order(byte[] argument, Errno answer, string call)
    {
        var fixture = new DeviceFixture();
        Assert.Equal(answer, fixture.Ioctl(VfioRequests.DeviceAttachIommufdPt, argument));
        Assert.Equal(call, string.Concat(fixture.Host.Bound!.Calls));
        if (argument.Length >= 12)
            Assert.Equal(answer == Errno.Success ? FakeBoundDevice.AutoDomain : 5u, DeviceFixture.Word(argument, 8));
    }

    [Fact]
    public void A_failed_attach_passes_the_errno_on_and_leaves_the_id()
    {
        var fixture = new DeviceFixture();
        fixture.Host.Bound!.AttachAnswer = Errno.EADDRINUSE;
        byte[] argument = DeviceFixture.Words(16, 0, 5, 0);
        Assert.Equal(Errno.EADDRINUSE, fixture.Ioctl(VfioRequests.DeviceAttachIommufdPt, argument));
        Assert.Equal(5u, DeviceFixture.Word(argument, 8));
    }

    [Theory]
    [InlineData(7u, 0u, Errno.EINVAL)]
    [InlineData(8u, 2u, Errno.EINVAL)]
    [InlineData(8u, 1u, Errno.EOPNOTSUPP)]
    [InlineData(8u, 0u, Errno.Success)]
    public void Detach_checks_in_the_kernels_order(uint argsz, uint flags, Errno answer) => Assert.Equal(
        answer, new DeviceFixture().Ioctl(VfioRequests.DeviceDetachIommufdPt, DeviceFixture.Words(argsz, flags)));

    [Fact]
    public void Info_is_written_as_far_as_argsz_says()
    {
        var fixture = new DeviceFixture();
        Assert.Equal(Errno.EFAULT, fixture.Ioctl(VfioRequests.DeviceGetInfo, new byte[15]));
        Assert.Equal(Errno.EINVAL, fixture.Ioctl(VfioRequests.DeviceGetInfo, DeviceFixture.Words(15, 0, 0, 0)));
        byte[] info = DeviceFixture.Words(16, 0, 0, 0, 77, 77);
        Assert.Equal(Errno.Success, fixture.Ioctl(VfioRequests.DeviceGetInfo, info));
        Assert.Equal(DeviceFixture.Words(16, 3, 9, 5, 77, 77), info);
        info = DeviceFixture.Words(100, 0, 0, 0, 77, 77);
        Assert.Equal(Errno.Success, fixture.Ioctl(VfioRequests.DeviceGetInfo, info));
        Assert.Equal(DeviceFixture.Words(100, 3, 9, 5, 0, 0), info);
    }

    [Theory]
    [InlineData(0u, 3u | 4 | 8, 0x4000UL)]
    [InlineData(1u, 0u, 0UL)]
    [InlineData(2u, 3u | 4, 0x1000UL)]
    [InlineData(6u, 1u, 0x800UL)]
    [InlineData(7u, 3u, 0x1000UL)]
    public void Regions_are_described(uint index, uint flags, ulong size)
    {
        byte[] info = [.. DeviceFixture.Words(32, 99, index, 99), .. DeviceFixture.Longs(99, 99)];
        Assert.Equal(Errno.Success, new DeviceFixture().Ioctl(VfioRequests.DeviceGetRegionInfo, info));
        Assert.Equal(flags, DeviceFixture.Word(info, 4));
        Assert.Equal(0u, DeviceFixture.Word(info, 12));
        Assert.Equal(size, DeviceFixture.Long(info, 16));
        Assert.Equal((ulong)index << 40, DeviceFixture.Long(info, 24));
    }

    [Theory]
    [InlineData(31u, 0u)]
    [InlineData(32u, 8u)]
    [InlineData(32u, 9u)]
    [InlineData(32u, 0xFFFF_FFFFu)]
    public void Bad_region_requests_are_EINVAL(uint argsz, uint index)
    {
        byte[] info = [.. DeviceFixture.Words(argsz, 0, index, 0), .. new byte[16]];
        Assert.Equal(Errno.EINVAL, new DeviceFixture().Ioctl(VfioRequests.DeviceGetRegionInfo, info));
    }

    [Fact]
    public void The_sparse_areas_are_told_once_there_is_room()
    {
        const int Needed = 32 + 16 + 32;
        var fixture = new DeviceFixture();
        byte[] info = [.. DeviceFixture.Words(Needed - 1, 0, 0, 0), .. new byte[Needed - 16]];
        Assert.Equal(Errno.Success, fixture.Ioctl(VfioRequests.DeviceGetRegionInfo, info));
        Assert.Equal((uint)Needed, DeviceFixture.Word(info, 0));
        Assert.Equal(0u, DeviceFixture.Word(info, 12));
        Assert.All(info[32..], value => Assert.Equal(0, value));

        Assert.Equal(Errno.Success, fixture.Ioctl(VfioRequests.DeviceGetRegionInfo, info));
        Assert.Equal(32u, DeviceFixture.Word(info, 12));
        byte[] chain =
        [
            .. DeviceFixture.Words(0x0001_0001, 0, 2, 0), .. DeviceFixture.Longs(0x2000, 0x1000, 0x3000, 0x1000),
        ];
        Assert.Equal(chain, info[32..]);
        Assert.Equal(Errno.EFAULT, fixture.Ioctl(VfioRequests.DeviceGetRegionInfo, info[..^1]));
    }

    [Fact]
    public void Reads_and_writes_reach_the_region_and_end_with_it()
    {
        var fixture = new DeviceFixture();
        Assert.Equal(4, fixture.File.Pwrite([1, 2, 3, 4], 0x1FFE).Value);
        var buffer = new byte[2];
        Assert.Equal(2, fixture.File.Pread(buffer, 0x2000).Value);
        Assert.Equal([3, 4], buffer);
        Assert.Equal(SyscallResult.Ok(2), fixture.File.Pread(new byte[8], 0x3FFE));
        Assert.Equal(SyscallResult.Ok(2), fixture.File.Pwrite(new byte[8], 0x3FFE));
        Assert.Equal(Errno.EINVAL, fixture.File.Pread(new byte[8], 0x4000).Errno);
        Assert.Equal(Errno.EINVAL, fixture.File.Pread(new byte[8], 1UL << 40).Errno);
        Assert.Equal(Errno.EINVAL, fixture.File.Pread(new byte[8], 8UL << 40).Errno);
        Assert.Equal(Errno.EINVAL, fixture.File.Pread(new byte[8], ulong.MaxValue).Errno);
        Assert.Equal(8, fixture.File.Pread(new byte[8], 6UL << 40).Value);
        Assert.Equal(Errno.EINVAL, fixture.File.Pwrite(new byte[8], 6UL << 40).Errno);
        Assert.Equal(4, fixture.File.Pread(new byte[4], (7UL << 40) + 0xFFC).Value);
        Assert.Equal(Errno.EFAULT, fixture.File.Pread(new byte[4], (7UL << 40) + 0xFFD).Errno);
        Assert.Equal(SyscallResult.Ok(), fixture.File.Pread([], ulong.MaxValue));
    }

    [Theory]
    [InlineData(0x1000UL, 0x2000UL, 77, 0x10000UL)]
    [InlineData(0x1000UL, 0x3000UL, 77, 0x20000UL)]
    [InlineData(0x1000UL, 2UL << 40, 78, 0UL)]
    public void A_mappable_area_is_found(ulong length, ulong offset, int fd, ulong at)
    {
        var fixture = new DeviceFixture();
        Assert.Equal(Errno.Success, Mmap(fixture.File, length, offset, out int hostFd, out ulong hostOffset));
        Assert.Equal((fd, at), (hostFd, hostOffset));
    }

    [Theory]
    [InlineData(0x1000UL, 0x1000UL)]
    [InlineData(0x2000UL, 0x1000UL)]
    [InlineData(0x2000UL, 0x2000UL)]
    [InlineData(0x2000UL, 0x3000UL)]
    [InlineData(0x1000UL, 0x4000UL)]
    [InlineData(0x1000UL, 1UL << 40)]
    [InlineData(0x1000UL, 7UL << 40)]
    [InlineData(0x1000UL, 0xFFFF_FF00_0000_0000UL)]
    [InlineData(ulong.MaxValue, 0x2000UL)]
    [InlineData(0UL, 0x2000UL)]
    public void Outside_of_the_mappable_areas_is_EINVAL(ulong length, ulong offset) =>
        Assert.Equal(Errno.EINVAL, Mmap(new DeviceFixture().File, length, offset, out _, out _));

    [Fact]
    public void Unknown_requests_are_ENOTTY_and_hot_reset_is_for_one_device()
    {
        var fixture = new DeviceFixture();
        Assert.Equal(Errno.ENOTTY, fixture.Ioctl(new IoctlRequest(0x3B79, "none"), new byte[64]));
        Assert.Equal(Errno.ENOTTY, fixture.Ioctl(new IoctlRequest(0xC0003B6B, "none"), new byte[64]));
        byte[] info = DeviceFixture.Words(12, 0, 0, 0, 0);
        Assert.Equal(Errno.ENOSPC, fixture.Ioctl(VfioRequests.DeviceGetPciHotResetInfo, info));
        // Linux tells whose ids they are only along with the ids.
        Assert.Equal(DeviceFixture.Words(12, 0, 1, 0, 0), info);
        info = DeviceFixture.Words(20, 0, 0, 0, 0);
        Assert.Equal(Errno.Success, fixture.Ioctl(VfioRequests.DeviceGetPciHotResetInfo, info));
        Assert.Equal(DeviceFixture.Words(20, 3, 1, 3, 0x1301_0000), info);
        Assert.Equal(Errno.EINVAL, fixture.Ioctl(VfioRequests.DevicePciHotReset, DeviceFixture.Words(12, 0, 1)));
        Assert.Equal(Errno.Success, fixture.Ioctl(VfioRequests.DevicePciHotReset, DeviceFixture.Words(12, 0, 0)));
        Assert.Equal(["Reset"], fixture.Model.Calls);
    }

    private static Errno Mmap(SoftFile file, ulong length, ulong offset, out int hostFd, out ulong hostOffset) =>
        file.ResolveMmap(length, MemoryProtection.Read, offset, out hostFd, out hostOffset).Errno;

    [Fact]
    public void A_device_that_a_call_in_progress_keeps_open_outlives_its_host()
    {
        var fixture = new DeviceFixture();
        fixture.Device.Dispose();
        Assert.DoesNotContain("Dispose", fixture.Model.Calls);
        Assert.Equal(Errno.ENODEV, RebindAfterRelease(fixture));
        // Reset when it was closed, and gone after that.
        Assert.Equal("Dispose", fixture.Model.Calls[^1]);
        Assert.True(fixture.Model.Calls.IndexOf("Reset") < fixture.Model.Calls.IndexOf("Dispose"));
    }

    private static Errno RebindAfterRelease(DeviceFixture fixture)
    {
        SoftFile late = fixture.Device.Open();
        fixture.File.Release();
        return DeviceFixture.Bind(late);
    }
}
