using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceMigState;
using static Tidemark.Conformance.MigrationSession;

namespace Tidemark.Conformance.Areas;

/// <summary>Data streams of a migration, and what PRECOPY_INFO tells about them.</summary>
internal static class MigrationStreamCases
{
    public static void AddTo(List<ConformanceCase> cases)
    {
        AddSaving(new CaseTable(cases, "migration-stream", "vfio.migration.stream",
            "vfio.h, data_fd of a saving session"));
        AddResuming(new CaseTable(cases, "migration-stream", "vfio.migration.stream",
            "vfio.h, data_fd of a resuming session"));
        AddPreCopy(new CaseTable(cases, "precopy-info", "vfio.migration.precopy", "vfio.h, PRE_COPY states"));
        AddInfo(new CaseTable(cases, "precopy-info", "vfio.migration.precopy-info", "vfio.h, vfio_precopy_info"));
    }

    private static void AddSaving(CaseTable table)
    {
        table.Add("reads-to-an-end", "in STOP_COPY the stream ends with a read of 0 bytes", run =>
        {
            KernelFd stream = Begin(run, StopCopy);
            run.Holds(Save(run, stream).Length > 0, "some state");
            run.Equal(0L, run.Kernel.Read(stream.Number, new byte[16]).Value, "the bytes of a read after the end");
        });
        table.Add("in-pieces", "reading piece by piece gives as much as reading at once", run =>
        {
            int whole = Save(run, Begin(run, StopCopy)).Length;
            Enter(run, Stop);
            KernelFd stream = Enter(run, StopCopy)!;
            int pieces = 0;
            byte[] piece = new byte[7];
            for (int round = 0; round < 512 && pieces < whole; round++)
                pieces += (int)run.Kernel.Read(stream.Number, piece).Value;
            pieces += Save(run, stream).Length;
            run.Equal(whole, pieces, "the length in pieces");
        });
        table.Add("saving-pread", "a stream has no positions: pread is ESPIPE", run =>
            run.Answers(run.Kernel.Pread(Begin(run, StopCopy).Number, new byte[16], 0).Errno, Errno.ESPIPE, "pread"));
        table.Add("saving-write", "a saving stream can not be written: EBADF", run =>
            run.Answers(run.Kernel.Write(Begin(run, StopCopy).Number, new byte[16]).Errno, Errno.EBADF, "write"));
        table.Add("saving-ended", "after the session reading is ENODEV", run =>
        {
            KernelFd stream = Begin(run, StopCopy);
            Enter(run, Stop);
            run.Answers(run.Kernel.Read(stream.Number, new byte[16]).Errno, Errno.ENODEV, "read");
        });
        table.Add("saving-ended-by-reset", "after a reset reading is ENODEV", run =>
        {
            KernelFd stream = Begin(run, StopCopy);
            if (run.Device.Reset() == Errno.EINVAL)
                throw CaseRun.NotApplicable("The device can not be reset.");
            run.Answers(run.Kernel.Read(stream.Number, new byte[16]).Errno, Errno.ENODEV, "read");
        });
        table.Add("same-state-opens-none", "asking for STOP_COPY again leaves the stream as it is", run =>
        {
            KernelFd stream = Begin(run, StopCopy);
            run.Holds(Enter(run, StopCopy) is null, "no second stream");
            run.Holds(Save(run, stream).Length > 0, "some state");
        });
        table.Add("data-size", "the size of what is to come is told beforehand", run =>
        {
            run.Use(DeviceNeed.Migratable);
            var size = default(VfioDeviceFeatureMigDataSize);
            run.Answers(
                run.Kernel.Feature(run.Device.File, VfioDeviceFeatureFlags.Get, ref size).Errno, Errno.Success,
                "MIG_DATA_SIZE");
            run.Holds(size.StopCopyLength > 0, "a size");
        });
    }

    private static void AddResuming(CaseTable table)
    {
        table.Add("round-trip", "a device takes back what it gave", run =>
        {
            run.Use(DeviceNeed.Migratable);
            Reach(run, Resuming);
            Enter(run, Running);
        });
        table.Add("written-in-pieces", "the state can be written piece by piece", run =>
        {
            byte[] state = Save(run, Begin(run, StopCopy));
            KernelFd stream = Enter(run, Resuming)!;
            for (int at = 0; at < state.Length; at += 1000)
                Load(run, stream, state.AsSpan(at, Math.Min(1000, state.Length - at)));
            Enter(run, Stop);
        });
        table.Add("resuming-read", "a resuming stream can not be read: EBADF", run =>
            run.Answers(run.Kernel.Read(Begin(run, Resuming).Number, new byte[16]).Errno, Errno.EBADF, "read"));
        table.Add("resuming-pwrite", "a stream has no positions: pwrite is ESPIPE", run =>
            run.Answers(run.Kernel.Pwrite(Begin(run, Resuming).Number, new byte[16], 0).Errno, Errno.ESPIPE, "pwrite"));
        table.Add("resuming-ended", "after the session writing is ENODEV", run =>
        {
            run.Use(DeviceNeed.Migratable);
            KernelFd stream = Reach(run, Resuming)!;
            Enter(run, Stop);
            run.Answers(run.Kernel.Write(stream.Number, new byte[1]).Errno, Errno.ENODEV, "write");
        });
        table.Add("nothing-written",
            "leaving RESUMING with nothing written is EINVAL, and the device stays there", run =>
        {
            Begin(run, Resuming);
            Errno errno = Request(run, Stop, out _);
            run.Answers(errno, Errno.EINVAL, "leaving RESUMING");
            run.Equal(Resuming, StateOf(run), "the state");
        });
        table.Add("too-little-written",
            "leaving RESUMING with too little written is EINVAL, and the rest can follow", run =>
        {
            byte[] state = Save(run, Begin(run, StopCopy));
            KernelFd stream = Enter(run, Resuming)!;
            Load(run, stream, state.AsSpan(0, state.Length / 2));
            run.Answers(Request(run, Stop, out _), Errno.EINVAL, "leaving RESUMING");
            Load(run, stream, state.AsSpan(state.Length / 2));
            Enter(run, Stop);
        });
        table.Add("ioctl-on-resuming", "a resuming stream has no requests: ENOTTY", run =>
        {
            VfioPrecopyInfo info = VfioPrecopyInfo.Create();
            run.Answers(run.Kernel.Ioctl(Begin(run, Resuming), ref info).Errno, Errno.ENOTTY, "MIG_GET_PRECOPY_INFO");
        });
    }

    private static void AddPreCopy(CaseTable table)
    {
        table.Add("nothing-now",
            "in PRE_COPY, reading when there is nothing now is ENOMSG (mtty, qat and hisi_acc answer 0 bytes)", run =>
        {
            KernelFd stream = BeginPreCopy(run);
            bool ends = run.Device.Profile.Driver is "mtty" or "qat_vfio_pci" or "hisi-acc-vfio-pci";
            run.Answers(Drain(run, stream), ends ? Errno.Success : Errno.ENOMSG, "reading when everything is read");
        });
        table.Add("goes-on-in-stop-copy", "the stream of PRE_COPY goes on in STOP_COPY and ends there", run =>
        {
            KernelFd stream = BeginPreCopy(run);
            Drain(run, stream);
            run.Holds(Enter(run, StopCopy) is null, "no second stream");
            run.Holds(Save(run, stream).Length > 0, "the rest of the state");
        });
        table.Add("round-trip", "a device takes back what it gave over PRE_COPY and STOP_COPY", run =>
        {
            KernelFd stream = BeginPreCopy(run);
            using var state = new MemoryStream();
            byte[] buffer = new byte[4096];
            for (SyscallResult read = run.Kernel.Read(stream.Number, buffer); read.Value > 0;)
            {
                state.Write(buffer, 0, (int)read.Value);
                read = run.Kernel.Read(stream.Number, buffer);
            }

            Enter(run, StopCopy);
            state.Write(Save(run, stream));
            KernelFd resuming = Enter(run, Resuming)!;
            Load(run, resuming, state.ToArray());
            Enter(run, Running);
        });
        table.Add("given-up", "going back to RUNNING ends the session: ENODEV", run =>
        {
            KernelFd stream = BeginPreCopy(run);
            Enter(run, Running);
            run.Answers(run.Kernel.Read(stream.Number, new byte[16]).Errno, Errno.ENODEV, "read");
        });
        table.Add("given-up-and-begun-again", "a second session has a stream of its own", run =>
        {
            BeginPreCopy(run);
            Enter(run, Running);
            KernelFd? second = Enter(run, PreCopy);
            run.Holds(second is not null, "a second stream");
            run.Holds(run.Kernel.Read(second!.Number, new byte[16]).Value > 0, "state in it");
        });
        table.Add("write", "a PRE_COPY stream can not be written: EBADF", run =>
            run.Answers(run.Kernel.Write(BeginPreCopy(run).Number, new byte[16]).Errno, Errno.EBADF, "write"));
        table.Add("pread", "a PRE_COPY stream has no positions: ESPIPE", run =>
            run.Answers(run.Kernel.Pread(BeginPreCopy(run).Number, new byte[16], 0).Errno, Errno.ESPIPE, "pread"));
    }

    private static void AddInfo(CaseTable table)
    {
        table.Errors<VfioPrecopyInfo>(
            run =>
            {
                run.Stream = BeginPreCopy(run);
                return VfioPrecopyInfo.Create();
            },
            (run, ref argument) => run.Kernel.Ioctl(run.Stream!, ref argument).Errno,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 23),
            new("in-stop-copy", "state", Errno.EINVAL, (run, ref _) => Enter(run, StopCopy)),
            new("session-given-up", "state", Errno.EINVAL, (run, ref _) => Enter(run, Running)));
        table.Add("disabled-stream", "the old stream of a session given up is ENODEV while another pre-copies", run =>
        {
            KernelFd old = BeginPreCopy(run);
            Enter(run, Running);
            Enter(run, PreCopy);
            VfioPrecopyInfo info = VfioPrecopyInfo.Create();
            run.Answers(run.Kernel.Ioctl(old, ref info).Errno, Errno.ENODEV, "MIG_GET_PRECOPY_INFO");
        });
        table.Add("unknown-request", "any other request on a stream is ENOTTY", run =>
            run.Answers(
                run.Kernel.Ioctl(BeginPreCopy(run).Number, 0x3BEE, new byte[24]).Errno, Errno.ENOTTY,
                "request 0x3bee"));
        table.Add("counts-down", "initial_bytes falls by what is read", run =>
        {
            KernelFd saving = BeginPreCopy(run);
            ulong before = Info(run, saving).InitialBytes;
            if (before < 4)
                throw CaseRun.NotApplicable("The device has no initial data.");
            run.Equal(3L, run.Kernel.Read(saving.Number, new byte[3]).Value, "the bytes read");
            run.Equal(before - 3, Info(run, saving).InitialBytes, "initial_bytes");
        });
        table.Add("drained", "with all initial data read, initial_bytes is 0", run =>
        {
            KernelFd saving = BeginPreCopy(run);
            Drain(run, saving);
            run.Equal(0ul, Info(run, saving).InitialBytes, "initial_bytes");
        });
        table.Add("flags-are-echoed", "kernel behaviour: before version 2 is enabled, flags come back as given", run =>
        {
            KernelFd saving = BeginPreCopy(run);
            VfioPrecopyInfo info = VfioPrecopyInfo.Create();
            info.Flags = (VfioPrecopyInfoFlags)0x5A5A;
            run.Answers(run.Kernel.Ioctl(saving, ref info).Errno, Errno.Success, "MIG_GET_PRECOPY_INFO");
            run.Equal((VfioPrecopyInfoFlags)0x5A5A, info.Flags, "the flags");
        });
        table.Add("flags-are-told", "with version 2 enabled, flags are an answer", run =>
        {
            run.Use(DeviceNeed.PreCopying);
            EnableVersion2(run);
            KernelFd saving = Enter(run, PreCopy)!;
            VfioPrecopyInfo info = VfioPrecopyInfo.Create();
            info.Flags = (VfioPrecopyInfoFlags)0x5A5A;
            run.Answers(run.Kernel.Ioctl(saving, ref info).Errno, Errno.Success, "MIG_GET_PRECOPY_INFO");
            run.Equal(VfioPrecopyInfoFlags.None, info.Flags & ~VfioPrecopyInfoFlags.Reinit,
                "flags that are not REINIT");
        });
        table.Add("version-2-twice", "enabling version 2 again is accepted", run =>
        {
            run.Use(DeviceNeed.PreCopying);
            EnableVersion2(run);
            EnableVersion2(run);
        });
        table.Add("version-2-survives-reset", "version 2 stays enabled over a reset", run =>
        {
            run.Use(DeviceNeed.PreCopying);
            EnableVersion2(run);
            if (run.Device.Reset() == Errno.EINVAL)
                throw CaseRun.NotApplicable("The device can not be reset.");
            KernelFd saving = Enter(run, PreCopy)!;
            VfioPrecopyInfo info = VfioPrecopyInfo.Create();
            info.Flags = (VfioPrecopyInfoFlags)0x5A5A;
            run.Answers(run.Kernel.Ioctl(saving, ref info).Errno, Errno.Success, "MIG_GET_PRECOPY_INFO");
            run.Equal(VfioPrecopyInfoFlags.None, info.Flags & ~VfioPrecopyInfoFlags.Reinit,
                "flags that are not REINIT");
        });
        table.Add("larger-argsz", "more room than the struct is accepted", run =>
        {
            byte[] argument = new byte[64];
            BinaryPrimitives.WriteInt32LittleEndian(argument, 64);
            run.Answers(
                run.Kernel.Ioctl(BeginPreCopy(run).Number, VfioRequests.MigGetPrecopyInfo.Value, argument).Errno,
                Errno.Success, "MIG_GET_PRECOPY_INFO");
        });
    }

    private static void EnableVersion2(CaseRun run) => run.Answers(
        run.Device.Feature(VfioDeviceFeatureIndex.MigPrecopyInfoV2, VfioDeviceFeatureFlags.Set, 0), Errno.Success,
        "enabling MIG_PRECOPY_INFOv2");

    private static KernelFd Begin(CaseRun run, VfioDeviceMigState state)
    {
        run.Use(DeviceNeed.Migratable);
        return Enter(run, state)
            ?? throw CaseRun.Broken($"Expected a data stream from entering {state}; there was none.");
    }

    private static KernelFd BeginPreCopy(CaseRun run)
    {
        run.Use(DeviceNeed.PreCopying);
        return Enter(run, PreCopy)
            ?? throw CaseRun.Broken("Expected a data stream from entering PRE_COPY; there was none.");
    }

    private static VfioPrecopyInfo Info(CaseRun run, KernelFd stream)
    {
        VfioPrecopyInfo info = VfioPrecopyInfo.Create();
        run.Answers(run.Kernel.Ioctl(stream, ref info).Errno, Errno.Success, "MIG_GET_PRECOPY_INFO");
        return info;
    }

    /// <summary>Reads what there is now; how that ended.</summary>
    private static Errno Drain(CaseRun run, KernelFd stream)
    {
        byte[] buffer = new byte[64 << 10];
        const int MostReads = 65536;
        for (int round = 0; round < MostReads; round++)
        {
            SyscallResult read = run.Kernel.Read(stream.Number, buffer);
            if (read.Value <= 0)
                return read.Errno;
        }

        throw CaseRun.NotApplicable("The device changes faster than its state can be read.");
    }
}
