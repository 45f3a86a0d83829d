using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>
/// Eventfds that stand for a write into a BAR. The register that is written is the size of an NVMe controller's admin
/// queues, which means nothing while the controller is off.
/// </summary>
internal static class IoeventfdCases
{
    private const ulong QueueSizes = 0x24;
    private const ulong Value = 0x000F_000F;
    private const int IndexShift = 40;
    private const int Patience = 20;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, "vfio-ioeventfd", "vfio.ioeventfd", "vfio.h, vfio_device_ioeventfd"));
        AddWrites(new CaseTable(cases, "vfio-ioeventfd", "vfio.ioeventfd", "vfio.h, vfio_device_ioeventfd"));
    }

    private static void AddErrors(CaseTable table)
    {
        table.Errors<VfioDeviceIoeventfd>(
            run =>
            {
                Prepare(run);
                return Request(run.CreateEventfd().Number);
            },
            Calls.Device,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 27),
            new("unknown-flag", "flags", Errno.EINVAL,
                (_, ref argument) => argument.Flags |= (VfioDeviceIoeventfdFlags)0x10),
            new("no-size", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = 0),
            new("two-sizes", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = (VfioDeviceIoeventfdFlags)3),
            new("fd-below-minus-1", "fd", Errno.EINVAL, (_, ref argument) => argument.Fd = -2),
            new("config-region", "offset", Errno.EINVAL,
                (_, ref argument) => argument.Offset = (ulong)VfioPciRegionIndex.Config << IndexShift),
            new("rom-region", "offset", Errno.EINVAL,
                (_, ref argument) => argument.Offset = (ulong)VfioPciRegionIndex.Rom << IndexShift),
            new("no-such-region", "offset", Errno.EINVAL, (_, ref argument) => argument.Offset = 99ul << IndexShift),
            new("beyond-the-end", "offset", Errno.EINVAL,
                (run, ref argument) => argument.Offset = run.Device.SizeOf(VfioPciRegionIndex.Bar0)),
            new("over-the-end", "offset", Errno.EINVAL,
                (run, ref argument) => argument.Offset = run.Device.SizeOf(VfioPciRegionIndex.Bar0) - 2),
            new("msix-table", "offset", Errno.EINVAL, (run, ref argument) => argument.Offset = MsixTable(run)),
            new("into-the-msix-table", "offset", Errno.EINVAL,
                (run, ref argument) => argument.Offset = MsixTable(run) - 2),
            new("remove-unknown", "fd", Errno.ENODEV, (_, ref argument) => argument.Fd = -1),
            new("not-open", "fd", Errno.EBADF, (_, ref argument) => argument.Fd = 0x7FFF_0000),
            new("not-an-eventfd", "fd", Errno.EINVAL, (run, ref argument) =>
                argument.Fd = run.CreateMemoryFile(CaseRun.Page).Number));
        table.Add("argsz-28", "the field after fd is not needed", run =>
        {
            Prepare(run);
            VfioDeviceIoeventfd request = Request(run.CreateEventfd().Number);
            request.Argsz = 28;
            run.DeviceAnswers(ref request, Errno.Success);
        });
        table.Add("twice", "the same write twice is EEXIST, whichever the eventfd", run =>
        {
            Prepare(run);
            Add(run);
            VfioDeviceIoeventfd again = Request(run.CreateEventfd().Number);
            run.DeviceAnswers(ref again, Errno.EEXIST);
        });
        table.Add("exists-before-not-open", "a write that is there is seen before the eventfd is looked at", run =>
        {
            Prepare(run);
            Add(run);
            VfioDeviceIoeventfd again = Request(0x7FFF_0000);
            run.DeviceAnswers(ref again, Errno.EEXIST);
        });
        table.Add("other-data", "another value for the same register is another write", run =>
        {
            Prepare(run);
            Add(run);
            VfioDeviceIoeventfd other = Request(run.CreateEventfd().Number);
            other.Data = Value + 1;
            run.DeviceAnswers(ref other, Errno.Success);
        });
        table.Add("other-size", "another size for the same register is another write", run =>
        {
            Prepare(run);
            Add(run);
            VfioDeviceIoeventfd other = Request(run.CreateEventfd().Number);
            other.Flags = (VfioDeviceIoeventfdFlags)2;
            run.DeviceAnswers(ref other, Errno.Success);
        });
        table.Add("remove-other-data", "removing wants the value that was given: ENODEV", run =>
        {
            Prepare(run);
            Add(run);
            VfioDeviceIoeventfd other = Request(-1);
            other.Data = Value + 1;
            run.DeviceAnswers(ref other, Errno.ENODEV);
        });
        table.Add("remove", "a write can be removed once, and added again", run =>
        {
            Prepare(run);
            Add(run);
            VfioDeviceIoeventfd remove = Request(-1);
            run.DeviceAnswers(ref remove, Errno.Success);
            run.DeviceAnswers(ref remove, Errno.ENODEV);
            Add(run);
        });
    }

    private static void AddWrites(CaseTable table)
    {
        table.Add("writes", "signalling the eventfd writes the value", run =>
        {
            Prepare(run);
            Signal(run, Add(run));
            run.Holds(Becomes(run, Value), "the register to have the value");
        });
        table.Add("quiet-at-first", "adding an eventfd that is not signalled writes nothing", run =>
        {
            Prepare(run);
            Add(run);
            run.Equal(0ul, Register(run), "the register");
        });
        table.Add("signalled-before", "an eventfd that is signalled already writes when it is added", run =>
        {
            Prepare(run);
            KernelFd eventfd = run.CreateEventfd();
            Signal(run, eventfd);
            VfioDeviceIoeventfd request = Request(eventfd.Number);
            run.DeviceAnswers(ref request, Errno.Success);
            run.Holds(Becomes(run, Value), "the register to have the value");
        });
        table.Add("again", "each signal writes again", run =>
        {
            Prepare(run);
            KernelFd eventfd = Add(run);
            for (int round = 0; round < 3; round++)
            {
                run.Device.WriteRegion(VfioPciRegionIndex.Bar0, QueueSizes, 4, 0);
                Signal(run, eventfd);
                run.Holds(Becomes(run, Value), $"the register to have the value in round {round}");
            }
        });
        table.Add("two", "two eventfds write what each stands for", run =>
        {
            Prepare(run);
            KernelFd first = Add(run);
            KernelFd second = run.CreateEventfd();
            VfioDeviceIoeventfd request = Request(second.Number);
            request.Data = 0x0003_0007;
            run.DeviceAnswers(ref request, Errno.Success);
            Signal(run, second);
            run.Holds(Becomes(run, 0x0003_0007), "the register to have the second value");
            Signal(run, first);
            run.Holds(Becomes(run, Value), "the register to have the first value");
        });
        table.Add("survives-the-descriptor", "closing the caller's descriptor of a duplicated eventfd changes nothing",
            run =>
        {
            Prepare(run);
            KernelFd eventfd = Add(run);
            KernelFd duplicate = run.OwnFd(run.Kernel.Dup(eventfd.Number), "dup");
            eventfd.Dispose();
            Signal(run, duplicate);
            run.Holds(Becomes(run, Value), "the register to have the value");
        });
    }

    /// <summary>An NVMe controller that answers and is off, its queues' sizes 0.</summary>
    private static void Prepare(CaseRun run)
    {
        run.Use(DeviceNeed.Writer);
        run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
        run.Device.WriteRegion(VfioPciRegionIndex.Bar0, 0x14, 4, 0);
        run.Device.WriteRegion(VfioPciRegionIndex.Bar0, QueueSizes, 4, 0);
    }

    private static VfioDeviceIoeventfd Request(int fd) =>
        VfioDeviceIoeventfd.Create((VfioDeviceIoeventfdFlags)4, QueueSizes, fd, Value);

    private static KernelFd Add(CaseRun run)
    {
        KernelFd eventfd = run.CreateEventfd();
        VfioDeviceIoeventfd request = Request(eventfd.Number);
        run.DeviceAnswers(ref request, Errno.Success);
        return eventfd;
    }

    private static void Signal(CaseRun run, KernelFd eventfd) =>
        run.Equal(8L, run.Kernel.Write(eventfd.Number, [1, 0, 0, 0, 0, 0, 0, 0]).Value, "the bytes written");

    private static ulong Register(CaseRun run) => run.Device.ReadRegion(VfioPciRegionIndex.Bar0, QueueSizes, 4);

    /// <summary>The write is made some time after the signal.</summary>
    private static bool Becomes(CaseRun run, ulong value)
    {
        run.Unrepeatable = "An eventfd's write is made beside the calls.";
        long began = Stopwatch.GetTimestamp();
        while (Register(run) != value)
        {
            if (Stopwatch.GetElapsedTime(began).TotalSeconds > Patience)
                return false;
            Thread.Yield();
        }

        return true;
    }

    /// <summary>Where the table of MSI-X is, as an offset of the device file; only one in BAR0 is of use.</summary>
    private static ulong MsixTable(CaseRun run)
    {
        const byte Msix = 0x11;
        ulong at = run.Device.ReadRegion(VfioPciRegionIndex.Config, 0x34, 1);
        for (int steps = 0; at != 0 && steps < 48; steps++)
        {
            if (run.Device.ReadRegion(VfioPciRegionIndex.Config, at, 1) == Msix)
            {
                ulong table = run.Device.ReadRegion(VfioPciRegionIndex.Config, at + 4, 4);
                return (table & 7) == 0
                    ? table
                    : throw CaseRun.NotApplicable("The MSI-X table is not in BAR0.");
            }

            at = run.Device.ReadRegion(VfioPciRegionIndex.Config, at + 1, 1);
        }

        throw CaseRun.NotApplicable("The device has no MSI-X.");
    }
}
