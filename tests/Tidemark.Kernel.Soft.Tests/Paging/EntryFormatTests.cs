using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Tests.Paging;

/// <summary>Entries as they lie in memory, format by format.</summary>
public sealed class EntryFormatTests : IDisposable
{
    private const ulong Iova4K = 0x40_0000_1000;
    private const ulong Physical4K = 0x5000_1000;
    private const ulong Large = 2 << 20;
    private const ulong Gibibyte = 1 << 30;

    private readonly PhysicalMemory _physical = new(new LinuxKernel());

    public void Dispose() => _physical.Dispose();

    [Theory]
    [InlineData("vtd", 0x5000_1003ul, 0x5000_1001ul, 0x5000_1002ul)]
    [InlineData("vtd-fs", 0x5000_1067ul, 0x5000_1025ul, 0x5000_1067ul)]
    [InlineData("amd", 0x7000_0000_5000_1001ul, 0x3000_0000_5000_1001ul, 0x5000_0000_5000_1001ul)]
    [InlineData("test", 0x6000_0000_A000_2E01ul, 0x2000_0000_A000_2E01ul, 0x4000_0000_A000_2E01ul)]
    [InlineData("smmu-dirty", 0x0008_0000_5000_1F47ul, 0x5000_1FC7ul, 0x0008_0000_5000_1F47ul)]
    [InlineData("smmu", 0x5000_1F47ul, 0x5000_1FC7ul, 0x5000_1F47ul)]
    public void A_page_of_4_KiB_by_permission(string format, ulong readWrite, ulong readOnly, ulong writeOnly)
    {
        ulong iova = format == "test" ? 0x100_1000 : Iova4K;
        using IoPageTable table = Create(format);
        Map(table, iova, Physical4K, 0x1000);
        Assert.Equal(readWrite, Walk(table, iova)[^1].Entry);
        table.Unmap(iova, iova + 0xFFF, []);
        Assert.Equal(Errno.Success, table.Map(iova, Physical4K, 0x1000, read: true, write: false, largeLeaves: true));
        Assert.Equal(readOnly, Walk(table, iova)[^1].Entry);
        table.Unmap(iova, iova + 0xFFF, []);
        Assert.Equal(Errno.Success, table.Map(iova, Physical4K, 0x1000, read: false, write: true, largeLeaves: true));
        Assert.Equal(writeOnly, Walk(table, iova)[^1].Entry);
    }

    [Theory]
    [InlineData("vtd", 0x4020_0083ul, 1)]
    [InlineData("vtd-fs", 0x4020_00E7ul, 1)]
    [InlineData("amd", 0x7000_0000_4020_0001ul, 1)]
    [InlineData("smmu-dirty", 0x0008_0000_4020_0F45ul, 1)]
    public void A_leaf_of_2_MiB(string format, ulong entry, int level)
    {
        using IoPageTable table = Create(format);
        Map(table, Gibibyte + Large, 0x4020_0000, Large);
        Assert.Equal((level, entry), Walk(table, Gibibyte + Large)[^1]);
        Assert.True(table.TryFind(Gibibyte + Large + 0x12345, out ulong physical, out ulong length));
        Assert.Equal((0x4021_2345ul, Large), (physical, length));
    }

    [Theory]
    [InlineData("vtd", 0x4000_0083ul, 3ul)]
    [InlineData("vtd-fs", 0x4000_00E7ul, 0x27ul)]
    [InlineData("amd", 0x7000_0000_4000_0001ul, 0x6000_0000_0000_0601ul)]
    [InlineData("smmu-dirty", 0x0008_0000_4000_0F45ul, 3ul)]
    public void A_leaf_of_1_GiB_and_the_table_entry_above_it(string format, ulong entry, ulong tableBits)
    {
        using IoPageTable table = Create(format);
        ulong iova = 5ul << 40;
        Map(table, iova, Gibibyte, Gibibyte);
        List<(int Level, ulong Entry)> walk = Walk(table, iova);
        Assert.Equal((2, entry), walk[^1]);
        Assert.Equal((3, tableBits), (walk[^2].Level, walk[^2].Entry & 0xFFF0_0000_0000_0FFF));
    }

    [Theory]
    [InlineData(13, 0x7000_0000_5000_0E01ul)]
    [InlineData(14, 0x7000_0000_5000_1E01ul)]
    [InlineData(16, 0x7000_0000_5000_7E01ul)]
    [InlineData(20, 0x7000_0000_5007_FE01ul)]
    public void Amds_leaves_between_natural_sizes_are_replicas_that_tell_their_size(int shift, ulong entry)
    {
        using IoPageTable table = Create("amd");
        ulong size = 1ul << shift;
        Map(table, Gibibyte, 0x5000_0000, size);
        for (ulong offset = 0; offset < size; offset += 0x1000)
            Assert.Equal((0, entry), Walk(table, Gibibyte + offset)[^1]);
        Assert.False(table.TryFind(Gibibyte + size, out _, out _));
        Assert.True(table.TryFind(Gibibyte + size - 1, out ulong physical, out ulong length));
        Assert.Equal((0x5000_0000 + size - 1, size), (physical, length));
    }

    [Fact]
    public void Amds_leaves_of_512_GiB_are_two_of_256()
    {
        const ulong Half = 1ul << 38;
        using IoPageTable table = Create("amd");
        Map(table, 1ul << 40, 1ul << 40, 2 * Half);
        Assert.True(table.TryFind((1ul << 40) + Half, out _, out ulong length));
        Assert.Equal(Half, length);
        Map(table, 1ul << 41, 1ul << 41, 1ul << 40);
        Assert.True(table.TryFind((1ul << 41) + 5, out ulong physical, out length));
        Assert.Equal(((1ul << 41) + 5, 1ul << 40), (physical, length));
    }

    [Fact]
    public void Amds_table_grows_at_the_top_and_keeps_what_it_has()
    {
        using IoPageTable table = Create("amd");
        Map(table, 0x1000, Physical4K, 0x1000);
        Assert.Equal(2, table.Root.Level);
        Assert.False(table.TryWalk(1ul << 45, write: false, out _, out _));
        Map(table, 1ul << 45, Physical4K, 0x1000);
        Assert.Equal(3, table.Root.Level);
        Map(table, ulong.MaxValue - 0xFFF, Physical4K, 0x1000);
        Assert.Equal(5, table.Root.Level);
        Assert.True(table.TryWalk(ulong.MaxValue, write: true, out _, out _));
        table.Unmap(ulong.MaxValue - 0xFFF, ulong.MaxValue, []);
        Assert.False(table.TryWalk(ulong.MaxValue, write: false, out _, out _));
        Assert.True(table.TryWalk(0x1000, write: true, out ulong physical, out _));
        Assert.Equal(Physical4K, physical);
        Assert.True(table.TryWalk(1ul << 45, write: true, out _, out _));
    }

    [Fact]
    public void The_test_domains_granule_is_2_KiB()
    {
        using IoPageTable table = Create("test");
        Map(table, 0x100_0800, 0x5000_0800, 0x800);
        Assert.Equal(0x6000_0000_A000_1001ul, Walk(table, 0x100_0800)[^1].Entry);
        Map(table, 0x200_0000, 0x5000_0000, 1 << 20);
        Assert.Equal((1, 0x6000_0000_A000_0001ul), Walk(table, 0x200_0000)[^1]);
        Assert.True(table.TryWalk(0x100_0800, write: false, out ulong physical, out _));
        Assert.Equal(0x5000_0800ul, physical);
        Assert.False(table.TryWalk(0x100_0000, write: false, out _, out _));
        Assert.Equal(0x800ul, table.Format.SmallestPage);
        // HUGE_PAGES off means 4 KiB, which is a leaf of two entries here.
        Assert.Equal(
            Errno.Success, table.Map(0x300_0000, 0x5000_0000, 0x2000, read: true, write: true, largeLeaves: false));
        Assert.True(table.TryFind(0x300_0800, out _, out ulong length));
        Assert.Equal(0x1000ul, length);
    }

    [Fact]
    public void The_hardware_sets_accessed_and_dirty_as_each_format_has_them()
    {
        (string Format, ulong AfterRead, ulong AfterWrite)[] expected =
        [
            ("vtd", 0x5000_1103, 0x5000_1303),
            ("amd", 0x7000_0000_5000_1021, 0x7000_0000_5000_1061),
            ("smmu-dirty", 0x0008_0000_5000_1FC7, 0x0008_0000_5000_1F47),
        ];
        foreach ((string format, ulong afterRead, ulong afterWrite) in expected)
        {
            using IoPageTable table = Create(format);
            table.Tracking = true;
            Map(table, Iova4K, Physical4K, 0x1000);
            var visitor = new Collected([]);
            DirtyExtent cleared = DirtyExtent.Empty;
            table.ReadDirty(Iova4K, Iova4K + 0xFFF, clear: true, ref visitor, ref cleared);
            Assert.True(table.TryWalk(Iova4K, write: false, out _, out IotlbFlags flags));
            Assert.Equal(afterRead, Walk(table, Iova4K)[^1].Entry);
            Assert.Equal(IotlbFlags.Read | IotlbFlags.Write, flags);
            Assert.True(table.TryWalk(Iova4K, write: true, out _, out flags));
            Assert.Equal(afterWrite, Walk(table, Iova4K)[^1].Entry);
            Assert.Equal(IotlbFlags.Read | IotlbFlags.Write | IotlbFlags.DirtyKnown, flags);
        }
    }

    [Fact]
    public void A_replica_is_dirty_alone_and_all_are_cleaned()
    {
        using IoPageTable table = Create("amd");
        table.Tracking = true;
        Map(table, Gibibyte, 0x5000_0000, 0x10000);
        Assert.True(table.TryWalk(Gibibyte + 0x3000, write: true, out _, out _));
        Assert.True(table.TrySetDirty(Gibibyte + 0x9000));
        Assert.Equal(0x7000_0000_5000_7E61ul, Walk(table, Gibibyte + 0x3000)[^1].Entry);
        Assert.Equal(0x7000_0000_5000_7E41ul, Walk(table, Gibibyte + 0x9000)[^1].Entry);
        Assert.Equal(0x7000_0000_5000_7E01ul, Walk(table, Gibibyte + 0xF000)[^1].Entry);
        var visitor = new Collected([]);
        DirtyExtent cleared = DirtyExtent.Empty;
        table.ReadDirty(Gibibyte + 0xC000, Gibibyte + 0xFFFF, clear: true, ref visitor, ref cleared);
        Assert.Equal([(Gibibyte, 0x10000ul)], visitor.Leaves);
        Assert.Equal(0x7000_0000_5000_7E21ul, Walk(table, Gibibyte + 0x3000)[^1].Entry);
        Assert.Equal(0x7000_0000_5000_7E01ul, Walk(table, Gibibyte + 0x9000)[^1].Entry);
    }

    [Fact]
    public void SMMUv3_counts_leaves_on_from_where_the_query_begins()
    {
        using IoPageTable table = Create("smmu-dirty");
        Map(table, Gibibyte, 0x4000_0000, 3 * Large);
        var visitor = new Collected([]);
        DirtyExtent cleared = DirtyExtent.Empty;
        ulong begin = Gibibyte + Large / 2;
        Assert.True(table.ReadDirty(begin, Gibibyte + 3 * Large - 1, clear: false, ref visitor, ref cleared));
        Assert.Equal([(begin, Large), (begin + Large, Large), (begin + 2 * Large, Large)], visitor.Leaves);
        visitor.Leaves.Clear();
        // Half a leaf ahead, it is past the query's end one leaf early.
        Assert.True(table.ReadDirty(begin, Gibibyte + 2 * Large + Large / 4, clear: true, ref visitor, ref cleared));
        Assert.Equal([(begin, Large), (begin + Large, Large)], visitor.Leaves);
        Assert.Equal((Gibibyte, Gibibyte + 2 * Large - 1), (cleared.First, cleared.Last));
        Assert.Equal(0x0008_0000_4000_0FC5ul, Walk(table, Gibibyte)[^1].Entry);
    }

    internal static PageTableFormat Format(string name) => name switch
    {
        "vtd" => PageTableFormat.VtdSecondStage(48, dirtyTracking: true),
        "vtd-39" => PageTableFormat.VtdSecondStage(39, dirtyTracking: true),
        "vtd-57" => PageTableFormat.VtdSecondStage(57, dirtyTracking: true),
        "vtd-fs" => PageTableFormat.X86FirstStage(48),
        "amd" => PageTableFormat.AmdV1(dirtyTracking: true),
        "test" => PageTableFormat.TestDomain(dirtyTracking: true),
        "test-huge" => PageTableFormat.TestDomain(dirtyTracking: true, hugePages: true),
        "smmu" => PageTableFormat.SmmuV3Stage1(dirtyTracking: false),
        "smmu-dirty" => PageTableFormat.SmmuV3Stage1(dirtyTracking: true),
        _ => throw new ArgumentOutOfRangeException(nameof(name)),
    };

    private static void Map(IoPageTable table, ulong iova, ulong physical, ulong byteLength) => Assert.Equal(
        Errno.Success, table.Map(iova, physical, byteLength, read: true, write: true, largeLeaves: true));

    private IoPageTable Create(string format) => IoPageTable.TryCreate(_physical, Format(format))!;

    /// <summary>The entries on the way to an address, the leaf last.</summary>
    private List<(int Level, ulong Entry)> Walk(IoPageTable table, ulong iova)
    {
        int granule = table.PageShift;
        (ulong physical, int level) = table.Root;
        var walk = new List<(int, ulong)>();
        while (true)
        {
            ulong entry = _physical.Table(physical)[(int)(iova >> (granule + 9 * level)) & 511];
            walk.Add((level, entry));
            bool leaf = table.Format.Layout switch
            {
                PageTableLayout.AmdV1 or PageTableLayout.AmdV1TwoKibibyte => (entry >> 9 & 7) is 0 or 7,
                PageTableLayout.SmmuV3Stage1 => (entry & 2) == 0,
                _ => (entry & 0x80) != 0,
            };
            if (level == 0 || leaf)
                return walk;
            physical = granule == 11 ? (entry & 0x000F_FFFF_FFFF_F000) >> 1 : entry & 0x000F_FFFF_FFFF_F000;
            level--;
        }
    }

    internal readonly struct Collected(List<(ulong Iova, ulong ByteLength)> leaves) : IDirtyLeafVisitor
    {
        public List<(ulong Iova, ulong ByteLength)> Leaves => leaves;

        public void OnDirtyLeaf(ulong iova, ulong byteLength) => leaves.Add((iova, byteLength));
    }
}
