using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// DIRTY_PAGES of a type1 container, which looks at no hardware: a device that can write memory makes all of it dirty.
/// </summary>
internal static class LegacyDirtyCases
{
    private const string Area = "legacy-dirty";
    private const ulong Ones = ulong.MaxValue;

    /// <summary>A user address where nothing is mapped.</summary>
    private const ulong UnmappedAddress = 0x1000;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddSwitch(new CaseTable(cases, Area, "legacy.dirty", "vfio.h, vfio_iommu_type1_dirty_bitmap"));
        AddGetErrors(new CaseTable(cases, Area, "legacy.dirty.get", "vfio.h, vfio_iommu_type1_dirty_bitmap_get"));
        AddReport(new CaseTable(cases, Area, "legacy.dirty.report", "kernel behaviour, dirty pages of type1"));
        AddWords(new CaseTable(cases, Area, "legacy.dirty.words", "kernel behaviour, how type1 writes a bitmap"));
        AddUnmap(new CaseTable(cases, Area, "legacy.dirty.unmap", "vfio.h, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP"));
    }

    private static void AddSwitch(CaseTable table)
    {
        table.Errors<VfioIommuType1DirtyBitmap>(
            _ => VfioIommuType1DirtyBitmap.Create(VfioIommuDirtyPagesFlags.Start),
            (run, ref argument) => run.Kernel.Ioctl(run.Group.Container, ref argument).Errno,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-7", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 7),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = (VfioIommuDirtyPagesFlags)8),
            new("start-and-stop", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = VfioIommuDirtyPagesFlags.Start | VfioIommuDirtyPagesFlags.Stop),
            new("all-flags", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = (VfioIommuDirtyPagesFlags)7),
            new("no-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = VfioIommuDirtyPagesFlags.None));
        foreach ((string name, uint flags) in ((string, uint)[])[("start", 1), ("stop", 2), ("get", 4), ("none", 0)])
        {
            table.Add($"version-1.{name}", "a container of version 1 answers everything with EACCES", run =>
            {
                run.UseGroup(GroupSession.InType1(run, VfioExtension.Type1));
                run.Answers(Switch(run, (VfioIommuDirtyPagesFlags)flags), Errno.EACCES, "VFIO_IOMMU_DIRTY_PAGES");
            });
        }

        table.Add("version-1.null-pointer", "version 1 answers EACCES before it reads the argument", run =>
        {
            run.UseGroup(GroupSession.InType1(run, VfioExtension.Type1));
            run.Answers(
                run.Kernel.IoctlValue(run.Group.Container.Number, VfioRequests.IommuDirtyPages.Value, 0).Errno,
                Errno.EACCES, "VFIO_IOMMU_DIRTY_PAGES");
        });
        table.Add("start-twice", "starting twice is accepted", run =>
        {
            Start(run);
            Start(run);
        });
        table.Add("stop-without-start", "stopping without a start is accepted", run =>
            run.Answers(Switch(run, VfioIommuDirtyPagesFlags.Stop), Errno.Success, "stopping"));
        table.Add("start-stop-start", "it can be started again", run =>
        {
            Start(run);
            run.Answers(Switch(run, VfioIommuDirtyPagesFlags.Stop), Errno.Success, "stopping");
            Start(run);
        });
        table.Add("no-get-after-stop", "a stopped container reports nothing: EINVAL", run =>
        {
            run.Group.Map(Iova, Page);
            Start(run);
            run.Answers(Switch(run, VfioIommuDirtyPagesFlags.Stop), Errno.Success, "stopping");
            run.Answers(Get(run, Query.Of(run, Iova, Page)), Errno.EINVAL, "GET_BITMAP");
        });
    }

    private static void AddGetErrors(CaseTable table)
    {
        table.Errors<Query>(
            run =>
            {
                run.Group.Map(Iova, MemoryPages * Page);
                Start(run);
                return Query.Of(run, Iova, MemoryPages * Page);
            },
            (run, ref argument) => Get(run, argument),
            new("argsz-7", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 7),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags |= 8),
            new("two-flags", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags |= 1),
            new("argsz-8", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 8),
            new("argsz-47", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 47),
            new("size-0", "size", Errno.EINVAL, (_, ref argument) => argument.Size = 0),
            new("wraps", "iova size", Errno.EOVERFLOW, (_, ref argument) =>
                (argument.Iova, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
            new("bitmap-beyond-user-space", "data", Errno.EINVAL, (_, ref argument) => argument.Data = BadAddress),
            new("bitmap-size-0", "bitmap", Errno.EINVAL, (_, ref argument) => argument.BitmapSize = 0),
            new("bitmap-too-small", "bitmap", Errno.EINVAL, (_, ref argument) => argument.BitmapSize = 7),
            new("bitmap-too-large", "bitmap", Errno.EINVAL, (_, ref argument) => argument.BitmapSize = 0x1000_0001),
            new("page-size-larger", "pgsize", Errno.EINVAL, (_, ref argument) => argument.PageSize = 2 * Page),
            new("page-size-smaller", "pgsize", Errno.EINVAL, (_, ref argument) => argument.PageSize = Page / 2),
            new("page-size-odd", "pgsize", Errno.EINVAL, (_, ref argument) => argument.PageSize = 3 * Page),
            new("unaligned-iova", "iova", Errno.EINVAL, (_, ref argument) => argument.Iova -= 512),
            new("unaligned-size", "size", Errno.EINVAL, (_, ref argument) => argument.Size += 512),
            new("not-started", "tracking", Errno.EINVAL, (run, ref _) =>
                run.Answers(Switch(run, VfioIommuDirtyPagesFlags.Stop), Errno.Success, "stopping")),
            new("cuts-the-beginning", "iova size", Errno.EINVAL, (_, ref argument) =>
                (argument.Iova, argument.Size) = (argument.Iova + Page, argument.Size - Page)),
            new("cuts-the-end", "size", Errno.EINVAL, (_, ref argument) => argument.Size -= Page),
            new("bitmap-not-mapped", "data", Errno.EFAULT, (_, ref argument) => argument.Data = UnmappedAddress));
        table.Add("bitmap-size-64-bits", "a bitmap has room for whole words of 64 bits: less is EINVAL", run =>
        {
            run.Group.Map(Iova, Page);
            Start(run);
            Query query = Query.Of(run, Iova, Page);
            query.BitmapSize = 1;
            run.Answers(Get(run, query), Errno.EINVAL, "GET_BITMAP with a byte");
            query.BitmapSize = 8;
            run.Answers(Get(run, query), Errno.Success, "GET_BITMAP with a word");
        });
        table.Add("bitmap-larger", "a bitmap may be larger than it needs to be", run =>
        {
            run.Group.Map(Iova, Page);
            Start(run);
            Query query = Query.Of(run, Iova, Page);
            query.BitmapSize = 4096;
            run.Answers(Get(run, query), Errno.Success, "GET_BITMAP");
        });
    }

    private static void AddReport(CaseTable table)
    {
        table.Add("everything", "every page of every mapping is dirty, though no device wrote", run =>
        {
            run.Group.Map(Iova, MemoryPages * Page);
            Start(run);
            run.Equal(0xFFFFul, Read(run, Iova, MemoryPages * Page), "the bitmap");
        });
        table.Add("always", "every page is dirty each time", run =>
        {
            run.Group.Map(Iova, 4 * Page);
            Start(run);
            for (int round = 0; round < 3; round++)
                run.Equal(0xFul, Read(run, Iova, 4 * Page), $"the bitmap of round {round}");
        });
        table.Add("read-only-too", "memory that a device may only read is dirty as well", run =>
        {
            run.Answers(
                run.Group.TryMap(Iova, run.MemoryAddress, Page, VfioDmaMapFlags.Read), Errno.Success, "mapping");
            Start(run);
            run.Equal(1ul, Read(run, Iova, Page), "the bitmap");
        });
        table.Add("mapped-later", "what is mapped after the start is reported as well", run =>
        {
            Start(run);
            run.Group.Map(Iova, 2 * Page);
            run.Equal(3ul, Read(run, Iova, 2 * Page), "the bitmap");
        });
        table.Add("nothing-mapped", "where nothing is mapped nothing is reported", run =>
        {
            Start(run);
            run.Equal(0ul, Read(run, Iova, 16 * Page), "the bitmap");
        });
        table.Add("several-mappings", "a range may hold several mappings and holes", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (2 * Page), 2 * Page);
            run.Group.Map(Iova + (6 * Page), Page);
            Start(run);
            run.Equal(0b0100_1101ul, Read(run, Iova, 16 * Page), "the bitmap");
        });
        table.Add("relative-to-range", "bit 0 is the range's first page", run =>
        {
            run.Group.Map(Iova + (3 * Page), Page);
            Start(run);
            run.Equal(1ul, Read(run, Iova + (3 * Page), Page), "the bitmap from the mapping on");
            run.Equal(0b1000ul, Read(run, Iova, 16 * Page), "the bitmap from three pages before");
        });
        table.Add("other-mappings-left-out", "mappings outside the range are not reported", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (8 * Page), Page);
            Start(run);
            run.Equal(1ul, Read(run, Iova, 8 * Page), "the bitmap");
        });
    }

    private static void AddWords(CaseTable table)
    {
        table.Add("overwrites", "words that a mapping begins in are written, zeros included", run =>
        {
            run.Group.Map(Iova, 2 * Page);
            Start(run);
            run.Equal(3ul, ReadOver(run, Iova, 2 * Page, Ones)[0], "the first word");
        });
        table.Add("holes-stay", "words without a mapping stay as they were", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (128 * Page), Page);
            Start(run);
            ulong[] words = ReadOver(run, Iova, 192 * Page, Ones);
            run.Equal(1ul, words[0], "the word of the first mapping");
            run.Equal(Ones, words[1], "the word between");
            run.Equal(1ul, words[2], "the word of the second mapping");
            run.Equal(Ones, words[3], "the word behind");
        });
        table.Add("nothing-mapped-stays", "a range without mappings leaves the bitmap as it was", run =>
        {
            Start(run);
            run.Equal(Ones, ReadOver(run, Iova, 64 * Page, Ones)[0], "the first word");
        });
        table.Add("bits-before-stay", "bits before a mapping that begins inside a word stay", run =>
        {
            run.Group.Map(Iova + (8 * Page), Page);
            Start(run);
            run.Equal(
                0xA5ul | 0x100, ReadOver(run, Iova, 16 * Page, 0xA5)[0] & 0x1FF, "the bits up to the mapping's");
        });
        table.Add("first-word-is-added", "the first word of a mapping that begins inside it is added to", run =>
        {
            run.Group.Map(Iova + (8 * Page), Page);
            Start(run);
            run.Equal(
                0x8000_0000_0000_0100, ReadOver(run, Iova, 16 * Page, 0x8000_0000_0000_0000)[0], "the first word");
        });
        table.Add("second-word-is-written", "the second word of such a mapping is written, zeros included", run =>
        {
            run.Group.Map(Iova + (60 * Page), 8 * Page);
            Start(run);
            ulong[] words = ReadOver(run, Iova, 128 * Page, Ones);
            run.Equal(Ones, words[0], "the first word");
            run.Equal(0xFul, words[1], "the second word");
            run.Equal(Ones, words[2], "the third word");
        });
        table.Add("two-in-a-word", "two mappings in a word are both reported", run =>
        {
            run.Group.Map(Iova, 4 * Page);
            run.Group.Map(Iova + (4 * Page), 4 * Page);
            Start(run);
            run.Equal(0xFFul, ReadOver(run, Iova, 8 * Page, Ones)[0] & 0xFF, "the first word");
        });
        table.Add("bits-behind-come-back",
            "a report that begins inside a word leaves bits that the next one tells behind the mapping", run =>
        {
            run.Group.Map(Iova + (3 * Page), Page);
            Start(run);
            run.Equal(0b1000ul, Read(run, Iova, 16 * Page), "the first bitmap, from three pages before");
            run.Equal(0b1001ul, Read(run, Iova + (3 * Page), 13 * Page), "the second bitmap, from the mapping on");
            run.Equal(0b1001ul, Read(run, Iova + (3 * Page), 13 * Page), "the third bitmap");
        });
        table.Add("unaligned-pointer", "a bitmap may lie at any address", run =>
        {
            run.Group.Map(Iova, MemoryPages * Page);
            Start(run);
            run.Scratch.Words(64).Clear();
            Query query = Query.Of(run, Iova, MemoryPages * Page);
            query.Data += 3;
            run.Answers(Get(run, query), Errno.Success, "GET_BITMAP");
            run.Equal(0xFFFFul << 24, run.Scratch.Words(1)[0], "the bytes around it");
        });
        table.Add("behind-stays", "nothing behind the last word is written", run =>
        {
            run.Group.Map(Iova, MemoryPages * Page);
            Start(run);
            run.Equal(Ones, ReadOver(run, Iova, MemoryPages * Page, Ones)[1], "the word behind");
        });
        table.Add("fault-keeps-what-was-written", "a bad address ends the walk: what was written stays", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (0x8000 * Page), Page);
            Start(run);
            Mapping bitmap = run.CreateHalfMapping(1);
            Query query = Query.Of(run, Iova, 0x8001 * Page);
            query.Data = bitmap.Address.Value;
            run.Answers(Get(run, query), Errno.EFAULT, "GET_BITMAP");
            run.Equal(1, bitmap.Bytes(0, 1)[0], "the first byte");
        });
    }

    private static void AddUnmap(CaseTable table)
    {
        table.Errors<Query>(
            run =>
            {
                run.Group.Map(Iova, MemoryPages * Page);
                Start(run);
                return Query.OfUnmap(run, Iova, MemoryPages * Page);
            },
            (run, ref argument) => Unmap(run, argument, out _),
            new("argsz-47", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 47),
            new("bitmap-beyond-user-space", "data", Errno.EINVAL, (_, ref argument) => argument.Data = BadAddress),
            new("bitmap-size-0", "bitmap", Errno.EINVAL, (_, ref argument) => argument.BitmapSize = 0),
            new("bitmap-too-small", "bitmap", Errno.EINVAL, (_, ref argument) => argument.BitmapSize = 7),
            new("bitmap-too-large", "bitmap", Errno.EINVAL, (_, ref argument) => argument.BitmapSize = 0x1000_0001),
            new("wraps", "iova size", Errno.EOVERFLOW, (_, ref argument) =>
                (argument.Iova, argument.Size) = (ulong.MaxValue - Page + 1, 2 * Page)),
            new("not-started", "tracking", Errno.EINVAL, (run, ref _) =>
                run.Answers(Switch(run, VfioIommuDirtyPagesFlags.Stop), Errno.Success, "stopping")),
            new("page-size-larger", "pgsize", Errno.EINVAL, (_, ref argument) => argument.PageSize = 2 * Page),
            new("cuts-the-end", "size", Errno.EINVAL, (_, ref argument) => argument.Size -= Page),
            new("bitmap-not-mapped", "data", Errno.EFAULT, (_, ref argument) => argument.Data = UnmappedAddress));
        table.Add("reports-and-unmaps", "unmapping with a bitmap reports what goes", run =>
        {
            run.Group.Map(Iova, 4 * Page);
            run.Group.Map(Iova + (8 * Page), 2 * Page);
            Start(run);
            run.Scratch.Words(64).Clear();
            run.Answers(
                Unmap(run, Query.OfUnmap(run, Iova, 16 * Page), out ulong unmapped), Errno.Success,
                "VFIO_IOMMU_UNMAP_DMA");
            run.Equal(6 * Page, unmapped, "what was unmapped");
            run.Equal(0x30Ful, run.Scratch.Words(1)[0], "the bitmap");
            run.Group.Unmap(Iova, 16 * Page, 0);
        });
        table.Add("nothing-there", "with nothing there the bitmap stays as it was", run =>
        {
            Start(run);
            run.Scratch.Words(64).Fill(Ones);
            run.Answers(
                Unmap(run, Query.OfUnmap(run, Iova, 16 * Page), out ulong unmapped), Errno.Success,
                "VFIO_IOMMU_UNMAP_DMA");
            run.Equal(0ul, unmapped, "what was unmapped");
            run.Equal(Ones, run.Scratch.Words(1)[0], "the bitmap");
        });
        table.Add("fault-keeps-the-mapping", "a mapping whose bits can not be written stays", run =>
        {
            run.Group.Map(Iova, Page);
            Start(run);
            Query query = Query.OfUnmap(run, Iova, Page);
            query.Data = UnmappedAddress;
            run.Answers(Unmap(run, query, out _), Errno.EFAULT, "VFIO_IOMMU_UNMAP_DMA");
            run.Group.Unmap(Iova, Page, Page);
        });
        table.Add("fault-loses-earlier-mappings", "mappings before the fault are gone", run =>
        {
            run.Group.Map(Iova, Page);
            run.Group.Map(Iova + (0x8000 * Page), Page);
            Start(run);
            Query query = Query.OfUnmap(run, Iova, 0x8001 * Page);
            query.Data = run.CreateHalfMapping(1).Address.Value;
            run.Answers(Unmap(run, query, out ulong size), Errno.EFAULT, "VFIO_IOMMU_UNMAP_DMA");
            run.Equal(0x8001 * Page, size, "the size, which stays as it was");
            run.Group.Unmap(Iova, 0x8001 * Page, Page);
        });
        table.Add("version-1", "a container of version 1 has no dirty pages to report: EINVAL", run =>
        {
            run.UseGroup(GroupSession.InType1(run, VfioExtension.Type1));
            run.Group.Map(Iova, Page);
            run.Answers(Unmap(run, Query.OfUnmap(run, Iova, Page), out _), Errno.EINVAL, "VFIO_IOMMU_UNMAP_DMA");
        });
        table.Add("without-bitmap-while-tracking", "unmapping without a bitmap works while tracking", run =>
        {
            run.Group.Map(Iova, Page);
            Start(run);
            run.Group.Unmap(Iova, Page, Page);
        });
    }

    private static Errno Switch(CaseRun run, VfioIommuDirtyPagesFlags flags)
    {
        VfioIommuType1DirtyBitmap call = VfioIommuType1DirtyBitmap.Create(flags);
        return run.Kernel.Ioctl(run.Group.Container, ref call).Errno;
    }

    private static void Start(CaseRun run) =>
        run.Answers(Switch(run, VfioIommuDirtyPagesFlags.Start), Errno.Success, "starting to track");

    /// <summary>The first word of the bitmap, which was zeroed before.</summary>
    private static ulong Read(CaseRun run, ulong iova, ulong byteLength) => ReadOver(run, iova, byteLength, 0)[0];

    /// <summary>The first four words of the bitmap, which were something else before.</summary>
    private static ulong[] ReadOver(CaseRun run, ulong iova, ulong byteLength, ulong before)
    {
        run.Scratch.Words(64).Fill(before);
        run.Answers(Get(run, Query.Of(run, iova, byteLength)), Errno.Success, "GET_BITMAP");
        return run.Scratch.Words(4).ToArray();
    }

    private static Errno Get(CaseRun run, Query query)
    {
        byte[] argument = new byte[48];
        BinaryPrimitives.WriteUInt32LittleEndian(argument, query.Argsz);
        BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(4), query.Flags);
        BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(8), query.Iova);
        BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(16), query.Size);
        query.WriteBitmap(argument.AsSpan(24));
        return run.Kernel.Ioctl(run.Group.Container.Number, VfioRequests.IommuDirtyPages.Value, argument).Errno;
    }

    private static Errno Unmap(CaseRun run, Query query, out ulong size)
    {
        byte[] argument = new byte[48];
        BinaryPrimitives.WriteUInt32LittleEndian(argument, query.Argsz);
        BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(4), query.Flags);
        BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(8), query.Iova);
        BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(16), query.Size);
        query.WriteBitmap(argument.AsSpan(24));
        Errno errno = run.Kernel.Ioctl(
            run.Group.Container.Number, VfioRequests.IommuUnmapDma.Value, argument).Errno;
        size = BinaryPrimitives.ReadUInt64LittleEndian(argument.AsSpan(16));
        return errno;
    }

    /// <summary>A GET_BITMAP, or an UNMAP_DMA with a bitmap, as it is sent.</summary>
    private struct Query
    {
        public uint Argsz;
        public uint Flags;
        public ulong Iova;
        public ulong Size;
        public ulong PageSize;
        public ulong BitmapSize;
        public ulong Data;

        public static Query Of(CaseRun run, ulong iova, ulong byteLength) => new()
        {
            Argsz = 48, Flags = (uint)VfioIommuDirtyPagesFlags.GetBitmap, Iova = iova, Size = byteLength,
            PageSize = Page, BitmapSize = ((byteLength / Page) + 63) / 64 * 8, Data = run.ScratchAddress,
        };

        public static Query OfUnmap(CaseRun run, ulong iova, ulong byteLength) =>
            Of(run, iova, byteLength) with { Flags = (uint)VfioDmaUnmapFlags.GetDirtyBitmap };

        public readonly void WriteBitmap(Span<byte> into)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(into, PageSize);
            BinaryPrimitives.WriteUInt64LittleEndian(into[8..], BitmapSize);
            BinaryPrimitives.WriteUInt64LittleEndian(into[16..], Data);
        }
    }
}
