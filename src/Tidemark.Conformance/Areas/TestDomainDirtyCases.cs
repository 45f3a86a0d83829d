using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Dirty bitmaps of large mappings, whose leaves are marked at will.</summary>
internal static class TestDomainDirtyCases
{
    private const string Area = "test-domain-dirty";
    private const ulong Small = TestRig.SmallPage;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddMarking(new CaseTable(cases, Area, "testdomain.dirty.mark", "kernel behaviour, marking leaves dirty"));
        AddBitmaps(new CaseTable(cases, Area, "testdomain.dirty.bitmap", "iommufd.h, iommu_hwpt_get_dirty_bitmap"));
        AddEdges(new CaseTable(cases, Area, "testdomain.dirty.edge", "kernel behaviour, edges of a dirty bitmap"));
    }

    private static void AddMarking(CaseTable table)
    {
        table.Refusals<TestCommand>(
            run => TestCommand.Create(TestOperation.SetDirty, Track(run, 4)) with
            {
                Word1 = Iova, Word2 = 4 * Page, Word3 = Page, Word4 = run.ScratchAddress,
            },
            Calls.Iommufd,
            new("page-size-0", "page-size", Errno.EINVAL, (_, ref command) => command.Word3 = 0),
            new("length-0", "length", Errno.EINVAL, (_, ref command) => command.Word2 = 0),
            new("unaligned", "iova", Errno.EINVAL, (_, ref command) => command.Word1 = Iova + Small),
            new("unaligned-length", "length", Errno.EINVAL, (_, ref command) => command.Word2 = Page + Small),
            new("no-bitmap", "bitmap", Errno.EINVAL, (_, ref command) => command.Word4 = 0),
            new("too-many-pages", "length page-size iova", Errno.EOVERFLOW, (_, ref command) =>
                (command.Word2, command.Word3) = ((1UL << 27) + 1, 1)),
            new("unknown-table", "table", Errno.ENOENT, (_, ref command) => command.Id = 999),
            new("not-tracking", "table", Errno.EINVAL, (run, ref command) =>
                command.Id = run.TestDomain.CreateDevice().Hwpt),
            new("bad-bitmap", "bitmap", Errno.EFAULT, (_, ref command) => command.Word4 = BadAddress));
        table.Add("counts", "the number of marked pages comes back", run =>
        {
            uint hwpt = Track(run, 16);
            run.Scratch.Words(1)[0] = 0x8421;
            run.Answers(
                run.TestDomain.SetDirty(hwpt, Iova, 16 * Page, Page, run.ScratchAddress, out ulong marked),
                Errno.Success, "marking");
            run.Equal(4ul, marked, "the number of marked pages");
        });
        table.Add("switched-off", "what does not track can not be marked", run =>
        {
            uint hwpt = Track(run, 1);
            IommuHwptSetDirtyTracking call =
                IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.None);
            run.Answers(ref call, Errno.Success);
            run.Scratch.Words(1)[0] = 1;
            run.Answers(
                run.TestDomain.SetDirty(hwpt, Iova, Page, Page, run.ScratchAddress, out _), Errno.EINVAL, "marking");
        });
    }

    private static void AddBitmaps(CaseTable table)
    {
        foreach (ulong pages in (ulong[])[2, 4, 16, 32, 80, 512, 4096])
        {
            foreach (ulong offset in (ulong[])[0, Small, 0xFF1])
            {
                foreach (bool clear in (bool[])[true, false])
                {
                    table.Add(
                        $"{pages}-pages-at-0x{offset:x}{(clear ? "" : "-no-clear")}",
                        "every second leaf that is marked is reported with all its bits, the others are not",
                        run => ReadEverySecond(run, pages, offset, clear));
                }
            }
        }

        table.Add("coarser", "with a bit for several leaves, one dirty leaf sets it", run =>
        {
            uint hwpt = Track(run, 16);
            Mark(run, hwpt, Page, 0b10_0000_0000);
            run.Equal(0b100ul, Read(run, hwpt, 16 * Page, 4 * Page), "the bitmap");
        });
        table.Add("finer", "with several bits for a leaf, a dirty leaf sets all of them", run =>
        {
            uint hwpt = Track(run, 16);
            Mark(run, hwpt, Page, 0b10);
            run.Equal(0b1111_0000ul, Read(run, hwpt, 16 * Page, Page / 4), "the bitmap");
        });
        table.Add("half-a-leaf", "either half of a leaf of a page is the whole leaf", run =>
        {
            uint hwpt = Track(run, 4);
            Mark(run, hwpt, Small, 0b10);
            run.Equal(0b11ul, Read(run, hwpt, 4 * Page, Small), "the bitmap");
        });
        table.Add("remapped-is-clean", "a mapping that is made anew is clean", run =>
        {
            uint hwpt = Track(run, 4);
            Mark(run, hwpt, Page, 0b11);
            run.Answers(run.Unmap(Iova, 4 * Page, out _), Errno.Success, "unmapping");
            run.Map(Iova, 4 * Page);
            run.Equal(0ul, Read(run, hwpt, 4 * Page, Page), "the bitmap");
        });
        table.Add("two-tables", "each page table of a space has dirty bits of its own", run =>
        {
            uint first = Track(run, 4);
            TestDevice device = run.TestDomain.CreateDevice();
            uint second = run.TestDomain.Allocate(device, run.Ioas, IommuHwptAllocFlags.DirtyTracking);
            IommuHwptSetDirtyTracking call =
                IommuHwptSetDirtyTracking.Create(second, IommuHwptSetDirtyTrackingFlags.Enable);
            run.Answers(ref call, Errno.Success);
            Mark(run, first, Page, 0b100);
            run.Equal(0ul, Read(run, second, 4 * Page, Page), "the bitmap of the other table");
            run.Equal(0b100ul, Read(run, first, 4 * Page, Page), "the bitmap");
        });
        table.Add("automatic-table", "an automatic page table does not track: EOPNOTSUPP", run =>
        {
            uint hwpt = run.TestDomain.CreateDevice().Hwpt;
            IommuHwptSetDirtyTracking call =
                IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.Enable);
            run.Answers(ref call, Errno.EOPNOTSUPP);
            run.Map(Iova, Page);
            IommuHwptGetDirtyBitmap read = IommuHwptGetDirtyBitmap.Create(
                hwpt, Iova, Page, Page, run.ScratchAddress, IommuHwptGetDirtyBitmapFlags.None);
            run.Answers(ref read, Errno.EOPNOTSUPP);
        });
        table.Add("nested-table", "a nested page table has no dirty bits: ENOENT", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            uint parent = run.TestDomain.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent);
            uint nested = run.TestDomain.Allocate(device, parent, nested: true);
            IommuHwptSetDirtyTracking call =
                IommuHwptSetDirtyTracking.Create(nested, IommuHwptSetDirtyTrackingFlags.Enable);
            run.Answers(ref call, Errno.ENOENT);
        });
    }

    private static void AddEdges(CaseTable table)
    {
        table.Add("large-leaf-all-bits", "a leaf of 64 KiB is reported whole", run =>
        {
            uint hwpt = TrackLargeLeaf(run, out ulong leaf);
            Mark(run, hwpt, Page, 0b100);
            run.Equal(leaf == 64 ? ulong.MaxValue : (1ul << (int)leaf) - 1, ReadWord(run, hwpt, leaf), "the bitmap");
        });
        table.Add("hole-ends-the-walk", "what comes after the first hole is neither reported nor cleared", run =>
        {
            uint hwpt = Track(run, 0);
            run.Map(Iova, Page);
            run.Map(Iova + (2 * Page), Page, 2 * Page);
            Mark(run, hwpt, Page, 0b101);
            run.Equal(1ul, Read(run, hwpt, 4 * Page, Page), "the bitmap of the whole");
            run.Scratch.Words(1).Clear();
            Read(run, hwpt, Iova + (2 * Page), Page, Page);
            run.Equal(1ul, run.Scratch.Words(1)[0], "the bitmap of what comes after the hole");
        });
        table.Add("unmapped-start", "a range that begins unmapped reports nothing", run =>
        {
            uint hwpt = Track(run, 0);
            run.Map(Iova + Page, Page);
            run.Scratch.Words(1)[0] = 0;
            Mark(run, hwpt, Page, 0b10);
            run.Equal(0ul, Read(run, hwpt, 4 * Page, Page), "the bitmap");
        });
        table.Add("lost-when-bitmap-is-bad", "a bitmap that can not be written loses the bits and is no error", run =>
        {
            uint hwpt = Track(run, 4);
            Mark(run, hwpt, Page, 0b1);
            IommuHwptGetDirtyBitmap read = IommuHwptGetDirtyBitmap.Create(
                hwpt, Iova, 4 * Page, Page, BadAddress, IommuHwptGetDirtyBitmapFlags.None);
            run.Answers(ref read, Errno.Success);
            run.Equal(0ul, Read(run, hwpt, 4 * Page, Page), "the bitmap afterwards");
        });
        table.Add("enabling-again-cleans", "enabling again forgets what was dirty", run =>
        {
            uint hwpt = Track(run, 4);
            Mark(run, hwpt, Page, 0b1);
            IommuHwptSetDirtyTracking call =
                IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.Enable);
            run.Answers(ref call, Errno.Success);
            run.Equal(0ul, Read(run, hwpt, 4 * Page, Page), "the bitmap");
        });
        table.Add("read-while-off", "dirty bits can be read when tracking is off", run =>
        {
            uint hwpt = Track(run, 4);
            Mark(run, hwpt, Page, 0b10);
            IommuHwptSetDirtyTracking call =
                IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.None);
            run.Answers(ref call, Errno.Success);
            run.Equal(0b10ul, Read(run, hwpt, 4 * Page, Page), "the bitmap");
        });
    }

    /// <summary>A tracking page table of the case's IOAS, with leaves of a page, and so many pages mapped.</summary>
    private static uint Track(CaseRun run, ulong pages)
    {
        TestRig rig = run.TestDomain;
        run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
        TestDevice device = rig.CreateDevice(run.CreateIoas());
        uint hwpt = rig.Allocate(device, run.Ioas, IommuHwptAllocFlags.DirtyTracking);
        if (pages != 0)
            run.Map(Iova, pages * Page);
        rig.Replace(device, hwpt);
        IommuHwptSetDirtyTracking call =
            IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.Enable);
        run.Answers(ref call, Errno.Success);
        return hwpt;
    }

    private static void Mark(CaseRun run, uint hwpt, ulong pageSize, ulong bits)
    {
        run.Scratch.Words(1)[0] = bits;
        ulong length = 64 * pageSize;
        run.Answers(
            run.TestDomain.SetDirty(hwpt, Iova, length, pageSize, run.ScratchAddress, out ulong marked),
            Errno.Success, "marking leaves");
        run.Equal((ulong)System.Numerics.BitOperations.PopCount(bits), marked, "the number of marked pages");
        run.Scratch.Words(64).Clear();
    }

    private static ulong Read(CaseRun run, uint hwpt, ulong byteLength, ulong pageSize)
    {
        run.Scratch.Words(64).Clear();
        Read(run, hwpt, Iova, byteLength, pageSize);
        return run.Scratch.Words(1)[0];
    }

    private static void Read(CaseRun run, uint hwpt, ulong iova, ulong byteLength, ulong pageSize)
    {
        IommuHwptGetDirtyBitmap read = IommuHwptGetDirtyBitmap.Create(
            hwpt, iova, byteLength, pageSize, run.ScratchAddress, IommuHwptGetDirtyBitmapFlags.None);
        run.Answers(ref read, Errno.Success);
    }

    private static ulong ReadWord(CaseRun run, uint hwpt, ulong pages) => Read(run, hwpt, pages * Page, Page);

    /// <summary>A mapping with large leaves; the number of pages in its first one comes back.</summary>
    private static uint TrackLargeLeaf(CaseRun run, out ulong pages)
    {
        TestRig rig = run.TestDomain;
        TestDevice device = rig.CreateDevice(run.CreateIoas());
        uint hwpt = rig.Allocate(device, run.Ioas, IommuHwptAllocFlags.DirtyTracking);
        run.Map(Iova, MemoryPages * Page);
        rig.Replace(device, hwpt);
        IommuHwptSetDirtyTracking call =
            IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.Enable);
        run.Answers(ref call, Errno.Success);
        Mark(run, hwpt, Page, 1);
        ulong bits = Read(run, hwpt, MemoryPages * Page, Page);
        pages = (ulong)System.Numerics.BitOperations.PopCount(bits);
        if (pages < 4)
            throw NotApplicable("The memory is not contiguous here, so the leaves are small.");
        return hwpt;
    }

    /// <summary>Marks every second page and reads the bitmap twice, as iommufd's own selftest does.</summary>
    private static void ReadEverySecond(CaseRun run, ulong pages, ulong offset, bool clear)
    {
        TestRig rig = run.TestDomain;
        Mapping memory = run.CreateMemory(pages);
        run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
        TestDevice device = rig.CreateDevice(run.CreateIoas());
        uint hwpt = rig.Allocate(device, run.Ioas, IommuHwptAllocFlags.DirtyTracking);
        run.Answers(run.TryMap(Iova, memory.Address.Value, pages * Page), Errno.Success, "mapping");
        IommuHwptSetDirtyTracking call =
            IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.Enable);
        run.Answers(ref call, Errno.Success);

        int bits = (int)(pages * Page / Small);
        int bytes = (bits + 7) / 8;
        Mapping marks = run.CreateMemory((ulong)bytes / Page + 1);
        // A page is two of the smallest leaves' bits: the first of every second page is marked.
        for (int bit = 0; bit < bits; bit += 4)
            marks.Bytes((ulong)bit / 8, 1)[0] |= (byte)(1 << (bit % 8));
        run.Answers(
            rig.SetDirty(hwpt, Iova, pages * Page, Small, marks.Address.Value, out ulong marked), Errno.Success,
            "marking leaves");
        run.Equal((ulong)(bits + 3) / 4, marked, "the number of marked leaves");

        Mapping bitmap = run.CreateMemory(((ulong)bytes + offset) / Page + 1);
        for (int reading = 0; reading < 2; reading++)
        {
            bitmap.Bytes(0, (int)bitmap.ByteLength).Clear();
            IommuHwptGetDirtyBitmap read = IommuHwptGetDirtyBitmap.Create(
                hwpt, Iova, pages * Page, Small, bitmap.Address.Value + offset,
                clear ? IommuHwptGetDirtyBitmapFlags.None : IommuHwptGetDirtyBitmapFlags.NoClear);
            run.Answers(ref read, Errno.Success);
            bool expectsBits = reading == 0 || !clear;
            ReadOnlySpan<byte> found = bitmap.Bytes(offset, bytes);
            for (int index = 0; index < bytes; index++)
            {
                int left = Math.Min(8, bits - (index * 8));
                byte expected = expectsBits ? (byte)(0x33 & ((1 << left) - 1)) : (byte)0;
                run.Equal(expected, found[index], $"byte {index} of the bitmap, read {reading + 1} times");
            }
        }
    }
}
