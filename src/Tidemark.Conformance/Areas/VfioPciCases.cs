using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Conformance.Areas;

/// <summary>What vfio-pci has beyond VFIO's core: tokens, hot reset, low power, DMA-BUFs of a BAR.</summary>
internal static class VfioPciCases
{
    private const string Area = "vfio-pci";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddTokens(new CaseTable(cases, Area, "vfio.token", "vfio.h, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN"));
        AddHotReset(new CaseTable(cases, Area, "vfio.hot-reset", "vfio.h, vfio_pci_hot_reset"));
        AddLowPower(new CaseTable(cases, Area, "vfio.feature.low-power",
            "vfio.h, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY"));
        AddDmaBuf(new CaseTable(cases, Area, "vfio.feature.dma-buf", "vfio.h, vfio_device_feature_dma_buf"));
    }

    private static void AddTokens(CaseTable table)
    {
        table.Add("feature-absent", "a function without virtual functions has no token to set: ENOTTY", run =>
            run.Answers(
                run.Device.Probe(VfioDeviceFeatureIndex.PciVfToken, Set), Errno.ENOTTY, "probing PCI_VF_TOKEN"));
        table.Add("bind-unreadable", "a token that can not be read is EFAULT", run =>
            run.Answers(Bind(run, CaseRun.BadAddress, run.Iommufd.Number), Errno.EFAULT, "binding"));
        table.Add("bind-not-needed", "a token that the device does not ask for is EINVAL", run =>
            run.Answers(Bind(run, run.ScratchAddress, run.Iommufd.Number), Errno.EINVAL, "binding"));
        table.Add("bind-before-iommufd", "kernel behaviour: the token is looked at before the iommufd", run =>
            run.Answers(Bind(run, run.ScratchAddress, 0x7FFF_0000), Errno.EINVAL, "binding"));
    }

    private static void AddHotReset(CaseTable table)
    {
        (string Name, uint[] Words, string Rule)[] refusals =
        [
            ("argsz-0", [0, 0, 0], "argsz 0"), ("argsz-below-minimum", [11, 0, 0], "a smaller argsz"),
            ("flags", [12, 1, 0], "a flag"),
            ("groups-on-a-cdev", [16, 0, 1], "a list of groups from a device file that is no group's"),
        ];
        foreach ((string name, uint[] words, string rule) in refusals)
        {
            table.Add(name, $"{rule} is EINVAL", run =>
            {
                byte[] argument = new byte[16];
                for (int word = 0; word < words.Length; word++)
                    BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(word * 4), words[word]);
                run.Answers(
                    run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DevicePciHotReset.Value, argument).Errno,
                    Errno.EINVAL, "VFIO_DEVICE_PCI_HOT_RESET");
            });
        }
    }

    private static void AddLowPower(CaseTable table)
    {
        table.Add("bar-is-in-reach", "in low power a BAR can be read: the call wakes the device", run =>
        {
            run.Use(DeviceNeed.Writer);
            run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
            ulong bar = run.Device.OffsetOf(VfioPciRegionIndex.Bar0);
            run.Answers(
                run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.Success, "entering low power");
            run.Answers(
                run.Kernel.Pread(run.Device.File.Number, new byte[4], bar).Errno, Errno.Success, "reading BAR0");
        });
        table.Add("config-is-in-reach", "in low power configuration space can be read", run =>
        {
            run.Use(DeviceNeed.Any);
            ulong before = run.Device.ReadRegion(VfioPciRegionIndex.Config, 0, 4);
            run.Answers(
                run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.Success, "entering low power");
            run.Equal(before, run.Device.ReadRegion(VfioPciRegionIndex.Config, 0, 4), "vendor and device");
        });
        table.Add("memory-off", "a BAR is EIO while memory access is off", run =>
        {
            run.Use(DeviceNeed.Writer);
            run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 0);
            ulong bar = run.Device.OffsetOf(VfioPciRegionIndex.Bar0);
            run.Answers(run.Kernel.Pread(run.Device.File.Number, new byte[4], bar).Errno, Errno.EIO, "reading BAR0");
        });
    }

    private static void AddDmaBuf(CaseTable table)
    {
        table.Refusals<Export>(
            run =>
            {
                RequireDmaBuf(run);
                return new Export();
            },
            (run, ref export) => export.Send(run).Errno,
            new("argsz-below-payload", "argsz", Errno.EINVAL, (_, ref export) => export.Argsz = 23),
            new("no-ranges", "ranges", Errno.EINVAL, (_, ref export) => export.Count = 0),
            new("flags", "flags", Errno.EINVAL, (_, ref export) => export.Flags = 1),
            new("rom", "region", Errno.ENODEV, (_, ref export) => export.Region = (uint)VfioPciRegionIndex.Rom),
            new("unknown-region", "region", Errno.ENODEV, (_, ref export) => export.Region = 999),
            new("length-0", "range", Errno.EINVAL, (_, ref export) => export.Length = 0),
            new("offset-unaligned", "range", Errno.EINVAL, (_, ref export) => export.Offset = 1),
            new("length-unaligned", "range", Errno.EINVAL, (_, ref export) => export.Length = 1),
            new("beyond-the-end", "range", Errno.EINVAL,
                (run, ref export) => export.Offset = run.Device.SizeOf(VfioPciRegionIndex.Bar0)));
        table.Add("accepted", "a part of a BAR becomes a descriptor, which the call returns", run =>
        {
            RequireDmaBuf(run);
            run.OwnFd(new Export().Send(run), "exporting");
        });
        table.Add("set", "it can be asked for, not set: EINVAL", run =>
        {
            RequireDmaBuf(run);
            run.Answers(run.Device.Probe(VfioDeviceFeatureIndex.DmaBuf, Set), Errno.EINVAL, "probing");
        });
        table.Add("survives-the-device", "a descriptor outlives the device's file", run =>
        {
            RequireDmaBuf(run);
            run.OwnFd(new Export().Send(run), "exporting");
            run.Device.File.Dispose();
        });
    }

    private static void RequireDmaBuf(CaseRun run)
    {
        run.Use(DeviceNeed.Writer);
        Errno errno = run.Device.Probe(VfioDeviceFeatureIndex.DmaBuf, Get);
        if (errno is Errno.ENOTTY or Errno.EOPNOTSUPP)
            throw CaseRun.NotApplicable("This kernel, or this device, does not export BARs as DMA-BUFs.");
        run.Answers(errno, Errno.Success, "probing DMA_BUF");
        run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
    }

    private static Errno Bind(CaseRun run, ulong token, int iommufd)
    {
        VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(iommufd);
        bind.Argsz = VfioDeviceBindIommufd.StructSize;
        bind.Flags = VfioDeviceBindFlags.Token;
        bind.TokenUuidPtr = token;
        return run.Kernel.Ioctl(run.OpenDevice(run.Find(DeviceNeed.Any)), ref bind).Errno;
    }

    /// <summary>An export of BAR0's first page, unless told otherwise.</summary>
    private sealed class Export
    {
        public uint Argsz { get; set; } = 40;

        public uint Region { get; set; }

        public uint Flags { get; set; }

        public uint Count { get; set; } = 1;

        public ulong Offset { get; set; }

        public ulong Length { get; set; } = CaseRun.Page;

        public SyscallResult Send(CaseRun run)
        {
            const uint CloseOnExec = 0x80000;
            const uint ReadWrite = 2;
            byte[] argument = new byte[40];
            uint[] words =
            [
                Argsz, (uint)Get | (uint)VfioDeviceFeatureIndex.DmaBuf, Region, CloseOnExec | ReadWrite, Flags, Count,
            ];
            for (int word = 0; word < words.Length; word++)
                BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(word * 4), words[word]);
            BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(24), Offset);
            BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(32), Length);
            return run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DeviceFeature.Value, argument);
        }
    }
}
