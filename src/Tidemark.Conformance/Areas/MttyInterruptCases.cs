using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>mtty's two interrupts, INTx and one MSI, of which one at a time is in use.</summary>
internal static class MttyInterruptCases
{
    private const uint Intx = (uint)VfioPciIrqIndex.Intx;
    private const uint Msi = (uint)VfioPciIrqIndex.Msi;
    private const VfioIrqSetFlags Trigger = VfioIrqSetFlags.ActionTrigger;
    private const VfioIrqSetFlags None = VfioIrqSetFlags.DataNone;
    private const VfioIrqSetFlags Eventfd = VfioIrqSetFlags.DataEventfd;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddInfo(new CaseTable(cases, MttyDeviceCases.Area, "vfio.mtty.irq-info", MttyDeviceCases.Source));
        AddRefusals(new CaseTable(cases, MttyDeviceCases.Area, "vfio.mtty.set-irqs", MttyDeviceCases.Source));
        AddSignals(new CaseTable(cases, MttyDeviceCases.Area, "vfio.mtty.irq", MttyDeviceCases.Source));
    }

    private static void AddInfo(CaseTable table)
    {
        (string Name, uint Index, uint Flags)[] kinds = [("intx", Intx, 7), ("msi", Msi, 9)];
        foreach ((string name, uint index, uint flags) in kinds)
        {
            table.Add(name, $"there is one {name} with the flags 0x{flags:x}", run =>
            {
                Use(run);
                VfioIrqInfo info = VfioIrqInfo.Create(index);
                run.DeviceAnswers(ref info, Errno.Success);
                run.Equal((VfioIrqInfoFlags)flags, info.Flags, "the flags");
                run.Equal(1u, info.Count, "the count");
            });
        }

        foreach (VfioPciIrqIndex index in
            (VfioPciIrqIndex[])[VfioPciIrqIndex.Msix, VfioPciIrqIndex.Err, VfioPciIrqIndex.Req])
        {
            table.Add($"no-{index switch { VfioPciIrqIndex.Msix => "msix", VfioPciIrqIndex.Err => "err", _ => "req" }}",
                $"{index} is counted in GET_INFO and EINVAL here", run =>
            {
                Use(run);
                VfioIrqInfo info = VfioIrqInfo.Create((uint)index);
                run.DeviceAnswers(ref info, Errno.EINVAL);
            });
        }
    }

    private static void AddRefusals(CaseTable table)
    {
        (string Name, string Rule, VfioIrqSetFlags Flags, uint Index, Errno Errno)[] rows =
        [
            ("no-action", "no action is nothing to do", None, Msi, Errno.Success),
            ("two-actions", "two actions are nothing to do", None | Trigger | VfioIrqSetFlags.ActionMask, Msi,
                Errno.Success),
            ("msi-mask", "MSI can not be masked", None | VfioIrqSetFlags.ActionMask, Msi, Errno.ENOTTY),
            ("msi-unmask", "MSI can not be unmasked", None | VfioIrqSetFlags.ActionUnmask, Msi, Errno.ENOTTY),
            ("msix", "MSI-X is not there", None | Trigger, 2, Errno.ENOTTY),
            ("err", "the error interrupt is not there", None | Trigger, 3, Errno.ENOTTY),
            ("req", "the request interrupt is not there", None | Trigger, 4, Errno.ENOTTY),
            ("unknown-index", "an unknown index is refused", None | Trigger, 5, Errno.EINVAL),
            ("intx-unset-mask", "INTx can not be masked before it has an eventfd", None | VfioIrqSetFlags.ActionMask,
                Intx, Errno.EINVAL),
            ("intx-unset-trigger", "INTx can not be triggered before it has an eventfd", None | Trigger, Intx,
                Errno.EINVAL),
            ("msi-unset-trigger", "MSI can not be triggered before it has an eventfd", None | Trigger, Msi,
                Errno.EINVAL),
            ("no-data-type", "no type of data is refused", Trigger, Msi, Errno.EINVAL),
        ];
        foreach ((string name, string rule, VfioIrqSetFlags flags, uint index, Errno errno) in rows)
        {
            table.Add(name, $"{rule}: {(errno == Errno.Success ? "accepted" : errno)}", run =>
            {
                Use(run);
                run.Answers(Set(run, flags, index), errno, "VFIO_DEVICE_SET_IRQS");
            });
        }

        table.Add("start-beyond-the-count", "a start that is no line but below five is EINVAL from the driver", run =>
        {
            Use(run);
            run.Answers(Set(run, None | Trigger, Msi, start: 1), Errno.EINVAL, "VFIO_DEVICE_SET_IRQS");
        });
        table.Add("not-an-eventfd", "a descriptor that is no eventfd is EINVAL", run =>
        {
            Use(run);
            run.Answers(
                Set(run, Eventfd | Trigger, Msi, fd: run.CreateMemoryFile(CaseRun.Page).Number), Errno.EINVAL,
                "VFIO_DEVICE_SET_IRQS");
        });
        table.Add("not-open", "a descriptor that is not open is EBADF, and the old eventfd is gone", run =>
        {
            Use(run);
            KernelFd eventfd = Enable(run, Msi);
            run.Answers(Set(run, Eventfd | Trigger, Msi, fd: 0x7FFF_0000), Errno.EBADF, "VFIO_DEVICE_SET_IRQS");
            run.Answers(Set(run, None | Trigger, Msi), Errno.EINVAL, "triggering");
            run.Equal(0ul, Count(run, eventfd), "the eventfd's count");
        });
    }

    private static void AddSignals(CaseTable table)
    {
        foreach ((string name, uint index) in ((string, uint)[])[("intx", Intx), ("msi", Msi)])
        {
            table.Add($"{name}-trigger", $"triggering {name} signals its eventfd", run =>
            {
                Use(run);
                KernelFd eventfd = Enable(run, index);
                run.Equal(0ul, Count(run, eventfd), "the count before");
                run.Answers(Set(run, None | Trigger, index), Errno.Success, "triggering");
                run.Equal(1ul, Count(run, eventfd), "the count");
            });
            table.Add($"{name}-excludes", $"while {name} has an eventfd the other interrupt is EINVAL", run =>
            {
                Use(run);
                Enable(run, index);
                run.Answers(
                    Set(run, Eventfd | Trigger, 1 - index, fd: run.CreateEventfd().Number), Errno.EINVAL,
                    "enabling the other");
            });
            table.Add($"{name}-disable", $"{name} can be disabled, and then the other enabled", run =>
            {
                Use(run);
                Enable(run, index);
                run.Answers(Set(run, None | Trigger, index, count: 0), Errno.Success, "disabling");
                Enable(run, 1 - index);
            });
            table.Add($"{name}-close", $"closing the file disables {name}", run =>
            {
                Use(run);
                DeviceProfile profile = run.Device.Profile;
                Enable(run, index);
                run.Device.File.Dispose();
                KernelFd file = run.OpenDevice(profile);
                VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.Iommufd.Number);
                run.Answers(run.Kernel.Ioctl(file, ref bind).Errno, Errno.Success, "binding again");
                run.Answers(Set(run, None | Trigger, index, file: file), Errno.EINVAL, "triggering");
            });
        }

        table.Add("intx-masks-itself", "INTx signals once until it is unmasked", run =>
        {
            Use(run);
            KernelFd eventfd = Enable(run, Intx);
            run.Answers(Set(run, None | Trigger, Intx), Errno.Success, "triggering");
            run.Answers(Set(run, None | Trigger, Intx), Errno.Success, "triggering again");
            run.Equal(1ul, Count(run, eventfd), "the count");
            run.Answers(Set(run, None | VfioIrqSetFlags.ActionUnmask, Intx), Errno.Success, "unmasking");
            run.Equal(0ul, Count(run, eventfd), "the count after unmasking");
            run.Answers(Set(run, None | Trigger, Intx), Errno.Success, "triggering after unmasking");
            run.Equal(1ul, Count(run, eventfd), "the count");
        });
        table.Add("intx-mask-eventfd", "a mask eventfd is ENOTTY", run =>
        {
            Use(run);
            Enable(run, Intx);
            run.Answers(
                Set(run, Eventfd | VfioIrqSetFlags.ActionMask, Intx, fd: run.CreateEventfd().Number), Errno.ENOTTY,
                "masking");
        });
        table.Add("received-data", "a byte that is received interrupts when that is enabled", run =>
        {
            MttyDeviceCases.Fresh(run);
            GetInfo(run);
            KernelFd eventfd = Enable(run, Msi);
            run.Device.WriteRegion(VfioPciRegionIndex.Bar0, 1, 1, 1);
            run.Device.WriteRegion(VfioPciRegionIndex.Bar0, 0, 1, 0x41);
            run.Equal(1ul, Count(run, eventfd), "the count");
        });
        table.Add("transmitter-empty", "enabling the interrupt of an empty transmitter interrupts", run =>
        {
            MttyDeviceCases.Fresh(run);
            GetInfo(run);
            KernelFd eventfd = Enable(run, Msi);
            run.Device.WriteRegion(VfioPciRegionIndex.Bar0, 1, 1, 2);
            run.Equal(1ul, Count(run, eventfd), "the count");
        });
    }

    private static void Use(CaseRun run)
    {
        run.Use(DeviceNeed.Mtty);
        GetInfo(run);
    }

    /// <summary>Before the first of these ever, mtty knows no interrupt.</summary>
    private static void GetInfo(CaseRun run)
    {
        VfioDeviceInfo info = VfioDeviceInfo.Create();
        run.DeviceAnswers(ref info, Errno.Success);
    }

    private static KernelFd Enable(CaseRun run, uint index)
    {
        KernelFd eventfd = run.CreateEventfd();
        run.Answers(Set(run, Eventfd | Trigger, index, fd: eventfd.Number), Errno.Success, "setting an eventfd");
        return eventfd;
    }

    private static Errno Set(CaseRun run, VfioIrqSetFlags flags, uint index, uint start = 0, uint count = 1,
        int fd = -1, KernelFd? file = null)
    {
        byte[] argument = new byte[24];
        uint[] words = [24, (uint)flags, index, start, count];
        for (int word = 0; word < words.Length; word++)
            BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(word * 4), words[word]);
        BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(20), fd);
        return run.Kernel.Ioctl(
            (file ?? run.Device.File).Number, VfioRequests.DeviceSetIrqs.Value, argument).Errno;
    }

    private static ulong Count(CaseRun run, KernelFd eventfd)
    {
        Span<byte> value = stackalloc byte[8];
        SyscallResult read = run.Kernel.Read(eventfd.Number, value);
        return read.Succeeded ? BinaryPrimitives.ReadUInt64LittleEndian(value) : 0;
    }
}
