using System.Buffers.Binary;
using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioIrqSetFlags;

namespace Tidemark.Conformance.Areas;

/// <summary>What a bound PCI device tells about itself: regions, interrupts, configuration space.</summary>
internal static class VfioInfoCases
{
    private const string Area = "vfio-info";
    private const int IndexShift = 40;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddInfo(new CaseTable(cases, Area, "vfio.info", "vfio.h, vfio_device_info"));
        AddRegions(new CaseTable(cases, Area, "vfio.region-info", "vfio.h, vfio_region_info"));
        AddAccess(new CaseTable(cases, Area, "vfio.region", "vfio.h, regions of a PCI device"));
        AddMmap(new CaseTable(cases, Area, "vfio.region.mmap", "vfio.h, VFIO_REGION_INFO_FLAG_MMAP"));
        AddIrqs(new CaseTable(cases, Area, "vfio.irq-info", "vfio.h, vfio_irq_info"));
        AddHotReset(new CaseTable(cases, Area, "vfio.hot-reset-info", "vfio.h, vfio_pci_hot_reset_info"));
    }

    private static void AddInfo(CaseTable table)
    {
        table.Errors<VfioDeviceInfo>(
            _ => VfioDeviceInfo.Create(), Calls.Device,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15));
        table.Add("argsz-minimum", "the smallest argsz is accepted", run =>
        {
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            info.Argsz = VfioDeviceInfo.MinimumSize;
            run.DeviceAnswers(ref info, Errno.Success);
            run.Holds(info.NumRegions != 0, "the number of regions");
        });
        table.Add("is-pci", "a PCI device says that it is one", run =>
            run.Holds((Info(run).Flags & VfioDeviceFlags.Pci) != 0, "the flag PCI"));
        table.Add("nine-regions", "a PCI device has at least nine regions", run =>
            run.Holds(Info(run).NumRegions >= (uint)VfioPciRegionIndex.Count, "nine regions or more"));
        table.Add("five-interrupts", "a PCI device has five kinds of interrupt", run =>
            run.Equal((uint)VfioPciIrqIndex.Count, Info(run).NumIrqs, "the number of interrupt indexes"));
        table.Add("reset-flag-is-true", "with the flag RESET a reset is accepted, without it EINVAL", run =>
        {
            bool resets = (Info(run).Flags & VfioDeviceFlags.Reset) != 0;
            run.Answers(run.Device.Reset(), resets ? Errno.Success : Errno.EINVAL, "VFIO_DEVICE_RESET");
        });
        table.Add("unknown-request", "an unknown request on a bound PCI device is ENOTTY", run =>
            run.Answers(
                run.Kernel.Ioctl(run.Device.File.Number, 0x3BEE, new byte[8]).Errno, Errno.ENOTTY, "request 0x3bee"));
        table.Add("null-pointer", "an argument that can not be read is EFAULT", run =>
            run.Answers(
                run.Kernel.IoctlValue(run.Device.File.Number, VfioRequests.DeviceGetInfo.Value, 0).Errno, Errno.EFAULT,
                "VFIO_DEVICE_GET_INFO with a null pointer"));
    }

    private static void AddRegions(CaseTable table)
    {
        table.Errors<VfioRegionInfo>(
            _ => VfioRegionInfo.Create(0), Calls.Device,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 31),
            new("unknown-index", "index", Errno.EINVAL, (_, ref argument) => argument.Index = 999),
            new("highest-index", "index", Errno.EINVAL, (_, ref argument) => argument.Index = uint.MaxValue));
        for (uint index = 0; index < (uint)VfioPciRegionIndex.Vga; index++)
        {
            uint region = index;
            string name = ((VfioPciRegionIndex)region).ToString();
            string dashed = name.ToLower(CultureInfo.InvariantCulture);
            table.Add($"{dashed}.offset", $"kernel behaviour: {name} lies at its index shifted left by 40", run =>
                run.Equal((ulong)region << IndexShift, run.Device.Region((VfioPciRegionIndex)region).Offset,
                    "the offset"));
            table.Add($"{dashed}.flags", $"{name} has a size exactly when it can be read", run =>
            {
                VfioRegionInfo info = run.Device.Region((VfioPciRegionIndex)region);
                run.Equal(info.Size != 0, (info.Flags & VfioRegionInfoFlags.Read) != 0, "whether it can be read");
                run.Holds(
                    (info.Flags & VfioRegionInfoFlags.Mmap) == 0 || info.Size != 0, "a size where it can be mapped");
            });
        }

        table.Add("config.size", "configuration space has 256 or 4096 bytes, read and written", run =>
        {
            VfioRegionInfo info = run.Device.Region(VfioPciRegionIndex.Config);
            run.Holds(info.Size is 256 or 4096, $"256 or 4096 bytes (it is 0x{info.Size:x})");
            const VfioRegionInfoFlags Both = VfioRegionInfoFlags.Read | VfioRegionInfoFlags.Write;
            run.Equal(Both, info.Flags & Both, "the flags READ and WRITE");
        });
        table.Add("capabilities-grow-argsz", "when capabilities do not fit, argsz tells the room needed", run =>
        {
            for (uint index = 0; index < (uint)VfioPciRegionIndex.Vga; index++)
            {
                VfioRegionInfo info = run.Device.Region((VfioPciRegionIndex)index);
                if ((info.Flags & VfioRegionInfoFlags.Caps) == 0)
                    continue;
                run.Holds(info.Argsz > VfioRegionInfo.StructSize, "a larger argsz");
                run.Equal(0u, info.CapOffset, "the offset of the capabilities");
                return;
            }

            throw CaseRun.NotApplicable("No region of the device has capabilities.");
        });
    }

    private static void AddAccess(CaseTable table)
    {
        table.Add("config.vendor", "configuration space begins with the vendor that sysfs tells", run =>
        {
            ulong vendor = run.Device.ReadRegion(VfioPciRegionIndex.Config, 0, 2);
            if (run.Device.Profile.Vendor is not string known)
                throw CaseRun.NotApplicable("Sysfs does not tell the vendor.");
            run.Equal(known, $"0x{vendor:x4}", "the vendor");
        });
        table.Add("config.bus-master-off", "bus mastering is off when a device is opened", run =>
            run.Equal(0ul, run.Device.ReadRegion(VfioPciRegionIndex.Config, 4, 2) & 4, "the bus master bit"));
        table.Add("config.memory-on", "kernel behaviour: a device that was just opened answers in its BARs", run =>
        {
            run.Equal(2ul, run.Device.ReadRegion(VfioPciRegionIndex.Config, 4, 2) & 2, "the memory bit");
            run.Answers(
                run.Kernel.Pread(
                    run.Device.File.Number, new byte[4], run.Device.OffsetOf(VfioPciRegionIndex.Bar0) + 8).Errno,
                run.Device.SizeOf(VfioPciRegionIndex.Bar0) == 0 ? Errno.EINVAL : Errno.Success, "reading BAR0");
        });
        table.Add("config.survives-reset", "kernel behaviour: a reset leaves the command register as it was", run =>
        {
            run.Use(DeviceNeed.Resettable);
            foreach (ulong command in (ulong[])[6, 4, 2, 0x402])
            {
                run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, command);
                run.Answers(run.Device.Reset(), Errno.Success, "VFIO_DEVICE_RESET");
                run.Equal(command, run.Device.ReadRegion(VfioPciRegionIndex.Config, 4, 2), "the command register");
            }
        });
        table.Add("config.function-reset",
            "kernel behaviour: a reset through the PCI Express capability leaves configuration space as it was", run =>
        {
            run.Use(DeviceNeed.Resettable);
            ulong control = Capability(run, 0x10) + 8;
            run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
            ulong before = run.Device.ReadRegion(VfioPciRegionIndex.Config, control, 2);
            run.Device.WriteRegion(VfioPciRegionIndex.Config, control, 2, before | 0x8000);
            run.Equal(before, run.Device.ReadRegion(VfioPciRegionIndex.Config, control, 2), "device control");
            run.Equal(2ul, run.Device.ReadRegion(VfioPciRegionIndex.Config, 4, 2), "the command register");
        });
        table.Add("config.is-whole", "a PCI Express device has 4096 bytes of configuration space", run =>
        {
            Capability(run, 0x10);
            run.Equal(4096ul, run.Device.SizeOf(VfioPciRegionIndex.Config), "the size");
            run.Device.ReadRegion(VfioPciRegionIndex.Config, 0xFFC, 4);
        });
        table.Add("config.msix-is-the-hosts", "kernel behaviour: MSI-X is switched on by VFIO_DEVICE_SET_IRQS only",
            run =>
        {
            run.Use(DeviceNeed.Msix);
            ulong control = Capability(run, 0x11) + 2;
            ulong before = run.Device.ReadRegion(VfioPciRegionIndex.Config, control, 2);
            run.Equal(run.Device.Profile.MsixVectors - 1, before & 0x7FF, "the vectors");
            run.Equal(0ul, before & 0xC000, "enable and mask");
            run.Device.WriteRegion(VfioPciRegionIndex.Config, control, 2, before | 0xC000);
            run.Equal(before, run.Device.ReadRegion(VfioPciRegionIndex.Config, control, 2), "MSI-X control");
            byte[] set = new byte[24];
            uint[] words = [24, (uint)(DataEventfd | ActionTrigger), (uint)VfioPciIrqIndex.Msix, 0, 1, uint.MaxValue];
            for (int word = 0; word < words.Length; word++)
                BinaryPrimitives.WriteUInt32LittleEndian(set.AsSpan(4 * word), words[word]);
            run.Answers(
                run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DeviceSetIrqs.Value, set).Errno, Errno.Success,
                "switching MSI-X on");
            run.Equal(
                0x8000ul, run.Device.ReadRegion(VfioPciRegionIndex.Config, control, 2) & 0xC000, "enable and mask");
        });
        table.Add("msix-table", "kernel behaviour: the MSI-X table reads as ones, and writes to it are lost", run =>
        {
            run.Use(DeviceNeed.Msix);
            run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
            ulong table = run.Device.ReadRegion(VfioPciRegionIndex.Config, Capability(run, 0x11) + 4, 4);
            var bar = (VfioPciRegionIndex)(table & 7);
            ulong at = table & ~7ul;
            run.Equal(0xFFFF_FFFFul, run.Device.ReadRegion(bar, at, 4), "the first word");
            run.Device.WriteRegion(bar, at, 4, 0);
            run.Equal(0xFFFF_FFFFul, run.Device.ReadRegion(bar, at, 4), "the first word");
            ulong end = at + (16ul * run.Device.Profile.MsixVectors);
            run.Equal(0xFFFF_FFFFul, run.Device.ReadRegion(bar, end - 4, 4), "the last word");
            run.Equal(0ul, run.Device.ReadRegion(bar, end, 4), "the word behind it");
        });
        table.Add("config.bus-master-on-and-off", "bus mastering can be switched on and off", run =>
        {
            run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 6);
            run.Equal(4ul, run.Device.ReadRegion(VfioPciRegionIndex.Config, 4, 2) & 4, "the bus master bit when on");
            run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
            run.Equal(0ul, run.Device.ReadRegion(VfioPciRegionIndex.Config, 4, 2) & 4, "the bus master bit when off");
        });
        table.Add("config.by-bytes", "configuration space reads the same byte by byte", run =>
        {
            ulong word = run.Device.ReadRegion(VfioPciRegionIndex.Config, 0, 4);
            for (int index = 0; index < 4; index++)
            {
                run.Equal(
                    (word >> (8 * index)) & 0xFF, run.Device.ReadRegion(VfioPciRegionIndex.Config, (ulong)index, 1),
                    $"byte {index}");
            }
        });
        table.Add("no-such-region", "reading where no region is is EINVAL", run =>
            run.Answers(
                run.Kernel.Pread(run.Device.File.Number, new byte[4], 999ul << IndexShift).Errno, Errno.EINVAL,
                "pread"));
        table.Add("read-of-nothing", "a read of no bytes is accepted", run =>
            run.Equal(
                0L, run.Kernel.Pread(run.Device.File.Number, [], (ulong)VfioPciRegionIndex.Config << IndexShift).Value,
                "the bytes read"));
    }

    /// <summary>Where a capability lies in configuration space.</summary>
    private static ulong Capability(CaseRun run, ulong id)
    {
        ulong next = run.Device.ReadRegion(VfioPciRegionIndex.Config, 0x34, 1);
        for (int count = 0; next >= 0x40 && count < 48; count++)
        {
            if (run.Device.ReadRegion(VfioPciRegionIndex.Config, next, 1) == id)
                return next;
            next = run.Device.ReadRegion(VfioPciRegionIndex.Config, next + 1, 1);
        }

        throw CaseRun.NotApplicable($"The device has no capability 0x{id:x2}.");
    }

    private static void AddMmap(CaseTable table)
    {
        table.Add("config", "configuration space can not be mapped", run =>
        {
            VfioRegionInfo info = run.Device.Region(VfioPciRegionIndex.Config);
            run.Equal(VfioRegionInfoFlags.None, info.Flags & VfioRegionInfoFlags.Mmap, "the flag MMAP");
            run.Answers(Map(run, CaseRun.Page, info.Offset), Errno.EINVAL, "mmap");
        });
        table.Add("whole-bar", "a BAR with the flag MMAP and no capabilities can be mapped as a whole", run =>
        {
            VfioRegionInfo info = Mappable(run);
            run.Own(Mapping.CreateShared(run.Device.File, info.Size, info.Offset, MemoryProtection.Read));
        });
        table.Add("beyond-the-end", "mapping beyond a BAR's end is EINVAL", run =>
        {
            VfioRegionInfo info = Mappable(run);
            run.Answers(Map(run, info.Size + CaseRun.Page, info.Offset), Errno.EINVAL, "mmap");
        });
        table.Add("no-such-region", "mapping where no region is is EINVAL", run =>
            run.Answers(Map(run, CaseRun.Page, 15ul << IndexShift), Errno.EINVAL, "mmap"));
    }

    private static void AddIrqs(CaseTable table)
    {
        table.Errors<VfioIrqInfo>(
            _ => VfioIrqInfo.Create((uint)VfioPciIrqIndex.Msix), Calls.Device,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15),
            new("unknown-index", "index", Errno.EINVAL, (_, ref argument) => argument.Index = 5),
            new("highest-index", "index", Errno.EINVAL, (_, ref argument) => argument.Index = uint.MaxValue));
        for (uint index = 0; index < (uint)VfioPciIrqIndex.Err; index++)
        {
            uint kind = index;
            string name = ((VfioPciIrqIndex)kind).ToString().ToUpperInvariant();
            table.Add($"{name.ToLower(CultureInfo.InvariantCulture)}.eventfd",
                $"{name} is signalled through an eventfd", run =>
                run.Holds((Irq(run, kind).Flags & VfioIrqInfoFlags.Eventfd) != 0, "the flag EVENTFD"));
        }

        table.Add("intx.flags", "INTx can be masked and masks itself", run =>
        {
            const VfioIrqInfoFlags Both = VfioIrqInfoFlags.Maskable | VfioIrqInfoFlags.Automasked;
            run.Equal(Both, Irq(run, (uint)VfioPciIrqIndex.Intx).Flags & Both, "the flags MASKABLE and AUTOMASKED");
        });
        table.Add("intx.count", "there is one INTx or none", run =>
            run.Holds(Irq(run, (uint)VfioPciIrqIndex.Intx).Count <= 1, "one or none"));
        table.Add("msi.noresize", "MSI vectors can not be added one by one", run =>
            run.Holds((Irq(run, (uint)VfioPciIrqIndex.Msi).Flags & VfioIrqInfoFlags.Noresize) != 0,
                "the flag NORESIZE"));
        table.Add("req.count", "there is one request to let the device go", run =>
            run.Equal(1u, Irq(run, (uint)VfioPciIrqIndex.Req).Count, "the count"));
    }

    private static void AddHotReset(CaseTable table)
    {
        table.Add("argsz-below-minimum", "a smaller argsz is EINVAL", run =>
            run.Answers(HotReset(run, 11, 12, out _), Errno.EINVAL, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"));
        table.Add("no-room", "too little room is ENOSPC, and the count is told", run =>
        {
            Errno errno = HotReset(run, 12, 12, out uint count);
            if (errno == Errno.ENODEV)
                throw CaseRun.NotApplicable("The device has no slot or bus reset.");
            run.Answers(errno, Errno.ENOSPC, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO");
            run.Holds(count > 0, "at least one device");
        });
        table.Add("room-enough", "with enough room it is told which devices a reset touches", run =>
        {
            Errno errno = HotReset(run, 12 + (8 * 64), 12 + (8 * 64), out uint count);
            if (errno == Errno.ENODEV)
                throw CaseRun.NotApplicable("The device has no slot or bus reset.");
            run.Answers(errno, Errno.Success, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO");
            run.Holds(count > 0, "at least one device");
        });
    }

    private static Errno HotReset(CaseRun run, uint argsz, int length, out uint count)
    {
        byte[] argument = new byte[length];
        System.Buffers.Binary.BinaryPrimitives.WriteUInt32LittleEndian(argument, argsz);
        Errno errno = run.Kernel.Ioctl(
            run.Device.File.Number, VfioRequests.DeviceGetPciHotResetInfo.Value, argument).Errno;
        count = System.Buffers.Binary.BinaryPrimitives.ReadUInt32LittleEndian(argument.AsSpan(8));
        return errno;
    }

    private static VfioDeviceInfo Info(CaseRun run)
    {
        VfioDeviceInfo info = VfioDeviceInfo.Create();
        run.DeviceAnswers(ref info, Errno.Success);
        return info;
    }

    private static VfioIrqInfo Irq(CaseRun run, uint index)
    {
        VfioIrqInfo info = VfioIrqInfo.Create(index);
        run.DeviceAnswers(ref info, Errno.Success);
        return info;
    }

    private static VfioRegionInfo Mappable(CaseRun run)
    {
        for (VfioPciRegionIndex index = 0; index < VfioPciRegionIndex.Rom; index++)
        {
            VfioRegionInfo info = run.Device.Region(index);
            const VfioRegionInfoFlags Both = VfioRegionInfoFlags.Mmap | VfioRegionInfoFlags.Caps;
            if ((info.Flags & Both) == VfioRegionInfoFlags.Mmap)
                return info;
        }

        throw CaseRun.NotApplicable("No BAR of the device can be mapped as a whole.");
    }

    /// <summary>Maps and, if that was accepted, unmaps.</summary>
    private static Errno Map(CaseRun run, ulong byteLength, ulong offset)
    {
        SyscallResult result = run.Kernel.Mmap(
            byteLength, MemoryProtection.Read, MapFlags.Shared, run.Device.File.Number, offset);
        if (result.Succeeded)
            run.Kernel.Munmap(unchecked((ulong)result.Value), byteLength);
        return result.Errno;
    }
}
