using Tidemark.Abi;
using Tidemark.Kernel.Linux;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Tests.Paging;

/// <summary>Random mappings, accesses and queries, against a list of leaves.</summary>
public sealed class PageTablePropertyTests
{
    private const int Operations = 600;

    /// <summary>Smallest pages of the window that is played with; it lies across a border of tables.</summary>
    private const int WindowPages = 8192;

    [Theory]
    [InlineData("vtd")]
    [InlineData("vtd-39")]
    [InlineData("vtd-57")]
    [InlineData("vtd-fs")]
    [InlineData("amd")]
    [InlineData("test")]
    [InlineData("test-huge")]
    [InlineData("smmu")]
    [InlineData("smmu-dirty")]
    public void A_table_does_what_a_list_of_leaves_does(string format)
    {
        for (int seed = 1; seed <= 6; seed++)
        {
            try
            {
                using var physical = new PhysicalMemory(new LinuxKernel());
                new Run(EntryFormatTests.Format(format), physical, seed).Go();
            }
            catch (Exception failure)
            {
                throw new InvalidOperationException($"Seed {seed}.", failure);
            }
        }
    }

    private sealed class Run(PageTableFormat format, PhysicalMemory physicalMemory, int seed)
    {
        private readonly Random _random = new(seed);
        private readonly PhysicalMemory _physical = physicalMemory;
        private readonly List<Area> _areas = [];
        private readonly ulong _page = format.SmallestPage;
        private readonly bool _large = seed % 3 != 0;
        private readonly ulong _base =
            ((format.FirstIova + (1ul << 30)) & ~((1ul << 30) - 1)) - (WindowPages / 2 * format.SmallestPage);

        public void Go()
        {
            using IoPageTable table = IoPageTable.TryCreate(_physical, format)!;
            table.Tracking = true;
            for (int operation = 0; operation < Operations; operation++)
                Step(table);
            while (_areas.Count != 0)
                Unmap(table);
            Assert.Equal(1, _physical.TablePages);
            table.Dispose();
            Assert.Equal(0, _physical.TablePages);
        }

        private void Step(IoPageTable table)
        {
            switch (_random.Next(10))
            {
                case < 2:
                    Map(table);
                    break;
                case 2 when _areas.Count > 3:
                    Unmap(table);
                    break;
                case 3:
                    Query(table, clear: _random.Next(3) != 0);
                    break;
                case 4 when _random.Next(4) == 0:
                    table.Tracking = !table.Tracking;
                    break;
                default:
                    Access(table);
                    break;
            }
        }

        private void Map(IoPageTable table)
        {
            ulong first = _base + ((ulong)_random.Next(WindowPages) & Alignment()) * _page;
            ulong length = (ulong)_random.Next(1, 1500) * _page;
            if (!_large && format.SmallestPage < 4096)
            {
                first &= ~4095ul;
                length = (length + 4095) & ~4095ul;
            }

            if (_areas.Exists(area => area.First < first + length && area.First + area.Length > first))
                return;
            // Often congruent, so that large leaves arise.
            ulong physical = (_random.Next(3) == 0 ? (ulong)_random.Next(1 << 20) * 4096 : first % (1ul << 30))
                + (3ul << 30);
            bool write = _random.Next(4) != 0;
            bool read = !write || _random.Next(4) != 0;
            Assert.Equal(Errno.Success, table.Map(first, physical, length, read, write, _large));
            var area = new Area(first, length, read, write, []);
            for (ulong at = 0; at < length;)
            {
                ulong leaf = Largest(first + at, physical + at, length - at);
                area.Leaves.Add(new Leaf(first + at, physical + at, leaf) { Dirty = StartsDirty && write });
                at += leaf;
            }

            _areas.Add(area);
        }

        /// <summary>The rule, said as plainly as can be.</summary>
        private ulong Largest(ulong iova, ulong physical, ulong left)
        {
            for (int shift = 62; shift > 10; shift--)
            {
                ulong size = 1ul << shift;
                if ((format.PageSizes & size) != 0 && iova % size == 0 && physical % size == 0 && size <= left
                    && (_large || size <= 4096))
                {
                    return size;
                }
            }

            throw new InvalidOperationException("No leaf fits.");
        }

        private void Unmap(IoPageTable table)
        {
            Area area = _areas[_random.Next(_areas.Count)];
            _areas.Remove(area);
            var freed = new List<ulong>();
            table.Unmap(area.First, area.First + area.Length - 1, freed);
            foreach (ulong page in freed)
                _physical.FreePage(page);
        }

        private void Access(IoPageTable table)
        {
            ulong iova = _base + (ulong)_random.NextInt64((long)((WindowPages + 1500) * _page));
            bool write = _random.Next(2) == 0;
            Area? area = _areas.Find(candidate => iova - candidate.First < candidate.Length);
            Leaf? leaf = area?.Leaves.Find(candidate => iova - candidate.First < candidate.Length);
            bool readsAlways = format.Layout is PageTableLayout.X86FirstStage or PageTableLayout.SmmuV3Stage1;
            bool permitted = area is not null && (write ? area.Write : area.Read || readsAlways);
            Assert.Equal(permitted, table.TryWalk(iova, write, out ulong physical, out _));
            Assert.Equal(leaf is not null, table.TryFind(iova, out ulong exact, out ulong length));
            if (leaf is null)
                return;
            Assert.Equal((leaf.Physical + (iova - leaf.First), leaf.Length), (exact, length));
            if (!permitted)
                return;
            ulong granule = 1ul << table.PageShift;
            Assert.Equal(exact & ~(granule - 1), physical);
            leaf.Dirty |= write && table.Tracking;
        }

        private void Query(IoPageTable table, bool clear)
        {
            if (!format.DirtyTracking || _areas.Count == 0)
                return;
            Area area = _areas[_random.Next(_areas.Count)];
            (ulong first, ulong last) = (area.First, area.First + area.Length - 1);
            if (!StartsDirty)
            {
                ulong from = (ulong)_random.NextInt64((long)(area.Length / _page)) * _page;
                ulong to = (ulong)_random.NextInt64((long)(from / _page), (long)(area.Length / _page)) * _page;
                (first, last) = (area.First + from, area.First + to + (_page - 1));
            }

            List<Leaf> dirty = area.Leaves.FindAll(
                leaf => leaf.Dirty && leaf.First <= last && leaf.First + (leaf.Length - 1) >= first);
            var visitor = new EntryFormatTests.Collected([]);
            DirtyExtent cleared = DirtyExtent.Empty;
            Assert.True(table.ReadDirty(first, last, clear, ref visitor, ref cleared));
            Assert.Equal(dirty.Select(leaf => (leaf.First, leaf.Length)), visitor.Leaves);
            Assert.Equal(!clear || dirty.Count == 0, cleared.IsEmpty);
            if (!clear || dirty.Count == 0)
                return;
            Assert.Equal((dirty[0].First, dirty[^1].First + dirty[^1].Length - 1), (cleared.First, cleared.Last));
            dirty.ForEach(leaf => leaf.Dirty = false);
        }

        private bool StartsDirty => format is { Layout: PageTableLayout.SmmuV3Stage1, DirtyTracking: true };

        private ulong Alignment() => ~((1ul << _random.Next(11)) - 1);
    }

    private sealed record Area(ulong First, ulong Length, bool Read, bool Write, List<Leaf> Leaves);

    private sealed record Leaf(ulong First, ulong Physical, ulong Length)
    {
        public bool Dirty { get; set; }
    }
}
