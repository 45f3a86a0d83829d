using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Conformance.Areas;

/// <summary>What vfio-pci has beyond VFIO's core: tokens, hot reset, low power.</summary>
internal static class VfioPciCases
{
    private const string Area = "vfio-pci";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddTokens(new CaseTable(cases, Area, "vfio.token", "vfio.h, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN"));
        AddHotReset(new CaseTable(cases, Area, "vfio.hot-reset", "vfio.h, vfio_pci_hot_reset"));
        AddLowPower(new CaseTable(cases, Area, "vfio.feature.low-power",
            "vfio.h, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY"));
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
            const ulong Version = 8;
            run.Answers(
                run.Kernel.Pread(run.Device.File.Number, new byte[4], bar + Version).Errno, Errno.Success,
                "reading BAR0");
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

    private static Errno Bind(CaseRun run, ulong token, int iommufd)
    {
        VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(iommufd);
        bind.Argsz = VfioDeviceBindIommufd.StructSize;
        bind.Flags = VfioDeviceBindFlags.Token;
        bind.TokenUuidPtr = token;
        return run.Kernel.Ioctl(run.OpenDevice(run.Find(DeviceNeed.Any)), ref bind).Errno;
    }
}
