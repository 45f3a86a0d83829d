using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Mapping memory and files at fixed IOVAs.</summary>
internal static class IoasMapCases
{
    private const string Area = "ioas-map";
    private const IommuIoasMapFlags UnknownFlag = (IommuIoasMapFlags)8;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, Area, "iommufd.ioas.map", "iommufd.h, iommu_ioas_map"));
        AddPlaces(new CaseTable(cases, Area, "iommufd.ioas.map", "kernel behaviour, areas of an IOAS"));
        AddPinning(new CaseTable(cases, Area, "iommufd.ioas.map.pin", "kernel behaviour, pinning of mapped memory"));
        AddFileErrors(new CaseTable(cases, Area, "iommufd.ioas.map-file", "iommufd.h, iommu_ioas_map_file"));
        AddFiles(new CaseTable(cases, Area, "iommufd.ioas.map-file", "kernel behaviour, mapping of files"));
    }

    private static void AddErrors(CaseTable table) => table.Errors<IommuIoasMap>(
        run => IommuIoasMap.Create(run.Ioas, Iova, run.MemoryAddress, 4 * Page, Fixed), Calls.Iommufd,
        new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags |= UnknownFlag),
        new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
        new("highest-iova", "iova", Errno.EOVERFLOW, (_, ref argument) => argument.Iova = ulong.MaxValue),
        new("highest-length", "length", Errno.EOVERFLOW, (_, ref argument) => argument.Length = ulong.MaxValue),
        new("no-permission", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = IommuIoasMapFlags.FixedIova),
        new("unknown-ioas", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 999),
        new("address-wraps", "address length", Errno.EOVERFLOW,
            (_, ref argument) => argument.UserVa = ulong.MaxValue - Page + 1),
        new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
        new("length-unaligned", "length", Errno.EINVAL, (run, ref argument) =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            argument.Length = Page + 1;
        }),
        new("iova-unaligned", "iova", Errno.EINVAL, (run, ref argument) =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            argument.Iova = Iova + 0x800;
        }),
        new("iova-wraps", "iova", Errno.EOVERFLOW, (_, ref argument) => argument.Iova = ulong.MaxValue - Page + 1),
        new("overlap", "iova", Errno.EEXIST, (run, ref argument) =>
        {
            run.Map(Iova - Page, 2 * Page);
            argument.Iova = Iova;
        }),
        new("address-unaligned", "address", Errno.EINVAL, (run, ref argument) =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            argument.UserVa = run.MemoryAddress + 0x800;
        }));

    private static void AddPlaces(CaseTable table)
    {
        (string Name, ulong First, ulong Length)[] overlaps =
        [
            ("overlap-exact", 0, 4), ("overlap-at-start", 0, 1), ("overlap-at-end", 3, 1), ("overlap-inside", 1, 2),
            ("overlap-over-start", unchecked((ulong)-1L), 2), ("overlap-over-end", 3, 2),
            ("overlap-around", unchecked((ulong)-1L), 6),
        ];
        foreach ((string name, ulong first, ulong length) in overlaps)
        {
            table.Add(name, "a range that has an address in common with a mapping is EEXIST", run =>
            {
                run.Map(Iova, 4 * Page);
                run.Answers(
                    run.TryMap(unchecked(Iova + (first * Page)), run.MemoryAddress, length * Page), Errno.EEXIST,
                    "mapping");
            });
        }

        table.Add("touching-before-and-after", "mappings may touch", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova + Page, Page);
            run.Map(Iova - Page, Page);
        });
        table.Add("refusal-changes-nothing", "a refused mapping leaves the others as they are", run =>
        {
            run.Map(Iova, 2 * Page);
            run.Answers(run.TryMap(Iova + Page, run.MemoryAddress, 2 * Page), Errno.EEXIST, "mapping");
            run.Answers(run.Unmap(Iova, 2 * Page, out ulong unmapped), Errno.Success, "IOMMU_IOAS_UNMAP");
            run.Equal(2 * Page, unmapped, "what was unmapped");
        });
        table.Add("single-bytes", "without a page table, mappings have the granularity of a byte", run =>
        {
            run.Map(Iova + 1, 1, 17);
            run.Map(Iova + 2, 1, 3);
            run.Answers(run.TryMap(Iova + 2, run.MemoryAddress, 1), Errno.EEXIST, "mapping the same byte again");
        });
        table.Add("iova-0", "IOVA 0 can be mapped when asked for", run => run.Map(0, Page));
        table.Add("top-of-space",
            "a mapping may end at the highest IOVA", run => run.Map(ulong.MaxValue - Page + 1, Page));
        table.Add("same-memory-twice", "memory can be mapped any number of times", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova + (8 * Page), Page);
        });
        table.Add("another-ioas", "an IOVA in one IOAS is free in another", run =>
        {
            run.Map(Iova, Page);
            run.Map(Iova, Page, ioas: run.CreateIoas());
        });
        table.Add("readable-only", "reading alone is a permission", run =>
            run.Answers(
                run.TryMap(Iova, run.MemoryAddress, Page, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable),
                Errno.Success, "mapping"));
        table.Add("writeable-only", "writing alone is a permission", run =>
            run.Answers(
                run.TryMap(Iova, run.MemoryAddress, Page, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Writeable),
                Errno.Success, "mapping"));
        table.Add("reserved-by-page-table", "an IOVA beyond what a page table addresses is EINVAL", run =>
        {
            run.RequireUnreachableIovas();
            run.AllocateHwpt(run.Device);
            ulong beyond = run.Ranges(run.Ioas, out _)[^1].Last + 1;
            run.Answers(run.TryMap(beyond, run.MemoryAddress, Page), Errno.EINVAL, "mapping");
        });
        table.Add("last-usable-page", "the last page that a page table addresses can be mapped", run =>
        {
            run.AllocateHwpt(run.Device);
            ulong last = run.Ranges(run.Ioas, out _)[^1].Last;
            run.Map(last - Page + 1, Page);
        });
        table.Add("reserved-by-device", "an IOVA that an attached device reserves is EINVAL", run =>
        {
            run.Device.Attach(run.Ioas);
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out _);
            if (ranges.Count < 2)
                throw NotApplicable("The device reserves nothing between usable IOVAs.");
            run.Answers(run.TryMap(ranges[0].Last + 1, run.MemoryAddress, Page), Errno.EINVAL, "mapping");
        });
        table.Add("page-table-aligns", "with a page table, a length of less than its page is EINVAL", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(run.TryMap(Iova, run.MemoryAddress, 0x80), Errno.EINVAL, "mapping");
        });
    }

    private static void AddPinning(CaseTable table)
    {
        table.Add("late-without-page-table", "without a page table nothing is pinned: a bad address is accepted", run =>
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is"));
        table.Add("bad-address-with-page-table",
            "with a page table, an address where nothing is mapped is EFAULT", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.EFAULT, "mapping an address where nothing is");
        });
        table.Add("bad-address-changes-nothing", "after EFAULT the IOVA is free", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.EFAULT, "mapping an address where nothing is");
            run.Map(Iova, Page);
        });
        table.Add("bad-address-at-page-table", "a bad address mapped earlier makes HWPT_ALLOC answer EFAULT", run =>
        {
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is");
            run.Answers(
                run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.None, out _), Errno.EFAULT, "IOMMU_HWPT_ALLOC");
        });
        table.Add("bad-address-at-attach", "a bad address mapped earlier makes attaching answer EFAULT", run =>
        {
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is");
            run.Answers(run.Device.TryAttach(run.Ioas, out _), Errno.EFAULT, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
        });
        table.Add("write-to-read-only", "writeable for the device and read-only for the process is EFAULT", run =>
        {
            Mapping memory = ReadOnly(run, MemoryProtection.Read);
            run.AllocateHwpt(run.Device);
            run.Answers(run.TryMap(Iova, memory.Address.Value, Page), Errno.EFAULT, "mapping");
        });
        table.Add("read-of-read-only", "readable for the device and read-only for the process is accepted", run =>
        {
            Mapping memory = ReadOnly(run, MemoryProtection.Read);
            run.AllocateHwpt(run.Device);
            run.Answers(
                run.TryMap(Iova, memory.Address.Value, Page, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable),
                Errno.Success, "mapping");
        });
        table.Add("no-access", "memory that the process can not access is EFAULT", run =>
        {
            Mapping memory = ReadOnly(run, MemoryProtection.None);
            run.AllocateHwpt(run.Device);
            run.Answers(
                run.TryMap(Iova, memory.Address.Value, Page, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable),
                Errno.EFAULT, "mapping");
        });
        table.Add("outlives-the-process-mapping", "mapped memory stays after the process unmaps it", run =>
        {
            run.AllocateHwpt(run.Device);
            using (Mapping memory = Mapping.CreateAnonymous(run.Kernel, Page))
                run.Answers(run.TryMap(Iova, memory.Address.Value, Page), Errno.Success, "mapping");
            run.Answers(run.Unmap(Iova, Page, out ulong unmapped), Errno.Success, "IOMMU_IOAS_UNMAP");
            run.Equal(Page, unmapped, "what was unmapped");
        });
    }

    private static void AddFileErrors(CaseTable table) => table.Errors<IommuIoasMapFile>(
        run =>
        {
            KernelFd file = run.CreateMemoryFile(8 * Page);
            return IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, 0, 4 * Page, Fixed);
        },
        Calls.Iommufd,
        new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags |= UnknownFlag),
        new("highest-iova", "iova", Errno.EOVERFLOW, (_, ref argument) => argument.Iova = ulong.MaxValue),
        new("highest-length", "length", Errno.EOVERFLOW, (_, ref argument) => argument.Length = ulong.MaxValue),
        new("no-permission", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = IommuIoasMapFlags.FixedIova),
        new("unknown-ioas", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 999),
        new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
        new("start-wraps", "start", Errno.EOVERFLOW, (_, ref argument) => argument.Start = ulong.MaxValue - Page + 2),
        new("file-not-open", "fd", Errno.EBADF, (_, ref argument) => argument.Fd = 0x7FFF_0000),
        new("iova-wraps", "iova", Errno.EOVERFLOW, (_, ref argument) => argument.Iova = ulong.MaxValue - Page + 1),
        new("overlap", "iova", Errno.EEXIST, (run, ref argument) =>
        {
            run.Map(Iova - Page, 2 * Page);
            argument.Iova = Iova;
        }));

    private static void AddFiles(CaseTable table)
    {
        table.Add("beyond-the-end-without-page-table", "without a page table the file's length is not looked at", run =>
            run.Answers(TryMapFile(run, run.CreateMemoryFile(Page), Page, Page), Errno.Success, "mapping"));
        table.Add("beyond-the-end", "with a page table, a range beyond the file's end is EINVAL", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(TryMapFile(run, run.CreateMemoryFile(Page), Page, Page), Errno.EINVAL, "mapping");
        });
        table.Add("over-the-end", "with a page table, a range that begins inside and ends beyond is EINVAL", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(TryMapFile(run, run.CreateMemoryFile(Page), 0, 2 * Page), Errno.EINVAL, "mapping");
        });
        table.Add("beyond-the-end-at-page-table",
            "a file that is too short makes a later HWPT_ALLOC answer EINVAL", run =>
        {
            run.Answers(TryMapFile(run, run.CreateMemoryFile(Page), Page, Page), Errno.Success, "mapping");
            run.Answers(
                run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.None, out _), Errno.EINVAL, "IOMMU_HWPT_ALLOC");
        });
        table.Add("up-to-the-end", "with a page table, all of a memory file can be mapped", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(TryMapFile(run, run.CreateMemoryFile(4 * Page), 0, 4 * Page), Errno.Success, "mapping");
        });
        table.Add("outlives-the-descriptor", "closing the file leaves the mapping", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(TryMapFile(run, run.CreateMemoryFile(Page), 0, Page), Errno.Success, "mapping");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "IOMMU_IOAS_UNMAP");
        });
    }

    private static Mapping ReadOnly(CaseRun run, MemoryProtection protection) =>
        run.Own(Mapping.CreateShared(run.CreateMemoryFile(Page), Page, 0, protection));

    private static Errno TryMapFile(CaseRun run, KernelFd file, ulong start, ulong byteLength)
    {
        IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, start, byteLength, Fixed);
        return run.Kernel.Ioctl(run.Iommufd, ref map).Errno;
    }
}
