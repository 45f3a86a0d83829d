using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

public sealed class DirtyTrackingTests
{
    private const ulong Page = GuestPage.Size;
    private const ulong Large = 2 << 20;
    private const ulong Base = 0x40_0000;

    private const IommuHwptGetDirtyBitmapFlags Peek = IommuHwptGetDirtyBitmapFlags.NoClear;

    [Fact]
    public void Requests_are_checked_in_the_kernels_order()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        var bad = IommuHwptGetDirtyBitmap.Create(99, 0, 0, 0, 0, (IommuHwptGetDirtyBitmapFlags)2);
        Assert.Equal(Errno.EOPNOTSUPP, fixture.Call(ref bad));
        bad.Flags = 0;
        bad.Reserved = 1;
        Assert.Equal(Errno.EOPNOTSUPP, fixture.Call(ref bad));
        Assert.Equal(Errno.ENOENT, fixture.Harvest(99, 0, 0, 0));
        Assert.Equal(Errno.ENOENT, fixture.Harvest(ioas, 0, 0, 0));
        Assert.Equal(Errno.EINVAL, fixture.Harvest(hwpt, 0, 0, 0));
        Assert.Equal(Errno.EOVERFLOW, fixture.Harvest(hwpt, ulong.MaxValue, 2, 0));
        Assert.Equal(Errno.EINVAL, fixture.Harvest(hwpt, 0x800, 0x800, 0));
        Assert.Equal(Errno.EINVAL, fixture.Harvest(hwpt, 0, 0x1800, 0, pageSize: 0x800));
        Assert.Equal(Errno.EINVAL, fixture.Harvest(hwpt, 0, Page, 0, pageSize: 0));
        Assert.Equal(Errno.EINVAL, fixture.Harvest(hwpt, Page, Page, 0, pageSize: 2 * Page));
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, 0, Page, 0));
        device.Unbind();
    }

    [Fact]
    public void A_table_without_the_flag_has_no_dirty_operations()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        IBoundDevice device = fixture.Bind();
        uint id = ioas;
        Assert.Equal(Errno.Success, device.Attach(ref id));
        Assert.Equal(Errno.EOPNOTSUPP, fixture.Track(id));
        Assert.Equal(Errno.EOPNOTSUPP, fixture.Harvest(id, 0, Page, 0));
        Assert.Equal(Errno.ENOENT, fixture.Track(ioas));
        var odd = IommuHwptSetDirtyTracking.Create(id, (IommuHwptSetDirtyTrackingFlags)2);
        Assert.Equal(Errno.EOPNOTSUPP, fixture.Call(ref odd));
        device.Unbind();
    }

    [Fact]
    public void An_iommu_without_dirty_bits_offers_none()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        IBoundDevice plain = fixture.Bind(IommufdFixture.Plain);
        IBoundDevice tracking = fixture.Bind();
        Assert.Equal(Errno.EOPNOTSUPP, fixture.TryNewHwpt(plain.DeviceId, ioas, out _));
        uint hwpt = fixture.NewHwpt(tracking.DeviceId, ioas);
        uint id = hwpt;
        Assert.Equal(Errno.EINVAL, plain.Attach(ref id));
        var info = IommuHwInfo.Create(plain.DeviceId);
        Assert.Equal(Errno.Success, fixture.Call(ref info));
        Assert.Equal(IommuHwCapabilities.PciAtsNotSupported, info.OutCapabilities);
        info = IommuHwInfo.Create(tracking.DeviceId);
        Assert.Equal(Errno.Success, fixture.Call(ref info));
        Assert.Equal(IommuHwCapabilities.PciAtsNotSupported | IommuHwCapabilities.DirtyTracking, info.OutCapabilities);
        Assert.Equal(24u, info.DataLen);
        plain.Unbind();
        tracking.Unbind();
    }

    [Fact]
    public void Hardware_information_fills_the_buffer_it_is_given()
    {
        using var fixture = new IommufdFixture();
        IBoundDevice device = fixture.Bind();
        Mapping memory = fixture.Memory(4096);
        memory.Bytes(0, 64).Fill(0xff);
        var info = IommuHwInfo.Create(device.DeviceId, memory.Address.Value, 40);
        Assert.Equal(Errno.Success, fixture.Call(ref info));
        ulong extended = memory.Words(3)[2];
        Assert.Equal(1ul, extended >> 45 & 1);
        Assert.Equal(47ul, memory.Words(3)[1] >> 16 & 0x3f);
        Assert.Equal(new byte[16], memory.Bytes(24, 16).ToArray());
        Assert.Equal(0xff, memory.Bytes(40, 1)[0]);
        info = IommuHwInfo.Create(device.DeviceId, 0xdead_0000, 40);
        Assert.Equal(Errno.EFAULT, fixture.Call(ref info));
        info = IommuHwInfo.Create(99);
        info.Flags = (IommuHwInfoFlags)2;
        Assert.Equal(Errno.EOPNOTSUPP, fixture.Call(ref info));
        info.Flags = 0;
        Assert.Equal(Errno.ENOENT, fixture.Call(ref info));
        device.Unbind();
    }

    [Theory]
    [InlineData(16u, Errno.EOPNOTSUPP)]
    [InlineData(1u, Errno.EOPNOTSUPP)]
    [InlineData(5u, Errno.EOPNOTSUPP)]
    [InlineData(4u, Errno.ENOENT)]
    [InlineData(0u, Errno.Success)]
    [InlineData(8u, Errno.Success)]
    [InlineData(10u, Errno.Success)]
    public void Flags_of_a_table_are_those_of_the_hardware(uint flags, Errno expected)
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        IBoundDevice device = fixture.Bind();
        Assert.Equal(expected,
            fixture.TryNewHwpt(device.DeviceId, ioas, out uint hwpt, (IommuHwptAllocFlags)flags));
        Assert.Equal(Errno.ENOENT, fixture.TryNewHwpt(ioas, ioas, out _));
        Assert.Equal(Errno.EINVAL, fixture.TryNewHwpt(device.DeviceId, 99, out _));
        Assert.Equal(Errno.EINVAL, fixture.TryNewHwpt(device.DeviceId, device.DeviceId, out _));
        if (expected == Errno.Success)
            Assert.Equal(Errno.EOPNOTSUPP, fixture.TryNewHwpt(device.DeviceId, hwpt, out _));
        // Nothing of a refused table stays behind.
        Assert.Equal(expected == Errno.Success ? Errno.EBUSY : Errno.Success, fixture.Destroy(ioas));
        device.Unbind();
    }

    [Fact]
    public void A_table_narrows_its_ioas_and_a_mapping_outside_refuses_it()
    {
        using var fixture = new IommufdFixture();
        uint ioas = fixture.NewIoas();
        IBoundDevice device = fixture.Bind();
        Assert.Equal(Errno.Success, fixture.Map(ioas, 1UL << 50, 0x10000, 4096));
        Assert.Equal(Errno.EADDRINUSE, fixture.TryNewHwpt(device.DeviceId, ioas, out _));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 1UL << 50, 4096));
        Assert.Equal(Errno.Success, fixture.Map(ioas, 1, 0x10001, 4096));
        Assert.Equal(Errno.EADDRINUSE, fixture.TryNewHwpt(device.DeviceId, ioas, out _));
        Assert.Equal(Errno.Success, fixture.Unmap(ioas, 1, 4096));
        uint hwpt = fixture.NewHwpt(device.DeviceId, ioas);
        Assert.Equal(1u, fixture.Ranges(ioas).Total);
        Assert.Equal((1ul << 48) - 1, fixture.Ranges(ioas).Ranges[0].Last);
        Assert.Equal(Errno.Success, fixture.Destroy(hwpt));
        Assert.Equal(ulong.MaxValue, fixture.Ranges(ioas).Ranges[0].Last);
        device.Unbind();
    }

    [Fact]
    public void Bits_are_relative_only_set_and_cleared_by_reading()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        MapSmall(fixture, ioas, 64);
        fixture.Write(Base + 3 * Page);
        fixture.Write(Base + 9 * Page);
        Assert.True(fixture.Port().TryRead(Base + 5 * Page, new byte[8]));
        Assert.Equal([3, 9], fixture.DirtyBits(hwpt, Base, 64 * Page, flags: Peek));
        Assert.Equal([1, 7], fixture.DirtyBits(hwpt, Base + 2 * Page, 32 * Page, flags: Peek));
        Mapping bitmap = fixture.Memory(4096);
        bitmap.Bytes(0, 4096).Fill(0x80);
        // Any alignment of the bitmap.
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, Base, 64 * Page, bitmap.Address.Value + 3));
        Assert.Equal(new byte[] { 0x80, 0x88, 0x82, 0x80 }, bitmap.Bytes(2, 4).ToArray());
        Assert.Empty(fixture.DirtyBits(hwpt, Base, 64 * Page));
        fixture.Write(Base + 9 * Page);
        Assert.Equal([9], fixture.DirtyBits(hwpt, Base, 64 * Page));
        device.Unbind();
    }

    [Theory]
    [InlineData(0x2000ul, new[] { 1, 4 })]
    [InlineData(0x3000ul, new[] { 3, 9 })]
    [InlineData(0x800ul, new[] { 6, 7, 18, 19 })]
    [InlineData(0x20000ul, new[] { 0 })]
    public void Bits_stand_for_any_page_size(ulong pageSize, int[] expected)
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        MapSmall(fixture, ioas, 64);
        fixture.Write(Base + 3 * Page);
        fixture.Write(Base + 9 * Page);
        // 0x3000 is no power of two; only its lowest bit counts, and the ends share no bit with 0x2fff.
        Assert.Equal(expected, fixture.DirtyBits(hwpt, Base, 64 * Page, pageSize));
        device.Unbind();
    }

    [Fact]
    public void The_walk_ends_at_the_first_hole()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(8 * Page);
        ulong address = memory.Address.Value;
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base, address, 2 * Page));
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base + 2 * Page, address, 2 * Page));
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base + 5 * Page, address, 2 * Page));
        foreach (ulong page in new ulong[] { 1, 2, 5 })
            fixture.Write(Base + page * Page);
        Assert.Empty(fixture.DirtyBits(hwpt, Base - Page, 8 * Page));
        Assert.Empty(fixture.DirtyBits(hwpt, Base + 4 * Page, 4 * Page));
        Assert.Equal([1, 2], fixture.DirtyBits(hwpt, Base, 8 * Page));
        Assert.Equal([0], fixture.DirtyBits(hwpt, Base + 5 * Page, 2 * Page));
        device.Unbind();
    }

    [Fact]
    public void A_bad_bitmap_loses_the_bits_without_a_word()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        MapSmall(fixture, ioas, 8);
        fixture.Write(Base);
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, Base, 8 * Page, 0xdead_0000, flags: Peek));
        Assert.Equal([0], fixture.DirtyBits(hwpt, Base, 8 * Page, flags: Peek));
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, Base, 8 * Page, ulong.MaxValue));
        Assert.Empty(fixture.DirtyBits(hwpt, Base, 8 * Page));
        device.Unbind();
    }

    [Fact]
    public void Large_leaves_are_one_unit_with_sharp_edges()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(2 * Large);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base, memory.Address.Value, 2 * Large));
        fixture.Write(Base + 7 * Page);
        Assert.Equal(Enumerable.Range(0, 512), fixture.DirtyBits(hwpt, Base, 2 * Large, flags: Peek));
        Assert.Equal([0], fixture.DirtyBits(hwpt, Base, 2 * Large, pageSize: Large, flags: Peek));
        // Ends inside the leaf: bits beyond the bitmap.
        Assert.Equal(Enumerable.Range(0, 512), fixture.DirtyBits(hwpt, Base, Large / 2, flags: Peek));
        // Starts inside: no bits, and the leaf is clean afterwards.
        Assert.Empty(fixture.DirtyBits(hwpt, Base + Large / 2, Large / 2));
        Assert.Empty(fixture.DirtyBits(hwpt, Base, 2 * Large));
        device.Unbind();
    }

    [Fact]
    public void A_leaf_of_a_gibibyte_spills_to_the_end_of_the_bitmaps_page()
    {
        const ulong Huge = 1UL << 30;
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        using var file = new KernelFd(
            fixture.Kernel, (int)fixture.Kernel.MemfdCreate("guest", MemfdFlags.CloseOnExec).Value);
        Assert.True(fixture.Kernel.Ftruncate(file.Number, 2 * Huge).Succeeded);
        var map = IommuIoasMapFile.Create(ioas, Huge, file.Number, Huge, Huge, IommufdFixture.Writable);
        Assert.Equal(Errno.Success, fixture.Call(ref map));
        // Root and one table below it: the leaf sits in the third level.
        Assert.Equal(2, fixture.Kernel.CountOpen().TablePages);
        fixture.Write(Huge + 12345);
        using var bitmap = Mapping.CreateAnonymous(fixture.Kernel, 8192);
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, Huge, Large, bitmap.Address.Value));
        Assert.Equal(4096 * 8, IommufdFixture.SetBits(bitmap.Bytes(0, 8192)).Length);
        device.Unbind();
    }

    [Fact]
    public void Enabling_again_discards_and_disabling_keeps()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        MapSmall(fixture, ioas, 8);
        fixture.Write(Base);
        Assert.Equal(Errno.Success, fixture.Track(hwpt));
        Assert.Empty(fixture.DirtyBits(hwpt, Base, 8 * Page));
        fixture.Write(Base + Page);
        Assert.Equal(Errno.Success, fixture.Track(hwpt, enable: false));
        fixture.Write(Base + 2 * Page);
        Assert.Equal([1], fixture.DirtyBits(hwpt, Base, 8 * Page, flags: Peek));
        Assert.Equal([1], fixture.DirtyBits(hwpt, Base, 8 * Page));
        // A translation cached while nobody tracked does not hide a write.
        Assert.Equal(Errno.Success, fixture.Track(hwpt));
        fixture.Write(Base + 2 * Page);
        Assert.Equal([2], fixture.DirtyBits(hwpt, Base, 8 * Page));
        device.Unbind();
    }

    [Fact]
    public void New_mappings_and_new_devices_are_tracked_at_once()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        MapSmall(fixture, ioas, 8);
        IBoundDevice second = fixture.Bind(IommufdFixture.TrackingToo);
        uint id = hwpt;
        Assert.Equal(Errno.Success, second.Attach(ref id));
        fixture.Write(Base + 4 * Page, address: IommufdFixture.TrackingToo);
        fixture.Write(Base + 5 * Page);
        Assert.Equal([4, 5], fixture.DirtyBits(hwpt, Base, 8 * Page));
        // Both caches were emptied.
        fixture.Write(Base + 4 * Page, address: IommufdFixture.TrackingToo);
        fixture.Write(Base + 5 * Page);
        Assert.Equal([4, 5], fixture.DirtyBits(hwpt, Base, 8 * Page));
        device.Unbind();
        second.Unbind();
    }

    [Fact]
    public void Reading_lands_what_was_posted()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(Page);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base, memory.Address.Value, Page));
        fixture.Write(Base, 5);
        Assert.Equal(0, memory.Bytes(0, 1)[0]);
        Assert.Equal([0], fixture.DirtyBits(hwpt, Base, Page));
        Assert.Equal(5, memory.Bytes(0, 1)[0]);
        device.Unbind();
    }

    [Fact]
    public void Replacing_moves_a_device_and_a_failure_leaves_it()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        MapSmall(fixture, ioas, 1);
        uint other = fixture.NewIoas();
        Assert.Equal(Errno.Success, fixture.Map(other, 0xFEE00000, fixture.Memory(Page).Address.Value, Page));
        uint id = 99;
        Assert.Equal(Errno.ENOENT, device.Attach(ref id));
        id = device.DeviceId;
        Assert.Equal(Errno.EINVAL, device.Attach(ref id));
        id = other;
        Assert.Equal(Errno.EADDRINUSE, device.Attach(ref id));
        Assert.Equal(Errno.Success, fixture.Unmap(other, 0xFEE00000, Page));
        Assert.Equal(Errno.Success, fixture.Map(other, Large, 0x10000, Page));
        Assert.Equal(Errno.EFAULT, device.Attach(ref id));
        fixture.Write(Base);
        Assert.Equal(Errno.Success, fixture.Unmap(other, Large, Page));
        Assert.Equal(Errno.Success, device.Attach(ref id));
        Assert.False(fixture.Port().TryWrite(Base, [1]));
        Assert.Equal(Errno.Success, fixture.Destroy(hwpt));
        Assert.Equal(Errno.Success, fixture.Destroy(ioas));
        device.Detach();
        Assert.Equal(Errno.Success, fixture.Destroy(other));
        device.Unbind();
    }

    [Fact]
    public void A_bit_for_each_byte_of_nearly_the_whole_space_is_served()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(Page);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0, memory.Address.Value, Page));
        fixture.Write(0);
        Mapping bitmap = fixture.Memory(Page);
        // The end of the bitmap's last page, in bits, is beyond 64 bits.
        ulong length = ulong.MaxValue - (Page - 1);
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, 0, length, bitmap.Address.Value, pageSize: 1));
        Assert.Equal((int)Page, IommufdFixture.SetBits(bitmap.Bytes(0, (int)Page)).Length);
        device.Unbind();
    }

    private static void MapSmall(IommufdFixture fixture, uint ioas, ulong pages)
    {
        Mapping memory = fixture.Memory(pages * Page);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base, memory.Address.Value, pages * Page));
    }
}
