using System.Buffers.Binary;
using System.Diagnostics;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>The interrupt pin of a PCI device: a level that masks itself when it is told of.</summary>
internal static class IntxCases
{
    private const uint Intx = (uint)VfioPciIrqIndex.Intx;
    private const int Patience = 20;
    private const VfioIrqSetFlags Trigger = VfioIrqSetFlags.ActionTrigger;
    private const VfioIrqSetFlags Mask = VfioIrqSetFlags.ActionMask;
    private const VfioIrqSetFlags Unmask = VfioIrqSetFlags.ActionUnmask;
    private const VfioIrqSetFlags None = VfioIrqSetFlags.DataNone;
    private const VfioIrqSetFlags Eventfd = VfioIrqSetFlags.DataEventfd;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddSetting(new CaseTable(cases, "vfio-intx", "vfio.intx", "vfio.h, vfio_irq_set of INTx"));
        AddSignals(new CaseTable(cases, "vfio-intx", "vfio.intx", "vfio.h, VFIO_IRQ_INFO_AUTOMASKED"));
    }

    private static void AddSetting(CaseTable table)
    {
        (string Name, string Rule, VfioIrqSetFlags Flags)[] needEnabled =
        [
            ("mask-when-off", "masking", None | Mask), ("unmask-when-off", "unmasking", None | Unmask),
            ("trigger-when-off", "triggering", None | Trigger),
        ];
        foreach ((string name, string rule, VfioIrqSetFlags flags) in needEnabled)
        {
            table.Add(name, $"{rule} what is not enabled is EINVAL", run =>
            {
                Use(run);
                run.Answers(Set(run, flags), Errno.EINVAL, rule);
            });
        }

        table.Add("disable-when-off", "disabling what is not enabled is EINVAL", run =>
        {
            Use(run);
            run.Answers(Set(run, None | Trigger, count: 0), Errno.EINVAL, "disabling");
        });
        table.Add("not-open", "a descriptor that is not open is EBADF", run =>
        {
            Use(run);
            run.Answers(Set(run, Eventfd | Trigger, fd: 0x7FFF_0000), Errno.EBADF, "enabling");
        });
        table.Add("not-an-eventfd", "a descriptor that is no eventfd is EINVAL", run =>
        {
            Use(run);
            run.Answers(
                Set(run, Eventfd | Trigger, fd: run.CreateMemoryFile(CaseRun.Page).Number), Errno.EINVAL, "enabling");
        });
        table.Add("bad-descriptor-keeps-the-old", "a bad descriptor leaves the old eventfd", run =>
        {
            Use(run);
            KernelFd eventfd = Enable(run);
            run.Answers(Set(run, Eventfd | Trigger, fd: 0x7FFF_0000), Errno.EBADF, "changing the eventfd");
            run.Answers(Set(run, None | Trigger), Errno.Success, "triggering");
            run.Equal(1ul, Count(run, eventfd), "the count");
        });
        table.Add("trigger", "DATA_NONE signals", run =>
        {
            Use(run);
            KernelFd eventfd = Enable(run);
            run.Answers(Set(run, None | Trigger), Errno.Success, "triggering");
            run.Equal(1ul, Count(run, eventfd), "the count");
        });
        table.Add("trigger-does-not-mask", "a signal asked for is none of the device's: it masks nothing", run =>
        {
            Use(run);
            KernelFd eventfd = Enable(run);
            run.Answers(Set(run, None | Trigger), Errno.Success, "triggering");
            run.Answers(Set(run, None | Trigger), Errno.Success, "triggering again");
            run.Equal(2ul, Count(run, eventfd), "the count");
        });
        table.Add("no-eventfd-enables", "a descriptor of -1 enables it without an eventfd", run =>
        {
            Use(run);
            run.Answers(Set(run, Eventfd | Trigger, fd: -1), Errno.Success, "enabling");
            run.Answers(Set(run, None | Trigger), Errno.Success, "triggering");
            run.Answers(Set(run, None | Mask), Errno.Success, "masking");
        });
        table.Add("another-eventfd", "another eventfd takes the place of the first", run =>
        {
            Use(run);
            KernelFd first = Enable(run);
            KernelFd second = Enable(run);
            run.Answers(Set(run, None | Trigger), Errno.Success, "triggering");
            run.Equal((0ul, 1ul), (Count(run, first), Count(run, second)), "the counts");
        });
        table.Add("disable", "after disabling it can be enabled again", run =>
        {
            Use(run);
            Enable(run);
            run.Answers(Set(run, None | Trigger, count: 0), Errno.Success, "disabling");
            run.Answers(Set(run, None | Trigger), Errno.EINVAL, "triggering");
            Enable(run);
        });
        table.Add("mask-and-unmask", "it can be masked and unmasked, also twice", run =>
        {
            Use(run);
            Enable(run);
            foreach (VfioIrqSetFlags action in (VfioIrqSetFlags[])[Mask, Mask, Unmask, Unmask])
                run.Answers(Set(run, None | action), Errno.Success, $"{action}");
        });
        table.Add("mask-eventfd", "an eventfd for masking is ENOTTY", run =>
        {
            Use(run);
            Enable(run);
            run.Answers(Set(run, Eventfd | Mask, fd: run.CreateEventfd().Number), Errno.ENOTTY, "masking");
        });
        table.Add("unmask-eventfd", "an eventfd for unmasking is accepted once, and taken back by -1", run =>
        {
            Use(run);
            Enable(run);
            run.Answers(Set(run, Eventfd | Unmask, fd: run.CreateEventfd().Number), Errno.Success, "setting");
            run.Answers(Set(run, Eventfd | Unmask, fd: run.CreateEventfd().Number), Errno.EBUSY, "setting again");
            run.Answers(Set(run, Eventfd | Unmask, fd: -1), Errno.Success, "taking back");
        });
        table.Add("excludes-msix", "while it is enabled MSI-X is EINVAL", run =>
        {
            Use(run);
            if (run.Device.Profile.MsixVectors == 0)
                throw CaseRun.NotApplicable("The device has no MSI-X.");
            Enable(run);
            run.Answers(
                Set(run, Eventfd | Trigger, fd: run.CreateEventfd().Number, index: (uint)VfioPciIrqIndex.Msix),
                Errno.EINVAL, "enabling MSI-X");
        });
        table.Add("excluded-by-msix", "while MSI-X is enabled it is EINVAL", run =>
        {
            Use(run);
            if (run.Device.Profile.MsixVectors == 0)
                throw CaseRun.NotApplicable("The device has no MSI-X.");
            run.Answers(
                Set(run, Eventfd | Trigger, fd: run.CreateEventfd().Number, index: (uint)VfioPciIrqIndex.Msix),
                Errno.Success, "enabling MSI-X");
            run.Answers(Set(run, Eventfd | Trigger, fd: run.CreateEventfd().Number), Errno.EINVAL, "enabling");
        });
    }

    private static void AddSignals(CaseTable table)
    {
        table.Add("device-signals", "a device that holds its pin signals", run =>
        {
            NvmeWriter writer = Writing(run, out KernelFd eventfd);
            writer.Write(CaseRun.Iova);
            run.Holds(Signalled(run, eventfd), "a signal");
        });
        table.Add("masks-itself", "after a signal there is none, whatever happens, until it is unmasked", run =>
        {
            NvmeWriter writer = Writing(run, out KernelFd eventfd);
            writer.Write(CaseRun.Iova);
            run.Holds(Signalled(run, eventfd), "a signal");
            writer.Write(CaseRun.Iova);
            writer.Write(CaseRun.Iova);
            run.Equal(0ul, Count(run, eventfd), "further signals");
        });
        table.Add("unmask-while-held", "unmasking signals again while the device still holds its pin", run =>
        {
            NvmeWriter writer = Writing(run, out KernelFd eventfd);
            writer.Write(CaseRun.Iova);
            run.Holds(Signalled(run, eventfd), "a signal");
            run.Answers(Set(run, None | Unmask), Errno.Success, "unmasking");
            run.Holds(Signalled(run, eventfd), "a signal after unmasking");
        });
        table.Add("unmask-when-released", "unmasking does not signal when the device let go of its pin", run =>
        {
            NvmeWriter writer = Writing(run, out KernelFd eventfd);
            writer.Write(CaseRun.Iova);
            run.Holds(Signalled(run, eventfd), "a signal");
            writer.Acknowledge();
            run.Answers(Set(run, None | Unmask), Errno.Success, "unmasking");
            run.Equal(0ul, Count(run, eventfd), "signals");
            writer.Write(CaseRun.Iova);
            run.Holds(Signalled(run, eventfd), "a signal of the next write");
        });
        table.Add("masked-does-not-signal", "a masked pin does not signal, and unmasking makes up for it", run =>
        {
            NvmeWriter writer = Writing(run, out KernelFd eventfd);
            run.Answers(Set(run, None | Mask), Errno.Success, "masking");
            writer.Write(CaseRun.Iova);
            run.Equal(0ul, Count(run, eventfd), "signals");
            run.Answers(Set(run, None | Unmask), Errno.Success, "unmasking");
            run.Holds(Signalled(run, eventfd), "a signal after unmasking");
        });
        table.Add("unmask-eventfd-unmasks", "a signal of the unmask eventfd unmasks", run =>
        {
            NvmeWriter writer = Writing(run, out KernelFd eventfd);
            KernelFd unmask = run.CreateEventfd();
            run.Answers(Set(run, Eventfd | Unmask, fd: unmask.Number), Errno.Success, "setting");
            writer.Write(CaseRun.Iova);
            run.Holds(Signalled(run, eventfd), "a signal");
            run.Equal(8L, run.Kernel.Write(unmask.Number, [1, 0, 0, 0, 0, 0, 0, 0]).Value, "the bytes written");
            run.Holds(Signalled(run, eventfd), "a signal after unmasking");
        });
    }

    private static void Use(CaseRun run)
    {
        run.Use(DeviceNeed.Any);
        RequirePin(run);
    }

    private static void RequirePin(CaseRun run)
    {
        VfioIrqInfo info = VfioIrqInfo.Create(Intx);
        run.DeviceAnswers(ref info, Errno.Success);
        if (info.Count == 0)
            throw CaseRun.NotApplicable("The device has no interrupt pin.");
    }

    /// <summary>A controller with its pin in use, which signals when a write has completed.</summary>
    private static NvmeWriter Writing(CaseRun run, out KernelFd eventfd)
    {
        BoundDevice device = run.Use(DeviceNeed.Writer);
        RequirePin(run);
        device.Attach(run.Ioas);
        run.Map(CaseRun.Iova, CaseRun.Page);
        eventfd = Enable(run);
        NvmeWriter writer = NvmeWriter.Start(run, device, run.Ioas);
        // What is taken off the queue before the processor looks would be no interrupt at all.
        writer.Acknowledges = false;
        run.Own(new Release(writer));
        return writer;
    }

    private static KernelFd Enable(CaseRun run)
    {
        KernelFd eventfd = run.CreateEventfd();
        run.Answers(Set(run, Eventfd | Trigger, fd: eventfd.Number), Errno.Success, "setting an eventfd");
        return eventfd;
    }

    private static bool Signalled(CaseRun run, KernelFd eventfd)
    {
        long began = Stopwatch.GetTimestamp();
        while (Count(run, eventfd) == 0)
        {
            if (Stopwatch.GetElapsedTime(began).TotalSeconds > Patience)
                return false;
            Thread.Yield();
        }

        return true;
    }

    private static ulong Count(CaseRun run, KernelFd eventfd)
    {
        Span<byte> value = stackalloc byte[8];
        SyscallResult read = run.Kernel.Read(eventfd.Number, value);
        return read.Succeeded ? BinaryPrimitives.ReadUInt64LittleEndian(value) : 0;
    }

    private static Errno Set(CaseRun run, VfioIrqSetFlags flags, uint count = 1, int fd = -1, uint index = Intx)
    {
        byte[] argument = new byte[24];
        uint[] words = [24, (uint)flags, index, 0, count];
        for (int word = 0; word < words.Length; word++)
            BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(word * 4), words[word]);
        BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(20), fd);
        return run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DeviceSetIrqs.Value, argument).Errno;
    }

    /// <summary>
    /// The pin is let go before the device is closed: a level that outlives its handler leaves some interrupt
    /// controllers (QEMU's behind interrupt remapping) deaf for the next one.
    /// </summary>
    private sealed class Release(NvmeWriter writer) : IDisposable
    {
        public void Dispose()
        {
            try
            {
                writer.Acknowledge();
            }
            catch (CaseEnded)
            {
                // The device does not answer; what else the case owns is given back all the same.
            }
        }
    }
}
