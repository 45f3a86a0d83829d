using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Tests.Vfio;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

public sealed class NoIommuTests : IDisposable
{
    private const string Address = "0000:01:00.0";
    private const ulong Page = GuestPage.Size;
    private const ulong Iova = 0xFFFF_0000_0000_0000;

    private readonly string _disk = Path.GetTempFileName();
    private readonly SoftKernel _kernel;
    private readonly KernelFd _iommufd;
    private readonly Mapping _memory;

    public NoIommuTests()
    {
        File.WriteAllBytes(_disk, new byte[4096]);
        _kernel = new SoftKernel(
            new LinuxKernel(),
            new SoftHost([new SoftIommuUnit("dmar0")],
                [
                    new SoftNvme(Address, null, new SoftDisk(_disk, 4096)) { Migration = false },
                    new SoftNvme("0000:02:00.0", "dmar0", new SoftDisk(_disk, 4096)) { Migration = false },
                ]));
        _iommufd = new KernelFd(_kernel, (int)_kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
        _memory = Mapping.CreateAnonymous(_kernel, 64 * Page);
    }

    public void Dispose()
    {
        _memory.Dispose();
        _iommufd.Dispose();
        _kernel.Dispose();
        File.Delete(_disk);
        Assert.True(_kernel.CountOpen().IsZero, _kernel.CountOpen().ToString());
    }

    [Fact]
    public void Its_node_says_what_it_is_and_it_is_in_no_group()
    {
        Assert.Equal(["noiommu-vfio0"], _kernel.Sysfs.List($"/sys/bus/pci/devices/{Address}/vfio-dev"));
        Assert.False(_kernel.Sysfs.Exists($"/sys/bus/pci/devices/{Address}/iommu_group"));
        Assert.Equal(Errno.ENOENT, _kernel.Open("/dev/vfio/devices/vfio0", OpenFlags.ReadWrite).Errno);
        Assert.Equal(Errno.ENOENT, _kernel.Open("/dev/vfio/devices/noiommu-vfio1", OpenFlags.ReadWrite).Errno);
        Assert.Equal(Errno.ENOENT, _kernel.Open("/dev/vfio/0", OpenFlags.ReadWrite).Errno);
        Assert.True(_kernel.Open("/dev/vfio/devices/vfio1", OpenFlags.ReadWrite).Succeeded);
    }

    [Fact]
    public void The_unprivileged_neither_open_it_nor_look_addresses_up()
    {
        var command = IommuIoasNoiommuGetPa.Create(0, 0);
        Assert.Equal(Errno.EINVAL, Call(ref command));
        using (_kernel.Enter(new SoftProcess(new SoftUser(), ulong.MaxValue, privileged: false)))
        {
            Assert.Equal(Errno.EPERM, Call(ref command));
            Assert.Equal(Errno.EPERM, _kernel.Open("/dev/vfio/devices/noiommu-vfio0", OpenFlags.ReadWrite).Errno);
        }
    }

    [Fact]
    public void Its_tables_take_no_flags_and_nobody_tells_of_hardware()
    {
        uint device = Bind(out _);
        uint ioas = NewIoas();
        var info = IommuHwInfo.Create(device);
        Assert.Equal(Errno.EOPNOTSUPP, Call(ref info));
        foreach (IommuHwptAllocFlags flags in Enum.GetValues<IommuHwptAllocFlags>())
        {
            var allocate = IommuHwptAlloc.Create(device, flags, ioas);
            Errno expected = flags switch
            {
                IommuHwptAllocFlags.None => Errno.Success,
                // The table is made, and then there is no such queue.
                IommuHwptAllocFlags.FaultIdValid => Errno.ENOENT,
                _ => Errno.EOPNOTSUPP,
            };
            Assert.Equal(expected, Call(ref allocate));
        }
    }

    [Fact]
    public void Addresses_are_looked_up_and_device_addresses_are_physical()
    {
        Bind(out int file);
        uint ioas = NewIoas();
        // The first page twice.
        Map(ioas, Iova, 0, 8 * Page);
        Map(ioas, Iova + (16 * Page), 0, Page);
        Attach(file, ioas);
        (Errno errno, ulong physical, ulong length) = Find(ioas, Iova + 0x10, ulong.MaxValue);
        Assert.Equal((Errno.Success, 8 * Page - 0x10), (errno, length));
        Assert.Equal((Errno.Success, physical, 100UL), Find(ioas, Iova + 0x10, 100));
        Assert.Equal((Errno.Success, physical + Page, 2 * Page), Find(ioas, Iova + Page + 0x10, 2 * Page));
        DevicePort port = _kernel.PortOf(Address);
        Assert.True(port.TryWrite(physical, [0x5A]));
        port.Drain();
        Assert.Equal(0x5A, _memory.Bytes(0x10, 1)[0]);
        Assert.False(port.TryWrite(Iova, [1]));
        Assert.False(port.TryWrite(physical - Page, [1]));
        Unmap(ioas, Iova, 8 * Page);
        // Still mapped a second time.
        Assert.True(port.TryWrite(physical, [1]));
        Assert.False(port.TryWrite(physical + Page, [1]));
        Unmap(ioas, Iova + (16 * Page), Page);
        Assert.False(port.TryWrite(physical, [1]));
    }

    [Fact]
    public void Refusals_come_in_the_kernels_order()
    {
        uint ioas = NewIoas();
        Map(ioas, Iova, 0, Page);
        var command = IommuIoasNoiommuGetPa.Create(999, ulong.MaxValue);
        command.Flags = 1;
        Assert.Equal(Errno.EOPNOTSUPP, Call(ref command));
        command.Flags = 0;
        command.Reserved = 1;
        Assert.Equal(Errno.EOPNOTSUPP, Call(ref command));
        command.Reserved = 0;
        Assert.Equal(Errno.EINVAL, Call(ref command));
        command.Length = 1;
        Assert.Equal(Errno.EOVERFLOW, Call(ref command));
        command.Iova = Iova;
        Assert.Equal(Errno.ENOENT, Call(ref command));
        Assert.Equal(Errno.ENOENT, Find(ioas, Iova + Page, 1).Errno);
        // Mapped, and no table of a device without IOMMU is there.
        Assert.Equal(Errno.EOPNOTSUPP, Find(ioas, Iova, 1).Errno);
        Bind(out int file);
        Attach(file, ioas);
        Assert.Equal(Errno.Success, Find(ioas, Iova, 1).Errno);
    }

    [Fact]
    public void All_addresses_can_be_mapped()
    {
        Bind(out int file);
        uint ioas = NewIoas();
        Attach(file, ioas);
        Map(ioas, unchecked(0UL - Page), 0, Page);
        Map(ioas, 0, Page, Page);
        Assert.Equal((Errno.Success, Page - 1), (Find(ioas, ulong.MaxValue - Page + 2, Page).Errno,
            Find(ioas, ulong.MaxValue - Page + 2, Page).Length));
        Unmap(ioas, unchecked(0UL - Page), Page);
        Unmap(ioas, 0, Page);
    }

    [Fact]
    public void The_first_table_of_a_space_answers()
    {
        Bind(out int file);
        int other = (int)_kernel.Open("/dev/vfio/devices/vfio1", OpenFlags.ReadWrite).Value;
        byte[] bind = DeviceFixture.Words(16, 0, (uint)_iommufd.Number, 0);
        Assert.True(_kernel.Ioctl(other, VfioRequests.DeviceBindIommufd.Value, bind).Succeeded);
        uint ioas = NewIoas();
        Map(ioas, 0x10_0000, 0, Page);
        Attach(other, ioas);
        Attach(file, ioas);
        Assert.Equal(Errno.EOPNOTSUPP, Find(ioas, 0x10_0000, 1).Errno);
    }

    private Errno Call<T>(ref T command)
        where T : unmanaged, IIoctlArgument<T> =>
        _kernel.Ioctl(_iommufd, ref command).Errno;

    private uint Bind(out int file)
    {
        file = (int)_kernel.Open("/dev/vfio/devices/noiommu-vfio0", OpenFlags.ReadWrite).Value;
        byte[] bind = DeviceFixture.Words(16, 0, (uint)_iommufd.Number, 0);
        Assert.True(_kernel.Ioctl(file, VfioRequests.DeviceBindIommufd.Value, bind).Succeeded);
        return DeviceFixture.Word(bind, 12);
    }

    private void Attach(int file, uint ioas) => Assert.Equal(
        Errno.Success,
        _kernel.Ioctl(file, VfioRequests.DeviceAttachIommufdPt.Value, DeviceFixture.Words(12, 0, ioas)).Errno);

    private uint NewIoas()
    {
        var allocate = IommuIoasAlloc.Create();
        Assert.Equal(Errno.Success, Call(ref allocate));
        return allocate.OutIoasId;
    }

    private void Map(uint ioas, ulong iova, ulong offset, ulong byteLength)
    {
        var map = IommuIoasMap.Create(
            ioas, iova, _memory.Address.Value + offset, byteLength,
            IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable | IommuIoasMapFlags.Writeable);
        Assert.Equal(Errno.Success, Call(ref map));
    }

    private void Unmap(uint ioas, ulong iova, ulong byteLength)
    {
        var unmap = IommuIoasUnmap.Create(ioas, iova, byteLength);
        Assert.Equal(Errno.Success, Call(ref unmap));
    }

    private (Errno Errno, ulong Physical, ulong Length) Find(uint ioas, ulong iova, ulong length)
    {
        var command = IommuIoasNoiommuGetPa.Create(ioas, iova, length);
        Errno errno = Call(ref command);
        return (errno, command.OutPhys, command.Length);
    }
}
