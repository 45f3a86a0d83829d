using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceFeatureFlags;
using static Tidemark.Abi.VfioDeviceMigState;
using static Tidemark.Conformance.MigrationSession;

namespace Tidemark.Conformance.Areas;

/// <summary>mtty's stream, byte for byte, its habits with bad ones, and its DMA log that is always clean.</summary>
internal static class MttyMigrationCases
{
    private const int HeaderLength = 24;
    private const int RecordLength = 36;
    private const int ScratchInRecord = 7;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddStream(new CaseTable(cases, MttyDeviceCases.Area, "vfio.mtty.stream", MttyDeviceCases.Source));
        AddResuming(new CaseTable(cases, MttyDeviceCases.Area, "vfio.mtty.resuming", MttyDeviceCases.Source));
        AddState(new CaseTable(cases, MttyDeviceCases.Area, "vfio.mtty.state", MttyDeviceCases.Source));
        AddLog(new CaseTable(cases, MttyDeviceCases.Area, "vfio.mtty.dma-logging", MttyDeviceCases.Source));
    }

    private static void AddStream(CaseTable table)
    {
        table.Add("header", "a stream begins with magic, version 1.0, the ports and no flags", run =>
        {
            byte[] state = State(run);
            run.Holds(state.Length >= HeaderLength, "a header");
            run.Equal(
                0x7E9D_0989_8C3E_2C4Eul, BinaryPrimitives.ReadUInt64LittleEndian(state), "the magic");
            run.Equal(1u, Word(state, 8), "the major version");
            run.Equal(0u, Word(state, 12), "the minor version");
            run.Equal((uint)MttyDeviceCases.Ports(run), Word(state, 16), "the number of ports");
            run.Equal(0u, Word(state, 20), "the flags");
        });
        table.Add("length", "a stream is a header and a record of 36 bytes for each port", run =>
        {
            byte[] state = State(run);
            run.Equal(HeaderLength + (RecordLength * MttyDeviceCases.Ports(run)), state.Length, "the length");
        });
        foreach (byte value in (byte[])[0x5A, 0xC3])
        {
            table.Add($"scratch-{value:x2}", "the record of a port begins with its registers", run =>
            {
                MttyDeviceCases.Fresh(run);
                SetScratch(run, value);
                byte[] state = Save(run, Enter(run, StopCopy)!);
                run.Equal(value, state[HeaderLength + ScratchInRecord], "the scratch register in the record");
            });
        }

        table.Add("fifo", "the record has the bytes that were sent, and how many", run =>
        {
            MttyDeviceCases.Fresh(run);
            run.Device.WriteRegion(VfioPciRegionIndex.Bar0, 0, 1, 0x41);
            run.Device.WriteRegion(VfioPciRegionIndex.Bar0, 0, 1, 0x42);
            byte[] record = Save(run, Enter(run, StopCopy)!)[HeaderLength..];
            run.Equal((byte)0x41, record[8], "the first byte");
            run.Equal((byte)0x42, record[9], "the second byte");
            run.Equal((byte)2, record[24], "the head");
            run.Equal((byte)0, record[25], "the tail");
            run.Equal((byte)2, record[26], "the count");
            run.Equal((byte)16, record[33], "the FIFO's size");
            run.Equal((byte)1, record[34], "the trigger level");
        });
        table.Add("pre-copy-is-the-header", "in PRE_COPY there is the header, and then reads give nothing", run =>
        {
            run.Use(DeviceNeed.Mtty);
            KernelFd stream = Enter(run, PreCopy)!;
            run.Equal((ulong)HeaderLength, Info(run, stream).InitialBytes, "initial_bytes");
            run.Equal(0ul, Info(run, stream).DirtyBytes, "dirty_bytes");
            run.Equal((long)HeaderLength, run.Kernel.Read(stream.Number, new byte[200]).Value, "the bytes read");
            run.Equal(0ul, Info(run, stream).InitialBytes, "initial_bytes");
            run.Equal(0L, run.Kernel.Read(stream.Number, new byte[200]).Value, "the bytes read then");
        });
        foreach (VfioDeviceMigState from in (VfioDeviceMigState[])[PreCopy, PreCopyP2P])
        {
            table.Add($"{(from == PreCopy ? "pre-copy" : "pre-copy-p2p")}-goes-on",
                $"from {from} the records follow in the same file", run =>
            {
                run.Use(DeviceNeed.Mtty);
                KernelFd stream = Enter(run, from)!;
                run.Equal((long)HeaderLength, run.Kernel.Read(stream.Number, new byte[200]).Value, "the bytes read");
                run.Holds(Enter(run, StopCopy) is null, "no second stream");
                run.Equal(
                    RecordLength * MttyDeviceCases.Ports(run), Save(run, stream).Length, "the length of the rest");
            });
        }

        table.Add("unread-header-goes-on", "what was not read in PRE_COPY is still there in STOP_COPY", run =>
        {
            run.Use(DeviceNeed.Mtty);
            KernelFd stream = Enter(run, PreCopy)!;
            Enter(run, StopCopy);
            run.Equal(
                HeaderLength + (RecordLength * MttyDeviceCases.Ports(run)), Save(run, stream).Length, "the length");
        });
        foreach (VfioDeviceMigState state in (VfioDeviceMigState[])[Running, Stop, StopCopy, Resuming, PreCopy])
        {
            table.Add(
                $"data-size-{state switch { StopCopy => "stop-copy", PreCopy => "pre-copy", Running => "running", Stop => "stop", _ => "resuming" }}",
                $"MIG_DATA_SIZE is the whole stream, also in {state}", run =>
            {
                run.Use(DeviceNeed.Mtty);
                Reach(run, state);
                var size = default(VfioDeviceFeatureMigDataSize);
                run.Answers(run.Kernel.Feature(run.Device.File, Get, ref size).Errno, Errno.Success, "MIG_DATA_SIZE");
                run.Holds(
                    size.StopCopyLength is HeaderLength + RecordLength or HeaderLength + (2 * RecordLength),
                    "24 bytes and 36 for each port");
            });
        }
    }

    private static void AddResuming(CaseTable table)
    {
        (string Name, int At)[] fields =
            [("magic", 0), ("major", 8), ("minor", 12), ("ports", 16), ("flags", 20)];
        foreach ((string name, int at) in fields)
        {
            table.Add($"bad-{name}", $"the write that completes a header with a bad {name} is EFAULT", run =>
            {
                byte[] state = State(run);
                state[at] ^= 0x40;
                KernelFd stream = Enter(run, Resuming)!;
                run.Answers(
                    run.Kernel.Write(stream.Number, state.AsSpan(0, HeaderLength)).Errno, Errno.EFAULT, "writing");
            });
        }

        table.Add("bad-header-counts", "the bytes of a bad header count: the rest makes the device load", run =>
        {
            byte[] state = State(run);
            state[0] ^= 0x40;
            state[HeaderLength + ScratchInRecord] = 0x99;
            KernelFd stream = Enter(run, Resuming)!;
            run.Answers(run.Kernel.Write(stream.Number, state.AsSpan(0, 40)).Errno, Errno.EFAULT, "writing");
            Load(run, stream, state.AsSpan(40));
            Enter(run, Stop);
            run.Equal(0x99ul, run.Device.ReadRegion(VfioPciRegionIndex.Bar0, 7, 1), "the scratch register");
        });
        table.Add("bad-header-in-pieces", "a bad header is seen by the write that completes it, not before", run =>
        {
            byte[] state = State(run);
            state[0] ^= 0x40;
            KernelFd stream = Enter(run, Resuming)!;
            Load(run, stream, state.AsSpan(0, HeaderLength - 1));
            run.Answers(
                run.Kernel.Write(stream.Number, state.AsSpan(HeaderLength - 1, 1)).Errno, Errno.EFAULT, "writing");
        });
        table.Add("too-long", "more than the stream can have is ENOMEM, and nothing of it counts", run =>
        {
            byte[] state = State(run);
            KernelFd stream = Enter(run, Resuming)!;
            run.Answers(
                run.Kernel.Write(stream.Number, new byte[state.Length + 1]).Errno, Errno.ENOMEM, "writing too much");
            Load(run, stream, state);
            run.Answers(run.Kernel.Write(stream.Number, new byte[1]).Errno, Errno.ENOMEM, "writing one byte more");
            Enter(run, Stop);
        });
        table.Add("too-long-before-ended", "too much is ENOMEM also when the session has ended", run =>
        {
            byte[] state = State(run);
            KernelFd stream = Enter(run, Resuming)!;
            Load(run, stream, state);
            Enter(run, Stop);
            run.Answers(
                run.Kernel.Write(stream.Number, new byte[state.Length + 1]).Errno, Errno.ENOMEM, "writing too much");
            run.Answers(run.Kernel.Write(stream.Number, new byte[1]).Errno, Errno.ENODEV, "writing");
        });
        foreach (int missing in (int[])[1, RecordLength])
        {
            table.Add($"short-by-{missing}", $"a stream that lacks {missing} bytes is EINVAL; the rest can follow", run =>
            {
                byte[] state = State(run);
                KernelFd stream = Enter(run, Resuming)!;
                Load(run, stream, state.AsSpan(0, state.Length - missing));
                run.Answers(Request(run, Stop, out _), Errno.EINVAL, "leaving RESUMING");
                run.Equal(Resuming, StateOf(run), "the state");
                Load(run, stream, state.AsSpan(state.Length - missing));
                Enter(run, Running);
            });
        }

        table.Add("to-another-card", "a card takes the state of another one", run =>
        {
            MttyDeviceCases.Fresh(run);
            SetScratch(run, 0x3C);
            byte[] state = Save(run, Enter(run, StopCopy)!);
            run.Use(DeviceNeed.Mtty);
            SetScratch(run, 0);
            KernelFd stream = Enter(run, Resuming)!;
            Load(run, stream, state);
            Enter(run, Running);
            run.Equal(0x3Cul, run.Device.ReadRegion(VfioPciRegionIndex.Bar0, 7, 1), "the scratch register");
        });
        table.Add("not-loaded-before-stop", "the state is taken when the device leaves RESUMING", run =>
        {
            MttyDeviceCases.Fresh(run);
            SetScratch(run, 0x3C);
            byte[] state = Save(run, Enter(run, StopCopy)!);
            Enter(run, Running);
            SetScratch(run, 0);
            Load(run, Enter(run, Resuming)!, state);
            run.Equal(0ul, run.Device.ReadRegion(VfioPciRegionIndex.Bar0, 7, 1), "the scratch register before");
            Enter(run, Stop);
            run.Equal(0x3Cul, run.Device.ReadRegion(VfioPciRegionIndex.Bar0, 7, 1), "the scratch register after");
        });
    }

    private static void AddState(CaseTable table)
    {
        table.Add("survives-a-close", "a close ends streams and leaves the state where it is", run =>
        {
            KernelFd file = Reopen(run, PreCopyP2P, out KernelFd stream);
            run.Answers(run.Kernel.Read(stream.Number, new byte[4]).Errno, Errno.ENODEV, "reading the old stream");
            var state = default(VfioDeviceFeatureMigState);
            run.Answers(run.Kernel.Feature(file, Get, ref state).Errno, Errno.Success, "GET");
            run.Equal(PreCopyP2P, state.DeviceState, "the state");
            Reset(run, file);
        });
        table.Add("opens-a-stream-after-a-close",
            "the stream of PRE_COPY is gone after a close, so STOP_COPY opens one", run =>
        {
            KernelFd file = Reopen(run, PreCopyP2P, out _);
            var state = new VfioDeviceFeatureMigState { DeviceState = StopCopy };
            run.Answers(run.Kernel.Feature(file, Set, ref state).Errno, Errno.Success, "SET");
            run.Holds(state.DataFd >= 0, "a stream");
            KernelFd opened = run.Own(new KernelFd(run.Kernel, state.DataFd));
            run.Holds(Save(run, opened).Length >= HeaderLength + RecordLength, "a whole stream");
            Reset(run, file);
        });
        table.Add("descriptor-may-be-closed", "closing the stream's descriptor does not end the session", run =>
        {
            run.Use(DeviceNeed.Mtty);
            Enter(run, PreCopy)!.Dispose();
            run.Holds(Enter(run, StopCopy) is null, "no second stream");
            Enter(run, Stop);
            run.Holds(Enter(run, StopCopy) is not null, "a stream of the next session");
        });
    }

    private static void AddLog(CaseTable table)
    {
        table.Errors<VfioDeviceFeatureDmaLoggingControl>(
            run =>
            {
                run.Use(DeviceNeed.Mtty);
                run.WriteRanges((CaseRun.Iova, CaseRun.Page));
                return VfioDeviceFeatureDmaLoggingControl.Create(CaseRun.Page, 1, run.ScratchAddress);
            },
            (run, ref argument) => run.Kernel.Feature(run.Device.File, Set, ref argument).Errno,
            new("no-ranges", "count", Errno.EINVAL, (_, ref argument) => argument.NumRanges = 0),
            new("too-many-ranges", "count", Errno.E2BIG, (_, ref argument) => argument.NumRanges = 257),
            new("unreadable-ranges", "list", Errno.EFAULT, (_, ref argument) => argument.Ranges = CaseRun.BadAddress),
            new("iova-unaligned", "list", Errno.EINVAL,
                (run, ref _) => run.WriteRanges((CaseRun.Iova + 1, CaseRun.Page))),
            new("range-wraps", "list", Errno.EOVERFLOW,
                (run, ref _) => run.WriteRanges((ulong.MaxValue - CaseRun.Page + 1, 2 * CaseRun.Page))));
        table.Add("page-size-as-asked", "the page size comes back as it was asked for", run =>
        {
            run.Use(DeviceNeed.Mtty);
            run.WriteRanges((0, 1 << 20));
            VfioDeviceFeatureDmaLoggingControl control =
                VfioDeviceFeatureDmaLoggingControl.Create(512, 1, run.ScratchAddress);
            run.Answers(run.Kernel.Feature(run.Device.File, Set, ref control).Errno, Errno.Success, "starting");
            run.Equal(512ul, control.PageSize, "the page size");
        });
        table.Add("second-start", "a second start is accepted", run =>
        {
            run.Use(DeviceNeed.Mtty);
            run.WriteRanges((0, CaseRun.Page));
            for (int round = 0; round < 2; round++)
            {
                VfioDeviceFeatureDmaLoggingControl control =
                    VfioDeviceFeatureDmaLoggingControl.Create(CaseRun.Page, 1, run.ScratchAddress);
                run.Answers(run.Kernel.Feature(run.Device.File, Set, ref control).Errno, Errno.Success, "starting");
            }
        });
        table.Add("report-without-a-start", "a report needs no start and finds nothing", run =>
        {
            run.Use(DeviceNeed.Mtty);
            run.Scratch.Bytes(0, 8).Fill(0x55);
            VfioDeviceFeatureDmaLoggingReport report = VfioDeviceFeatureDmaLoggingReport.Create(
                0, 64 * CaseRun.Page, CaseRun.Page, run.ScratchAddress);
            run.Answers(run.Kernel.Feature(run.Device.File, Get, ref report).Errno, Errno.Success, "reporting");
            run.Holds(!run.Scratch.Bytes(0, 8).ContainsAnyExcept((byte)0x55), "the bitmap as it was");
        });
        (string Name, ulong PageSize, Errno Errno)[] pages =
        [
            ("report-page-2048", 2048, Errno.EINVAL), ("report-page-0", 0, Errno.EINVAL),
            ("report-page-of-two-bits", 12288, Errno.EINVAL),
        ];
        foreach ((string name, ulong pageSize, Errno errno) in pages)
        {
            table.Add(name, $"a report in pages of {pageSize} is {errno}", run =>
            {
                run.Use(DeviceNeed.Mtty);
                VfioDeviceFeatureDmaLoggingReport report = VfioDeviceFeatureDmaLoggingReport.Create(
                    0, 64 * CaseRun.Page, pageSize, run.ScratchAddress);
                run.Answers(run.Kernel.Feature(run.Device.File, Get, ref report).Errno, errno, "reporting");
            });
        }

        table.Add("report-to-nowhere", "a bitmap that nobody writes is not looked at", run =>
        {
            run.Use(DeviceNeed.Mtty);
            VfioDeviceFeatureDmaLoggingReport report = VfioDeviceFeatureDmaLoggingReport.Create(
                0, 64 * CaseRun.Page, CaseRun.Page, CaseRun.BadAddress);
            run.Answers(run.Kernel.Feature(run.Device.File, Get, ref report).Errno, Errno.Success, "reporting");
        });
    }

    private static byte[] State(CaseRun run)
    {
        run.Use(DeviceNeed.Mtty);
        return Save(run, Enter(run, StopCopy)!);
    }

    private static void SetScratch(CaseRun run, byte value) =>
        run.Device.WriteRegion(VfioPciRegionIndex.Bar0, 7, 1, value);

    /// <summary>Goes to a state, closes the device and binds it again.</summary>
    private static KernelFd Reopen(CaseRun run, VfioDeviceMigState state, out KernelFd stream)
    {
        run.Use(DeviceNeed.Mtty);
        DeviceProfile profile = run.Device.Profile;
        stream = Enter(run, state)!;
        run.Device.File.Dispose();
        KernelFd file = run.OpenDevice(profile);
        VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.Iommufd.Number);
        run.Answers(run.Kernel.Ioctl(file, ref bind).Errno, Errno.Success, "binding again");
        return file;
    }

    private static void Reset(CaseRun run, KernelFd file) => run.Answers(
        run.Kernel.IoctlValue(file.Number, VfioRequests.DeviceReset.Value, 0).Errno, Errno.Success,
        "VFIO_DEVICE_RESET");

    private static VfioPrecopyInfo Info(CaseRun run, KernelFd stream)
    {
        VfioPrecopyInfo info = VfioPrecopyInfo.Create();
        run.Answers(run.Kernel.Ioctl(stream, ref info).Errno, Errno.Success, "MIG_GET_PRECOPY_INFO");
        return info;
    }

    private static uint Word(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at));
}
