using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// Devices without IOMMU (CONFIG_IOMMUFD_NOIOMMU, the device file is named <c>noiommu-vfioN</c>): their tables are for
/// software to look up, and the request that looks up.
/// </summary>
internal static class NoIommuCases
{
    private const string Area = "no-iommu";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, Area, "iommufd.noiommu-get-pa", "iommufd.h, iommu_ioas_noiommu_get_pa"));
        AddLookups(new CaseTable(cases, Area, "iommufd.noiommu-get-pa", "iommufd.h, iommu_ioas_noiommu_get_pa"));
        AddDevice(new CaseTable(cases, Area, "vfio.noiommu", "kernel behaviour, a VFIO device without IOMMU"));
    }

    private static void AddErrors(CaseTable table)
    {
        table.Refusals<IommuIoasNoiommuGetPa>(
            run =>
            {
                RequireRequest(run);
                run.Map(Iova, Page);
                return IommuIoasNoiommuGetPa.Create(run.Ioas, Iova, Page);
            },
            Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags = 1),
            new("reserved", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
            new("highest-iova", "iova", Errno.EOVERFLOW, (_, ref argument) => argument.Iova = ulong.MaxValue),
            new("unknown-ioas", "ioas", Errno.ENOENT, (_, ref argument) => argument.IoasId = 999),
            new("not-mapped", "iova", Errno.ENOENT, (_, ref argument) => argument.Iova = Iova + Page),
            new("no-table", "table", Errno.EOPNOTSUPP, (_, ref _) => { }));
    }

    private static void AddLookups(CaseTable table)
    {
        table.Add("page", "an address leads to a physical page, with its offset in the page", run =>
        {
            Attach(run);
            run.Map(Iova, Page);
            (ulong physical, ulong length) = Find(run, Iova, Page);
            run.Equal(0ul, physical % Page, "the offset in the page");
            run.Equal(Page, length, "the length");
            run.Equal((physical + 0x123, Page - 0x123), Find(run, Iova + 0x123, Page), "the address 0x123 bytes on");
        });
        table.Add("capped", "the length is not more than was asked for", run =>
        {
            Attach(run);
            run.Map(Iova, Page);
            run.Equal(100ul, Find(run, Iova, 100).Length, "the length");
        });
        table.Add("ends-with-the-mapping", "the length ends where the mapping does", run =>
        {
            Attach(run);
            run.Map(Iova, 2 * Page);
            run.Holds(Find(run, Iova, ulong.MaxValue).Length <= 2 * Page, "two pages or less");
        });
        table.Add("same-page-twice", "two mappings of a page lead to one physical page", run =>
        {
            Attach(run);
            run.Map(Iova, Page);
            run.Map(Iova + (8 * Page), Page);
            run.Equal(
                Find(run, Iova, Page).Physical, Find(run, Iova + (8 * Page), Page).Physical, "the physical address");
        });
        table.Add("follows-the-pages", "the pages of a mapping are told one by one, wherever they are", run =>
        {
            Attach(run);
            run.Map(Iova, MemoryPages * Page);
            var pages = new HashSet<ulong>();
            for (ulong page = 0; page < MemoryPages; page++)
                pages.Add(Find(run, Iova + (page * Page), Page).Physical);
            run.Equal((int)MemoryPages, pages.Count, "the number of physical pages");
        });
        table.Add("contiguous", "the length grows as long as the pages are neighbours", run =>
        {
            Attach(run);
            run.Map(Iova, MemoryPages * Page);
            (ulong physical, ulong length) = Find(run, Iova, ulong.MaxValue);
            for (ulong done = Page; done < length; done += Page)
                run.Equal(physical + done, Find(run, Iova + done, Page).Physical, $"the page 0x{done:x} bytes on");
            if (length < MemoryPages * Page)
                run.Holds(Find(run, Iova + length, Page).Physical != physical + length, "the next page elsewhere");
        });
        table.Add("changes-nothing", "a refused request leaves the argument as it was", run =>
        {
            Attach(run);
            var get = IommuIoasNoiommuGetPa.Create(run.Ioas, Iova, Page);
            get.OutPhys = 0x1234;
            run.Answers(ref get, Errno.ENOENT);
            run.Equal((0x1234ul, (ulong)Page), (get.OutPhys, get.Length), "address and length");
        });
        table.Add("after-detach", "without a device its table is gone: EOPNOTSUPP", run =>
        {
            Attach(run);
            run.Map(Iova, Page);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            var get = IommuIoasNoiommuGetPa.Create(run.Ioas, Iova, Page);
            run.Answers(ref get, Errno.EOPNOTSUPP);
        });
    }

    private static void AddDevice(CaseTable table)
    {
        table.Add("hw-info", "GET_HW_INFO is EOPNOTSUPP", run =>
        {
            IommuHwInfo info = IommuHwInfo.Create(run.Use(DeviceNeed.NoIommu).Id);
            run.Answers(ref info, Errno.EOPNOTSUPP);
        });
        (string Name, IommuHwptAllocFlags Flags, Errno Errno)[] allocations =
        [
            ("hwpt", IommuHwptAllocFlags.None, Errno.Success),
            ("hwpt-dirty-tracking", IommuHwptAllocFlags.DirtyTracking, Errno.EOPNOTSUPP),
            ("hwpt-nest-parent", IommuHwptAllocFlags.NestParent, Errno.EOPNOTSUPP),
            ("hwpt-pasid", IommuHwptAllocFlags.Pasid, Errno.EOPNOTSUPP),
        ];
        foreach ((string name, IommuHwptAllocFlags flags, Errno errno) in allocations)
        {
            table.Add(name, $"a page table with the flags {flags} is {(errno == 0 ? "made" : errno)}", run =>
                run.Answers(
                    run.TryAllocateHwpt(run.Use(DeviceNeed.NoIommu), flags, out _), errno, "IOMMU_HWPT_ALLOC"));
        }

        table.Add("attach-ioas", "attaching to an IOAS makes a page table", run =>
        {
            uint hwpt = run.Use(DeviceNeed.NoIommu).Attach(run.Ioas);
            run.Holds(hwpt != 0 && hwpt != run.Ioas, "the id of a page table");
        });
        table.Add("attach-hwpt", "a page table made for it can be attached", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.NoIommu);
            uint hwpt = run.AllocateHwpt(device);
            run.Equal(hwpt, device.Attach(hwpt), "pt_id");
        });
        table.Add("replace", "another IOAS replaces the first", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.NoIommu);
            device.Attach(run.Ioas);
            device.Attach(run.CreateIoas());
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the first IOAS");
        });
        table.Add("detach", "a detach is accepted, twice too", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.NoIommu);
            device.Attach(run.Ioas);
            run.Answers(device.Detach(), Errno.Success, "detaching");
            run.Answers(device.Detach(), Errno.Success, "detaching again");
        });
        table.Add("no-reserved-regions", "no part of the address space is reserved", run =>
        {
            run.Use(DeviceNeed.NoIommu).Attach(run.Ioas);
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out _);
            run.Equal(1, ranges.Count, "the number of ranges");
            run.Equal((0ul, ulong.MaxValue), (ranges[0].Start, ranges[0].Last), "the range");
        });
        table.Add("msi-window", "the window of interrupts can be mapped", run =>
        {
            run.Use(DeviceNeed.NoIommu).Attach(run.Ioas);
            run.Map(0xFEE0_0000, Page);
        });
        table.Add("dirty-tracking", "its table has no dirty tracking: EOPNOTSUPP", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Use(DeviceNeed.NoIommu));
            var track = IommuHwptSetDirtyTracking.Create(hwpt, IommuHwptSetDirtyTrackingFlags.Enable);
            run.Answers(ref track, Errno.EOPNOTSUPP);
        });
        table.Add("info", "it is a PCI device like any other", run =>
        {
            run.Use(DeviceNeed.NoIommu);
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.DeviceAnswers(ref info, Errno.Success);
            run.Holds((info.Flags & VfioDeviceFlags.Pci) != 0, "the flag PCI");
        });
    }

    /// <summary>Ends the case when the kernel lacks the request, or the caller the right to make it.</summary>
    private static void RequireRequest(CaseRun run)
    {
        var get = IommuIoasNoiommuGetPa.Create(run.Ioas, Iova, length: 0);
        Errno errno = run.Kernel.Ioctl(run.Iommufd, ref get).Errno;
        if (errno is Errno.EOPNOTSUPP or Errno.ENOTTY)
            throw NotApplicable("This kernel has no support for devices without IOMMU in iommufd.");
        if (errno == Errno.EPERM)
            throw NotApplicable("IOMMU_IOAS_NOIOMMU_GET_PA needs CAP_SYS_RAWIO.");
    }

    private static void Attach(CaseRun run)
    {
        run.Use(DeviceNeed.NoIommu).Attach(run.Ioas);
        RequireRequest(run);
    }

    private static (ulong Physical, ulong Length) Find(CaseRun run, ulong iova, ulong length)
    {
        var get = IommuIoasNoiommuGetPa.Create(run.Ioas, iova, length);
        run.Answers(ref get, Errno.Success);
        return (get.OutPhys, get.Length);
    }
}
