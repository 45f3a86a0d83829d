using Tidemark.Abi;
using static Tidemark.Kernel.Soft.Tests.Legacy.LegacyFixture;

namespace Tidemark.Kernel.Soft.Tests.Legacy;

/// <summary>iommufd in a container's place.</summary>
public sealed class ImitationTests
{
    private const ulong Iova = 0x1000_0000;
    private const ulong Page = 4096;

    [Fact]
    public void The_containers_node_can_be_iommufds_and_charges_the_process_then()
    {
        using var fixture = new LegacyFixture(host => host with { IommufdContainer = true });
        int container = fixture.OpenContainer();
        Assert.Equal(1UL, RlimitMode(fixture, container));
        int iommufd = fixture.Open("/dev/iommu");
        Assert.Equal(0UL, RlimitMode(fixture, iommufd));
        int group = fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.Success, fixture.Join(group, container));
        Assert.Equal(Errno.Success, fixture.SetIommu(container));
        int device = (int)fixture.OpenDevice(group, Intel).Value;
        Mapping memory = fixture.Memory(Page);
        Assert.Equal(Errno.Success, fixture.Map(container, Iova, memory.Address.Value, Page));
        Assert.True(fixture.Port().TryWrite(Iova, [3]));
        Assert.Equal(Errno.ENOTTY, fixture.Dirty(container, VfioIommuDirtyPagesFlags.Start));
        fixture.AssertNothingIsLeft(device, group, container, iommufd);
    }

    [Fact]
    public void A_cut_is_not_seen_by_a_device_and_the_pins_go_with_the_last_half()
    {
        using var fixture = new LegacyFixture();
        int iommufd = fixture.Open("/dev/iommu");
        int group = fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.Success, fixture.Join(group, iommufd));
        Assert.Equal(Errno.Success, fixture.SetIommu(iommufd, VfioExtension.Type1));
        int device = (int)fixture.OpenDevice(group, Intel).Value;
        Mapping memory = fixture.Memory(16 * Page);
        Assert.Equal(Errno.Success, fixture.Map(iommufd, Iova, memory.Address.Value, 16 * Page));
        Assert.Equal(Errno.Success, fixture.Unmap(iommufd, Iova + (4 * Page), 4 * Page, out ulong unmapped));
        Assert.Equal(4 * Page, unmapped);
        Assert.True(fixture.Port().TryWrite(Iova + (3 * Page), [1]));
        Assert.False(fixture.Port().TryWrite(Iova + (4 * Page), [1]));
        Assert.True(fixture.Port().TryWrite(Iova + (8 * Page), [1]));
        Assert.Equal(12, fixture.Kernel.CountOpen().PinnedPages);
        Assert.Equal(Errno.Success, fixture.Unmap(iommufd, 0, 0, out unmapped, VfioDmaUnmapFlags.All));
        Assert.Equal(12 * Page, unmapped);
        Assert.Equal(0, fixture.Kernel.CountOpen().PinnedPages);
        fixture.AssertNothingIsLeft(device, group, iommufd);
    }

    [Theory]
    [InlineData(0, Errno.EINVAL)]
    [InlineData(2, Errno.Success)]
    public void A_mapping_without_any_access_is_the_page_tables_to_refuse(int number, Errno expected)
    {
        using var fixture = new LegacyFixture();
        int iommufd = fixture.Open("/dev/iommu");
        int group = fixture.Open($"/dev/vfio/{number}");
        Assert.Equal(Errno.Success, fixture.Join(group, iommufd));
        int device = (int)fixture.OpenDevice(group, number == 0 ? Intel : Amd).Value;
        Mapping memory = fixture.Memory(Page);
        Assert.Equal(expected, fixture.Map(iommufd, Iova, memory.Address.Value, Page, VfioDmaMapFlags.None));
        Assert.False(fixture.Port(number == 0 ? Intel : Amd).TryWrite(Iova, [1]));
        fixture.AssertNothingIsLeft(device, group, iommufd);
    }

    [Fact]
    public void A_mediated_device_opens_through_its_group_on_an_iommufd()
    {
        using var fixture = new LegacyFixture();
        int iommufd = fixture.Open("/dev/iommu");
        int group = fixture.Open($"/dev/vfio/{MediatedGroup}");
        Assert.Equal(Errno.Success, fixture.Join(group, iommufd));
        SyscallResult device = fixture.OpenDevice(group, Mediated);
        Assert.Equal(Errno.Success, device.Errno);
        fixture.AssertNothingIsLeft(group, iommufd, (int)device.Value);
    }

    [Fact]
    public void The_nodes_are_listed()
    {
        using var fixture = new LegacyFixture();
        Assert.Equal(["0", "1", "2", "3", "devices", "vfio"], fixture.Kernel.Sysfs.List("/dev/vfio"));
        Assert.Equal([Amd], fixture.Kernel.Sysfs.List("/sys/kernel/iommu_groups/2/devices"));
        foreach (string name in (string[])["4", "00", "-1", "0x0", "noiommu-0", ""])
            Assert.Equal(Errno.ENOENT, fixture.Kernel.Open($"/dev/vfio/{name}", OpenFlags.ReadWrite).Errno);
    }

    private static ulong RlimitMode(LegacyFixture fixture, int iommufd)
    {
        var option = IommuOption.Create(IommuOptionId.RlimitMode, IommuOptionOp.Get, 0, 7);
        using var fd = new KernelFd(fixture.Kernel, (int)fixture.Kernel.Dup(iommufd).Value);
        Assert.Equal(Errno.Success, fixture.Kernel.Ioctl(fd, ref option).Errno);
        return option.Val64;
    }
}
