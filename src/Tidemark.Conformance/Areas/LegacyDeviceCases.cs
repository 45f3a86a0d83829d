using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>A device's file that its group gave: what differs from the cdev's.</summary>
internal static class LegacyDeviceCases
{
    private const string Area = "legacy-device";
    private const int ResetHeader = (int)VfioPciHotResetInfo.StructSize;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddBind(new CaseTable(cases, Area, "legacy.device.bind", "vfio.h, vfio_device_bind_iommufd"));
        AddAccess(new CaseTable(cases, Area, "legacy.device", "kernel behaviour, a device's file of a group"));
        AddHotReset(new CaseTable(cases, Area, "legacy.device.hot-reset", "vfio.h, vfio_pci_hot_reset"));
    }

    private static void AddBind(CaseTable table)
    {
        table.Refusals<VfioDeviceBindIommufd>(
            run => VfioDeviceBindIommufd.Create(run.Iommufd.Number),
            (run, ref argument) => run.Kernel.Ioctl(run.Group.OpenDevice(), ref argument).Errno,
            new("accepted-on-a-cdev", "none", Errno.EINVAL, (_, ref _) => { }),
            new("argsz-15", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15),
            new("negative-iommufd", "iommufd", Errno.EINVAL, (_, ref argument) => argument.Iommufd = -1),
            new("iommufd-not-open", "iommufd", Errno.EINVAL, (_, ref argument) => argument.Iommufd = 0x7FFF_0000));
        table.Add("non-zero-tail", "a tail that is not 0 is E2BIG before it is seen to be a group's file", run =>
        {
            byte[] argument = new byte[32];
            BinaryPrimitives.WriteInt32LittleEndian(argument, argument.Length);
            BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(8), run.Iommufd.Number);
            argument[^1] = 1;
            run.Answers(
                run.Kernel.Ioctl(
                    run.Group.OpenDevice().Number, VfioRequests.DeviceBindIommufd.Value, argument).Errno,
                Errno.E2BIG, "VFIO_DEVICE_BIND_IOMMUFD");
        });
    }

    private static void AddAccess(CaseTable table)
    {
        table.Add("attach", "ATTACH_IOMMUFD_PT is ENOTTY", run =>
        {
            VfioDeviceAttachIommufdPt attach = VfioDeviceAttachIommufdPt.Create(run.Ioas);
            run.Answers(
                run.Kernel.Ioctl(run.Group.OpenDevice(), ref attach).Errno, Errno.ENOTTY,
                "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
        });
        table.Add("detach", "DETACH_IOMMUFD_PT is ENOTTY", run =>
        {
            VfioDeviceDetachIommufdPt detach = VfioDeviceDetachIommufdPt.Create();
            run.Answers(
                run.Kernel.Ioctl(run.Group.OpenDevice(), ref detach).Errno, Errno.ENOTTY,
                "VFIO_DEVICE_DETACH_IOMMUFD_PT");
        });
        table.Add("attach.on-iommufd", "ATTACH_IOMMUFD_PT is ENOTTY on an iommufd too", run =>
        {
            VfioDeviceAttachIommufdPt attach = VfioDeviceAttachIommufdPt.Create(run.Ioas);
            run.Answers(
                run.Kernel.Ioctl(LegacyGroupCases.OnIommufd(run).OpenDevice(), ref attach).Errno, Errno.ENOTTY,
                "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
        });
        table.Add("detach.on-iommufd", "DETACH_IOMMUFD_PT is ENOTTY on an iommufd too", run =>
        {
            VfioDeviceDetachIommufdPt detach = VfioDeviceDetachIommufdPt.Create();
            run.Answers(
                run.Kernel.Ioctl(LegacyGroupCases.OnIommufd(run).OpenDevice(), ref detach).Errno, Errno.ENOTTY,
                "VFIO_DEVICE_DETACH_IOMMUFD_PT");
        });
        table.Add("info", "the device tells the same of itself as through its cdev", run =>
        {
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.Answers(run.Kernel.Ioctl(run.Group.OpenDevice(), ref info).Errno, Errno.Success, "GET_INFO");
            run.Holds(info.Flags.HasFlag(VfioDeviceFlags.Pci), "a PCI device");
            run.Holds(info.NumRegions >= (uint)VfioPciRegionIndex.Count, "all of PCI's regions");
        });
        table.Add("unknown-request", "an unknown request is ENOTTY", run => run.Answers(
            run.Kernel.Ioctl(run.Group.OpenDevice().Number, 0x3BEE, new byte[64]).Errno, Errno.ENOTTY,
            "request 0x3bee"));
        table.Add("config-space", "the configuration space can be read", run =>
        {
            var device = new BoundDevice(run, run.Group.Profile, run.Group.OpenDevice(), id: 0);
            run.Holds(device.ReadRegion(VfioPciRegionIndex.Config, 0, 2) is not (0 or 0xFFFF), "a vendor");
        });
        table.Add("files-share-the-device", "what one file writes another reads", run =>
        {
            var first = new BoundDevice(run, run.Group.Profile, run.Group.OpenDevice(), id: 0);
            var second = new BoundDevice(run, run.Group.Profile, run.Group.OpenDevice(), id: 0);
            const ulong MemoryAndBusMaster = 6;
            first.WriteRegion(VfioPciRegionIndex.Config, 4, 2, MemoryAndBusMaster);
            run.Equal(
                MemoryAndBusMaster, second.ReadRegion(VfioPciRegionIndex.Config, 4, 2) & MemoryAndBusMaster,
                "the command register");
        });
        table.Add("last-close-resets", "the last close turns bus mastering off", run =>
        {
            var first = new BoundDevice(run, run.Group.Profile, run.Group.OpenDevice(), id: 0);
            const ulong BusMaster = 4;
            first.WriteRegion(VfioPciRegionIndex.Config, 4, 2, BusMaster);
            first.File.Dispose();
            var second = new BoundDevice(run, run.Group.Profile, run.Group.OpenDevice(), id: 0);
            run.Equal(0ul, second.ReadRegion(VfioPciRegionIndex.Config, 4, 2) & BusMaster, "bus mastering");
        });
        table.Add("unknown-feature", "an unknown feature is ENOTTY", run =>
        {
            var device = new BoundDevice(run, run.Group.Profile, run.Group.OpenDevice(), id: 0);
            run.Answers(
                device.Probe((VfioDeviceFeatureIndex)0x7FFF, VfioDeviceFeatureFlags.Get), Errno.ENOTTY,
                "VFIO_DEVICE_FEATURE");
        });
    }

    private static void AddHotReset(CaseTable table)
    {
        table.Add("info-names-groups", "GET_PCI_HOT_RESET_INFO lists groups, not ids of an iommufd", run =>
        {
            byte[] list = ReadList(run, out VfioPciHotResetFlags flags, out uint count);
            run.Equal(VfioPciHotResetFlags.None, flags, "the flags");
            bool found = false;
            for (int index = 0; index < count; index++)
            {
                int at = ResetHeader + (8 * index);
                found |= BinaryPrimitives.ReadUInt32LittleEndian(list.AsSpan(at)) == run.Group.Profile.GroupNumber;
            }

            run.Holds(found, $"group {run.Group.Profile.GroupNumber} in the list");
        });
        table.Add("no-groups", "PCI_HOT_RESET without a list of groups is EINVAL", run =>
            run.Answers(HotReset(run), Errno.EINVAL, "VFIO_DEVICE_PCI_HOT_RESET"));
        table.Add("not-open", "a descriptor that is not open is EBADF", run =>
        {
            ReadList(run, out _, out _);
            run.Answers(HotReset(run, 0x7FFF_0000), Errno.EBADF, "VFIO_DEVICE_PCI_HOT_RESET");
        });
        table.Add("not-a-group", "a descriptor that is no group is EINVAL", run =>
        {
            ReadList(run, out _, out _);
            run.Answers(HotReset(run, run.CreateEventfd().Number), Errno.EINVAL, "VFIO_DEVICE_PCI_HOT_RESET");
        });
        table.Add("too-many", "more groups than affected devices are EINVAL", run =>
        {
            ReadList(run, out _, out uint count);
            int[] groups = new int[count + 1];
            Array.Fill(groups, run.Group.Group.Number);
            run.Answers(HotReset(run, groups), Errno.EINVAL, "VFIO_DEVICE_PCI_HOT_RESET");
        });
    }

    private static byte[] ReadList(CaseRun run, out VfioPciHotResetFlags flags, out uint count)
    {
        byte[] argument = new byte[ResetHeader + (8 * 64)];
        BinaryPrimitives.WriteInt32LittleEndian(argument, argument.Length);
        Errno errno = run.Kernel.Ioctl(
            run.Group.OpenDevice().Number, VfioRequests.DeviceGetPciHotResetInfo.Value, argument).Errno;
        if (errno == Errno.ENODEV)
            throw CaseRun.NotApplicable($"Device {run.Group.Profile.Address} has neither a slot nor a bus reset.");
        run.Answers(errno, Errno.Success, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO");
        flags = (VfioPciHotResetFlags)BinaryPrimitives.ReadUInt32LittleEndian(argument.AsSpan(4));
        count = BinaryPrimitives.ReadUInt32LittleEndian(argument.AsSpan(8));
        return argument;
    }

    private static Errno HotReset(CaseRun run, params int[] groups)
    {
        byte[] argument = new byte[ResetHeader + (4 * groups.Length)];
        BinaryPrimitives.WriteInt32LittleEndian(argument, argument.Length);
        BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(8), groups.Length);
        for (int index = 0; index < groups.Length; index++)
            BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(ResetHeader + (4 * index)), groups[index]);
        return run.Kernel.Ioctl(
            run.Group.OpenDevice().Number, VfioRequests.DevicePciHotReset.Value, argument).Errno;
    }
}
