using Tidemark.Abi;

namespace Tidemark.Conformance.Areas;

/// <summary>Attaching and detaching PASIDs of a VFIO device: what is refused on any device, with PASIDs or not.</summary>
internal static class VfioPasidCases
{
    private const string Area = "attach";
    private const uint Pasid = 100;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddAttach(new CaseTable(cases, Area, "vfio.attach.pasid", "vfio.h, VFIO_DEVICE_ATTACH_PASID"));
        AddDetach(new CaseTable(cases, Area, "vfio.detach.pasid", "vfio.h, VFIO_DEVICE_DETACH_PASID"));
    }

    private static void AddAttach(CaseTable table)
    {
        table.Refusals<VfioDeviceAttachIommufdPt>(
            run => Attach(run.Ioas), Calls.Device,
            new("argsz-without-pasid", "argsz", Errno.EINVAL, (_, ref call) => call.Argsz = 15),
            new("beyond-what-is-remembered", "pasid", Errno.ENOSPC, (_, ref call) => call.Pasid = 1u << 31),
            new("unknown-id", "id", Errno.ENOENT, (_, ref call) => call.PtId = 999),
            new("ioas", "id", Errno.EINVAL, (_, ref _) => { }),
            new("device", "id", Errno.EINVAL, (run, ref call) => call.PtId = run.Device.Id),
            new("plain-table", "id", Errno.EINVAL, (run, ref call) => call.PtId = run.AllocateHwpt(run.Device)));
        table.Add("ioas-leaves-nothing", "a refused PASID leaves the IOAS free", run =>
        {
            VfioDeviceAttachIommufdPt attach = Attach(run.Ioas);
            run.DeviceAnswers(ref attach, Errno.EINVAL);
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the IOAS");
        });
        table.Add("beside-a-plain-table", "beside a device on a table not made for PASIDs it is EINVAL", run =>
        {
            uint hwpt = run.Device.Attach(run.Ioas);
            VfioDeviceAttachIommufdPt attach = Attach(hwpt);
            run.DeviceAnswers(ref attach, Errno.EINVAL);
            run.Equal(hwpt, run.Device.Attach(hwpt), "the device's own table");
        });
    }

    private static void AddDetach(CaseTable table)
    {
        table.Errors<VfioDeviceDetachIommufdPt>(
            _ => Detach(), Calls.Device,
            new ErrorRow<VfioDeviceDetachIommufdPt>("argsz-without-pasid", "argsz", Errno.EINVAL,
                (_, ref call) => call.Argsz = 11));
        table.Add("keeps-the-device", "detaching a PASID leaves the device's own attachment", run =>
        {
            run.Device.Attach(run.Ioas);
            VfioDeviceDetachIommufdPt detach = Detach();
            run.DeviceAnswers(ref detach, Errno.Success);
            run.Answers(run.Destroy(run.Ioas), Errno.EBUSY, "destroying the IOAS");
        });
    }

    private static VfioDeviceAttachIommufdPt Attach(uint target)
    {
        VfioDeviceAttachIommufdPt attach = VfioDeviceAttachIommufdPt.Create(target);
        (attach.Flags, attach.Pasid) = (VfioDeviceAttachFlags.Pasid, Pasid);
        return attach;
    }

    private static VfioDeviceDetachIommufdPt Detach()
    {
        VfioDeviceDetachIommufdPt detach = VfioDeviceDetachIommufdPt.Create();
        (detach.Flags, detach.Pasid) = (VfioDeviceDetachFlags.Pasid, Pasid);
        return detach;
    }
}
