using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Machine.Assignment;
using Tidemark.Memory;

namespace Tidemark.Vfio.Tests;

/// <summary>
/// What a harvest of a very large machine costs in memory: one bitmap of the machine (32 MiB for 1 TiB), which is its
/// result, a buffer that does not grow, and less than 1 KiB for each mapping.
/// </summary>
[Collection(StepEventsTests.Collection)]
public sealed class SparseHarvestTests(ITestOutputHelper output)
{
    private const ulong TiB = 1UL << 40;
    private const long BitmapLength = (long)(TiB >> GuestPage.Shift >> 3);

    [Theory]
    [InlineData(1024, 1UL << 20, 1)]
    [InlineData(1, TiB, 16)]
    [InlineData(16, 64UL << 30, 1)]
    public void A_harvest_of_1_TiB_allocates_one_bitmap_and_a_bounded_rest(int mappings, ulong length, int readsEach)
    {
        var kernel = new ScriptedKernel();
        kernel.ExpectIoasAlloc(1);
        Ioas ioas = kernel.OpenIommufd().AllocateIoas();
        kernel.ExpectHwptAlloc(5, IommuHwptAllocFlags.DirtyTracking, 30);
        Hwpt hwpt = Hwpt.Allocate(ioas, 5, IommuHwptAllocFlags.DirtyTracking).Hwpt!;
        using DirtyBuffer buffer = DirtyBuffer.Create(kernel);
        for (int index = 0; index < mappings; index++)
        {
            ulong at = TiB / (ulong)mappings * (ulong)index;
            kernel.ExpectMap(at);
            ioas.Map(new Iova(at), new HostAddress(0x1000), length, DmaAccess.ReadWrite, new GuestPhysicalAddress(at));
        }

        var tracker = new DirtyTracker(TiB >> GuestPage.Shift, [TableDirtySource.Of(hwpt, buffer, ["nvme0"])]);
        kernel.ExpectTracking(30, on: true);
        tracker.Start();
        for (int read = 0; read < mappings * readsEach; read++)
        {
            kernel.Expect(IommufdRequests.HwptGetDirtyBitmap, (_, argument) =>
            {
                Script.SetBits(argument.Read64(40), [0, 7]);
                return Errno.Success;
            });
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        using DirtyLease lease = tracker.Harvest();
        long rest = GC.GetAllocatedBytesForCurrentThread() - before - BitmapLength;

        Assert.Equal(0, kernel.Remaining);
        Assert.Equal((ulong)(mappings * readsEach * 2), lease.PageCount);
        output.WriteLine($"harvest of 1 TiB, {mappings} mappings: {rest} bytes beside the bitmap of {BitmapLength}");
        Assert.InRange(rest, 0, (64 << 10) + (1024L * mappings * readsEach));
        // The buffer: 2 MiB of bits and nothing else is mapped, however large the machine.
        Assert.Equal(1, kernel.LiveMappings);
        Assert.Equal(2UL << 20, DirtyBuffer.ChunkLength >> GuestPage.Shift >> 3);
    }
}
