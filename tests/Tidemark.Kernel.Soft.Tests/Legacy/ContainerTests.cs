using System.Buffers.Binary;
using Tidemark.Abi;
using static Tidemark.Kernel.Soft.Tests.Legacy.LegacyFixture;

namespace Tidemark.Kernel.Soft.Tests.Legacy;

/// <summary>What a container gives to devices and takes back. Its errno tables are the conformance cases'.</summary>
public sealed class ContainerTests : IDisposable
{
    private const ulong Iova = 0x1000_0000;
    private const ulong Page = 4096;

    private readonly LegacyFixture _fixture = new();

    public void Dispose() => _fixture.Dispose();

    [Fact]
    public void A_device_reaches_memory_only_while_its_group_is_in_a_container_with_a_driver()
    {
        Assert.False(_fixture.Port().TryWrite(Iova, [1]));
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        Mapping memory = _fixture.Memory(2 << 20);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, 2 << 20));
        Assert.Equal(512, _fixture.Kernel.CountOpen().PinnedPages);
        Assert.True(_fixture.Port().TryWrite(Iova + 5000, [7]));
        _fixture.Port().Drain();
        Assert.Equal(7, memory.Bytes(5000, 1)[0]);
        Assert.Equal(Errno.Success, _fixture.Leave(groups[0]));
        Assert.False(_fixture.Port().TryWrite(Iova + 5000, [8]));
        Assert.Equal((0L, 0L), (_fixture.Kernel.CountOpen().PinnedPages, _fixture.Kernel.CountOpen().TablePages));
        _fixture.AssertNothingIsLeft(container, groups[0]);
    }

    [Fact]
    public void Unmapping_invalidates_what_the_device_has_cached()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        Mapping memory = _fixture.Memory(Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, Page));
        Assert.True(_fixture.Port().TryWrite(Iova, [7]));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, Iova, Page, out _));
        // Drained: the store that was under way has landed.
        Assert.Equal(7, memory.Bytes(0, 1)[0]);
        Assert.False(_fixture.Port().TryWrite(Iova, [8]));
        _fixture.AssertNothingIsLeft(groups[0], container);
    }

    [Fact]
    public void Groups_behind_different_IOMMUs_see_the_same_memory_through_tables_of_their_own()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0, 2);
        Mapping memory = _fixture.Memory(4 * Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, 4 * Page));
        Assert.Equal(4, _fixture.Kernel.CountOpen().PinnedPages);
        Assert.True(_fixture.Port(Intel).TryWrite(Iova, [1]));
        Assert.True(_fixture.Port(Amd).TryWrite(Iova + Page, [2]));
        _fixture.Port(Intel).Drain();
        _fixture.Port(Amd).Drain();
        Assert.Equal((1, 2), (memory.Bytes(0, 1)[0], memory.Bytes(Page, 1)[0]));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, Iova, 4 * Page, out _));
        Assert.False(_fixture.Port(Intel).TryWrite(Iova, [1]));
        Assert.False(_fixture.Port(Amd).TryWrite(Iova, [1]));
        _fixture.AssertNothingIsLeft(groups[1], groups[0], container);
    }

    [Fact]
    public void A_group_that_joins_later_gets_the_mappings_and_narrows_the_IOVAs_while_it_stays()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        Mapping memory = _fixture.Memory(Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, Page));
        Assert.Equal((1UL << 48) - 1, LastIova(container));
        int narrow = _fixture.Open("/dev/vfio/1");
        Assert.Equal(Errno.Success, _fixture.Join(narrow, container));
        Assert.Equal((1UL << 39) - 1, LastIova(container));
        Assert.True(_fixture.Port(Narrow).TryWrite(Iova, [9]));
        Assert.Equal(Errno.EINVAL, _fixture.Map(container, 1UL << 39, memory.Address.Value, Page));
        Assert.Equal(Errno.Success, _fixture.Leave(narrow));
        Assert.Equal((1UL << 48) - 1, LastIova(container));
        Assert.Equal(Errno.Success, _fixture.Map(container, 1UL << 39, memory.Address.Value, Page));
        // Now there is a mapping that the narrow one could not show.
        Assert.Equal(Errno.EINVAL, _fixture.Join(narrow, container));
        _fixture.AssertNothingIsLeft(narrow, groups[0], container);
    }

    [Fact]
    public void A_mapping_that_fails_leaves_no_pin_and_no_table_page()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0, 2);
        SoftKernelUsage before = _fixture.Kernel.CountOpen();
        Assert.Equal(Errno.EFAULT, _fixture.Map(container, Iova, 0x1000, Page));
        Assert.Equal(before, _fixture.Kernel.CountOpen());
        _fixture.AssertNothingIsLeft(groups[0], groups[1], container);
    }

    [Fact]
    public void Large_leaves_can_be_turned_off_for_type1()
    {
        long Tables(bool disabled)
        {
            using var fixture = new LegacyFixture(host => host with { Type1DisablesHugePages = disabled });
            (int container, _) = fixture.Type1(VfioExtension.Type1V2, 0);
            long before = fixture.Kernel.CountOpen().TablePages;
            Mapping memory = fixture.Memory(4 << 20);
            Assert.Equal(Errno.Success, fixture.Map(container, 0x4000_0000, memory.Address.Value, 4 << 20));
            return fixture.Kernel.CountOpen().TablePages - before;
        }

        Assert.Equal(Tables(disabled: false) + 2, Tables(disabled: true));
    }

    [Fact]
    public void A_mediated_device_looks_at_no_memory_and_dirties_none()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, MediatedGroup);
        Assert.Equal(0, _fixture.Extension(container, VfioExtension.UpdateVaddr));
        byte[] info = _fixture.Info(container);
        // MIGRATION and DMA_AVAIL; without an IOMMU there are no ranges.
        Assert.Equal((56u, 0u), (Word(info, 24 + 4), Word(info, 56 + 4)));
        Mapping memory = _fixture.Memory(Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, 0x1000, Page));
        Assert.Equal(Errno.EBUSY, _fixture.Unmap(container, Iova, Page, out _, VfioDmaUnmapFlags.Vaddr));
        Assert.Equal(Errno.Success, _fixture.Dirty(container, VfioIommuDirtyPagesFlags.Start));
        memory.Words(1)[0] = ulong.MaxValue;
        Assert.Equal(Errno.Success, _fixture.GetBitmap(container, Iova, 1, memory.Address.Value));
        Assert.Equal(0UL, memory.Words(1)[0]);
        SyscallResult device = _fixture.OpenDevice(groups[0], Mediated);
        Assert.Equal(Errno.Success, device.Errno);
        Assert.Equal(Errno.ENODEV, _fixture.OpenDevice(groups[0], $"{Mediated} ").Errno);
        _fixture.AssertNothingIsLeft((int)device.Value, groups[0], container);
    }

    [Fact]
    public void With_a_real_device_beside_a_mediated_one_everything_is_pinned_and_dirty_until_it_leaves()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, MediatedGroup);
        Mapping memory = _fixture.Memory(2 * Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, Page));
        Assert.Equal(Errno.Success, _fixture.Dirty(container, VfioIommuDirtyPagesFlags.Start));
        Assert.Equal(0, _fixture.Kernel.CountOpen().PinnedPages);
        int real = _fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.Success, _fixture.Join(real, container));
        Assert.Equal(1, _fixture.Kernel.CountOpen().PinnedPages);
        ulong bitmap = memory.Address.Value + Page;
        Assert.Equal(Errno.Success, _fixture.GetBitmap(container, Iova, 1, bitmap));
        Assert.Equal(1, memory.Bytes(Page, 1)[0]);
        Assert.Equal(Errno.Success, _fixture.Leave(real));
        Assert.Equal(0, _fixture.Kernel.CountOpen().PinnedPages);
        // What it wrote last is told once more; then there is nobody left who writes.
        Assert.Equal(Errno.Success, _fixture.GetBitmap(container, Iova, 1, bitmap));
        Assert.Equal(1, memory.Bytes(Page, 1)[0]);
        Assert.Equal(Errno.Success, _fixture.GetBitmap(container, Iova, 1, bitmap));
        Assert.Equal(0, memory.Bytes(Page, 1)[0]);
        _fixture.AssertNothingIsLeft(real, groups[0], container);
    }

    [Fact]
    public void A_real_device_does_not_join_over_bad_memory_that_a_mediated_one_never_looked_at()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, MediatedGroup);
        Mapping memory = _fixture.Memory(Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, Page));
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova + Page, 0x1000, Page));
        int real = _fixture.Open("/dev/vfio/0");
        Assert.Equal(Errno.EFAULT, _fixture.Join(real, container));
        Assert.Equal((0L, 0L), (_fixture.Kernel.CountOpen().PinnedPages, _fixture.Kernel.CountOpen().TablePages));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, Iova + Page, Page, out _));
        Assert.Equal(Errno.Success, _fixture.Join(real, container));
        _fixture.AssertNothingIsLeft(groups[0], real, container);
    }

    [Fact]
    public void More_bitmaps_than_a_container_may_have_are_ENOMEM_and_take_nothing()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, MediatedGroup);
        const ulong TwoTib = 1UL << 41;
        for (ulong index = 0; index < 4; index++)
            Assert.Equal(Errno.Success, _fixture.Map(container, index * TwoTib, 0x1000, TwoTib));
        Assert.Equal(Errno.Success, _fixture.Map(container, 4 * TwoTib, 0x1000, Page));
        Assert.Equal(Errno.ENOMEM, _fixture.Dirty(container, VfioIommuDirtyPagesFlags.Start));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, 4 * TwoTib, Page, out _));
        // One bitmap beyond what Linux can count is another errno.
        Assert.Equal(Errno.Success, _fixture.Map(container, 8 * TwoTib, 0x1000, 8 * TwoTib));
        Assert.Equal(Errno.Success, _fixture.Unmap(container, 0, 4 * TwoTib, out _));
        Assert.Equal(Errno.EINVAL, _fixture.Dirty(container, VfioIommuDirtyPagesFlags.Start));
        _fixture.AssertNothingIsLeft(groups[0], container);
    }

    [Theory]
    [InlineData(0, 1, 2)]
    [InlineData(0, 2, 1)]
    [InlineData(1, 0, 2)]
    [InlineData(1, 2, 0)]
    [InlineData(2, 0, 1)]
    [InlineData(2, 1, 0)]
    public void Container_group_and_device_are_closed_in_any_order(int first, int second, int third)
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        Mapping memory = _fixture.Memory(Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, Page));
        SyscallResult device = _fixture.OpenDevice(groups[0], Intel);
        Assert.Equal(Errno.Success, device.Errno);
        int[] files = [container, groups[0], (int)device.Value];
        _fixture.AssertNothingIsLeft(files[first], files[second], files[third]);
        Assert.False(_fixture.Port().Group.IsClaimed);
        _fixture.AssertNothingIsLeft(_fixture.Open("/dev/vfio/0"));
    }

    [Fact]
    public void A_kernel_that_ends_with_everything_open_leaves_nothing()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0, MediatedGroup);
        Mapping memory = _fixture.Memory(Page);
        Assert.Equal(Errno.Success, _fixture.Map(container, Iova, memory.Address.Value, Page));
        Assert.Equal(Errno.Success, _fixture.OpenDevice(groups[0], Intel).Errno);
        Assert.Equal(Errno.Success, _fixture.OpenDevice(groups[1], Mediated).Errno);
        _fixture.Kernel.Dispose();
        memory.Dispose();
        Assert.Equal(default, _fixture.Kernel.CountOpen());
    }

    [Fact]
    public void A_devices_own_memory_is_not_mapped_unlike_in_Linux()
    {
        (int container, int[] groups) = _fixture.Type1(VfioExtension.Type1V2, 0);
        int device = (int)_fixture.OpenDevice(groups[0], Intel).Value;
        const ulong ControllerMemory = 2UL << 40;
        SyscallResult mapped = _fixture.Kernel.Mmap(
            Page, MemoryProtection.Read | MemoryProtection.Write, MapFlags.Shared, device, ControllerMemory);
        Assert.Equal(Errno.Success, mapped.Errno);
        ulong address = unchecked((ulong)mapped.Value);
        Assert.Equal(Errno.EFAULT, _fixture.Map(container, Iova, address, Page));
        Assert.True(_fixture.Kernel.Munmap(address, Page).Succeeded);
        _fixture.AssertNothingIsLeft(device, groups[0], container);
    }

    private static uint Word(byte[] bytes, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(offset));

    /// <summary>The end of the last of the ranges that GET_INFO tells.</summary>
    private ulong LastIova(int container)
    {
        byte[] info = _fixture.Info(container);
        const int RangesAt = 72;
        int count = (int)Word(info, RangesAt + 8);
        return BinaryPrimitives.ReadUInt64LittleEndian(info.AsSpan(RangesAt + 16 + (16 * count) - 8));
    }
}
