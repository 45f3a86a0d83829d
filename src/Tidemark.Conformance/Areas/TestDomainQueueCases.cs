using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;
using static Tidemark.Conformance.Areas.TestDomainViommuCases;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Queues of virtual IOMMUs: of events for the guest, and of the guest's in its memory.</summary>
internal static class TestDomainQueueCases
{
    private const int HeaderBytes = 8;
    private const int EventBytes = 12;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddEventQueues(new CaseTable(cases, Area, "testdomain.veventq", "iommufd.h, iommu_veventq_alloc"));
        AddEvents(new CaseTable(cases, Area, "testdomain.vevent", "iommufd.h, iommufd_vevent_header"));
        AddQueues(new CaseTable(cases, Area, "testdomain.hw-queue", "iommufd.h, iommu_hw_queue_alloc"));
    }

    private static void AddEventQueues(CaseTable table)
    {
        table.Errors<IommuVeventqAlloc>(
            run =>
            {
                (_, _, uint viommu) = Make(run);
                return IommuVeventqAlloc.Create(viommu, TestRig.Events, 8);
            },
            TryEventQueue,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref call) => call.Flags = 1),
            new("reserved", "reserved", Errno.EOPNOTSUPP, (_, ref call) => call.Reserved = 1),
            new("type-0", "type", Errno.EOPNOTSUPP, (_, ref call) => call.Type = IommuVeventqType.Default),
            new("depth-0", "depth", Errno.EINVAL, (_, ref call) => call.VeventqDepth = 0),
            new("too-deep", "depth", Errno.EINVAL, (_, ref call) => call.VeventqDepth = (1 << 19) + 1),
            new("unknown-viommu", "viommu", Errno.ENOENT, (_, ref call) => call.ViommuId = 999),
            new("type-is-taken", "type viommu", Errno.EEXIST, (run, ref call) =>
            {
                IommuVeventqAlloc other = call;
                run.Answers(TryEventQueue(run, ref other), Errno.Success, "making another");
            }));
        table.Add("deepest", "the largest depth is accepted", run =>
        {
            (_, _, uint viommu) = Make(run);
            MakeEvents(run, viommu, depth: 1 << 19);
        });
        table.Add("other-type", "queues of a type that nothing reports can be had", run =>
        {
            (_, _, uint viommu) = Make(run);
            MakeEvents(run, viommu);
            IommuVeventqAlloc other = IommuVeventqAlloc.Create(viommu, (IommuVeventqType)0xBEEF, 1);
            run.Answers(TryEventQueue(run, ref other), Errno.Success, "making another");
        });
        table.Add("busy", "a queue is busy while its descriptor is open, and so is its virtual IOMMU", run =>
        {
            (_, _, uint viommu) = Make(run);
            (uint queue, KernelFd file) = MakeEvents(run, viommu);
            run.Answers(run.Destroy(viommu), Errno.EBUSY, "destroying the virtual IOMMU");
            run.Answers(run.Destroy(queue), Errno.EBUSY, "destroying the queue");
            file.Dispose();
            run.Answers(run.Destroy(queue), Errno.Success, "destroying the queue");
            run.Answers(run.Destroy(viommu), Errno.Success, "destroying the virtual IOMMU");
        });
        (int Length, Errno Errno)[] reads =
            [(0, Errno.EINVAL), (7, Errno.EINVAL), (8, Errno.Success), (64, Errno.Success)];
        foreach ((int length, Errno errno) in reads)
        {
            table.Add($"empty-read-{length}-bytes", "an empty queue has nothing to read, and a header must fit", run =>
            {
                (_, _, uint viommu) = Make(run);
                SyscallResult read = run.Kernel.Read(MakeEvents(run, viommu).File.Number, new byte[length]);
                run.Answers(read.Errno, errno, "reading");
                if (errno == Errno.Success)
                    run.Equal(0L, read.Value, "what was read");
            });
        }

        table.Add("write", "nothing can be written: EINVAL", run =>
        {
            (_, _, uint viommu) = Make(run);
            run.Answers(
                run.Kernel.Write(MakeEvents(run, viommu).File.Number, new byte[8]).Errno, Errno.EINVAL, "writing");
        });
        table.Add("poll-empty", "an empty queue is ready for nothing", run =>
        {
            (_, _, uint viommu) = Make(run);
            run.Equal(PollEvents.None, Poll(run, MakeEvents(run, viommu).File), "what poll finds");
        });
    }

    private static void AddEvents(CaseTable table)
    {
        table.Add("unknown-device", "an event of an unknown device is ENOENT", run =>
            run.Answers(run.TestDomain.TriggerEvent(999), Errno.ENOENT, "TRIGGER_VEVENT"));
        table.Add("not-attached", "a device that is not on a table of a virtual IOMMU has no events: ENOENT", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            MakeVdevice(run, device, viommu);
            MakeEvents(run, viommu);
            run.Answers(run.TestDomain.TriggerEvent(device.DeviceId), Errno.ENOENT, "TRIGGER_VEVENT");
        });
        table.Add("nobody-listens", "without a queue of its type an event is EOPNOTSUPP", run =>
            run.Answers(
                run.TestDomain.TriggerEvent(Attach(run).Device.DeviceId), Errno.EOPNOTSUPP, "TRIGGER_VEVENT"));
        table.Add("number-0", "a device whose number is 0 has no events: ENOENT", run =>
        {
            (TestDevice device, _, uint viommu, _) = Attach(run, number: 0);
            MakeEvents(run, viommu);
            run.Answers(run.TestDomain.TriggerEvent(device.DeviceId), Errno.ENOENT, "TRIGGER_VEVENT");
        });
        table.Add("delivered", "an event has a header and the guest's number of the device", run =>
        {
            (TestDevice device, KernelFd file) = Listen(run, depth: 2);
            Trigger(run, device, 2);
            run.Equal(PollEvents.In, Poll(run, file), "what poll finds");
            byte[] events = Read(run, file, 64, 2 * EventBytes);
            for (uint index = 0; index < 2; index++)
            {
                run.Equal(0u, Word(events, (int)index * EventBytes), "the flags");
                run.Equal(index, Word(events, ((int)index * EventBytes) + 4), "the sequence number");
                run.Equal((uint)Number, Word(events, ((int)index * EventBytes) + HeaderBytes), "the device's number");
            }

            run.Equal(PollEvents.None, Poll(run, file), "what poll finds afterwards");
        });
        foreach (int length in (int[])[0, 7, 8, 11])
        {
            table.Add($"read-{length}-bytes", "reading less than an event is EINVAL, and the event stays", run =>
            {
                (TestDevice device, KernelFd file) = Listen(run, depth: 2);
                Trigger(run, device, 1);
                run.Answers(run.Kernel.Read(file.Number, new byte[length]).Errno, Errno.EINVAL, "reading");
                Read(run, file, EventBytes, EventBytes);
            });
        }

        table.Add("partly", "a read takes the events that fit, and those after it stay", run =>
        {
            (TestDevice device, KernelFd file) = Listen(run, depth: 4);
            Trigger(run, device, 3);
            run.Equal(1u, Word(Read(run, file, (2 * EventBytes) + 11, 2 * EventBytes), EventBytes + 4), "the second");
            run.Equal(2u, Word(Read(run, file, EventBytes, EventBytes), 4), "the third");
        });
        table.Add("lost", "what a full queue loses is told by a header at its end", run =>
        {
            (TestDevice device, KernelFd file) = Listen(run, depth: 2);
            Trigger(run, device, 4);
            byte[] events = Read(run, file, 64, (2 * EventBytes) + HeaderBytes);
            run.Equal((uint)IommuVeventqFlags.LostEvents, Word(events, 2 * EventBytes), "the flags of the last");
            run.Equal(3u, Word(events, (2 * EventBytes) + 4), "the sequence number of the last");
            Trigger(run, device, 1);
            run.Equal(4u, Word(Read(run, file, 64, EventBytes), 4), "the next sequence number");
        });
        table.Add("lost-and-found", "an event after lost ones replaces the header; the gap in the numbers stays", run =>
        {
            (TestDevice device, KernelFd file) = Listen(run, depth: 1);
            Trigger(run, device, 2);
            Read(run, file, EventBytes, EventBytes);
            Trigger(run, device, 1);
            byte[] next = Read(run, file, 64, EventBytes);
            run.Equal(0u, Word(next, 0), "the flags");
            run.Equal(2u, Word(next, 4), "the sequence number");
        });
        table.Add("lost-alone", "the header alone needs eight bytes", run =>
        {
            (TestDevice device, KernelFd file) = Listen(run, depth: 1);
            Trigger(run, device, 2);
            Read(run, file, EventBytes, EventBytes);
            run.Answers(run.Kernel.Read(file.Number, new byte[7]).Errno, Errno.EINVAL, "reading");
            run.Equal(
                (uint)IommuVeventqFlags.LostEvents, Word(Read(run, file, HeaderBytes, HeaderBytes), 0), "the flags");
        });
        table.Add("number-gone", "an attached device keeps the number that it was attached with", run =>
        {
            (TestDevice device, _, uint viommu, uint vdevice) = Attach(run);
            KernelFd file = MakeEvents(run, viommu).File;
            run.Answers(run.Destroy(vdevice), Errno.Success, "destroying the number");
            Trigger(run, device, 1);
            run.Equal((uint)Number, Word(Read(run, file, EventBytes, EventBytes), HeaderBytes), "the device's number");
        });
        table.Add("left", "a device that left has no events", run =>
        {
            (TestDevice device, _, uint viommu, _) = Attach(run);
            MakeEvents(run, viommu);
            run.TestDomain.Replace(device, run.Ioas);
            run.Answers(run.TestDomain.TriggerEvent(device.DeviceId), Errno.ENOENT, "TRIGGER_VEVENT");
        });
    }

    private static void AddQueues(CaseTable table)
    {
        table.Errors<IommuHwQueueAlloc>(
            run =>
            {
                (_, _, uint viommu) = Make(run);
                run.Map(Iova, 2 * Page);
                return IommuHwQueueAlloc.Create(viommu, TestRig.Queue, 0, Iova, Page);
            },
            Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref call) => call.Flags = 1),
            new("type-0", "type", Errno.EOPNOTSUPP, (_, ref call) => call.Type = IommuHwQueueType.Default),
            new("length-0", "length", Errno.EINVAL, (_, ref call) => call.Length = 0),
            new("end-wraps", "iova", Errno.EOVERFLOW, (_, ref call) => call.NestingParentIova = ulong.MaxValue),
            new("unknown-viommu", "viommu", Errno.ENOENT, (_, ref call) => call.ViommuId = 999),
            new("unknown-type", "type", Errno.EOPNOTSUPP, (_, ref call) => call.Type = (IommuHwQueueType)0xDEAD),
            new("unmapped", "iova", Errno.ENOENT, (_, ref call) => call.NestingParentIova = 2 * Iova),
            new("half-mapped", "iova length", Errno.ENOENT, (_, ref call) =>
                (call.NestingParentIova, call.Length) = (Iova + Page, 2 * Page)),
            new("index-beyond", "index", Errno.EINVAL, (_, ref call) => call.Index = 2),
            new("index-out-of-order", "index", Errno.EIO, (_, ref call) => call.Index = 1));
        table.Add("taken", "an index can be used once", run =>
        {
            (_, _, uint viommu) = MakeQueues(run);
            run.Answers(TryQueue(run, viommu, 0, out _), Errno.Success, "making the first");
            run.Answers(TryQueue(run, viommu, 0, out _), Errno.EEXIST, "making it again");
        });
        table.Add("memory-stays", "the memory of a queue can not be unmapped, its neighbour can", run =>
        {
            (_, _, uint viommu) = Make(run);
            run.Map(Iova, Page);
            run.Map(Iova + Page, Page, Page);
            run.Answers(TryQueue(run, viommu, 0, out uint queue), Errno.Success, "making a queue");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.EBUSY, "unmapping its memory");
            run.Answers(run.Unmap(Iova + Page, Page, out _), Errno.Success, "unmapping the neighbour");
            run.Answers(run.Destroy(queue), Errno.Success, "destroying the queue");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping its memory");
        });
        table.Add("order", "queues go in the other order", run =>
        {
            (_, _, uint viommu) = MakeQueues(run);
            run.Answers(TryQueue(run, viommu, 0, out uint first), Errno.Success, "making the first");
            run.Answers(TryQueue(run, viommu, 1, out uint second), Errno.Success, "making the second");
            run.Equal(first + 2, second, "the second one's id, behind that of the first one's access");
            run.Answers(run.Destroy(first), Errno.EBUSY, "destroying the first");
            run.Answers(run.Destroy(viommu), Errno.EBUSY, "destroying the virtual IOMMU");
            run.Answers(run.Destroy(second), Errno.Success, "destroying the second");
            run.Answers(run.Destroy(first), Errno.Success, "destroying the first");
            run.Answers(run.Destroy(viommu), Errno.Success, "destroying the virtual IOMMU");
        });
        table.Add("in-a-page", "a queue may begin and end inside a page", run =>
        {
            (_, _, uint viommu) = MakeQueues(run);
            IommuHwQueueAlloc call = IommuHwQueueAlloc.Create(viommu, TestRig.Queue, 0, Iova + 64, 128);
            run.Answers(ref call, Errno.Success);
        });
        table.Add("across-pages", "a queue takes each page that it touches", run =>
        {
            (_, _, uint viommu) = MakeQueues(run);
            IommuHwQueueAlloc call = IommuHwQueueAlloc.Create(viommu, TestRig.Queue, 0, Iova + 64, Page);
            run.Answers(ref call, Errno.ENOENT);
        });
        table.Add("part-of-a-page", "a page that is mapped in part is not enough", run =>
        {
            (_, _, uint viommu) = Make(run);
            run.Map(Iova, TestRig.SmallPage);
            IommuHwQueueAlloc call = IommuHwQueueAlloc.Create(viommu, TestRig.Queue, 0, Iova, 64);
            run.Answers(ref call, Errno.EADDRINUSE);
        });
        table.Add("write-only-memory", "memory that devices may only write is EPERM", run =>
        {
            (_, _, uint viommu) = Make(run);
            run.Answers(
                run.TryMap(Iova, run.MemoryAddress, Page, IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Writeable),
                Errno.Success, "mapping");
            run.Answers(TryQueue(run, viommu, 0, out _), Errno.EPERM, "making a queue");
        });
    }

    private static Errno TryEventQueue(CaseRun run, ref IommuVeventqAlloc call)
    {
        Errno errno = Calls.Iommufd(run, ref call);
        if (errno == Errno.Success)
            run.Own(new KernelFd(run.Kernel, (int)call.OutVeventqFd));
        return errno;
    }

    private static (uint Id, KernelFd File) MakeEvents(CaseRun run, uint viommu, uint depth = 2)
    {
        IommuVeventqAlloc call = IommuVeventqAlloc.Create(viommu, TestRig.Events, depth);
        run.Answers(ref call, Errno.Success);
        return (call.OutVeventqId, run.Own(new KernelFd(run.Kernel, (int)call.OutVeventqFd)));
    }

    private static (TestDevice Device, KernelFd File) Listen(CaseRun run, uint depth)
    {
        (TestDevice device, _, uint viommu, _) = Attach(run);
        return (device, MakeEvents(run, viommu, depth).File);
    }

    private static void Trigger(CaseRun run, TestDevice device, int times)
    {
        for (int time = 0; time < times; time++)
            run.Answers(run.TestDomain.TriggerEvent(device.DeviceId), Errno.Success, "TRIGGER_VEVENT");
    }

    private static byte[] Read(CaseRun run, KernelFd file, int room, int expected)
    {
        byte[] buffer = new byte[room];
        run.Equal((long)expected, run.Kernel.Read(file.Number, buffer).Value, "what was read");
        return buffer;
    }

    private static PollEvents Poll(CaseRun run, KernelFd file)
    {
        Span<PollDescriptor> descriptors =
            [new PollDescriptor { Fd = file.Number, Events = PollEvents.In | PollEvents.Out }];
        run.Kernel.Poll(descriptors, 0);
        return descriptors[0].Returned;
    }

    private static uint Word(byte[] bytes, int offset) =>
        BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(offset));

    private static (TestDevice Device, uint Parent, uint Viommu) MakeQueues(CaseRun run)
    {
        (TestDevice Device, uint Parent, uint Viommu) made = Make(run);
        run.Map(Iova, Page);
        return made;
    }

    internal static Errno TryQueue(CaseRun run, uint viommu, uint index, out uint queue)
    {
        IommuHwQueueAlloc call = IommuHwQueueAlloc.Create(viommu, TestRig.Queue, index, Iova, Page);
        Errno errno = Calls.Iommufd(run, ref call);
        queue = call.OutHwQueueId;
        return errno;
    }
}
