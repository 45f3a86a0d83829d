using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceFeatureFlags;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>A device's own log of the pages it writes.</summary>
internal static class DmaLoggingCases
{
    private const string Area = "dma-logging";
    private const ulong BitmapOffset = 0x2000;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddStart(new CaseTable(cases, Area, "vfio.dma-logging.start",
            "vfio.h, vfio_device_feature_dma_logging_control"));
        AddReport(new CaseTable(cases, Area, "vfio.dma-logging.report",
            "vfio.h, vfio_device_feature_dma_logging_report"));
        AddWrites(new CaseTable(cases, Area, "vfio.dma-logging.bitmap",
            "vfio.h, vfio_device_feature_dma_logging_report"));
    }

    private static void AddStart(CaseTable table)
    {
        table.Errors<VfioDeviceFeatureDmaLoggingControl>(
            run =>
            {
                run.Use(DeviceNeed.Logging);
                run.WriteRanges((Iova, 16 * Page), (Iova + (64 * Page), 16 * Page));
                return VfioDeviceFeatureDmaLoggingControl.Create(Page, 2, run.ScratchAddress);
            },
            (run, ref argument) => run.Kernel.Feature(run.Device.File, Set, ref argument).Errno,
            new("no-ranges", "count", Errno.EINVAL, (_, ref argument) => argument.NumRanges = 0),
            new("too-many-ranges", "count", Errno.E2BIG, (_, ref argument) => argument.NumRanges = 257),
            new("unreadable-ranges", "list", Errno.EFAULT, (_, ref argument) => argument.Ranges = BadAddress),
            new("iova-unaligned", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((Iova + 1, Page), (0, Page))),
            new("length-unaligned", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((Iova, Page + 1), (0, Page))),
            new("range-wraps", "list", Errno.EOVERFLOW,
                (run, ref _) => run.WriteRanges((ulong.MaxValue - Page + 1, 2 * Page), (0, Page))),
            new("range-ends-at-the-top", "list", Errno.EOVERFLOW,
                (run, ref _) => run.WriteRanges((ulong.MaxValue - Page + 1, Page), (0, Page))),
            new("overlap", "list", Errno.EINVAL,
                (run, ref _) => run.WriteRanges((Iova, 2 * Page), (Iova + Page, Page))),
            new("same-range-twice", "list", Errno.EINVAL, (run, ref _) => run.WriteRanges((Iova, Page), (Iova, Page))),
            new("already-started", "log", Errno.EINVAL, (run, ref argument) => Start(run, (Iova, 16 * Page))));
        table.Add("first-bad-range-answers", "ranges are looked at one after the other", run =>
        {
            run.Use(DeviceNeed.Logging);
            run.Answers(
                TryStart(run, Page, (Iova, Page), (Iova, Page + 1), (ulong.MaxValue - Page + 1, 2 * Page)),
                Errno.EINVAL,
                "starting");
        });
        table.Add("no-order-needed", "ranges need not be sorted", run =>
        {
            run.Use(DeviceNeed.Logging);
            run.Answers(TryStart(run, Page, (Iova + (8 * Page), Page), (Iova, Page)), Errno.Success, "starting");
        });
        table.Add("touching-ranges", "ranges may touch", run =>
        {
            run.Use(DeviceNeed.Logging);
            run.Answers(TryStart(run, Page, (Iova, Page), (Iova + Page, Page)), Errno.Success, "starting");
        });
        table.Add("reserved-is-not-looked-at", "kernel behaviour: the reserved field is not checked", run =>
        {
            run.Use(DeviceNeed.Logging);
            run.WriteRanges((Iova, Page));
            VfioDeviceFeatureDmaLoggingControl control = VfioDeviceFeatureDmaLoggingControl.Create(Page, 1,
                run.ScratchAddress);
            control.Reserved = 1;
            run.Answers(run.Kernel.Feature(run.Device.File, Set, ref control).Errno, Errno.Success, "starting");
        });
        table.Add("page-size-is-told", "the page size in use is told", run =>
        {
            run.Use(DeviceNeed.Logging);
            run.WriteRanges((Iova, 16 * Page));
            VfioDeviceFeatureDmaLoggingControl control = VfioDeviceFeatureDmaLoggingControl.Create(Page, 1,
                run.ScratchAddress);
            run.Answers(run.Kernel.Feature(run.Device.File, Set, ref control).Errno, Errno.Success, "starting");
            run.Holds(System.Numerics.BitOperations.IsPow2(control.PageSize),
                $"a power of two (it is 0x{control.PageSize:x})");
        });
        table.Add("refused-is-not-started", "after a refusal logging can be started", run =>
        {
            run.Use(DeviceNeed.Logging);
            run.Answers(TryStart(run, Page, (Iova, Page + 1)), Errno.EINVAL, "starting with a bad range");
            Start(run, (Iova, Page));
        });
        table.Add("again-after-stop", "after stopping logging can be started", run =>
        {
            run.Use(DeviceNeed.Logging);
            Start(run, (Iova, Page));
            run.Answers(Stop(run), Errno.Success, "stopping");
            Start(run, (Iova, Page));
        });
        table.Add("stop-when-stopped", "stopping what is not started is accepted", run =>
        {
            run.Use(DeviceNeed.Logging);
            run.Answers(Stop(run), Errno.Success, "stopping");
        });
        table.Add("without-attachment", "logging does not need the device to be attached", run =>
        {
            run.Use(DeviceNeed.Logging);
            Start(run, (Iova, Page));
        });
        table.Add("256-ranges", "256 ranges are accepted or refused for what they cost, not for their number", run =>
        {
            run.Use(DeviceNeed.Logging);
            (ulong, ulong)[] ranges =
                [.. Enumerable.Range(0, 256).Select(index => (Iova + (Page * 2 * (ulong)index), (ulong)Page))];
            run.Holds(TryStart(run, Page, ranges) != Errno.E2BIG, "no E2BIG for 256 ranges");
        });
    }

    private static void AddReport(CaseTable table)
    {
        table.Errors<VfioDeviceFeatureDmaLoggingReport>(
            run =>
            {
                run.Use(DeviceNeed.Logging);
                Start(run, (Iova, 16 * Page));
                return VfioDeviceFeatureDmaLoggingReport.Create(Iova, 16 * Page, Page,
                    run.ScratchAddress + BitmapOffset);
            },
            (run, ref argument) => run.Kernel.Feature(run.Device.File, Get, ref argument).Errno,
            new("page-size-0", "page-size", Errno.EINVAL, (_, ref argument) => argument.PageSize = 0),
            new("page-size-below-4096", "page-size", Errno.EINVAL, (_, ref argument) => argument.PageSize = 2048),
            new("page-size-of-two-bits", "page-size", Errno.EINVAL, (_, ref argument) => argument.PageSize = 3 * Page),
            new("range-wraps", "range", Errno.EOVERFLOW,
                (_, ref argument) => argument.Iova = ulong.MaxValue - Page + 1),
            new("not-started", "log", Errno.EINVAL, (run, ref _) => run.Answers(Stop(run), Errno.Success, "stopping")));
        table.Add("clean", "a device that wrote nothing reports nothing, or all it may", run =>
        {
            run.Use(DeviceNeed.Logging);
            Start(run, (Iova, 16 * Page));
            Read(run, 0, 16);
            run.Equal(0ul, Read(run, 0, 16), "the second report");
        });
        table.Add("after-reset-of-the-list", "the list of ranges is not needed after the start", run =>
        {
            run.Use(DeviceNeed.Logging);
            Start(run, (Iova, 16 * Page));
            run.Scratch.Words(4).Clear();
            Read(run, 0, 16);
        });
    }

    private static void AddWrites(CaseTable table)
    {
        foreach (ulong page in (ulong[])[0, 7, 8, 15])
        {
            table.Add($"page-{page}", "a page that the device wrote is reported", run =>
            {
                NvmeWriter writer = Logged(run);
                writer.Write(Iova + (page * Page));
                run.Equal(1ul << (int)page, Read(run, 0, 16), "the bitmap");
            });
        }

        table.Add("reading-clears", "what was reported is not reported again", run =>
        {
            NvmeWriter writer = Logged(run);
            writer.Write(Iova + (3 * Page));
            Read(run, 0, 16);
            run.Equal(0ul, Read(run, 0, 16), "the next bitmap");
        });
        table.Add("written-after-reading", "a write after a report is in the next one", run =>
        {
            NvmeWriter writer = Logged(run);
            for (int round = 0; round < 16; round++)
            {
                ulong page = (ulong)(round * 7 % 16);
                writer.Write(Iova + (page * Page));
                run.Equal(1ul << (int)page, Read(run, 0, 16), $"the bitmap of round {round}");
            }
        });
        table.Add("bit-0-is-the-start", "bits count from the range's start", run =>
        {
            NvmeWriter writer = Logged(run);
            writer.Write(Iova + (5 * Page));
            run.Equal(2ul, Read(run, 4, 8), "the bitmap of a range that begins at page 4");
        });
        table.Add("only-the-range-is-cleared", "pages outside the range stay dirty", run =>
        {
            NvmeWriter writer = Logged(run);
            writer.Write(Iova + (2 * Page));
            writer.Write(Iova + (9 * Page));
            run.Equal(4ul, Read(run, 0, 8), "the first half");
            run.Equal(2ul, Read(run, 8, 8), "the second half");
        });
        table.Add("bits-are-only-set", "bits that were set stay set", run =>
        {
            NvmeWriter writer = Logged(run);
            writer.Write(Iova + (5 * Page));
            run.Scratch.Bytes(BitmapOffset, 8).Clear();
            run.Scratch.Bytes(BitmapOffset, 8)[1] = 0x80;
            VfioDeviceFeatureDmaLoggingReport report = VfioDeviceFeatureDmaLoggingReport.Create(
                Iova, 16 * Page, Page, run.ScratchAddress + BitmapOffset);
            run.Answers(run.Kernel.Feature(run.Device.File, Get, ref report).Errno, Errno.Success, "reporting");
            run.Equal((byte)0x20, run.Scratch.Bytes(BitmapOffset, 2)[0], "the first byte");
            run.Equal((byte)0x80, run.Scratch.Bytes(BitmapOffset, 2)[1], "the second byte");
        });
        table.Add("coarser-bits", "a report may ask for larger pages than the log keeps", run =>
        {
            NvmeWriter writer = Logged(run);
            writer.Write(Iova + (5 * Page));
            run.Equal(2ul, Read(run, 0, 16, 4 * Page), "the bitmap");
        });
        table.Add("stop-forgets", "a log that is started again is empty", run =>
        {
            NvmeWriter writer = Logged(run);
            writer.Write(Iova + (5 * Page));
            run.Answers(Stop(run), Errno.Success, "stopping");
            Start(run, (Iova, 16 * Page));
            Read(run, 0, 16);
            run.Equal(0ul, Read(run, 0, 16), "the second report");
        });
        table.Add("outside-is-not-logged", "writes outside the ranges are not reported", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.LoggingWriter);
            device.Attach(run.Ioas);
            run.Map(Iova, MemoryPages * Page);
            NvmeWriter writer = NvmeWriter.Start(run, device, run.Ioas);
            Start(run, (Iova, 4 * Page));
            Read(run, 0, 4);
            writer.Write(Iova + (9 * Page));
            run.Equal(0ul, Read(run, 0, 4), "the bitmap");
        });
    }

    /// <summary>A device that writes to 16 logged pages.</summary>
    private static NvmeWriter Logged(CaseRun run)
    {
        BoundDevice device = run.Use(DeviceNeed.LoggingWriter);
        device.Attach(run.Ioas);
        run.Map(Iova, MemoryPages * Page);
        NvmeWriter writer = NvmeWriter.Start(run, device, run.Ioas);
        Start(run, (Iova, 16 * Page));
        // A device may report more than was written at first.
        Read(run, 0, 16);
        return writer;
    }

    private static void Start(CaseRun run, params (ulong, ulong)[] ranges) =>
        run.Answers(TryStart(run, Page, ranges), Errno.Success, "starting");

    private static Errno TryStart(CaseRun run, ulong pageSize, params (ulong, ulong)[] ranges)
    {
        run.WriteRanges(ranges);
        VfioDeviceFeatureDmaLoggingControl control = VfioDeviceFeatureDmaLoggingControl.Create(
            pageSize, (uint)ranges.Length, run.ScratchAddress);
        return run.Kernel.Feature(run.Device.File, Set, ref control).Errno;
    }

    private static Errno Stop(CaseRun run) => run.Device.Feature(VfioDeviceFeatureIndex.DmaLoggingStop, Set, 0);

    private static ulong Read(CaseRun run, ulong firstPage, ulong pages, ulong pageSize = Page)
    {
        run.Scratch.Bytes(BitmapOffset, 64).Clear();
        VfioDeviceFeatureDmaLoggingReport report = VfioDeviceFeatureDmaLoggingReport.Create(
            Iova + (firstPage * Page), pages * Page, pageSize, run.ScratchAddress + BitmapOffset);
        run.Answers(run.Kernel.Feature(run.Device.File, Get, ref report).Errno, Errno.Success, "reporting");
        return System.Buffers.Binary.BinaryPrimitives.ReadUInt64LittleEndian(run.Scratch.Bytes(BitmapOffset, 8));
    }
}
