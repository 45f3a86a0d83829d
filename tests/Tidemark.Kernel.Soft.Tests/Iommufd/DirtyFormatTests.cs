using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

/// <summary>Dirty tracking where the kinds of IOMMU differ, and the edges of the caller's bitmap.</summary>
public sealed class DirtyFormatTests
{
    private const ulong Base = 0x1000_0000;
    private const ulong Page = GuestPage.Size;
    private const ulong Large = 2 << 20;

    /// <summary>
    /// The difference to Linux 7.3, whose SMMUv3 driver flushes nothing after clearing: there this write is lost.
    /// </summary>
    [Fact]
    public void On_SMMUv3_a_write_through_a_cached_translation_after_clearing_is_reported()
    {
        using var fixture = new IommufdFixture(kind: SoftIommuKind.SmmuV3);
        (_, uint hwpt, IBoundDevice device) = MapPages(fixture, 4);
        fixture.Write(Base + Page);
        Assert.Equal([1], fixture.DirtyBits(hwpt, Base, 4 * Page));
        fixture.Write(Base + Page);
        Assert.Equal([1], fixture.DirtyBits(hwpt, Base, 4 * Page));
        device.Unbind();
    }

    [Fact]
    public void Without_the_flush_that_write_is_lost()
    {
        using var fixture = new IommufdFixture(SoftKernelFaults.SkipIotlbDrain, kind: SoftIommuKind.SmmuV3);
        (_, uint hwpt, IBoundDevice device) = MapPages(fixture, 4);
        fixture.Write(Base + Page);
        Assert.Equal([1], fixture.DirtyBits(hwpt, Base, 4 * Page));
        fixture.Write(Base + Page);
        Assert.Empty(fixture.DirtyBits(hwpt, Base, 4 * Page));
        device.Unbind();
    }

    [Fact]
    public void SMMUv3_tracks_whether_or_not_it_is_told_to()
    {
        using var fixture = new IommufdFixture(kind: SoftIommuKind.SmmuV3);
        (_, uint hwpt, IBoundDevice device) = MapPages(fixture, 4);
        Assert.Equal(Errno.Success, fixture.Track(hwpt, enable: false));
        fixture.Write(Base + 2 * Page);
        Assert.Equal([2], fixture.DirtyBits(hwpt, Base, 4 * Page));
        device.Unbind();
    }

    [Theory]
    [InlineData(SoftIommuKind.VtdScalable, 1)]
    [InlineData(SoftIommuKind.Amd, 16)]
    [InlineData(SoftIommuKind.SmmuV3, 1)]
    public void A_run_of_64_KiB_is_one_leaf_on_AMD(SoftIommuKind kind, int bits)
    {
        using var fixture = new IommufdFixture(kind: kind);
        (_, uint hwpt, IBoundDevice device) = MapPages(fixture, 16);
        fixture.Write(Base + 5 * Page);
        int[] found = fixture.DirtyBits(hwpt, Base, 16 * Page);
        Assert.Equal(bits, found.Length);
        Assert.Contains(5, found);
        device.Unbind();
    }

    [Theory]
    [InlineData(0ul, 4096)]
    [InlineData(8ul, 8184)]
    [InlineData(4088ul, 4104)]
    public void A_leaf_is_set_as_far_as_the_pinned_pages_of_the_bitmap_go(ulong offset, int bytes)
    {
        using var fixture = new IommufdFixture();
        (uint hwpt, IBoundDevice device) = MapGibibyte(fixture);
        using var bitmap = Mapping.CreateAnonymous(fixture.Kernel, 4 * Page);
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, 1ul << 30, Large, bitmap.Address.Value + offset));
        int[] set = IommufdFixture.SetBits(bitmap.Bytes(0, (int)(4 * Page)));
        Assert.Equal(Enumerable.Range((int)offset * 8, bytes * 8), set);
        device.Unbind();
    }

    [Fact]
    public void A_page_that_can_not_be_pinned_takes_the_rest_of_the_leaf_along()
    {
        using var fixture = new IommufdFixture();
        (uint hwpt, IBoundDevice device) = MapGibibyte(fixture);
        using var bitmap = Mapping.CreateAnonymous(fixture.Kernel, 12 * Page);
        Assert.True(fixture.Kernel.Munmap(bitmap.Address.Value + 2 * Page, Page).Succeeded);
        Assert.Equal(Errno.Success, fixture.Harvest(hwpt, 1ul << 30, 1ul << 30, bitmap.Address.Value));
        // The leaf's bits fill eight pages; the third is not there.
        Assert.Equal(2 * 4096 * 8, IommufdFixture.SetBits(bitmap.Bytes(0, (int)(2 * Page))).Length);
        Assert.Empty(IommufdFixture.SetBits(bitmap.Bytes(3 * Page, (int)(9 * Page))));
        device.Unbind();
    }

    private static (uint Ioas, uint Hwpt, IBoundDevice Device) MapPages(IommufdFixture fixture, ulong pages)
    {
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(pages * Page);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base, memory.Address.Value, pages * Page));
        Assert.Equal(Errno.Success, fixture.Track(hwpt));
        return (ioas, hwpt, device);
    }

    /// <summary>A dirty leaf of 1 GiB at 1 GiB.</summary>
    private static (uint Hwpt, IBoundDevice Device) MapGibibyte(IommufdFixture fixture)
    {
        const ulong Huge = 1ul << 30;
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        using var file = new KernelFd(
            fixture.Kernel, (int)fixture.Kernel.MemfdCreate("guest", MemfdFlags.CloseOnExec).Value);
        Assert.True(fixture.Kernel.Ftruncate(file.Number, Huge).Succeeded);
        var map = IommuIoasMapFile.Create(ioas, Huge, file.Number, 0, Huge, IommufdFixture.Writable);
        Assert.Equal(Errno.Success, fixture.Call(ref map));
        fixture.Write(Huge + 12345);
        return (hwpt, device);
    }
}
