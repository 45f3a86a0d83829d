using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio;
using static Tidemark.Kernel.Soft.Tests.Iommufd.IommufdFixture;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

/// <summary>Two devices in one IOMMU group: one owner, and one page table for both.</summary>
public sealed class SharedGroupTests : IDisposable
{
    private const ulong Page = 4096;
    private const ulong Base = 0x10_0000;

    private readonly IommufdFixture _fixture = new(oneGroup: true);

    public void Dispose() => _fixture.Dispose();

    [Fact]
    public void Writes_of_both_devices_of_a_group_are_in_the_dirty_bits_of_their_one_table()
    {
        (uint ioas, uint hwpt, IBoundDevice first) = _fixture.AttachTracking();
        Mapping memory = MapPages(ioas);
        // The IOMMU puts the whole group behind the table, whoever asked.
        _fixture.Write(Base + Page, 1, TrackingToo);
        IBoundDevice second = _fixture.Bind(TrackingToo);
        uint joined = hwpt;
        Assert.Equal(Errno.Success, second.Attach(ref joined));
        Assert.Equal(hwpt, joined);
        _fixture.Write(Base + (3 * Page), 7);
        _fixture.Write(Base + (5 * Page), 8, TrackingToo);
        Assert.Equal([1, 3, 5], _fixture.DirtyBits(hwpt, Base, 16 * Page));
        // Reading them waited for what was in flight, and dropped the translations of both.
        Assert.Equal((1, 7, 8), (At(memory, 1), At(memory, 3), At(memory, 5)));
        _fixture.Write(Base + (3 * Page), 9);
        _fixture.Write(Base + (5 * Page), 9, TrackingToo);
        Assert.Equal([3, 5], _fixture.DirtyBits(hwpt, Base, 16 * Page));
        Assert.Equal(Errno.Success, _fixture.Unmap(ioas, Base, 16 * Page));
        Assert.False(_fixture.Port().TryWrite(Base, [1]));
        Assert.False(_fixture.Port(TrackingToo).TryWrite(Base + (5 * Page), [1]));
        first.Unbind();
        second.Unbind();
    }

    [Fact]
    public void A_device_joins_the_table_of_its_group_and_gets_no_other()
    {
        uint ioas = _fixture.NewIoas(), elsewhere = _fixture.NewIoas();
        IBoundDevice first = _fixture.Bind(), second = _fixture.Bind(TrackingToo);
        uint hwpt = _fixture.NewHwpt(first.DeviceId, ioas), other = _fixture.NewHwpt(second.DeviceId, ioas);
        Assert.Equal((Errno.Success, hwpt), Attach(first, hwpt));
        int objects = _fixture.Kernel.CountOpen().IommufdObjects;
        var reserved = _fixture.Ranges(elsewhere);
        Assert.Equal((Errno.EINVAL, other), Attach(second, other));
        Assert.Equal((Errno.EINVAL, ioas), Attach(second, ioas));
        Assert.Equal((Errno.EINVAL, elsewhere), Attach(second, elsewhere));
        Assert.Equal(objects, _fixture.Kernel.CountOpen().IommufdObjects);
        Assert.Equal(reserved.Ranges, _fixture.Ranges(elsewhere).Ranges);
        Assert.Equal(Errno.Success, _fixture.Destroy(other));
        Assert.Equal((Errno.Success, hwpt), Attach(second, hwpt));
        // What the first one leaves is the second one's still.
        first.Detach();
        Assert.Equal(Errno.EBUSY, _fixture.Destroy(hwpt));
        MapPages(ioas);
        _fixture.Write(Base);
        _fixture.Write(Base, 1, TrackingToo);
        second.Detach();
        Assert.False(_fixture.Port().TryWrite(Base, [1]));
        Assert.False(_fixture.Port(TrackingToo).TryWrite(Base, [1]));
        Assert.Equal(Errno.Success, _fixture.Destroy(hwpt));
    }

    [Fact]
    public void An_automatic_table_is_shared_and_goes_with_the_last_device_of_the_group()
    {
        uint ioas = _fixture.NewIoas();
        IBoundDevice first = _fixture.Bind(), second = _fixture.Bind(TrackingToo);
        (Errno errno, uint hwpt) = Attach(first, ioas);
        Assert.Equal(Errno.Success, errno);
        Assert.Equal((Errno.Success, hwpt), Attach(second, ioas));
        int objects = _fixture.Kernel.CountOpen().IommufdObjects;
        first.Unbind();
        // The device object only.
        Assert.Equal(objects - 1, _fixture.Kernel.CountOpen().IommufdObjects);
        MapPages(ioas);
        _fixture.Write(Base, 1, TrackingToo);
        second.Unbind();
        Assert.Equal(objects - 3, _fixture.Kernel.CountOpen().IommufdObjects);
        Assert.Equal(Errno.Success, _fixture.Destroy(ioas));
    }

    [Fact]
    public void Replacing_moves_the_whole_group_and_its_references()
    {
        (uint ioas, uint hwpt, IBoundDevice first) = _fixture.AttachTracking();
        MapPages(ioas);
        IBoundDevice second = _fixture.Bind(TrackingToo);
        Assert.Equal((Errno.Success, hwpt), Attach(second, hwpt));
        uint target = _fixture.NewHwpt(second.DeviceId, ioas);
        Assert.Equal(Errno.Success, _fixture.Track(target));
        Assert.Equal((Errno.Success, target), Attach(second, target));
        _fixture.Write(Base);
        _fixture.Write(Base + Page, 1, TrackingToo);
        Assert.Empty(_fixture.DirtyBits(hwpt, Base, 16 * Page));
        Assert.Equal([0, 1], _fixture.DirtyBits(target, Base, 16 * Page));
        Assert.Equal(Errno.Success, _fixture.Destroy(hwpt));
        second.Detach();
        Assert.Equal(Errno.EBUSY, _fixture.Destroy(target));
        first.Detach();
        Assert.Equal(Errno.Success, _fixture.Destroy(target));
    }

    [Fact]
    public void A_group_reserves_for_all_its_devices_and_takes_the_reservations_along()
    {
        const ulong Interrupts = 0xFEE0_0000;
        uint from = _fixture.NewIoas(), to = _fixture.NewIoas(), full = _fixture.NewIoas();
        Mapping memory = _fixture.Memory(Page);
        Assert.Equal(Errno.Success, _fixture.Map(full, Interrupts, memory.Address.Value, Page));
        IBoundDevice first = _fixture.Bind(), second = _fixture.Bind(TrackingToo);
        Assert.Equal(Errno.Success, Attach(first, from).Errno);
        Assert.Equal(Errno.Success, Attach(second, from).Errno);
        Assert.Equal(Errno.EADDRINUSE, Attach(second, full).Errno);
        Assert.Equal(Errno.EINVAL, _fixture.Map(from, Interrupts, memory.Address.Value, Page));
        Assert.Equal(Errno.Success, Attach(first, to).Errno);
        Assert.Equal(Errno.Success, _fixture.Map(from, Interrupts, memory.Address.Value, Page));
        first.Detach();
        Assert.Equal(Errno.EINVAL, _fixture.Map(to, Interrupts, memory.Address.Value, Page));
        second.Detach();
        Assert.Equal(Errno.Success, _fixture.Map(to, Interrupts, memory.Address.Value, Page));
    }

    [Fact]
    public void A_group_belongs_to_one_iommufd_with_all_its_devices()
    {
        IBoundDevice first = _fixture.Bind(), second = _fixture.Bind(TrackingToo);
        using var fd = new KernelFd(
            _fixture.Kernel, (int)_fixture.Kernel.Open("/dev/iommu", OpenFlags.ReadWrite).Value);
        Assert.Equal(Errno.Success, ((IVfioHost)_fixture.Kernel).FindIommu(fd.Number, out IIommuBinder? other));
        second.Unbind();
        Assert.Equal(Errno.EPERM, other!.Bind(_fixture.Port(TrackingToo), out _));
        first.Unbind();
        Assert.Equal(Errno.Success, other.Bind(_fixture.Port(TrackingToo), out IBoundDevice? bound));
        bound!.Unbind();
    }

    [Fact]
    public void Only_a_device_before_it_behind_the_same_IOMMU_is_shared_a_group_with()
    {
        var disk = new SoftDisk("/nonexistent", 4096);
        SoftIommuUnit[] units = [new("dmar0"), new("dmar1")];
        var first = new SoftNvme("0000:01:00.0", "dmar0", disk);
        var second = new SoftNvme("0000:02:00.0", "dmar0", disk) { GroupWith = first.Address };
        Assert.Throws<ArgumentException>(() => Build(second, first));
        Assert.Throws<ArgumentException>(() => Build(first with { GroupWith = first.Address }));
        Assert.Throws<ArgumentException>(() => Build(first, second with { IommuUnit = "dmar1" }));
        Assert.Throws<ArgumentException>(() => Build(first with { IommuUnit = null }, second with { IommuUnit = null }));
        Build(first, second, second with { Address = "0000:03:00.0", GroupWith = second.Address });

        void Build(params SoftNvme[] devices)
        {
            using var kernel = new SoftKernel(new LinuxKernel(), new SoftHost(units, devices));
        }
    }

    private static (Errno Errno, uint Id) Attach(IBoundDevice device, uint id) => (device.Attach(ref id), id);

    private static byte At(Mapping memory, ulong page) => memory.Bytes(page * Page, 1)[0];

    private Mapping MapPages(uint ioas)
    {
        Mapping memory = _fixture.Memory(16 * Page);
        Assert.Equal(Errno.Success, _fixture.Map(ioas, Base, memory.Address.Value, 16 * Page));
        return memory;
    }
}
