using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>An mdev in an iommufd: it attaches to an IOAS as a user of its memory, and no IOMMU is involved.</summary>
internal static class MttyAttachCases
{
    public static void AddTo(List<ConformanceCase> cases)
    {
        AddAttach(new CaseTable(cases, "mdev", "vfio.mdev.attach", "vfio.h, vfio_device_attach_iommufd_pt of an mdev"));
        AddObject(new CaseTable(cases, "mdev", "vfio.mdev.object", "iommufd.h, the object of an mdev"));
    }

    private static void AddAttach(CaseTable table)
    {
        table.Add("ioas", "an mdev attaches to an IOAS, and the id stays the IOAS's", run =>
            run.Equal(run.Ioas, run.Use(DeviceNeed.Emulated).Attach(run.Ioas), "pt_id"));
        table.Add("unknown", "an unknown id is ENOENT", run =>
            run.Answers(run.Use(DeviceNeed.Emulated).TryAttach(0x7FFF, out _), Errno.ENOENT, "attaching"));
        table.Add("itself", "an object that is no IOAS is ENOENT", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            run.Answers(device.TryAttach(device.Id, out _), Errno.ENOENT, "attaching");
        });
        table.Add("pasid", "a PASID is EOPNOTSUPP", run =>
        {
            run.Use(DeviceNeed.Emulated);
            VfioDeviceAttachIommufdPt attach = VfioDeviceAttachIommufdPt.Create(run.Ioas);
            attach.Flags = VfioDeviceAttachFlags.Pasid;
            run.DeviceAnswers(ref attach, Errno.EOPNOTSUPP);
        });
        table.Add("replace", "an attached mdev can be attached to another IOAS", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            device.Attach(run.Ioas);
            uint second = run.CreateIoas();
            run.Equal(second, device.Attach(second), "pt_id");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the first IOAS");
            run.Answers(run.Destroy(second), Errno.EBUSY, "destroying the second IOAS");
        });
        table.Add("replace-fails", "a failed replacement leaves the first attachment", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            device.Attach(run.Ioas);
            run.Answers(device.TryAttach(0x7FFF, out _), Errno.ENOENT, "attaching");
            run.Answers(run.Destroy(run.Ioas), Errno.EBUSY, "destroying the IOAS");
        });
        table.Add("same-again", "attaching to the same IOAS again is accepted", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            device.Attach(run.Ioas);
            device.Attach(run.Ioas);
        });
        table.Add("detach", "after a detach the IOAS can be destroyed, and a second detach is accepted", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            device.Attach(run.Ioas);
            run.Answers(device.Detach(), Errno.Success, "detaching");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the IOAS");
            run.Answers(device.Detach(), Errno.Success, "detaching again");
        });
        table.Add("close", "closing the device detaches it", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            device.Attach(run.Ioas);
            device.File.Dispose();
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the IOAS");
        });
        table.Add("two", "two mdevs attach to one IOAS", run =>
        {
            run.Use(DeviceNeed.Emulated).Attach(run.Ioas);
            run.Equal(run.Ioas, run.Bind(DeviceNeed.Emulated).Attach(run.Ioas), "pt_id");
        });
        table.Add("alignment", "while an mdev is attached, mappings are aligned to pages", run =>
        {
            run.Ranges(run.Ioas, out ulong before);
            run.Equal(1ul, before, "the alignment before");
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            device.Attach(run.Ioas);
            run.Ranges(run.Ioas, out ulong attached);
            run.Equal(Page, attached, "the alignment");
            run.Answers(run.TryMap(Iova + 1, run.MemoryAddress, Page), Errno.EINVAL, "mapping at an odd IOVA");
            run.Answers(device.Detach(), Errno.Success, "detaching");
            run.Ranges(run.Ioas, out ulong after);
            run.Equal(1ul, after, "the alignment after");
        });
        table.Add("unaligned-mapping", "an IOAS with a mapping that is not aligned to pages is EADDRINUSE", run =>
        {
            run.Answers(run.TryMap(Iova + 1, run.MemoryAddress + 1, 16), Errno.Success, "mapping");
            run.Answers(run.Use(DeviceNeed.Emulated).TryAttach(run.Ioas, out _), Errno.EADDRINUSE, "attaching");
        });
        table.Add("all-addresses", "an mdev reserves no IOVAs", run =>
        {
            run.Use(DeviceNeed.Emulated).Attach(run.Ioas);
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out _);
            run.Equal(1, ranges.Count, "the number of ranges");
            run.Equal((0ul, ulong.MaxValue), (ranges[0].Start, ranges[0].Last), "the range");
        });
        table.Add("map-and-unmap", "mapping and unmapping work while an mdev is attached", run =>
        {
            run.Use(DeviceNeed.Emulated).Attach(run.Ioas);
            run.Map(Iova, Page);
            run.Answers(run.Unmap(Iova, Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(Page, unmapped, "the bytes unmapped");
        });
    }

    private static void AddObject(CaseTable table)
    {
        table.Add("hw-info", "GET_HW_INFO does not know an mdev: ENOENT", run =>
        {
            IommuHwInfo info = IommuHwInfo.Create(run.Use(DeviceNeed.Emulated).Id);
            run.Answers(ref info, Errno.ENOENT);
        });
        table.Add("hwpt", "HWPT_ALLOC does not know an mdev: ENOENT", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            run.Answers(run.TryAllocateHwpt(device, IommuHwptAllocFlags.None, out _), Errno.ENOENT, "IOMMU_HWPT_ALLOC");
        });
        table.Add("destroy", "the object of a bound mdev can not be destroyed: EBUSY", run =>
            run.Answers(run.Destroy(run.Use(DeviceNeed.Emulated).Id), Errno.EBUSY, "IOMMU_DESTROY"));
        table.Add("id-is-not-0", "the id is not 0", run =>
            run.Holds(run.Use(DeviceNeed.Emulated).Id != 0, "an id that is not 0"));
        table.Add("iommufd-closes-first", "an mdev keeps its iommufd: it works on after that is closed", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Emulated);
            run.Iommufd.Dispose();
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.DeviceAnswers(ref info, Errno.Success);
            run.Answers(device.Detach(), Errno.Success, "detaching");
        });
    }
}
