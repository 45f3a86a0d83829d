using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Tests.Iommufd;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Paging;

public sealed class DevicePortTests
{
    [Fact]
    public void A_full_ring_lands_the_oldest_write_first()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(GuestPage.Size);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0, memory.Address.Value, GuestPage.Size));
        for (byte index = 0; index < 70; index++)
            fixture.Write(index, (byte)(index + 1));
        Assert.Equal([1, 2, 3, 4, 5, 6, 0, 0], memory.Bytes(0, 8).ToArray());
        byte[] read = new byte[70];
        Assert.True(fixture.Port().TryRead(0, read));
        Assert.Equal(Enumerable.Range(1, 70), read.Select(value => (int)value));
        device.Unbind();
    }

    [Fact]
    public void A_write_that_faults_half_way_has_posted_its_beginning()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(GuestPage.Size);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0, memory.Address.Value, GuestPage.Size));
        var log = new FakeObserver();
        fixture.Port().WriteObserver = log;
        Assert.False(fixture.Port().TryWrite(4094, [1, 2, 3]));
        fixture.Port().Drain();
        Assert.Equal([1, 2], memory.Bytes(4094, 2).ToArray());
        Assert.Equal([(4094ul, 2ul)], log.Writes);
        Assert.Equal([0], fixture.DirtyBits(hwpt, 0, GuestPage.Size));
        device.Unbind();
    }

    [Fact]
    public void Dma_allocates_nothing()
    {
        using var fixture = new IommufdFixture();
        (uint ioas, _, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(8 << 20);
        Assert.Equal(Errno.Success, fixture.Map(ioas, 0, memory.Address.Value, 8 << 20));
        DevicePort port = fixture.Port();
        byte[] bytes = new byte[6000];
        Assert.True(port.TryWrite(0, bytes) && port.TryRead(0, bytes));
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (ulong iova = 0; iova < 7 << 20; iova += 5000)
        {
            port.TryWrite(iova, bytes);
            port.TryRead(iova, bytes);
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        device.Unbind();
    }

    private sealed class FakeObserver : IDmaWriteObserver
    {
        public List<(ulong, ulong)> Writes { get; } = [];

        public void OnWrite(ulong iova, ulong byteLength) => Writes.Add((iova, byteLength));
    }
}
