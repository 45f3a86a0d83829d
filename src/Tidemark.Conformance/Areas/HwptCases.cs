using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Allocating hardware page tables; what a page table does to its IOAS.</summary>
internal static class HwptCases
{
    private const string Area = "hwpt";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, Area, "iommufd.hwpt.alloc", "iommufd.h, iommu_hwpt_alloc"));
        AddDirty(new CaseTable(cases, Area, "iommufd.hwpt.alloc", "iommufd.h, IOMMU_HWPT_ALLOC_DIRTY_TRACKING"));
        AddFilling(new CaseTable(cases, Area, "iommufd.hwpt.alloc", "kernel behaviour, filling a new page table"));
        AddInvalidate(new CaseTable(cases, Area, "iommufd.hwpt.invalidate", "iommufd.h, iommu_hwpt_invalidate"));
        AddVirtual(new CaseTable(cases, Area, "iommufd.viommu.alloc", "iommufd.h, iommu_viommu_alloc"));
        AddVirtualQueues(cases);
    }

    private static void AddErrors(CaseTable table)
    {
        table.Errors<IommuHwptAlloc>(
            run => IommuHwptAlloc.Create(run.Device.Id, IommuHwptAllocFlags.None, run.Ioas), Calls.Iommufd,
            new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("data-without-type", "data", Errno.EINVAL, (_, ref argument) => argument.DataLen = 8),
            new("type-without-data", "data", Errno.EINVAL,
                (_, ref argument) => argument.DataType = IommuHwptDataType.VtdS1),
            new("unknown-device", "device", Errno.ENOENT, (_, ref argument) => argument.DevId = 999),
            new("device-id-of-an-ioas", "device", Errno.ENOENT, (run, ref argument) => argument.DevId = run.Ioas),
            new("unknown-parent", "parent flags", Errno.EINVAL, (_, ref argument) => argument.PtId = 999),
            new("parent-is-a-device", "parent flags", Errno.EINVAL,
                (run, ref argument) => argument.PtId = run.Device.Id),
            new("unknown-flag", "flags", Errno.EOPNOTSUPP,
                (_, ref argument) => argument.Flags = (IommuHwptAllocFlags)0x10),
            new("unknown-high-flag", "flags", Errno.EOPNOTSUPP,
                (_, ref argument) => argument.Flags = (IommuHwptAllocFlags)(1u << 31)),
            new("fault-queue-and-nest-parent", "flags", Errno.EOPNOTSUPP, (_, ref argument) =>
                argument.Flags = IommuHwptAllocFlags.NestParent | IommuHwptAllocFlags.FaultIdValid),
            new("unaligned-mapping", "mappings", Errno.EADDRINUSE, (run, ref _) => run.Map(Iova + 1, 1)),
            new("mapping-outside", "mappings", Errno.EADDRINUSE,
                (run, ref _) =>
                {
                    run.RequireUnreachableIovas();
                    run.Map(ulong.MaxValue - Page + 1, Page);
                }));
        table.Add("reserved2-is-not-looked-at", "kernel behaviour: the last reserved field is not checked", run =>
        {
            IommuHwptAlloc allocate = IommuHwptAlloc.Create(run.Device.Id, IommuHwptAllocFlags.None, run.Ioas);
            allocate.Reserved2 = 1;
            run.Answers(ref allocate, Errno.Success);
        });
        table.Add("fault-id-without-flag", "a fault id without its flag is not looked at", run =>
        {
            IommuHwptAlloc allocate = IommuHwptAlloc.Create(run.Device.Id, IommuHwptAllocFlags.None, run.Ioas);
            allocate.FaultId = 999;
            run.Answers(ref allocate, Errno.Success);
        });
        table.Add("parent-not-nestable", "a parent that was not made as one is refused", run =>
        {
            uint parent = run.AllocateHwpt(run.Device);
            IommuHwptAlloc allocate = IommuHwptAlloc.Create(run.Device.Id, IommuHwptAllocFlags.None, parent);
            Errno errno = Calls.Iommufd(run, ref allocate);
            run.Holds(errno is Errno.EINVAL or Errno.EOPNOTSUPP, $"EINVAL or EOPNOTSUPP (the kernel answered {errno})");
        });
    }

    private static void AddDirty(CaseTable table)
    {
        table.Add("dirty-tracking", "a device whose capabilities have dirty tracking gets such a page table", run =>
            run.AllocateHwpt(run.Use(DeviceNeed.Tracking), IommuHwptAllocFlags.DirtyTracking));
        table.Add("dirty-tracking-not-capable", "a device whose capabilities lack dirty tracking is EOPNOTSUPP", run =>
            run.Answers(
                run.TryAllocateHwpt(run.Use(DeviceNeed.NotTracking), IommuHwptAllocFlags.DirtyTracking, out _),
                Errno.EOPNOTSUPP, "IOMMU_HWPT_ALLOC"));
        table.Add("dirty-tracking-not-capable-before-mappings",
            "the capability is looked at before the mappings", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.NotTracking);
            run.Map(ulong.MaxValue - Page + 1, Page);
            run.Answers(
                run.TryAllocateHwpt(device, IommuHwptAllocFlags.DirtyTracking, out _), Errno.EOPNOTSUPP,
                "IOMMU_HWPT_ALLOC");
        });
        table.Add("dirty-tracking-enforced", "a device that can not track may not use such a page table: EINVAL", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Use(DeviceNeed.Tracking), IommuHwptAllocFlags.DirtyTracking);
            run.Answers(run.Use(DeviceNeed.NotTracking).TryAttach(hwpt, out _), Errno.EINVAL, "attaching");
        });
        table.Add("dirty-tracking-shared", "a second device that can track may use such a page table", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Use(DeviceNeed.Tracking), IommuHwptAllocFlags.DirtyTracking);
            BoundDevice second = run.Bind(DeviceNeed.Tracking);
            run.Equal(hwpt, second.Attach(hwpt), "the page table in use");
        });
    }

    private static void AddFilling(CaseTable table)
    {
        table.Add("id-is-new", "the id is none that is in use", run =>
        {
            uint first = run.AllocateHwpt(run.Device);
            uint second = run.AllocateHwpt(run.Device);
            run.Holds(first != 0 && second != 0 && first != second, "two ids that are not 0 and differ");
        });
        table.Add("refusal-does-not-narrow", "a refused page table takes no IOVAs away", run =>
        {
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is");
            run.Answers(
                run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.None, out _), Errno.EFAULT, "IOMMU_HWPT_ALLOC");
            run.Equal(ulong.MaxValue, run.Ranges(run.Ioas, out _)[^1].Last, "the last usable IOVA");
        });
        table.Add("refusal-does-not-keep-ioas", "a refused page table does not keep the IOAS", run =>
        {
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is");
            run.Answers(
                run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.None, out _), Errno.EFAULT, "IOMMU_HWPT_ALLOC");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "IOMMU_DESTROY");
        });
        table.Add("filled-with-mappings", "a new page table shows what is mapped already", run =>
        {
            run.Map(Iova, 4 * Page);
            run.AllocateHwpt(run.Device);
            run.Answers(run.Unmap(Iova, 4 * Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(4 * Page, unmapped, "what was unmapped");
        });
        table.Add("several-in-one-ioas", "an IOAS can have several page tables, and a mapping goes to all", run =>
        {
            run.AllocateHwpt(run.Device);
            run.AllocateHwpt(run.Device);
            run.Map(Iova, Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
        });
        table.Add("bad-mapping-removed", "with the bad mapping gone, the page table can be allocated", run =>
        {
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is");
            run.Answers(
                run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.None, out _), Errno.EFAULT, "IOMMU_HWPT_ALLOC");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.AllocateHwpt(run.Device);
        });
    }

    private static void AddInvalidate(CaseTable table)
    {
        table.Refusals<IommuHwptInvalidate>(
            run => IommuHwptInvalidate.Create(
                run.AllocateHwpt(run.Device), run.ScratchAddress, IommuHwptInvalidateDataType.VtdS1, 24, 1),
            Calls.Iommufd,
            new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("null-list", "list", Errno.EINVAL, (_, ref argument) => argument.DataUptr = 0),
            new("entry-length-0", "list", Errno.EINVAL, (_, ref argument) => argument.EntryLen = 0),
            new("entry-longer-than-a-page", "list", Errno.EINVAL, (_, ref argument) => argument.EntryLen = 4097),
            new("too-many-entries", "list", Errno.EINVAL, (_, ref argument) => argument.EntryNum = (1 << 19) + 1),
            new("unknown-page-table", "id", Errno.ENOENT, (_, ref argument) => argument.HwptId = 999));
        table.Add("not-nested", "a page table that is not nested is EINVAL", run =>
        {
            IommuHwptInvalidate call = IommuHwptInvalidate.Create(
                run.AllocateHwpt(run.Device), run.ScratchAddress, IommuHwptInvalidateDataType.VtdS1, 24, 1);
            run.Answers(ref call, Errno.EINVAL);
        });
        table.Add("failure-counts-0", "an early failure writes back that nothing was done", run =>
        {
            IommuHwptInvalidate call = IommuHwptInvalidate.Create(
                run.AllocateHwpt(run.Device), run.ScratchAddress, IommuHwptInvalidateDataType.VtdS1, 24, 7);
            run.Answers(ref call, Errno.EINVAL);
            run.Equal(0u, call.EntryNum, "the number of entries done");
        });
    }

    private static void AddVirtual(CaseTable table)
    {
        table.Add("type-0", "the default type is EOPNOTSUPP", run =>
        {
            IommuViommuAlloc call = IommuViommuAlloc.Create(run.Device.Id, IommuViommuType.Default,
                run.AllocateHwpt(run.Device));
            run.Answers(ref call, Errno.EOPNOTSUPP);
        });
        table.Add("type-0-before-device", "the default type is seen before the device", run =>
        {
            IommuViommuAlloc call = IommuViommuAlloc.Create(999, IommuViommuType.Default, 0);
            run.Answers(ref call, Errno.EOPNOTSUPP);
        });
        table.Add("unknown-device", "an unknown device is ENOENT", run =>
        {
            IommuViommuAlloc call = IommuViommuAlloc.Create(999, IommuViommuType.ArmSmmuv3, 0);
            run.Answers(ref call, Errno.ENOENT);
        });
    }

    private static void AddVirtualQueues(List<ConformanceCase> cases)
    {
        var table = new CaseTable(cases, Area, "iommufd.vdevice.alloc", "iommufd.h, iommu_vdevice_alloc");
        table.Add("unknown-viommu", "an unknown virtual IOMMU is ENOENT", run =>
        {
            IommuVdeviceAlloc call = IommuVdeviceAlloc.Create(999, 1, run.Device.Id);
            run.Answers(ref call, Errno.ENOENT);
        });
        table = new CaseTable(cases, Area, "iommufd.veventq.alloc", "iommufd.h, iommu_veventq_alloc");
        table.Refusals<IommuVeventqAlloc>(
            _ => IommuVeventqAlloc.Create(999, IommuVeventqType.ArmSmmuv3, 8), Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags = 1),
            new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
            new("type-0", "type", Errno.EOPNOTSUPP, (_, ref argument) => argument.Type = IommuVeventqType.Default),
            new("depth-0", "depth", Errno.EINVAL, (_, ref argument) => argument.VeventqDepth = 0),
            new("depth-too-large", "depth", Errno.EINVAL, (_, ref argument) => argument.VeventqDepth = (1 << 19) + 1),
            new("unknown-viommu", "id", Errno.ENOENT, (_, ref argument) => argument.ViommuId = 999));
        table = new CaseTable(cases, Area, "iommufd.hw-queue.alloc", "iommufd.h, iommu_hw_queue_alloc");
        table.Refusals<IommuHwQueueAlloc>(
            _ => IommuHwQueueAlloc.Create(999, IommuHwQueueType.Tegra241Cmdqv, 0, 0x1000, 0x1000), Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags = 1),
            new("type-0", "type", Errno.EOPNOTSUPP, (_, ref argument) => argument.Type = IommuHwQueueType.Default),
            new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
            new("range-wraps", "length iova", Errno.EOVERFLOW, (_, ref argument) =>
                argument.NestingParentIova = ulong.MaxValue - 0x10),
            new("unknown-viommu", "id", Errno.ENOENT, (_, ref argument) => argument.ViommuId = 999));
    }
}
