using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

public sealed class MappingTests
{
    private const IommuIoasMapFlags Automatic = IommuIoasMapFlags.Readable | IommuIoasMapFlags.Writeable;

    [Theory]
    [InlineData(8u, 0u, 0x1000ul, 0x1000ul, 0x1000ul, Errno.EOPNOTSUPP)]
    [InlineData(7u, 1u, 0x1000ul, 0x1000ul, 0x1000ul, Errno.EOPNOTSUPP)]
    [InlineData(7u, 0u, ulong.MaxValue, 0x1000ul, 0x1000ul, Errno.EOVERFLOW)]
    [InlineData(7u, 0u, 0x1000ul, 0x1000ul, ulong.MaxValue, Errno.EOVERFLOW)]
    [InlineData(1u, 0u, 0x1000ul, 0x1000ul, 0x1000ul, Errno.EINVAL)]
    [InlineData(7u, 0u, 0x1000ul, ulong.MaxValue, 0x1000ul, Errno.EOVERFLOW)]
    [InlineData(7u, 0u, 0x1000ul, 0x1000ul, 0ul, Errno.EINVAL)]
    [InlineData(7u, 0u, ulong.MaxValue - 0xfff, 0x1000ul, 0x2000ul, Errno.EOVERFLOW)]
    [InlineData(7u, 0u, 0x1001ul, 0x1003ul, 5ul, Errno.Success)]
    public void Map_checks_in_the_kernels_order(
        uint flags, uint reserved, ulong iova, ulong address, ulong length, Errno expected)
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        var command = IommuIoasMap.Create(ioas, iova, address, length, (IommuIoasMapFlags)flags);
        command.Reserved = reserved;
        Assert.Equal(expected, fixture.Call(ref command));
        command.IoasId = 99;
        command.Iova = iova;
        if (expected == Errno.Success)
            Assert.Equal(Errno.ENOENT, fixture.Call(ref command));
    }

    [Fact]
    public void A_bad_address_surfaces_when_pages_are_pinned()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        Mapping memory = fixture.Memory(8192);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x10000, 0xdead_0000, 4096));
        IBoundDevice device = fixture.Bind();
        Assert.Equal(Errno.EFAULT, fixture.TryNewHwpt(device.DeviceId, ioas, out _));
        uint id = ioas;
        Assert.Equal(Errno.EFAULT, device.Attach(ref id));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0x10000, 4096));
        Assert.Equal(Errno.Success, device.Attach(ref id));
        Assert.Equal(Errno.EFAULT, fixture.Map(ioas, 0x10000, 0xdead_0000, 4096));
        Assert.Equal(Errno.EFAULT, fixture.Map(ioas, 0x10000, memory.Address.Value + 4096, 8192));
        Assert.Equal(Errno.EFAULT, fixture.Map(ioas, 0x10000, 0xffff_ffff_ffff_e000, 4096));
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x10000, memory.Address.Value, 8192));
        device.Unbind();
    }

    [Fact]
    public void Read_only_memory_is_not_pinned_for_writing()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        SyscallResult mapped = fixture.Kernel.Mmap(
            4096, MemoryProtection.Read, MapFlags.Private | MapFlags.Anonymous, -1, 0);
        ulong address = (ulong)mapped.Value;
        Assert.Equal(Errno.EFAULT, fixture.Map(ioas, 0, address, 4096));
        Assert.Equal(Errno.Success,
            fixture.Map(ioas, 0, address, 4096, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable));
        Assert.False(fixture.Port().TryWrite(0, [1]));
        Assert.True(fixture.Port().TryRead(0, new byte[8]));
        Assert.Equal(Errno.EPERM, fixture.Copy(ioas, 0x4000, ioas, 0, 4096));
        Assert.True(fixture.Kernel.Munmap(address, 4096).Succeeded);
        device.Unbind();
    }

    [Fact]
    public void Fixed_mappings_meet_what_is_there()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        Mapping memory = fixture.Memory(8192);
        IBoundDevice device = fixture.Bind();
        uint id = ioas;
        Assert.Equal(Errno.Success, device.Attach(ref id));
        Assert.NotEqual(ioas, id);
        ulong address = memory.Address.Value;
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x1000, address, 4096));
        Assert.Equal(Errno.EEXIST, fixture.Map(ioas, 0, address, 8192));
        Assert.Equal(Errno.EINVAL, fixture.Map(ioas, 0xFEE00000, address, 4096));
        Assert.Equal(Errno.EINVAL, fixture.Map(ioas, 1UL << 48, address, 4096));
        Assert.Equal(Errno.EINVAL, fixture.Map(ioas, 0x2001, address, 4096));
        Assert.Equal(Errno.EINVAL, fixture.Map(ioas, 0x2000, address + 1, 4096));
        Assert.Equal(Errno.EINVAL, fixture.Map(ioas, 0x2000, address, 4095));
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x2000, address, 4096));
        device.Unbind();
        // The automatic table went with its device.
        Assert.Equal(Errno.ENOENT, fixture.Destroy(id));
    }

    [Fact]
    public void Ranges_follow_what_is_attached()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        var before = fixture.Ranges(ioas);
        Assert.Equal((Errno.Success, 1ul, 1u), (before.Errno, before.Alignment, before.Total));
        Assert.Equal((0ul, ulong.MaxValue), (before.Ranges[0].Start, before.Ranges[0].Last));
        IBoundDevice device = fixture.Bind();
        uint id = ioas;
        Assert.Equal(Errno.Success, device.Attach(ref id));
        var attached = fixture.Ranges(ioas);
        Assert.Equal((Errno.Success, 4096ul, 2u), (attached.Errno, attached.Alignment, attached.Total));
        Assert.Equal((0ul, 0xFEDFFFFFul), (attached.Ranges[0].Start, attached.Ranges[0].Last));
        Assert.Equal((0xFEF00000ul, (1ul << 48) - 1), (attached.Ranges[1].Start, attached.Ranges[1].Last));
        var counted = fixture.Ranges(ioas, room: 0);
        Assert.Equal((Errno.EMSGSIZE, 2u), (counted.Errno, counted.Total));
        device.Unbind();
        Assert.Equal(1u, fixture.Ranges(ioas).Total);
    }

    [Fact]
    public void Automatic_addresses_are_the_lowest_that_fit()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        (ulong address, ulong length, ulong expected)[] maps =
        [
            (0x7000_0000_0000, 0x1000, 0x1000),
            (0x7000_0000_0000, 0x2000, 0x2000),
            (0x7000_0020_0000, 0x400000, 0x200000),
            (0x7000_0000_1000, 0x4000, 0x4000),
            (0x7000_0000_0123, 0x10, 0x8123),
        ];
        foreach ((ulong address, ulong length, ulong expected) in maps)
        {
            var command = IommuIoasMap.Create(ioas, 0, address, length, Automatic);
            Assert.Equal(Errno.Success, fixture.Call(ref command));
            Assert.Equal(expected, command.Iova);
        }

        var huge = IommuIoasMap.Create(ioas, 0, 0, ulong.MaxValue / 2, Automatic);
        Assert.Equal(Errno.EOVERFLOW, fixture.Call(ref huge));
    }

    [Fact]
    public void Allowed_ranges_guide_the_search_and_refuse_devices()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        Mapping list = fixture.Memory(4096);
        Span<ulong> words = list.Words(4);
        (words[0], words[1], words[2], words[3]) = (0xFEE00000, 0xFEE0FFFF, 0x50000, 0x5FFFF);
        var allow = IommuIoasAllowIovas.Create(ioas, list.Address.Value, 2);
        Assert.Equal(Errno.Success, fixture.Call(ref allow));
        var map = IommuIoasMap.Create(ioas, 0, 0x7000_0000_0000, 0x8000, Automatic);
        Assert.Equal(Errno.Success, fixture.Call(ref map));
        Assert.Equal(0x50000ul, map.Iova);
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0x50000, 0x8000));
        IBoundDevice device = fixture.Bind();
        uint id = ioas;
        Assert.Equal(Errno.EADDRINUSE, device.Attach(ref id));
        words[1] = words[0];
        Assert.Equal(Errno.EINVAL, fixture.Call(ref allow));
        (words[0], words[1]) = (0x5FFFF, 0x60000);
        Assert.Equal(Errno.EINVAL, fixture.Call(ref allow));
        (words[0], words[1]) = (0x60000, 0x60001);
        Assert.Equal(Errno.Success, fixture.Call(ref allow));
        Assert.Equal(Errno.Success, device.Attach(ref id));
        (words[0], words[1]) = (0xFEE00000, 0xFEE0FFFF);
        Assert.Equal(Errno.EADDRINUSE, fixture.Call(ref allow));
        allow.AllowedIovas = 0xdead_0000;
        Assert.Equal(Errno.EFAULT, fixture.Call(ref allow));
        device.Unbind();
    }

    [Fact]
    public void Unmap_takes_whole_mappings_and_crosses_holes()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        Assert.Equal(Errno.ENOENT, fixture.Unmap(ioas, 0x1000, 0x1000));
        Assert.Equal(Errno.EINVAL, fixture.Unmap(ioas, 0x1000, 0));
        Assert.Equal(Errno.EOVERFLOW, fixture.Unmap(ioas, 0x1000, ulong.MaxValue - 0xffe));
        Assert.Equal(Errno.ENOENT, fixture.Unmap(99, 0x1000, 0));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0, ulong.MaxValue, out ulong none));
        Assert.Equal(0ul, none);
        foreach (ulong iova in new ulong[] { 0x1000, 0x4000, 0x8000 })
            Assert.Equal(Errno.Success, fixture.Map(ioas, iova, 0x10000, 0x2000));
        Assert.Equal(Errno.ENOENT, fixture.Unmap(ioas, 0x1000, 0x1000));
        Assert.Equal(Errno.ENOENT, fixture.Unmap(ioas, 0x2000, 0x4000));
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x3000, 0x10000, 0x1000));
        // The first two go although the third is cut.
        Assert.Equal(Errno.ENOENT, fixture.Unmap(ioas, 0x1000, 0x4000));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0, 0x100000, out ulong rest));
        Assert.Equal(0x4000ul, rest);
    }

    [Fact]
    public void Copies_share_the_pages_of_pieces_of_mappings()
    {
        using var fixture = new IommufdFixture();
        Mapping memory = fixture.Memory(0x4000);
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x10000, memory.Address.Value, 0x2000));
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x12000, memory.Address.Value + 0x2000, 0x2000));
        uint other = fixture.NewIoas();
        Assert.Equal(Errno.ENOENT, fixture.Copy(other, 0, ioas, 0x13000, 0x2000));
        Assert.Equal(Errno.ENOENT, fixture.Copy(99, 0, ioas, 0x11000, 0x2000));
        Assert.Equal(Errno.EINVAL, fixture.Copy(other, 0, ioas, 0x11000, 0));
        Assert.Equal(Errno.Success, fixture.Copy(other, 0x50000, ioas, 0x11000, 0x2000));
        Assert.Equal(Errno.EEXIST, fixture.Copy(other, 0x50000, ioas, 0x11000, 0x2000));
        // Gone from the source, unmapped by the owner, and still the same pages.
        memory.Bytes(0x1000, 1)[0] = 0x42;
        memory.Bytes(0x2000, 1)[0] = 0x43;
        IBoundDevice second = fixture.Bind(IommufdFixture.TrackingToo);
        uint id = other;
        Assert.Equal(Errno.Success, second.Attach(ref id));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0, ulong.MaxValue));
        memory.Dispose();
        byte[] read = new byte[0x1001];
        Assert.True(fixture.Port(IommufdFixture.TrackingToo).TryRead(0x50000, read));
        Assert.Equal((0x42, 0x43), (read[0], read[0x1000]));
        // A copy of several pieces is several mappings.
        Assert.Equal(Errno.Success, fixture.Unmap(other, 0x50000, 0x1000));
        Assert.Equal(Errno.Success, fixture.Unmap(other, 0x51000, 0x1000));
        device.Unbind();
        second.Unbind();
    }

    [Fact]
    public void Files_are_mapped_by_descriptor()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        using var file = new KernelFd(
            fixture.Kernel, (int)fixture.Kernel.MemfdCreate("guest", MemfdFlags.CloseOnExec).Value);
        Assert.True(fixture.Kernel.Ftruncate(file.Number, 8192).Succeeded);
        using (var view = Mapping.CreateShared(file, 8192, 0, MemoryProtection.Read | MemoryProtection.Write))
        {
            var map = IommuIoasMapFile.Create(ioas, 0x10000, file.Number, 0x1000, 0x1000, IommufdFixture.Writable);
            Assert.Equal(Errno.Success, fixture.Call(ref map));
            fixture.Write(0x10010, 9);
            fixture.Port().Drain();
            Assert.Equal(9, view.Bytes(0x1010, 1)[0]);
            map.Iova = 0x20000;
            map.Length = 0x2000;
            Assert.Equal(Errno.EINVAL, fixture.Call(ref map));
            map.Fd = 9999;
            Assert.Equal(Errno.EBADF, fixture.Call(ref map));
            map.Fd = fixture.Fd.Number;
            Assert.Equal(Errno.EINVAL, fixture.Call(ref map));
        }

        Assert.Equal(Errno.EBUSY, fixture.Kernel.Ftruncate(file.Number, 4096).Errno);
        Assert.True(fixture.Kernel.Ftruncate(file.Number, 1 << 20).Succeeded);
        // Nobody has it mapped or open, and the device still writes.
        file.Dispose();
        fixture.Write(0x10010, 10);
        byte[] back = new byte[1];
        Assert.True(fixture.Port().TryRead(0x10010, back));
        Assert.Equal(10, back[0]);
        var process = IommuIoasChangeProcess.Create();
        Assert.Equal(Errno.Success, fixture.Call(ref process));
        Mapping memory = fixture.Memory(4096);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0, memory.Address.Value, 4096));
        Assert.Equal(Errno.EINVAL, fixture.Call(ref process));
        device.Unbind();
    }

    [Fact]
    public void Unmapped_memory_does_not_kill_a_device()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(1 << 20);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0, memory.Address.Value, 1 << 20));
        memory.Dispose();
        Assert.True(fixture.Port().TryWrite(0xff000, new byte[4096]));
        fixture.Port().Drain();
        Assert.False(fixture.Port().TryWrite(0xff000, new byte[4097]));
        Assert.False(fixture.Port().TryWrite(ulong.MaxValue, new byte[2]));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0, 1 << 20));
        Assert.False(fixture.Port().TryWrite(0, [1]));
        device.Unbind();
    }

    [Fact]
    public void Options_and_the_compatibility_ioas()
    {
        using var fixture = new IommufdFixture();
        var mode = IommuOption.Create(IommuOptionId.RlimitMode, IommuOptionOp.Set, val64: 1);
        Assert.Equal(Errno.Success, fixture.Call(ref mode));
        uint ioas = fixture.NewIoas();
        Assert.Equal(Errno.EBUSY, fixture.Call(ref mode));
        mode.Op = IommuOptionOp.Get;
        Assert.Equal(Errno.Success, fixture.Call(ref mode));
        Assert.Equal(1ul, mode.Val64);
        var huge = IommuOption.Create(IommuOptionId.HugePages, IommuOptionOp.Set, ioas, 2);
        Assert.Equal(Errno.EINVAL, fixture.Call(ref huge));
        huge.Val64 = 0;
        Assert.Equal(Errno.Success, fixture.Map(ioas, 1, 1, 1));
        Assert.Equal(Errno.EADDRINUSE, fixture.Call(ref huge));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 1, 1));
        Assert.Equal(Errno.Success, fixture.Call(ref huge));
        Assert.Equal(4096ul, fixture.Ranges(ioas).Alignment);
        huge.OptionId = (IommuOptionId)9;
        Assert.Equal(Errno.EOPNOTSUPP, fixture.Call(ref huge));

        var compatible = IommuVfioIoas.Create(IommuVfioIoasOp.Get);
        Assert.Equal(Errno.ENODEV, fixture.Call(ref compatible));
        var set = IommuVfioIoas.Create(IommuVfioIoasOp.Set, ioas);
        Assert.Equal(Errno.Success, fixture.Call(ref set));
        Assert.Equal(Errno.Success, fixture.Call(ref compatible));
        Assert.Equal(ioas, compatible.IoasId);
        Assert.Equal(Errno.Success, fixture.Destroy(ioas));
        Assert.Equal(Errno.ENODEV, fixture.Call(ref compatible));
    }

    [Fact]
    public void Large_leaves_arise_and_can_be_switched_off()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(4 << 20);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x200000, memory.Address.Value, 4 << 20));
        fixture.Write(0x200000 + 5 * GuestPage.Size);
        Assert.Equal(512, fixture.DirtyBits(hwpt, 0x200000, 4 << 20).Length);
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0x200000, 4 << 20));
        var small = IommuOption.Create(IommuOptionId.HugePages, IommuOptionOp.Set, ioas, 0);
        Assert.Equal(Errno.Success, fixture.Call(ref small));
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0x200000, memory.Address.Value, 4 << 20));
        small.Val64 = 0;
        fixture.Write(0x200000 + 5 * GuestPage.Size);
        Assert.Equal([5], fixture.DirtyBits(hwpt, 0x200000, 4 << 20));
        device.Unbind();
    }

    [Fact]
    public void A_file_range_at_the_top_of_the_space_is_beyond_the_file()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        IBoundDevice device = fixture.Bind();
        fixture.NewHwpt(device.DeviceId, ioas);
        using var file = new KernelFd(
            fixture.Kernel, (int)fixture.Kernel.MemfdCreate("file", MemfdFlags.CloseOnExec).Value);
        const ulong LastPage = ulong.MaxValue - (GuestPage.Size - 1);
        var command = IommuIoasMapFile.Create(
            ioas, 0x10000, file.Number, LastPage, GuestPage.Size, IommufdFixture.Writable);
        Assert.Equal(Errno.EINVAL, fixture.Call(ref command));
        device.Unbind();
    }

    [Fact]
    public void The_interrupt_window_is_looked_at_before_a_new_table_is_filled()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        Mapping memory = fixture.Memory(GuestPage.Size);
        // Not memory, which shows when a table is filled.
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0, 0x1000, GuestPage.Size));
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0xFEE0_0000, memory.Address.Value, GuestPage.Size));
        IBoundDevice device = fixture.Bind();
        uint id = ioas;
        Assert.Equal(Errno.EADDRINUSE, device.Attach(ref id));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 0xFEE0_0000, GuestPage.Size));
        Assert.Equal(Errno.EFAULT, device.Attach(ref id));
        // Nothing stays reserved.
        Assert.Single(fixture.Ranges(ioas).Ranges);
        device.Unbind();
    }
}
