using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>SET_IRQS: its checks, and eventfds that are signalled on request.</summary>
internal static class VfioIrqCases
{
    private const VfioIrqSetFlags Trigger = VfioIrqSetFlags.ActionTrigger;
    private const VfioIrqSetFlags None = VfioIrqSetFlags.DataNone | Trigger;
    private const VfioIrqSetFlags Bool = VfioIrqSetFlags.DataBool | Trigger;
    private const VfioIrqSetFlags Eventfd = VfioIrqSetFlags.DataEventfd | Trigger;

    public static void AddTo(List<ConformanceCase> cases)
    {
        var table = new CaseTable(cases, "vfio-irq", "vfio.set-irqs", "vfio.h, vfio_irq_set");
        table.Errors<Request>(
            run => new Request(Eventfd) { Data = [Eventfds(run)[0].Number] },
            (run, ref request) => Set(run, request),
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref request) => request.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref request) => request.Argsz = 19),
            new("data-short", "argsz", Errno.EINVAL, (_, ref request) => request.Argsz = 23),
            new("unknown-index", "index", Errno.EINVAL, (_, ref request) => request.Index = 5),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref request) => request.Flags |= (VfioIrqSetFlags)0x40),
            new("no-data-type", "flags", Errno.EINVAL, (_, ref request) => request.Flags = Trigger),
            new("two-data-types", "flags", Errno.EINVAL, (_, ref request) => request.Flags |= VfioIrqSetFlags.DataBool),
            new("start-beyond", "range", Errno.EINVAL,
                (run, ref request) => request.Start = run.Device.Profile.MsixVectors),
            new("count-beyond", "range", Errno.EINVAL, (run, ref request) =>
            {
                request.Count = run.Device.Profile.MsixVectors + 1;
                request.Argsz = 20 + (4 * request.Count);
            }),
            new("range-wraps", "range", Errno.EINVAL, (_, ref request) => request.Start = uint.MaxValue),
            // UAPI: vfio_pci_set_irqs_ioctl: an action that is none of the three has no function, whatever its bits.
            new("no-action", "flags", Errno.ENOTTY, (_, ref request) => request.Flags = VfioIrqSetFlags.DataEventfd),
            new("two-actions", "flags", Errno.ENOTTY, (_, ref request) => request.Flags |= VfioIrqSetFlags.ActionMask),
            new("file-not-open", "data", Errno.EBADF, (_, ref request) => request.Data = [0x7FFF_0000]),
            new("not-an-eventfd", "data", Errno.EINVAL, (run, ref request) =>
                request.Data = [run.CreateMemoryFile(CaseRun.Page).Number]));
        AddSignals(table);
        AddSwitching(table);
    }

    private static void AddSignals(CaseTable table)
    {
        table.Add("quiet-at-first", "setting an eventfd does not signal it", run =>
        {
            KernelFd[] eventfds = Enable(run, 1);
            run.Equal(0ul, Count(run, eventfds[0]), "the eventfd's count");
        });
        table.Add("trigger-none", "DATA_NONE signals the vectors of the range", run =>
        {
            KernelFd[] eventfds = Enable(run, 1);
            run.Answers(Set(run, new Request(None)), Errno.Success, "triggering");
            run.Equal(1ul, Count(run, eventfds[0]), "the eventfd's count");
        });
        table.Add("trigger-bool", "DATA_BOOL signals the vectors whose byte is not 0", run =>
        {
            KernelFd[] eventfds = Enable(run, 2);
            run.Answers(Set(run, new Request(Bool) { Count = 2, Bytes = [0, 1] }), Errno.Success, "triggering");
            run.Equal(0ul, Count(run, eventfds[0]), "the first eventfd's count");
            run.Equal(1ul, Count(run, eventfds[1]), "the second eventfd's count");
        });
        table.Add("trigger-range", "only the vectors of the range are signalled", run =>
        {
            KernelFd[] eventfds = Enable(run, 2);
            run.Answers(Set(run, new Request(None) { Start = 1 }), Errno.Success, "triggering");
            run.Equal(0ul, Count(run, eventfds[0]), "the first eventfd's count");
            run.Equal(1ul, Count(run, eventfds[1]), "the second eventfd's count");
        });
        table.Add("trigger-twice", "each trigger adds one", run =>
        {
            KernelFd[] eventfds = Enable(run, 1);
            run.Answers(Set(run, new Request(None)), Errno.Success, "triggering");
            run.Answers(Set(run, new Request(None)), Errno.Success, "triggering again");
            run.Equal(2ul, Count(run, eventfds[0]), "the eventfd's count");
        });
        table.Add("eventfd-closed", "the device keeps the eventfd when its descriptor is closed", run =>
        {
            KernelFd[] eventfds = Enable(run, 1);
            KernelFd duplicate = run.OwnFd(run.Kernel.Dup(eventfds[0].Number), "dup");
            eventfds[0].Dispose();
            run.Answers(Set(run, new Request(None)), Errno.Success, "triggering");
            run.Equal(1ul, Count(run, duplicate), "the eventfd's count");
        });
    }

    private static void AddSwitching(CaseTable table)
    {
        table.Add("disable", "DATA_NONE with a count of 0 takes the eventfds away", run =>
        {
            Enable(run, 1);
            run.Answers(Set(run, new Request(None) { Count = 0 }), Errno.Success, "disabling");
            run.Answers(Set(run, new Request(None)), Errno.EINVAL, "triggering what is disabled");
        });
        table.Add("disable-when-disabled", "kernel behaviour: disabling what is not enabled is EINVAL", run =>
        {
            run.Use(DeviceNeed.Msix);
            run.Answers(Set(run, new Request(None) { Count = 0 }), Errno.EINVAL, "disabling");
        });
        table.Add("trigger-when-disabled", "triggering what is not enabled is EINVAL", run =>
        {
            run.Use(DeviceNeed.Msix);
            run.Answers(Set(run, new Request(None)), Errno.EINVAL, "triggering");
        });
        table.Add("minus-one", "an eventfd of -1 takes that vector's away", run =>
        {
            KernelFd[] eventfds = Enable(run, 2);
            run.Answers(Set(run, new Request(Eventfd) { Data = [-1] }), Errno.Success, "setting -1");
            run.Answers(Set(run, new Request(None) { Count = 2 }), Errno.Success, "triggering");
            run.Equal(0ul, Count(run, eventfds[0]), "the first eventfd's count");
            run.Equal(1ul, Count(run, eventfds[1]), "the second eventfd's count");
        });
        table.Add("replace", "a new eventfd takes the place of the old one", run =>
        {
            KernelFd[] eventfds = Enable(run, 1);
            KernelFd other = run.CreateEventfd();
            run.Answers(Set(run, new Request(Eventfd) { Data = [other.Number] }), Errno.Success, "replacing");
            run.Answers(Set(run, new Request(None)), Errno.Success, "triggering");
            run.Equal(0ul, Count(run, eventfds[0]), "the old eventfd's count");
            run.Equal(1ul, Count(run, other), "the new eventfd's count");
        });
        table.Add("mask-msix", "masking MSI-X is not supported: ENOTTY", run =>
        {
            Enable(run, 1);
            run.Answers(
                Set(run, new Request(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionMask)), Errno.ENOTTY, "masking");
        });
        table.Add("unmask-msix", "unmasking MSI-X is not supported: ENOTTY", run =>
        {
            Enable(run, 1);
            run.Answers(
                Set(run, new Request(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionUnmask)), Errno.ENOTTY,
                "unmasking");
        });
        table.Add("req.set-and-trigger", "the request interrupt can be set and triggered", run =>
        {
            run.Use(DeviceNeed.Any);
            KernelFd eventfd = run.CreateEventfd();
            uint index = (uint)VfioPciIrqIndex.Req;
            run.Answers(
                Set(run, new Request(Eventfd) { Index = index, Data = [eventfd.Number] }), Errno.Success, "setting");
            run.Answers(Set(run, new Request(None) { Index = index }), Errno.Success, "triggering");
            run.Equal(1ul, Count(run, eventfd), "the eventfd's count");
        });
        table.Add("req.mask", "masking the request interrupt is not supported: ENOTTY", run =>
        {
            run.Use(DeviceNeed.Any);
            var request = new Request(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionMask)
            {
                Index = (uint)VfioPciIrqIndex.Req,
            };
            run.Answers(Set(run, request), Errno.ENOTTY, "masking");
        });
    }

    private static KernelFd[] Eventfds(CaseRun run, int count = 1)
    {
        run.Use(DeviceNeed.Msix);
        var eventfds = new KernelFd[count];
        for (int index = 0; index < count; index++)
            eventfds[index] = run.CreateEventfd();
        return eventfds;
    }

    private static KernelFd[] Enable(CaseRun run, int vectors)
    {
        KernelFd[] eventfds = Eventfds(run, vectors);
        if (run.Device.Profile.MsixVectors < vectors)
            throw CaseRun.NotApplicable("The device has a single vector.");
        var request = new Request(Eventfd)
        {
            Count = (uint)vectors, Data = [.. eventfds.Select(eventfd => eventfd.Number)],
        };
        run.Answers(Set(run, request), Errno.Success, "setting eventfds");
        return eventfds;
    }

    private static ulong Count(CaseRun run, KernelFd eventfd)
    {
        Span<byte> value = stackalloc byte[8];
        SyscallResult read = run.Kernel.Read(eventfd.Number, value);
        return read.Succeeded ? BinaryPrimitives.ReadUInt64LittleEndian(value) : 0;
    }

    private static Errno Set(CaseRun run, Request request)
    {
        int dataLength = Math.Max(request.Data.Length * sizeof(int), request.Bytes.Length);
        uint argsz = request.Argsz == uint.MaxValue ? (uint)(20 + dataLength) : request.Argsz;
        byte[] argument = new byte[Math.Max(20 + dataLength, (int)argsz)];
        uint[] header = [argsz, (uint)request.Flags, request.Index, request.Start, request.Count];
        for (int index = 0; index < header.Length; index++)
            BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(index * 4), header[index]);
        for (int index = 0; index < request.Data.Length; index++)
            BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(20 + (index * 4)), request.Data[index]);
        request.Bytes.CopyTo(argument.AsSpan(20));
        return run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DeviceSetIrqs.Value, argument).Errno;
    }

    /// <summary>An argument of SET_IRQS; of MSI-X and one vector unless told otherwise.</summary>
    private sealed class Request(VfioIrqSetFlags flags)
    {
        /// <summary>All ones: as long as the data is.</summary>
        public uint Argsz { get; set; } = uint.MaxValue;

        public VfioIrqSetFlags Flags { get; set; } = flags;

        public uint Index { get; set; } = (uint)VfioPciIrqIndex.Msix;

        public uint Start { get; set; }

        public uint Count { get; set; } = 1;

        public int[] Data { get; set; } = [];

        public byte[] Bytes { get; set; } = [];
    }
}
