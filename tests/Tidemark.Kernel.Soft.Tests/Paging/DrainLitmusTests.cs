using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Tests.Iommufd;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Tests.Paging;

/// <summary>
/// A device writes counters into pages while another thread harvests and copies what was reported. At the end every
/// page's copy must equal the page: nothing was written without being reported afterwards.
/// </summary>
public sealed class DrainLitmusTests
{
    private const int Pages = 16;
    private const ulong Base = 0x10_0000;

    [Fact]
    public void No_write_is_lost_between_harvests()
    {
        for (int round = 0; round < 20; round++)
            Assert.Equal(0, LostPages(SoftKernelFaults.None));
    }

    [Fact]
    public void Without_the_drain_writes_are_lost()
    {
        int lost = 0;
        for (int round = 0; round < 50 && lost == 0; round++)
            lost = LostPages(SoftKernelFaults.SkipIotlbDrain);
        Assert.NotEqual(0, lost);
    }

    private static int LostPages(SoftKernelFaults faults)
    {
        using var fixture = new IommufdFixture(faults);
        (uint ioas, uint hwpt, IBoundDevice device) = fixture.AttachTracking();
        Mapping memory = fixture.Memory(Pages * GuestPage.Size);
        Mapping bitmap = fixture.Memory(GuestPage.Size);
        Assert.Equal(Errno.Success, fixture.Map(ioas, Base, memory.Address.Value, Pages * GuestPage.Size));
        ulong[] copy = new ulong[Pages];
        DevicePort port = fixture.Port();
        bool stop = false;
        var writer = new Thread(() =>
        {
            Span<byte> value = stackalloc byte[8];
            for (ulong count = 1; !Volatile.Read(ref stop); count++)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(value, count);
                Assert.True(port.TryWrite(Base + count % Pages * GuestPage.Size, value));
            }

            port.Drain();
        }) { IsBackground = true, Name = "tidemark test device" };
        writer.Start();
        for (int harvest = 0; harvest < 200; harvest++)
            Harvest(fixture, hwpt, bitmap, memory, copy);
        Volatile.Write(ref stop, true);
        Assert.True(writer.Join(TimeSpan.FromSeconds(20)));
        Harvest(fixture, hwpt, bitmap, memory, copy);
        int lost = 0;
        for (int page = 0; page < Pages; page++)
        {
            if (copy[page] != Word(memory, page))
                lost++;
        }

        device.Unbind();
        return lost;
    }

    private static void Harvest(IommufdFixture fixture, uint hwpt, Mapping bitmap, Mapping memory, ulong[] copy)
    {
        bitmap.Bytes(0, 8).Clear();
        Assert.Equal(Errno.Success,
            fixture.Harvest(hwpt, Base, Pages * GuestPage.Size, bitmap.Address.Value));
        foreach (int page in IommufdFixture.SetBits(bitmap.Bytes(0, 8)))
            copy[page] = Word(memory, page);
    }

    private static ulong Word(Mapping memory, int page) =>
        Volatile.Read(ref memory.Words(Pages * 512)[page * 512]);
}
