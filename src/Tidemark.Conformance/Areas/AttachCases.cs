using System.Buffers.Binary;
using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Attaching, replacing and detaching a device.</summary>
internal static class AttachCases
{
    private const string Area = "attach";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, Area, "vfio.attach", "vfio.h, vfio_device_attach_iommufd_pt"));
        AddDetach(new CaseTable(cases, Area, "vfio.detach", "vfio.h, vfio_device_detach_iommufd_pt"));
        AddAutomatic(new CaseTable(cases, Area, "vfio.attach.automatic",
            "kernel behaviour, page tables made by attaching"));
        AddReplace(new CaseTable(cases, Area, "vfio.attach.replace", "kernel behaviour, replacing an attachment"));
        AddReserved(new CaseTable(cases, Area, "vfio.attach.reserved", "kernel behaviour, reserved IOVAs of a device"));
    }

    private static void AddErrors(CaseTable table)
    {
        table.Errors<VfioDeviceAttachIommufdPt>(
            run => VfioDeviceAttachIommufdPt.Create(run.Ioas), Calls.Device,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 11),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = (VfioDeviceAttachFlags)2),
            new("unknown-high-flag", "flags", Errno.EINVAL,
                (_, ref argument) => argument.Flags = (VfioDeviceAttachFlags)(1u << 31)),
            new("unknown-id", "id", Errno.ENOENT, (_, ref argument) => argument.PtId = 999),
            new("id-0", "id", Errno.ENOENT, (_, ref argument) => argument.PtId = 0),
            new("id-of-a-device", "id", Errno.EINVAL, (run, ref argument) => argument.PtId = run.Device.Id));
        table.Add("argsz-minimum", "the smallest argsz is accepted", run =>
        {
            VfioDeviceAttachIommufdPt attach = VfioDeviceAttachIommufdPt.Create(run.Ioas);
            attach.Argsz = VfioDeviceAttachIommufdPt.MinimumSize;
            run.DeviceAnswers(ref attach, Errno.Success);
        });
        table.Add("argsz-larger-with-garbage", "kernel behaviour: what is beyond the struct is not looked at", run =>
        {
            byte[] argument = new byte[64];
            argument.AsSpan().Fill(0xEE);
            BinaryPrimitives.WriteUInt32LittleEndian(argument, 64);
            BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(4), 0);
            BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(8), run.Ioas);
            run.Answers(
                run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DeviceAttachIommufdPt.Value, argument).Errno,
                Errno.Success, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
        });
        table.Add("explicit-id-is-unchanged", "attaching to a page table tells its id again", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Equal(hwpt, run.Device.Attach(hwpt), "the id");
        });
        table.Add("refused-stays-detached", "after a refusal the IOAS is free", run =>
        {
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping an address where nothing is");
            run.Answers(run.Device.TryAttach(run.Ioas, out _), Errno.EFAULT, "attaching");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "IOMMU_DESTROY");
        });
        table.Add("with-mappings", "an IOAS with mappings can be attached to", run =>
        {
            run.Map(Iova, 4 * Page);
            run.Device.Attach(run.Ioas);
        });
    }

    private static void AddDetach(CaseTable table)
    {
        table.Errors<VfioDeviceDetachIommufdPt>(
            _ => VfioDeviceDetachIommufdPt.Create(), Calls.Device,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 7),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = (VfioDeviceDetachFlags)2));
        table.Add("argsz-minimum", "the smallest argsz is accepted", run =>
        {
            VfioDeviceDetachIommufdPt detach = VfioDeviceDetachIommufdPt.Create();
            detach.Argsz = VfioDeviceDetachIommufdPt.MinimumSize;
            run.DeviceAnswers(ref detach, Errno.Success);
        });
        table.Add("twice", "detaching what is not attached is accepted", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            run.Answers(run.Device.Detach(), Errno.Success, "detaching again");
        });
        table.Add("mappings-stay", "mappings stay when the device goes", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Map(Iova, Page);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
        });
        table.Add("attach-again", "a detached device can be attached again", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            run.Device.Attach(run.Ioas);
        });
    }

    private static void AddAutomatic(CaseTable table)
    {
        table.Add("tells-its-id", "attaching to an IOAS tells the page table in use, not the IOAS", run =>
        {
            uint hwpt = run.Device.Attach(run.Ioas);
            run.Holds(hwpt != run.Ioas && hwpt != 0, "the id of a page table");
        });
        table.Add("goes-with-the-last-device", "the page table is gone when its device is detached", run =>
        {
            uint hwpt = run.Device.Attach(run.Ioas);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            run.Answers(run.Device.TryAttach(hwpt, out _), Errno.ENOENT, "attaching to it");
        });
        table.Add("manual-is-not-chosen", "a page table that was allocated is not chosen", run =>
        {
            uint manual = run.AllocateHwpt(run.Device);
            run.Holds(run.Device.Attach(run.Ioas) != manual, "another page table than the allocated one");
        });
        table.Add("manual-stays", "a page table that was allocated stays when its device is detached", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Device.Attach(hwpt);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            run.Device.Attach(hwpt);
        });
        table.Add("is-shared", "a second device on a like IOMMU uses the same page table", run =>
        {
            BoundDevice first = run.Use(DeviceNeed.Tracking);
            BoundDevice second = run.Bind(DeviceNeed.Tracking);
            run.Equal(first.Attach(run.Ioas), second.Attach(run.Ioas), "the page table of the second device");
        });
        table.Add("stays-with-the-second", "the page table stays while one of two devices is attached", run =>
        {
            BoundDevice first = run.Use(DeviceNeed.Tracking);
            BoundDevice second = run.Bind(DeviceNeed.Tracking);
            uint hwpt = first.Attach(run.Ioas);
            second.Attach(run.Ioas);
            run.Answers(first.Detach(), Errno.Success, "detaching the first");
            run.Answers(run.Destroy(hwpt), Errno.EBUSY, "destroying the page table");
        });
        table.Add("explicitly", "a device can be attached to another's automatic page table by its id", run =>
        {
            uint hwpt = run.Use(DeviceNeed.Tracking).Attach(run.Ioas);
            run.Equal(hwpt, run.Bind(DeviceNeed.Tracking).Attach(hwpt), "the page table of the second device");
        });
        table.Add("second-ioas", "another IOAS has another page table", run =>
        {
            uint first = run.Use(DeviceNeed.Any).Attach(run.Ioas);
            BoundDevice second = run.Bind(DeviceNeed.Any);
            if (second.Profile.GroupNode is { } group && group == run.Device.Profile.GroupNode)
                throw CaseRun.NotApplicable($"Both devices are in the group {group}, which has one page table.");
            run.Holds(second.Attach(run.CreateIoas()) != first, "two page tables");
        });
    }

    private static void AddReplace(CaseTable table)
    {
        table.Add("by-another-ioas", "attaching while attached replaces", run =>
        {
            run.Device.Attach(run.Ioas);
            run.Device.Attach(run.CreateIoas());
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the first IOAS");
        });
        table.Add("by-a-page-table", "an automatic page table that is replaced is gone", run =>
        {
            uint automatic = run.Device.Attach(run.Ioas);
            run.Device.Attach(run.AllocateHwpt(run.Device));
            run.Answers(run.Destroy(automatic), Errno.ENOENT, "destroying the automatic page table");
        });
        table.Add("by-the-same", "replacing by what is in use changes nothing", run =>
        {
            uint hwpt = run.Device.Attach(run.Ioas);
            run.Equal(hwpt, run.Device.Attach(hwpt), "the page table");
            run.Equal(hwpt, run.Device.Attach(run.Ioas), "the page table of the IOAS");
        });
        table.Add("of-a-page-table-frees-it", "a replaced page table can be destroyed", run =>
        {
            uint first = run.AllocateHwpt(run.Device);
            uint second = run.AllocateHwpt(run.Device);
            run.Device.Attach(first);
            run.Device.Attach(second);
            run.Answers(run.Destroy(first), Errno.Success, "destroying the first");
            run.Answers(run.Destroy(second), Errno.EBUSY, "destroying the second");
        });
        table.Add("unknown-keeps-the-old", "a refused replacement leaves the old attachment", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Device.Attach(hwpt);
            run.Answers(run.Device.TryAttach(999, out _), Errno.ENOENT, "replacing");
            run.Answers(run.Destroy(hwpt), Errno.EBUSY, "destroying the page table in use");
        });
        table.Add("unfillable-keeps-the-old", "a replacement that can not be filled leaves the old attachment", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Device.Attach(hwpt);
            uint other = run.CreateIoas();
            run.Answers(
                run.TryMap(Iova, 0x1000, Page, ioas: other), Errno.Success, "mapping an address where nothing is");
            run.Answers(run.Device.TryAttach(other, out _), Errno.EFAULT, "replacing");
            run.Answers(run.Destroy(hwpt), Errno.EBUSY, "destroying the page table in use");
            run.Answers(run.Destroy(other), Errno.Success, "destroying the other IOAS");
        });
        table.Add("incapable-keeps-the-old",
            "a replacement that the device's IOMMU can not use leaves the old one", run =>
        {
            uint dirty = run.AllocateHwpt(run.Bind(DeviceNeed.Tracking), IommuHwptAllocFlags.DirtyTracking);
            BoundDevice device = run.Use(DeviceNeed.NotTracking);
            uint hwpt = run.AllocateHwpt(device);
            device.Attach(hwpt);
            run.Answers(device.TryAttach(dirty, out _), Errno.EINVAL, "replacing");
            run.Answers(run.Destroy(hwpt), Errno.EBUSY, "destroying the page table in use");
        });
        table.Add("keeps-writing", "after a replacement the device reaches the new IOAS", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.Writer);
            device.Attach(run.CreateIoas());
            device.Attach(run.Ioas);
            run.Map(Iova, Page);
            NvmeWriter.Start(run, device, run.Ioas).Write(Iova);
            run.Holds(run.Memory.Bytes(0, 64).ContainsAnyExcept((byte)0), "the device's bytes in memory");
        });
    }

    private static void AddReserved(CaseTable table)
    {
        table.Add("taken-from-usable", "what the device reserves is not usable while it is attached", run =>
        {
            ulong reserved = FindReserved(run);
            run.Device.Attach(run.Ioas);
            run.Holds(
                !run.Ranges(run.Ioas, out _).Exists(range => range.Start <= reserved && range.Last >= reserved),
                $"0x{reserved:x} not to be usable");
        });
        table.Add("mapping-there", "a mapping where the device reserves makes attaching EADDRINUSE", run =>
        {
            run.Map(FindReserved(run), Page);
            run.Answers(run.Device.TryAttach(run.Ioas, out _), Errno.EADDRINUSE, "attaching");
        });
        table.Add("mapping-there-stays", "after the refusal the mapping is still there and the IOAS free", run =>
        {
            ulong reserved = FindReserved(run);
            run.Map(reserved, Page);
            run.Answers(run.Device.TryAttach(run.Ioas, out _), Errno.EADDRINUSE, "attaching");
            run.Answers(run.Unmap(reserved, Page, out _), Errno.Success, "unmapping");
            run.Device.Attach(run.Ioas);
        });
        table.Add("allowed-there", "an allowed range where the device reserves makes attaching EADDRINUSE", run =>
        {
            ulong reserved = FindReserved(run);
            run.Answers(run.Allow(run.Ioas, (reserved, reserved + Page - 1)), Errno.Success, "ALLOW_IOVAS");
            run.Answers(run.Device.TryAttach(run.Ioas, out _), Errno.EADDRINUSE, "attaching");
        });
        table.Add("page-table-alone-does-not", "a page table without a device does not reserve for it", run =>
        {
            ulong reserved = FindReserved(run);
            run.AllocateHwpt(run.Device);
            run.Map(reserved, Page);
        });
    }

    /// <summary>The first page that the device reserves between usable IOVAs; in an IOAS of its own.</summary>
    private static ulong FindReserved(CaseRun run)
    {
        uint ioas = run.CreateIoas();
        run.Device.Attach(ioas);
        List<IommuIovaRange> ranges = run.Ranges(ioas, out _);
        run.Answers(run.Device.Detach(), Errno.Success, "detaching");
        return ranges.Count > 1
            ? ranges[0].Last + 1
            : throw NotApplicable("The device reserves nothing between usable IOVAs.");
    }
}
