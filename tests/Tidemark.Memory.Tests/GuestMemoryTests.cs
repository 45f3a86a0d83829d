using System.Runtime.InteropServices;

namespace Tidemark.Memory.Tests;

public sealed unsafe class GuestMemoryTests : IDisposable, IWriteBarrier
{
    private const ulong SlotBytes = 4 * GuestPage.Size;
    private const ulong SecondStart = 16 * GuestPage.Size;

    private readonly void* _host = NativeMemory.AlignedAlloc((nuint)(2 * SlotBytes), GuestPage.Size);
    private readonly List<(ulong Address, ulong ByteLength)> _marks = [];
    private readonly GuestMemory _memory;

    public GuestMemoryTests()
    {
        NativeMemory.Clear(_host, (nuint)(2 * SlotBytes));
        // Next to each other in this process, far apart for the guest: an overrun would land in the neighbour.
        _memory = new GuestMemory(
        [
            new MemorySlot(new GuestPhysicalAddress(0), SlotBytes, new HostAddress((ulong)_host), 0),
            new MemorySlot(
                new GuestPhysicalAddress(SecondStart), SlotBytes, new HostAddress((ulong)_host + SlotBytes), SlotBytes),
        ]);
    }

    public void Dispose() => NativeMemory.AlignedFree(_host);

    void IWriteBarrier.Mark(GuestPhysicalAddress address, ulong byteLength) => _marks.Add((address.Value, byteLength));

    [Fact]
    public void Lengths_and_pass_0_count_slots_and_holes_as_they_say()
    {
        Assert.Equal(2 * SlotBytes, _memory.ByteLength);
        Assert.Equal(20UL, _memory.SpanPages);
        PageBitmap all = _memory.AllPages();
        Assert.Equal(8UL, all.CountSet());
        Assert.True(all[3] && !all[4] && !all[15] && all[16] && all[19]);
    }

    [Fact]
    public void What_is_written_is_read_back_from_the_right_slot()
    {
        _memory.Write(new GuestPhysicalAddress(SecondStart + 10), [1, 2, 3]);
        byte[] back = new byte[3];
        _memory.Read(new GuestPhysicalAddress(SecondStart + 10), back);
        Assert.Equal([1, 2, 3], back);
        Assert.Equal(2, ((byte*)_host)[SlotBytes + 11]);
        _memory.Write(new GuestPhysicalAddress(8), 0x1122334455667788UL);
        Assert.Equal(0x1122334455667788UL, _memory.ReadVolatile<ulong>(new GuestPhysicalAddress(8)));
        Assert.Equal(0x88, _memory.PagesSpan(0, 1)[8]);
        Assert.Throws<ArgumentException>(() => _memory.ReadVolatile<ulong>(new GuestPhysicalAddress(4)));
    }

    [Theory]
    [InlineData(SlotBytes, 1)]
    [InlineData(SlotBytes - 1, 2)]
    [InlineData(SecondStart - 1, 1)]
    [InlineData(SecondStart - 1, 2)]
    [InlineData(SecondStart + SlotBytes, 1)]
    [InlineData(SecondStart + SlotBytes - 2, 3)]
    [InlineData(ulong.MaxValue, 1)]
    [InlineData(ulong.MaxValue - 1, 3)]
    [InlineData(0, (int)SlotBytes + 1)]
    public void Nothing_outside_a_slot_can_be_touched(ulong address, int byteLength)
    {
        var at = new GuestPhysicalAddress(address);
        byte[] bytes = new byte[byteLength];
        bytes.AsSpan().Fill(0xff);
        _memory.WriteBarrier = this;
        Assert.Throws<ArgumentOutOfRangeException>(() => _memory.Read(at, bytes));
        Assert.Throws<ArgumentOutOfRangeException>(() => _memory.Write(at, bytes));
        Assert.Null(_memory.FindSlot(at, (ulong)byteLength));
        Assert.Empty(_marks);
        Assert.False(new ReadOnlySpan<byte>(_host, (int)(2 * SlotBytes)).ContainsAnyExcept((byte)0));
    }

    [Fact]
    public void Pages_past_a_slot_are_refused()
    {
        Assert.Equal((int)SlotBytes, _memory.PagesSpan(16, 4).Length);
        Assert.Throws<ArgumentOutOfRangeException>(() => _memory.PagesSpan(0, 5).Length);
        Assert.Throws<ArgumentOutOfRangeException>(() => _memory.PagesSpan(4, 1).Length);
        Assert.Throws<ArgumentOutOfRangeException>(() => _memory.PagesSpan(17, 4).Length);
    }

    [Fact]
    public void The_barrier_is_told_of_each_write_after_it_was_made_and_of_no_read()
    {
        _memory.WriteBarrier = this;
        _memory.Write(new GuestPhysicalAddress(4090), new byte[10]);
        _memory.Write(new GuestPhysicalAddress(SecondStart), (ushort)7);
        _memory.Read(new GuestPhysicalAddress(0), new byte[10]);
        Assert.Equal([(4090UL, 10UL), (SecondStart, 2UL)], _marks);
    }

    [Fact]
    public void Slots_that_overlap_or_are_not_whole_pages_are_refused()
    {
        var host = new HostAddress(0x10000);
        Assert.Throws<ArgumentException>(() => Make((0, 4096), (0, 4096)));
        Assert.Throws<ArgumentException>(() => Make((8192, 4096), (0, 4096)));
        Assert.Throws<ArgumentException>(() => Make((0, 8192), (4096, 4096)));
        Assert.Throws<ArgumentException>(() => Make((0, 0)));
        Assert.Throws<ArgumentException>(() => Make((1, 4096)));
        Assert.Throws<ArgumentException>(() => Make((0, 4097)));
        Assert.Equal(2UL, Make((0, 4096), (4096, 4096)).SpanPages);

        GuestMemory Make(params (ulong Start, ulong ByteLength)[] slots) =>
            new([.. slots.Select(
                slot => new MemorySlot(new GuestPhysicalAddress(slot.Start), slot.ByteLength, host, 0))]);
    }
}
