using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;

namespace Tidemark.Kernel.Soft.Tests.Iommufd;

/// <summary>How long what a virtual IOMMU has stays. What it answers is in the conformance cases.</summary>
public sealed class ViommuTests
{
    private const ulong Page = 4096;
    private const ulong Iova = 0x1000_0000;

    [Fact]
    public void A_mapped_page_keeps_its_context_when_the_descriptor_is_closed()
    {
        using var fixture = new IommufdFixture(testDomain: true);
        (uint viommu, _, _) = Make(fixture, withPage: true);
        SyscallResult mapped = Map(fixture);
        Assert.Equal(Errno.Success, mapped.Errno);
        Assert.Equal(Errno.EBUSY, fixture.Destroy(viommu));
        // A cut in the middle leaves two mappings of one page each, then one.
        fixture.Fd.Dispose();
        Assert.NotEqual(0, fixture.Kernel.CountOpen().IommufdObjects);
        Assert.True(fixture.Kernel.Munmap((ulong)mapped.Value, Page).Succeeded);
        Assert.NotEqual(0, fixture.Kernel.CountOpen().IommufdObjects);
        Assert.True(fixture.Kernel.Munmap((ulong)mapped.Value + Page, Page).Succeeded);
        Assert.Equal(0, fixture.Kernel.CountOpen().IommufdObjects);
    }

    [Fact]
    public void A_mapping_that_fails_or_is_refused_keeps_nothing_busy()
    {
        using var fixture = new IommufdFixture(testDomain: true);
        (uint viommu, _, _) = Make(fixture, withPage: true);
        Assert.Equal(Errno.EINVAL, Map(fixture, MapFlags.Private).Errno);
        Assert.Equal(Errno.Success, fixture.Destroy(viommu));
    }

    [Fact]
    public void Closing_takes_queues_and_numbers_along()
    {
        using var fixture = new IommufdFixture(testDomain: true);
        (uint viommu, uint device, uint ioas) = Make(fixture, withPage: true);
        ulong memory = fixture.Memory(Page).Address.Value;
        Assert.Equal(Errno.Success, fixture.Map(ioas, Iova, memory, Page));
        var vdevice = IommuVdeviceAlloc.Create(viommu, 1, device);
        Assert.Equal(Errno.Success, fixture.Call(ref vdevice));
        var queue = IommuHwQueueAlloc.Create(viommu, Viommu.TestQueue, 0, Iova, Page);
        Assert.Equal(Errno.Success, fixture.Call(ref queue));
        var events = IommuVeventqAlloc.Create(viommu, Viommu.TestEvents, 1);
        Assert.Equal(Errno.Success, fixture.Call(ref events));
        Assert.Equal(Errno.EBUSY, fixture.Unmap(ioas, Iova, Page));
        fixture.Fd.Dispose();
        Assert.True(fixture.Kernel.Close((int)events.OutVeventqFd).Succeeded);
        Assert.Equal(0, fixture.Kernel.CountOpen().IommufdObjects);
        Assert.Equal(0, fixture.Kernel.CountOpen().PinnedPages);
    }

    /// <summary>The first virtual IOMMU's page: no page lies at offset 0.</summary>
    private static SyscallResult Map(IommufdFixture fixture, MapFlags flags = MapFlags.Shared) =>
        fixture.Kernel.Mmap(2 * Page, MemoryProtection.Read, flags, fixture.Fd.Number, Page);

    private static (uint Viommu, uint Device, uint Ioas) Make(IommufdFixture fixture, bool withPage)
    {
        uint ioas = fixture.NewIoas();
        var create = new TestDomainCommand
        {
            Size = 72, Operation = TestDomainOperation.CreateDevice, Id = ioas,
        };
        byte[] argument = StructBytes.Of(ref create).ToArray();
        Assert.True(fixture.Kernel.Ioctl(fixture.Fd.Number, 0x3BA0, argument).Succeeded);
        uint device = BitConverter.ToUInt32(argument, 24);
        Assert.Equal(Errno.Success, fixture.TryNewHwpt(device, ioas, out uint parent, IommuHwptAllocFlags.NestParent));
        var viommu = IommuViommuAlloc.Create(device, Viommu.TestType, parent);
        if (withPage)
            (viommu.DataLen, viommu.DataUptr) = (24, fixture.Memory(Page).Address.Value);
        Assert.Equal(Errno.Success, fixture.Call(ref viommu));
        return (viommu.OutViommuId, device, ioas);
    }
}
