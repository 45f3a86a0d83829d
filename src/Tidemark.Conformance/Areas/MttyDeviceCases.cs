using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// Linux's sample mdev, a serial card (samples/vfio-mdev/mtty.c): regions, configuration space and serial ports. It is
/// the one device with migration states that needs no hardware, so its behaviour is worth knowing to the byte.
/// </summary>
internal static class MttyDeviceCases
{
    public const string Area = "mtty";
    public const string Source = "kernel behaviour, samples/vfio-mdev/mtty.c";

    private const int IndexShift = 40;
    private const ulong Data = 0;
    private const ulong InterruptEnable = 1;
    private const ulong Identification = 2;
    private const ulong LineControl = 3;
    private const ulong ModemControl = 4;
    private const ulong LineStatus = 5;
    private const ulong ModemStatus = 6;
    private const ulong Scratch = 7;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddInfo(new CaseTable(cases, Area, "vfio.mtty.info", Source));
        AddConfig(new CaseTable(cases, Area, "vfio.mtty.config", Source));
        AddSerial(new CaseTable(cases, Area, "vfio.mtty.serial", Source));
        AddAccess(new CaseTable(cases, Area, "vfio.mtty.access", Source));
        AddAbsent(new CaseTable(cases, Area, "vfio.mtty.absent", Source));
    }

    private static void AddInfo(CaseTable table)
    {
        table.Errors<VfioDeviceInfo>(
            run =>
            {
                run.Use(DeviceNeed.Mtty);
                return VfioDeviceInfo.Create();
            },
            Calls.Device,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15));
        table.Add("device", "it is a PCI device of nine regions and five interrupts that does not tell that it resets",
            run =>
        {
            run.Use(DeviceNeed.Mtty);
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.DeviceAnswers(ref info, Errno.Success);
            run.Equal(VfioDeviceFlags.Pci, info.Flags, "the flags");
            run.Equal((uint)VfioPciRegionIndex.Count, info.NumRegions, "the number of regions");
            run.Equal((uint)VfioPciIrqIndex.Count, info.NumIrqs, "the number of interrupt indexes");
        });
        table.Add("resets", "a reset is accepted", run =>
            run.Answers(run.Use(DeviceNeed.Mtty).Reset(), Errno.Success, "VFIO_DEVICE_RESET"));
        for (VfioPciRegionIndex index = 0; index < VfioPciRegionIndex.Count; index++)
        {
            VfioPciRegionIndex region = index;
#pragma warning disable CA1308 // Names of cases are in lower case.
            table.Add($"region-{region.ToString().ToLowerInvariant()}",
#pragma warning restore CA1308
                $"{region} can be read and written, whatever its size, and not be mapped", run =>
            {
                VfioRegionInfo info = run.Use(DeviceNeed.Mtty).Region(region);
                run.Equal(VfioRegionInfoFlags.Read | VfioRegionInfoFlags.Write, info.Flags, "the flags");
                run.Equal((ulong)region << IndexShift, info.Offset, "the offset");
                ulong size = region switch
                {
                    VfioPciRegionIndex.Config => 255,
                    VfioPciRegionIndex.Bar0 => 8,
                    VfioPciRegionIndex.Bar1 when Ports(run) == 2 => 8,
                    _ => 0,
                };
                run.Equal(size, info.Size, "the size");
            });
        }

        table.Add("region-unknown", "an unknown region is EINVAL", run =>
        {
            run.Use(DeviceNeed.Mtty);
            VfioRegionInfo info = VfioRegionInfo.Create((uint)VfioPciRegionIndex.Count);
            run.DeviceAnswers(ref info, Errno.EINVAL);
        });
    }

    private static void AddConfig(CaseTable table)
    {
        (string Name, ulong Offset, int Length, ulong Value)[] registers =
        [
            ("identity", 0x00, 4, 0x3253_4348), ("command", 0x04, 2, 0x0001), ("status", 0x06, 2, 0x0200),
            ("revision", 0x08, 1, 0x10), ("programming-interface", 0x09, 1, 0x02), ("class", 0x0A, 2, 0x0700),
            ("subsystem", 0x2C, 4, 0x3253_4348), ("capabilities", 0x34, 1, 0), ("interrupt-pin", 0x3D, 1, 1),
        ];
        foreach ((string name, ulong offset, int length, ulong value) in registers)
        {
            table.Add(name, $"the register at 0x{offset:x} reads 0x{value:x}", run =>
            {
                run.Use(DeviceNeed.Mtty);
                run.Equal(value, Config(run, offset, length), $"the register at 0x{offset:x}");
            });
        }

        table.Add("command-is-fixed", "the command register ignores writes", run =>
        {
            run.Use(DeviceNeed.Mtty);
            SetConfig(run, 0x04, 2, 0x0007);
            run.Equal(1ul, Config(run, 0x04, 2), "the command register");
        });
        table.Add("interrupt-line", "the interrupt line keeps what is written", run =>
        {
            run.Use(DeviceNeed.Mtty);
            SetConfig(run, 0x3C, 1, 0x2A);
            run.Equal(0x2Aul, Config(run, 0x3C, 1), "the interrupt line");
        });
        table.Add("bar-size", "ones written to BAR0 read back as its size and I/O space", run =>
        {
            run.Use(DeviceNeed.Mtty);
            SetConfig(run, 0x10, 4, uint.MaxValue);
            run.Equal(0xFFFF_FFF9ul, Config(run, 0x10, 4), "BAR0");
            SetConfig(run, 0x10, 4, 0xC000);
            run.Equal(0xC001ul, Config(run, 0x10, 4), "BAR0");
        });
        table.Add("bar-absent", "a BAR that is not there reads 0", run =>
        {
            run.Use(DeviceNeed.Mtty);
            SetConfig(run, 0x18, 4, uint.MaxValue);
            run.Equal(0ul, Config(run, 0x18, 4), "BAR2");
        });
    }

    private static void AddSerial(CaseTable table)
    {
        foreach (ulong value in (ulong[])[0, 0x5A, 0xFF])
        {
            table.Add($"scratch-{value:x2}", "the scratch register keeps what is written", run =>
            {
                Fresh(run);
                Set(run, Scratch, value);
                run.Equal(value, Get(run, Scratch), "the scratch register");
            });
        }

        table.Add("loop", "what is sent is received, in order", run =>
        {
            Fresh(run);
            foreach (ulong value in (ulong[])[1, 2, 3])
                Set(run, Data, value);
            foreach (ulong value in (ulong[])[1, 2, 3])
                run.Equal(value, Get(run, Data), "the received byte");
        });
        table.Add("line-status", "the line status tells empty and filled", run =>
        {
            Fresh(run);
            run.Equal(0x60ul, Get(run, LineStatus), "the line status when empty");
            Set(run, Data, 7);
            run.Equal(0x01ul, Get(run, LineStatus), "the line status when filled");
        });
        table.Add("overrun", "a byte beyond the FIFO is an overrun, and a full FIFO counts as empty", run =>
        {
            Fresh(run);
            for (ulong value = 0; value < 17; value++)
                Set(run, Data, value);
            run.Equal(0x62ul, Get(run, LineStatus), "the line status");
        });
        table.Add("no-fifo", "without the FIFO there is room for one byte", run =>
        {
            Fresh(run);
            Set(run, Identification, 0x06);
            Set(run, Data, 1);
            Set(run, Data, 2);
            run.Equal(0x03ul, Get(run, LineStatus), "the line status");
            run.Equal(1ul, Get(run, Data), "the received byte");
            Set(run, Identification, 0x07);
            Set(run, Data, 3);
            run.Equal(0x01ul, Get(run, LineStatus), "the line status without an overrun");
        });
        table.Add("fifo-reset", "clearing the FIFO empties it", run =>
        {
            Fresh(run);
            Set(run, Data, 7);
            Set(run, Identification, 0x03);
            run.Equal(0x60ul, Get(run, LineStatus), "the line status");
        });
        table.Add("interrupt-enable", "only four bits of the interrupt enable register read back", run =>
        {
            Fresh(run);
            Set(run, InterruptEnable, 0xFF);
            run.Equal(0x0Ful, Get(run, InterruptEnable), "the interrupt enable register");
        });
        table.Add("line-control", "line and modem control keep what is written", run =>
        {
            Fresh(run);
            Set(run, LineControl, 0x1B);
            Set(run, ModemControl, 0x10);
            run.Equal(0x1Bul, Get(run, LineControl), "line control");
            run.Equal(0x10ul, Get(run, ModemControl), "modem control");
        });
        table.Add("divisor", "the divisor latch hides data and interrupt enable", run =>
        {
            Fresh(run);
            Set(run, LineControl, 0x80);
            run.Equal(0ul, Get(run, Data), "the low divisor");
            Set(run, Data, 0x0C);
            Set(run, InterruptEnable, 0x02);
            run.Equal(0x0Cul, Get(run, Data), "the low divisor");
            run.Equal(0x02ul, Get(run, InterruptEnable), "the high divisor");
            Set(run, LineControl, 0);
            run.Equal(0ul, Get(run, InterruptEnable), "the interrupt enable register");
        });
        table.Add("identification", "the identification tells what interrupts", run =>
        {
            Fresh(run);
            run.Equal(0xC1ul, Get(run, Identification), "the identification when nothing interrupts");
            Set(run, InterruptEnable, 2);
            run.Equal(0xC2ul, Get(run, Identification), "the identification of an empty transmitter");
            Set(run, InterruptEnable, 1);
            Set(run, Data, 9);
            run.Equal(0xC4ul, Get(run, Identification), "the identification of received data");
        });
        table.Add("modem-status", "the modem is there and clear to send", run =>
        {
            Fresh(run);
            run.Equal(0xB3ul, Get(run, ModemStatus), "the modem status");
        });
        table.Add("ports-are-apart", "the registers of two ports are their own", run =>
        {
            Fresh(run);
            run.Device.WriteRegion(VfioPciRegionIndex.Bar0, Scratch, 1, 0x11);
            run.Device.WriteRegion(VfioPciRegionIndex.Bar1, Scratch, 1, 0x22);
            run.Equal(0x11ul, run.Device.ReadRegion(VfioPciRegionIndex.Bar0, Scratch, 1), "port 0");
            run.Equal(0x22ul, run.Device.ReadRegion(VfioPciRegionIndex.Bar1, Scratch, 1), "port 1");
        });
        table.Add("registers-survive-a-reset", "a reset leaves the registers as they are", run =>
        {
            Fresh(run);
            Set(run, Scratch, 0x77);
            run.Answers(run.Device.Reset(), Errno.Success, "VFIO_DEVICE_RESET");
            run.Equal(0x77ul, Get(run, Scratch), "the scratch register");
        });
    }

    private static void AddAccess(CaseTable table)
    {
        foreach (VfioPciRegionIndex region in (VfioPciRegionIndex[])[VfioPciRegionIndex.Rom, VfioPciRegionIndex.Vga])
        {
            ulong offset = (ulong)region << IndexShift;
#pragma warning disable CA1308 // Names of cases are in lower case.
            string name = region.ToString().ToLowerInvariant();
#pragma warning restore CA1308
            table.Add($"read-{name}", $"reading {region} is EFAULT", run => run.Answers(
                run.Kernel.Pread(run.Use(DeviceNeed.Mtty).File.Number, new byte[4], offset).Errno, Errno.EFAULT,
                "pread"));
            table.Add($"write-{name}", $"writing {region} is EFAULT", run => run.Answers(
                run.Kernel.Pwrite(run.Use(DeviceNeed.Mtty).File.Number, new byte[4], offset).Errno, Errno.EFAULT,
                "pwrite"));
        }

        table.Add("read-of-nothing", "a read of no bytes is accepted, wherever it is", run => run.Equal(
            0L,
            run.Kernel.Pread(
                run.Use(DeviceNeed.Mtty).File.Number, [], (ulong)VfioPciRegionIndex.Rom << IndexShift).Value,
            "the bytes read"));
        table.Add("mmap", "nothing can be mapped", run => run.Answers(
            run.Kernel.Mmap(
                CaseRun.Page, MemoryProtection.Read, MapFlags.Shared, run.Use(DeviceNeed.Mtty).File.Number, 0).Errno,
            Errno.EINVAL, "mmap"));
    }

    private static void AddAbsent(CaseTable table)
    {
        (string Name, IoctlRequest Request)[] requests =
        [
            ("hot-reset-info", VfioRequests.DeviceGetPciHotResetInfo), ("hot-reset", VfioRequests.DevicePciHotReset),
            ("ioeventfd", VfioRequests.DeviceIoeventfd),
        ];
        foreach ((string name, IoctlRequest request) in requests)
        {
            table.Add(name, $"{request.Name} is ENOTTY", run => run.Answers(
                run.Kernel.Ioctl(run.Use(DeviceNeed.Mtty).File.Number, request.Value, new byte[64]).Errno,
                Errno.ENOTTY, request.Name));
        }

        (string Name, VfioDeviceFeatureIndex Index)[] features =
        [
            ("vf-token", VfioDeviceFeatureIndex.PciVfToken), ("low-power", VfioDeviceFeatureIndex.LowPowerEntry),
            ("bus-master", VfioDeviceFeatureIndex.BusMaster), ("dma-buf", VfioDeviceFeatureIndex.DmaBuf),
        ];
        foreach ((string name, VfioDeviceFeatureIndex index) in features)
        {
            table.Add(name, $"a probe of the feature {index} is ENOTTY", run => run.Answers(
                run.Use(DeviceNeed.Mtty).Probe(index, VfioDeviceFeatureFlags.None), Errno.ENOTTY, "probing"));
        }

        table.Add("token", "a bind with the flag TOKEN is EINVAL, whatever the token", run =>
        {
            VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.Iommufd.Number);
            bind.Argsz = VfioDeviceBindIommufd.StructSize;
            bind.Flags = VfioDeviceBindFlags.Token;
            bind.TokenUuidPtr = CaseRun.BadAddress;
            run.Answers(
                run.Kernel.Ioctl(run.OpenDevice(run.Find(DeviceNeed.Mtty)), ref bind).Errno, Errno.EINVAL, "binding");
        });
    }

    /// <summary>How many ports the card has, by what its state is long.</summary>
    public static int Ports(CaseRun run)
    {
        var size = default(VfioDeviceFeatureMigDataSize);
        run.Answers(
            run.Kernel.Feature(run.Device.File, VfioDeviceFeatureFlags.Get, ref size).Errno, Errno.Success,
            "MIG_DATA_SIZE");
        return size.StopCopyLength == 96 ? 2 : 1;
    }

    /// <summary>A card whose first port is as new: registers outlive every file.</summary>
    public static void Fresh(CaseRun run)
    {
        run.Use(DeviceNeed.Mtty);
        Set(run, LineControl, 0);
        Set(run, InterruptEnable, 0);
        Set(run, ModemControl, 0);
        Set(run, Identification, 0x07);
        // A byte that finds room takes an overrun back.
        Set(run, Data, 0);
        Set(run, Identification, 0x07);
    }

    private static ulong Get(CaseRun run, ulong register) =>
        run.Device.ReadRegion(VfioPciRegionIndex.Bar0, register, 1);

    private static void Set(CaseRun run, ulong register, ulong value) =>
        run.Device.WriteRegion(VfioPciRegionIndex.Bar0, register, 1, value);

    private static ulong Config(CaseRun run, ulong offset, int length) =>
        run.Device.ReadRegion(VfioPciRegionIndex.Config, offset, length);

    private static void SetConfig(CaseRun run, ulong offset, int length, ulong value) =>
        run.Device.WriteRegion(VfioPciRegionIndex.Config, offset, length, value);
}
