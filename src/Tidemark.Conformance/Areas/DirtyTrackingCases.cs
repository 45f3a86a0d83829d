using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Switching dirty tracking, and the checks of reading a bitmap. No device needs to write for these.</summary>
internal static class DirtyTrackingCases
{
    private const string Area = "dirty-tracking";
    private const IommuHwptSetDirtyTrackingFlags Enable = IommuHwptSetDirtyTrackingFlags.Enable;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddSwitch(new CaseTable(
            cases, Area, "iommufd.dirty.set-tracking", "iommufd.h, iommu_hwpt_set_dirty_tracking"));
        AddBitmapErrors(new CaseTable(
            cases, Area, "iommufd.dirty.get-bitmap", "iommufd.h, iommu_hwpt_get_dirty_bitmap"));
        AddBitmapRanges(new CaseTable(
            cases, Area, "iommufd.dirty.get-bitmap", "kernel behaviour, ranges of a dirty bitmap"));
    }

    private static void AddSwitch(CaseTable table)
    {
        table.Errors<IommuHwptSetDirtyTracking>(
            run => IommuHwptSetDirtyTracking.Create(Tracked(run), Enable), Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP,
                (_, ref argument) => argument.Flags |= (IommuHwptSetDirtyTrackingFlags)2),
            new("unknown-page-table", "id", Errno.ENOENT, (_, ref argument) => argument.HwptId = 999),
            new("ioas-as-page-table", "id", Errno.ENOENT, (run, ref argument) => argument.HwptId = run.Ioas),
            new("device-as-page-table", "id", Errno.ENOENT, (run, ref argument) => argument.HwptId = run.Device.Id),
            new("not-made-for-tracking", "id", Errno.EOPNOTSUPP, (run, ref argument) =>
                argument.HwptId = run.AllocateHwpt(run.Device)));
        table.Add("automatic-page-table",
            "kernel behaviour: a page table made by attaching never tracks: EOPNOTSUPP", run =>
        {
            uint hwpt = run.Use(DeviceNeed.Tracking).Attach(run.Ioas);
            run.Answers(Set(run, hwpt, Enable), Errno.EOPNOTSUPP, "enabling");
        });
        table.Add("reserved-is-not-looked-at", "kernel behaviour: the reserved field is not checked", run =>
        {
            IommuHwptSetDirtyTracking call = IommuHwptSetDirtyTracking.Create(Tracked(run), Enable);
            call.Reserved = 1;
            run.Answers(ref call, Errno.Success);
        });
        table.Add("enable-twice", "enabling what is enabled is accepted", run =>
        {
            uint hwpt = Tracked(run);
            run.Answers(Set(run, hwpt, Enable), Errno.Success, "enabling");
            run.Answers(Set(run, hwpt, Enable), Errno.Success, "enabling again");
        });
        table.Add("disable", "disabling is accepted", run =>
        {
            uint hwpt = Tracked(run);
            run.Answers(Set(run, hwpt, Enable), Errno.Success, "enabling");
            run.Answers(Set(run, hwpt, 0), Errno.Success, "disabling");
        });
        table.Add("disable-when-disabled", "disabling what is not enabled is accepted", run =>
            run.Answers(Set(run, Tracked(run), 0), Errno.Success, "disabling"));
        table.Add("with-device-attached", "tracking can be switched while a device is attached", run =>
        {
            uint hwpt = Tracked(run);
            run.Device.Attach(hwpt);
            run.Answers(Set(run, hwpt, Enable), Errno.Success, "enabling");
            run.Answers(Set(run, hwpt, 0), Errno.Success, "disabling");
        });
        table.Add("enabled-before-attach", "a device can be attached while tracking is on", run =>
        {
            uint hwpt = Tracked(run);
            run.Answers(Set(run, hwpt, Enable), Errno.Success, "enabling");
            run.Device.Attach(hwpt);
        });
    }

    private static void AddBitmapErrors(CaseTable table) => table.Errors<IommuHwptGetDirtyBitmap>(
        run =>
        {
            uint hwpt = Tracked(run);
            run.Map(Iova, 16 * Page);
            return IommuHwptGetDirtyBitmap.Create(hwpt, Iova, 16 * Page, Page, run.ScratchAddress, 0);
        },
        Calls.Iommufd,
        new("unknown-flag", "flags", Errno.EOPNOTSUPP,
            (_, ref argument) => argument.Flags = (IommuHwptGetDirtyBitmapFlags)2),
        new("reserved-field", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved = 1),
        new("unknown-page-table", "id", Errno.ENOENT, (_, ref argument) => argument.HwptId = 999),
        new("ioas-as-page-table", "id", Errno.ENOENT, (run, ref argument) => argument.HwptId = run.Ioas),
        new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
        new("range-wraps", "iova length", Errno.EOVERFLOW,
            (_, ref argument) => argument.Iova = ulong.MaxValue - Page + 1),
        new("iova-less-aligned-than-the-table", "iova", Errno.EINVAL, (_, ref argument) => argument.Iova = Iova + 1),
        new("end-less-aligned-than-the-table", "length", Errno.EINVAL, (_, ref argument) => argument.Length = Page + 1),
        new("page-size-0", "page-size", Errno.EINVAL, (_, ref argument) => argument.PageSize = 0),
        new("iova-less-aligned-than-page-size", "iova page-size", Errno.EINVAL, (_, ref argument) =>
        {
            argument.Iova = Iova + Page;
            argument.PageSize = 4 * Page;
        }),
        new("end-less-aligned-than-page-size", "length page-size", Errno.EINVAL, (_, ref argument) =>
        {
            argument.Length = 3 * Page;
            argument.PageSize = 4 * Page;
        }),
        new("not-made-for-tracking", "id", Errno.EOPNOTSUPP, (run, ref argument) =>
            argument.HwptId = run.AllocateHwpt(run.Device)));

    private static void AddBitmapRanges(CaseTable table)
    {
        table.Add("automatic-page-table", "a page table made by attaching has no bitmap: EOPNOTSUPP", run =>
        {
            uint hwpt = run.Use(DeviceNeed.Tracking).Attach(run.Ioas);
            run.Map(Iova, Page);
            run.Answers(Get(run, hwpt, Iova, Page, run.ScratchAddress), Errno.EOPNOTSUPP, "reading");
        });
        table.Add("not-mapped", "a range in which nothing is mapped is accepted", run =>
        {
            uint hwpt = Tracked(run);
            run.Answers(Get(run, hwpt, Iova, 16 * Page, run.ScratchAddress), Errno.Success, "reading");
        });
        table.Add("begins-in-a-hole", "a range that begins in a hole is accepted", run =>
        {
            uint hwpt = Tracked(run);
            run.Map(Iova + Page, Page);
            run.Answers(Get(run, hwpt, Iova, 2 * Page, run.ScratchAddress), Errno.Success, "reading");
        });
        table.Add("tracking-off", "reading does not need tracking to be on", run =>
        {
            uint hwpt = Tracked(run);
            run.Map(Iova, Page);
            run.Answers(Get(run, hwpt, Iova, Page, run.ScratchAddress), Errno.Success, "reading");
        });
        table.Add("clean-writes-nothing", "with nothing dirty the bitmap is not even looked at", run =>
        {
            uint hwpt = Tracked(run);
            run.Map(Iova, Page);
            run.Answers(Set(run, hwpt, Enable), Errno.Success, "enabling");
            run.Answers(Get(run, hwpt, Iova, Page, BadAddress), Errno.Success, "reading into a bad address");
        });
        table.Add("clean-after-enabling", "right after enabling nothing is dirty", run =>
        {
            uint hwpt = Tracked(run);
            run.Map(Iova, 16 * Page);
            run.Answers(Set(run, hwpt, Enable), Errno.Success, "enabling");
            run.Answers(Get(run, hwpt, Iova, 16 * Page, run.ScratchAddress), Errno.Success, "reading");
            run.Equal(0ul, run.Scratch.Words(1)[0], "the bitmap");
        });
    }

    private static uint Tracked(CaseRun run) =>
        run.AllocateHwpt(run.Use(DeviceNeed.Tracking), IommuHwptAllocFlags.DirtyTracking);

    private static Errno Set(CaseRun run, uint hwpt, IommuHwptSetDirtyTrackingFlags flags)
    {
        IommuHwptSetDirtyTracking call = IommuHwptSetDirtyTracking.Create(hwpt, flags);
        return run.Kernel.Ioctl(run.Iommufd, ref call).Errno;
    }

    private static Errno Get(CaseRun run, uint hwpt, ulong iova, ulong byteLength, ulong data)
    {
        IommuHwptGetDirtyBitmap call = IommuHwptGetDirtyBitmap.Create(hwpt, iova, byteLength, Page, data, 0);
        return run.Kernel.Ioctl(run.Iommufd, ref call).Errno;
    }
}
