using Tidemark.Abi;
using static Tidemark.Kernel.Soft.Tests.Legacy.LegacyFixture;

namespace Tidemark.Kernel.Soft.Tests.Legacy;

/// <summary>Two devices in one IOMMU group, as sysfs, the group's file and the devices' own files have it.</summary>
public sealed class SharedGroupTests : IDisposable
{
    private const ulong Page = 4096;
    private const ulong Iova = 0x10_0000;
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

    private Errno Bind(int cdev, int iommufd)
    {
        var bind = VfioDeviceBindIommufd.Create(iommufd);
        return _fixture.Kernel.Ioctl(
            cdev, VfioRequests.DeviceBindIommufd.Value,
            System.Runtime.InteropServices.MemoryMarshal.AsBytes(new Span<VfioDeviceBindIommufd>(ref bind))).Errno;
    }
}
