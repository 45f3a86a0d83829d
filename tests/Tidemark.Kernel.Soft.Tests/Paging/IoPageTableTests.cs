using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Tests.Paging;

public sealed class IoPageTableTests
{
    private const ulong Large = 2 << 20;
    private const ulong Huge = 1 << 30;

    [Theory]
    [InlineData(39)]
    [InlineData(48)]
    [InlineData(57)]
    public void Walks_find_what_was_mapped_at_every_width(int width)
    {
        using var physical = new PhysicalMemory(new LinuxKernel());
        using IoPageTable table = IoPageTable.TryCreate(physical, Format(width))!;
        ulong top = table.LastIova & ~(Huge - 1);
        Assert.Equal(Errno.Success, table.Map(top, 5 * Huge, Huge, read: true, write: true, largeLeaves: true));
        Assert.True(table.TryWalk(table.LastIova, write: true, out ulong found, out IotlbFlags flags));
        Assert.Equal(6 * Huge - 4096, found);
        Assert.Equal(IotlbFlags.Read | IotlbFlags.Write | IotlbFlags.DirtyKnown, flags);
        Assert.False(table.TryWalk(top - 1, write: false, out _, out _));
        Assert.False(table.TryWalk(table.LastIova + 1, write: false, out _, out _));
    }

    [Theory]
    [InlineData(0x1000ul, 0x1000ul, 0x3ff000ul, 511 + 1)]
    [InlineData(0x0ul, 0x1000ul, 0x400000ul, 1024)]
    [InlineData(0x0ul, 0x40000000ul, 0x40200000ul, 2)]
    [InlineData(0x0ul, 0x200000ul, 0x40000000ul, 512)]
    public void Leaves_are_as_large_as_address_and_length_allow(
        ulong iova, ulong physicalAddress, ulong length, int leaves)
    {
        using var physical = new PhysicalMemory(new LinuxKernel());
        using IoPageTable table = IoPageTable.TryCreate(physical, Format(48))!;
        table.Tracking = true;
        Assert.Equal(Errno.Success, table.Map(iova, physicalAddress, length, true, true, largeLeaves: true));
        for (ulong offset = 0; offset < length; offset += 4096)
        {
            Assert.True(table.TryWalk(iova + offset, write: true, out ulong found, out _));
            Assert.Equal(physicalAddress + offset, found);
        }

        var counted = new LeafCounter();
        DirtyExtent cleared = DirtyExtent.Empty;
        Assert.True(table.ReadDirty(iova, iova + length - 1, clear: true, ref counted, ref cleared));
        Assert.Equal(leaves, counted.Leaves);
        Assert.Equal((length, iova, iova + length - 1), (counted.Bytes, cleared.First, cleared.Last));
        Assert.True(table.ReadDirty(iova, iova + length - 1, clear: true, ref counted, ref cleared));
        Assert.Equal(leaves, counted.Leaves);
    }

    [Fact]
    public void Emptied_tables_are_given_back()
    {
        using var physical = new PhysicalMemory(new LinuxKernel());
        IoPageTable table = IoPageTable.TryCreate(physical, Format(48))!;
        Assert.Equal(Errno.Success, table.Map(0x1000, 0x1000, 2 * Large, true, true, largeLeaves: false));
        Assert.Equal(6, physical.TablePages);
        var freed = new List<ulong>();
        table.Unmap(0x1000, Large - 1, freed);
        Assert.Single(freed);
        table.Unmap(Large, 2 * Large + 0xfff, freed);
        Assert.Equal(5, freed.Count);
        Assert.False(table.TryWalk(0x1000, write: false, out _, out _));
        foreach (ulong page in freed)
            physical.FreePage(page);
        // What comes back from the free list is empty.
        Assert.Equal(Errno.Success, table.Map(Large, 0x1000, 0x1000, true, true, largeLeaves: false));
        Assert.False(table.TryWalk(Large + 0x1000, write: false, out _, out _));
        table.Dispose();
        Assert.Equal(0, physical.TablePages);
    }

    [Fact]
    public void Permissions_and_bits_are_those_of_the_leaf()
    {
        using var physical = new PhysicalMemory(new LinuxKernel());
        using IoPageTable table = IoPageTable.TryCreate(physical, Format(48))!;
        table.Tracking = true;
        Assert.Equal(Errno.Success, table.Map(0x1000, 0x1000, 0x1000, read: true, write: false, largeLeaves: true));
        Assert.Equal(Errno.Success, table.Map(0x2000, 0x2000, 0x1000, read: false, write: true, largeLeaves: true));
        Assert.False(table.TryWalk(0x1000, write: true, out _, out _));
        Assert.False(table.TryWalk(0x2000, write: false, out _, out _));
        Assert.True(table.TryWalk(0x1000, write: false, out _, out _));
        var counted = new LeafCounter();
        DirtyExtent cleared = DirtyExtent.Empty;
        Assert.True(table.ReadDirty(0, Large - 1, clear: true, ref counted, ref cleared));
        Assert.True(cleared.IsEmpty);
        Assert.True(table.TryWalk(0x2000, write: true, out _, out _));
        Assert.True(table.ReadDirty(0, Large - 1, clear: true, ref counted, ref cleared));
        Assert.Equal((0x2000ul, 0x2ffful), (cleared.First, cleared.Last));
    }

    private static PageTableFormat Format(int width) => PageTableFormat.VtdSecondStage(width, dirtyTracking: true);

    private struct LeafCounter : IDirtyLeafVisitor
    {
        public int Leaves { get; private set; }

        public ulong Bytes { get; private set; }

        public void OnDirtyLeaf(ulong iova, ulong byteLength)
        {
            Leaves++;
            Bytes += byteLength;
        }
    }

    [Fact]
    public void A_table_that_outlives_its_memory_can_still_be_freed()
    {
        var physical = new PhysicalMemory(new LinuxKernel());
        IoPageTable table = IoPageTable.TryCreate(physical, Format(48))!;
        Assert.Equal(
            Errno.Success, table.Map(0x1000, 0x1000, 0x1000, read: true, write: true, largeLeaves: true));
        physical.Dispose();
        Assert.Null(IoPageTable.TryCreate(physical, Format(48)));
        table.Dispose();
        Assert.Equal(0, physical.TablePages);
    }
}
