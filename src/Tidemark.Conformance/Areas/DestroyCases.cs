using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Destroying objects, and what keeps them alive.</summary>
internal static class DestroyCases
{
    public static void AddTo(List<ConformanceCase> cases)
    {
        var table = new CaseTable(cases, "destroy", "iommufd.destroy", "iommufd.h, iommu_destroy");
        (string Name, uint Id)[] unknown = [("id-0", 0), ("id-never-given", 999), ("highest-id", uint.MaxValue),
            ("sign-bit", 1u << 31)];
        foreach ((string name, uint id) in unknown)
        {
            table.Add(name, $"an id of {id} that nothing has is ENOENT", run =>
                run.Answers(run.Destroy(id), Errno.ENOENT, "IOMMU_DESTROY"));
        }

        AddIoas(table);
        AddOthers(table);
    }

    private static void AddIoas(CaseTable table)
    {
        table.Add("ioas", "an unused IOAS can be destroyed", run =>
            run.Answers(run.Destroy(run.CreateIoas()), Errno.Success, "IOMMU_DESTROY"));
        table.Add("twice", "what was destroyed is not there any more", run =>
        {
            uint ioas = run.CreateIoas();
            run.Answers(run.Destroy(ioas), Errno.Success, "IOMMU_DESTROY");
            run.Answers(run.Destroy(ioas), Errno.ENOENT, "destroying again");
        });
        table.Add("ioas-with-mappings", "mappings do not keep an IOAS", run =>
        {
            run.Map(Iova, Page);
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "IOMMU_DESTROY");
        });
        table.Add("gone-for-map", "mapping into a destroyed IOAS is ENOENT", run =>
        {
            uint ioas = run.CreateIoas();
            run.Answers(run.Destroy(ioas), Errno.Success, "IOMMU_DESTROY");
            run.Answers(run.TryMap(Iova, run.MemoryAddress, Page, ioas: ioas), Errno.ENOENT, "mapping");
        });
        table.Add("ioas-of-another-context", "an id means nothing in another context", run =>
        {
            uint ioas = run.CreateIoas();
            DestroyElsewhere(run, ioas);
            run.Answers(run.Destroy(ioas), Errno.Success, "IOMMU_DESTROY");
        });
        table.Add("ioas-with-page-table", "a page table keeps its IOAS: EBUSY", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(run.Destroy(run.Ioas), Errno.EBUSY, "IOMMU_DESTROY");
        });
        table.Add("ioas-with-device", "an attached device keeps the IOAS: EBUSY", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Answers(run.Destroy(run.Ioas), Errno.EBUSY, "IOMMU_DESTROY");
        });
        table.Add("ioas-after-page-table", "with the page table gone the IOAS can go", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Answers(run.Destroy(hwpt), Errno.Success, "destroying the page table");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the IOAS");
        });
        table.Add("ioas-after-detach", "after the last device is detached the IOAS can go", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "IOMMU_DESTROY");
        });
    }

    private static void AddOthers(CaseTable table)
    {
        table.Add("page-table", "an unused page table can be destroyed", run =>
            run.Answers(run.Destroy(run.AllocateHwpt(run.Device)), Errno.Success, "IOMMU_DESTROY"));
        table.Add("page-table-with-mappings", "mappings do not keep a page table", run =>
        {
            run.Map(Iova, Page);
            run.Answers(run.Destroy(run.AllocateHwpt(run.Device)), Errno.Success, "IOMMU_DESTROY");
        });
        table.Add("page-table-with-device", "an attached device keeps its page table: EBUSY", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Device.Attach(hwpt);
            run.Answers(run.Destroy(hwpt), Errno.EBUSY, "IOMMU_DESTROY");
        });
        table.Add("page-table-after-detach", "after the last device is detached the page table can go", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Device.Attach(hwpt);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            run.Answers(run.Destroy(hwpt), Errno.Success, "IOMMU_DESTROY");
        });
        table.Add("automatic-page-table", "a page table made by attaching is kept by its device: EBUSY", run =>
            run.Answers(run.Destroy(run.Device.Attach(run.Ioas)), Errno.EBUSY, "IOMMU_DESTROY"));
        table.Add("device", "a device object is its driver's: EBUSY", run =>
            run.Answers(run.Destroy(run.Device.Id), Errno.EBUSY, "IOMMU_DESTROY"));
        table.Add("device-unbound", "the id of a device is gone when its file is closed", run =>
        {
            uint id = run.Device.Id;
            run.Device.File.Dispose();
            run.Answers(run.Destroy(id), Errno.ENOENT, "IOMMU_DESTROY");
        });
        table.Add("context-outlives-its-descriptor", "a bound device keeps working when the iommufd is closed", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Any);
            device.Attach(run.Ioas);
            run.Iommufd.Dispose();
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.DeviceAnswers(ref info, Errno.Success);
        });
    }

    private static void DestroyElsewhere(CaseRun run, uint id)
    {
        KernelFd other = run.OpenIommufd();
        IommuDestroy destroy = IommuDestroy.Create(id);
        run.Answers(run.Kernel.Ioctl(other, ref destroy).Errno, Errno.ENOENT, "destroying it in another context");
    }
}
