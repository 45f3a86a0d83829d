using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Tidemark.Abi;
using static Tidemark.Kernel.Soft.Tests.Legacy.LegacyFixture;

namespace Tidemark.Kernel.Soft.Tests.Legacy;

/// <summary>Two devices in one IOMMU group, as sysfs, the group's file and the devices' own files have it.</summary>
public sealed class SharedGroupTests : IDisposable
{
    private const ulong Page = 4096;
    private const ulong Iova = 0x10_0000;
    private const ulong Config = 7UL << 40;
    private const ulong AdminQueueAttributes = 0x24;
    private const string Sibling = "0000:01:00.1";

    private readonly LegacyFixture _fixture = new(host => host with
    {
        Devices = [.. host.Devices, host.Devices[0] with { Address = Sibling, GroupWith = Intel }],
    });

    public void Dispose() => _fixture.Dispose();

    [Fact]
    public void Sysfs_has_both_devices_in_the_group_of_the_first()
    {
        ISysfs sysfs = _fixture.Kernel.Sysfs;
        Assert.Equal([Intel, Sibling], sysfs.List("/sys/kernel/iommu_groups/0/devices"));
        foreach (string address in new[] { Intel, Sibling })
        {
            Assert.True(sysfs.TryReadLink($"/sys/bus/pci/devices/{address}/iommu_group", out string? link));
            Assert.Equal("../../../kernel/iommu_groups/0", link);
        }

        Assert.False(sysfs.Exists("/sys/kernel/iommu_groups/3"));
        Assert.Equal(Errno.ENOENT, _fixture.Kernel.Open("/dev/vfio/3", OpenFlags.ReadWrite).Errno);
        Assert.True(sysfs.Exists("/sys/kernel/iommu_groups/4"));
    }

    [Fact]
    public void Both_devices_of_a_group_are_in_its_container()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        Mapping memory = _fixture.Memory(2 * Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, Page));
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova + Page, memory.Address.Value + Page, Page));
        int first = (int)_fixture.OpenDevice(groups[0], Intel).Value;
        SyscallResult second = _fixture.OpenDevice(groups[0], Sibling);
        Assert.Equal(Errno.Success, second.Errno);
        Assert.Equal(Errno.ENODEV, _fixture.OpenDevice(groups[0], Narrow).Errno);
        Assert.True(_fixture.Port().TryWrite(Iova, [3]));
        Assert.True(_fixture.Port(Sibling).TryWrite(Iova + Page, [4]));
        _fixture.Port().Drain();
        _fixture.Port(Sibling).Drain();
        Assert.Equal((3, 4), (memory.Bytes(0, 1)[0], memory.Bytes(Page, 1)[0]));
        Assert.True(_fixture.Kernel.Close(first).Succeeded);
        Assert.Equal(Errno.EBUSY, _fixture.Leave(groups[0]));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, Iova + Page, Page, out _));
        Assert.False(_fixture.Port(Sibling).TryWrite(Iova + Page, [5]));
        Assert.True(_fixture.Kernel.Close((int)second.Value).Succeeded);
        Assert.Equal(Errno.Success, _fixture.Leave(groups[0]));
        Assert.False(_fixture.Port(Sibling).TryWrite(Iova, [5]));
        _fixture.AssertNothingIsLeft(groups[0], container);
    }

    [Fact]
    public void Both_devices_of_a_group_join_the_compatibility_space_of_an_iommufd()
    {
        int iommufd = _fixture.Open("/dev/iommu"), group = _fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.Success, _fixture.Join(group, iommufd));
        int first = (int)_fixture.OpenDevice(group, Intel).Value;
        SyscallResult second = _fixture.OpenDevice(group, Sibling);
        Assert.Equal(Errno.Success, second.Errno);
        _fixture.AssertNothingIsLeft(first, (int)second.Value, group, iommufd);
    }

    [Fact]
    public void A_group_is_used_through_its_file_or_through_any_of_its_devices_files()
    {
        int iommufd = _fixture.Open("/dev/iommu");
        int cdev = _fixture.Open("/dev/vfio/devices/vfio3"), other = _fixture.Open("/dev/vfio/devices/vfio0");
        int group = _fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.EBUSY, Bind(cdev, iommufd));
        Assert.True(_fixture.Kernel.Close(group).Succeeded);
        Assert.Equal(Errno.Success, Bind(cdev, iommufd));
        Assert.Equal(Errno.EBUSY, _fixture.Kernel.Open("/dev/vfio/0", OpenFlags.ReadWrite).Errno);
        // A sibling goes to the owner of the group and to nobody else.
        int stranger = _fixture.Open("/dev/iommu");
        Assert.Equal(Errno.EPERM, Bind(other, stranger));
        Assert.Equal(Errno.Success, Bind(other, iommufd));
        Assert.True(_fixture.Kernel.Close(cdev).Succeeded);
        Assert.Equal(Errno.EBUSY, _fixture.Kernel.Open("/dev/vfio/0", OpenFlags.ReadWrite).Errno);
        Assert.True(_fixture.Kernel.Close(other).Succeeded);
        _fixture.AssertNothingIsLeft(_fixture.Open("/dev/vfio/0"), stranger, iommufd);
    }

    [Fact]
    public void A_hot_reset_of_a_group_on_one_bus_is_its_owners_and_reaches_both()
    {
        int iommufd = _fixture.Open("/dev/iommu");
        int first = _fixture.Open("/dev/vfio/devices/vfio0"), second = _fixture.Open("/dev/vfio/devices/vfio3");
        Assert.Equal(Errno.Success, Bind(first, iommufd));
        // The sibling is owned with the group before it has an id.
        AssertInfo(_fixture, first, 28, Errno.Success, 3, 2, 1, 0x0001_0000, 0, 0x0101_0000);
        AssertInfo(_fixture, first, 20, Errno.ENOSPC, 0, 2, 0, 0, 0, 0);
        Assert.Equal(Errno.Success, Bind(second, iommufd));
        AssertInfo(_fixture, first, 28, Errno.Success, 3, 2, 1, 0x0001_0000, 2, 0x0101_0000);
        SetQueueSizes(_fixture, second);
        Assert.Equal(Errno.Success, HotReset(_fixture, first));
        Assert.Equal(0u, QueueSizes(_fixture, second));
        _fixture.AssertNothingIsLeft(first, second, iommufd);
    }

    [Fact]
    public void A_hot_reset_of_a_bus_with_two_groups_needs_both()
    {
        using var fixture = new LegacyFixture(host => host with
        {
            Devices = [.. host.Devices, host.Devices[0] with { Address = Sibling }],
        });
        int iommufd = fixture.Open("/dev/iommu");
        int first = fixture.Open("/dev/vfio/devices/vfio0"), second = fixture.Open("/dev/vfio/devices/vfio3");
        Assert.Equal(Errno.Success, Bind(first, iommufd, fixture));
        AssertInfo(fixture, first, 28, Errno.Success, 1, 2, 1, 0x0001_0000, uint.MaxValue, 0x0101_0000);
        Assert.Equal(Errno.EINVAL, HotReset(fixture, first));
        Assert.Equal(Errno.Success, Bind(second, iommufd, fixture));
        Assert.Equal(Errno.Success, HotReset(fixture, first));
        foreach (int descriptor in new[] { first, second, iommufd })
            Assert.True(fixture.Kernel.Close(descriptor).Succeeded);

        (int container, int[] groups) = fixture.Type1(VfioExtension.Type1V2, 0, 3);
        first = (int)fixture.OpenDevice(groups[0], Intel).Value;
        second = (int)fixture.OpenDevice(groups[1], Sibling).Value;
        AssertInfo(fixture, first, 28, Errno.Success, 0, 2, 0, 0x0001_0000, 3, 0x0101_0000);
        SetQueueSizes(fixture, second);
        Assert.Equal(Errno.EINVAL, HotReset(fixture, first, groups[0]));
        Assert.NotEqual(0u, QueueSizes(fixture, second));
        Assert.Equal(Errno.EINVAL, HotReset(fixture, first, groups[0], groups[1], groups[1]));
        Assert.Equal(Errno.Success, HotReset(fixture, first, groups[0], groups[1]));
        Assert.Equal(0u, QueueSizes(fixture, second));
        fixture.AssertNothingIsLeft(first, second, groups[0], groups[1], container);
    }

    /// <param name="words">The flags, the count and two entries of two words.</param>
    private static void AssertInfo(
        LegacyFixture fixture, int device, int argsz, Errno answer, params uint[] words)
    {
        byte[] argument = new byte[28];
        BinaryPrimitives.WriteInt32LittleEndian(argument, argsz);
        Assert.Equal(
            answer, fixture.Kernel.Ioctl(device, VfioRequests.DeviceGetPciHotResetInfo.Value, argument).Errno);
        Assert.Equal(words, MemoryMarshal.Cast<byte, uint>(argument.AsSpan(4)).ToArray());
    }

    private static Errno HotReset(LegacyFixture fixture, int device, params int[] groups)
    {
        int[] words = [12 + (4 * groups.Length), 0, groups.Length, .. groups];
        return fixture.Kernel.Ioctl(
            device, VfioRequests.DevicePciHotReset.Value, MemoryMarshal.AsBytes(words.AsSpan())).Errno;
    }

    /// <summary>A register that only a reset clears.</summary>
    private static void SetQueueSizes(LegacyFixture fixture, int device)
    {
        Assert.True(fixture.Kernel.Pwrite(device, [6, 0], Config + 4).Succeeded);
        Assert.True(fixture.Kernel.Pwrite(device, [31, 0, 31, 0], AdminQueueAttributes).Succeeded);
        Assert.Equal(0x001F_001Fu, QueueSizes(fixture, device));
    }

    private static uint QueueSizes(LegacyFixture fixture, int device)
    {
        byte[] value = new byte[4];
        Assert.True(fixture.Kernel.Pread(device, value, AdminQueueAttributes).Succeeded);
        return BinaryPrimitives.ReadUInt32LittleEndian(value);
    }

    private Errno Bind(int cdev, int iommufd, LegacyFixture? fixture = null)
    {
        var bind = VfioDeviceBindIommufd.Create(iommufd);
        return (fixture ?? _fixture).Kernel.Ioctl(
            cdev, VfioRequests.DeviceBindIommufd.Value,
            MemoryMarshal.AsBytes(new Span<VfioDeviceBindIommufd>(ref bind))).Errno;
    }
}
