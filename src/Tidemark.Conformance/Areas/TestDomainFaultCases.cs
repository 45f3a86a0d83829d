using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>Queues of page requests: what devices ask, and how it is answered.</summary>
internal static class TestDomainFaultCases
{
    private const string Area = "test-domain-fault";
    private const int RequestBytes = 40;
    private const int AnswerBytes = 8;
    private const ulong Address = 0xDEAD_BEA0;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddQueues(new CaseTable(cases, Area, "iommufd.fault", "iommufd.h, iommu_fault_alloc"));
        AddRequests(new CaseTable(cases, Area, "testdomain.fault", "iommufd.h, iommu_hwpt_pgfault"));
        AddAnswers(new CaseTable(cases, Area, "testdomain.fault.answer", "iommufd.h, iommu_hwpt_page_response"));
    }

    private static void AddQueues(CaseTable table)
    {
        table.Errors<IommuFaultAlloc>(
            run =>
            {
                _ = run.Iommufd;
                return IommuFaultAlloc.Create();
            },
            (run, ref call) =>
            {
                Errno errno = Calls.Iommufd(run, ref call);
                if (errno == Errno.Success)
                    run.Own(new KernelFd(run.Kernel, (int)call.OutFaultFd));
                return errno;
            },
            new("size-below-minimum", "size", Errno.EINVAL,
                (_, ref call) => call.Size = IommuFaultAlloc.MinimumSize - 1),
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref call) => call.Flags = 1),
            new("unknown-high-flag", "flags", Errno.EOPNOTSUPP, (_, ref call) => call.Flags = 1u << 31));
        table.Add("busy-while-open", "a queue is busy while its descriptor is open", run =>
        {
            (uint id, KernelFd file) = Make(run);
            run.Answers(run.Destroy(id), Errno.EBUSY, "destroying it");
            file.Dispose();
            run.Answers(run.Destroy(id), Errno.Success, "destroying it");
        });
        table.Add("read-empty", "reading an empty queue reads nothing", run =>
            run.Equal(0L, run.Kernel.Read(Make(run).File.Number, new byte[RequestBytes]).Value, "what was read"));
        foreach (int length in (int[])[1, 8, 39, 41])
        {
            table.Add($"read-{length}-bytes", "reading other than whole requests is ESPIPE", run =>
                run.Answers(
                    run.Kernel.Read(Make(run).File.Number, new byte[length]).Errno, Errno.ESPIPE, "reading"));
        }

        foreach (int length in (int[])[1, 7, 12])
        {
            table.Add($"write-{length}-bytes", "writing other than whole answers is ESPIPE", run =>
                run.Answers(
                    run.Kernel.Write(Make(run).File.Number, new byte[length]).Errno, Errno.ESPIPE, "writing"));
        }

        table.Add("write-unknown-cookie", "answering what nobody asked is EINVAL", run =>
            run.Answers(
                run.Kernel.Write(Make(run).File.Number, [1, 0, 0, 0, 0, 0, 0, 0]).Errno, Errno.EINVAL, "writing"));
        table.Add("write-unknown-code", "an unknown answer is EINVAL", run =>
            run.Answers(
                run.Kernel.Write(Make(run).File.Number, [0, 0, 0, 0, 2, 0, 0, 0]).Errno, Errno.EINVAL, "writing"));
        table.Add("pread", "a queue has no positions: ESPIPE", run =>
            run.Answers(
                run.Kernel.Pread(Make(run).File.Number, new byte[RequestBytes], 0).Errno, Errno.ESPIPE, "reading"));
        table.Add("poll-empty", "an empty queue can be written, not read", run =>
            run.Equal(PollEvents.Out, Poll(run, Make(run).File), "what poll finds"));
    }

    private static void AddRequests(CaseTable table)
    {
        table.Add("unknown-device", "an unknown device is ENOENT", run =>
            run.Answers(run.TestDomain.TriggerFault(999, 0, 0, 0, 0), Errno.ENOENT, "TRIGGER_IOPF"));
        table.Add("delivered", "a page request is read as the device made it", run =>
        {
            Faulting faulting = Attach(run);
            run.Equal(PollEvents.Out, Poll(run, faulting.File), "what poll finds before");
            Trigger(run, faulting.Device);
            run.Equal(PollEvents.In | PollEvents.Out, Poll(run, faulting.File), "what poll finds");
            byte[] request = Read(run, faulting.File, 1);
            run.Equal((uint)IommuHwptPgfaultFlags.LastPage, Word(request, 0), "the flags");
            run.Equal(faulting.Device.DeviceId, Word(request, 4), "the device");
            run.Equal(0u, Word(request, 8), "the PASID");
            run.Equal(2u, Word(request, 12), "the group");
            run.Equal(3u, Word(request, 16), "the permissions");
            run.Equal(Address, BinaryPrimitives.ReadUInt64LittleEndian(request.AsSpan(24)), "the address");
            run.Equal(0u, Word(request, 32), "the length");
            run.Equal(PollEvents.Out, Poll(run, faulting.File), "what poll finds afterwards");
        });
        table.Add("length-0-with-request", "reading nothing while a request waits is EINVAL", run =>
        {
            Faulting faulting = Attach(run);
            Trigger(run, faulting.Device);
            run.Answers(run.Kernel.Read(faulting.File.Number, []).Errno, Errno.EINVAL, "reading 0 bytes");
        });
        table.Add("several", "a read takes as many requests as fit, oldest first", run =>
        {
            Faulting faulting = Attach(run);
            for (uint group = 1; group <= 3; group++)
            {
                run.Answers(
                    run.TestDomain.TriggerFault(faulting.Device.DeviceId, 0, group, 1, Address), Errno.Success,
                    "TRIGGER_IOPF");
            }

            byte[] two = Read(run, faulting.File, 2);
            run.Equal(1u, Word(two, 12), "the group of the first");
            run.Equal(2u, Word(two, RequestBytes + 12), "the group of the second");
            run.Holds(Word(two, 36) != Word(two, RequestBytes + 36), "two cookies");
            byte[] rest = new byte[4 * RequestBytes];
            run.Equal((long)RequestBytes, run.Kernel.Read(faulting.File.Number, rest).Value, "what was left");
            run.Equal(3u, Word(rest, 12), "the group of the third");
        });
        table.Add("without-queue", "a request that no queue takes goes nowhere", run =>
        {
            Faulting faulting = Attach(run);
            run.TestDomain.Replace(faulting.Device, run.Ioas);
            Trigger(run, faulting.Device);
            run.Equal(0L, run.Kernel.Read(faulting.File.Number, new byte[RequestBytes]).Value, "what was read");
        });
        table.Add("gone-when-detached", "requests of a device that is moved away are gone", run =>
        {
            Faulting faulting = Attach(run);
            Trigger(run, faulting.Device);
            run.TestDomain.Replace(faulting.Device, run.Ioas);
            run.Equal(0L, run.Kernel.Read(faulting.File.Number, new byte[RequestBytes]).Value, "what was read");
        });
        table.Add("unanswered-gone-when-detached", "a cookie of a device that is moved away is unknown", run =>
        {
            Faulting faulting = Attach(run);
            Trigger(run, faulting.Device);
            uint cookie = Word(Read(run, faulting.File, 1), 36);
            run.TestDomain.Replace(faulting.Device, run.Ioas);
            run.Answers(Answer(run, faulting.File, cookie, 0), Errno.EINVAL, "answering");
        });
        table.Add("any-pasid-of-nested", "a PASID without attachment reports through the device's nested table", run =>
        {
            Faulting faulting = Attach(run);
            run.Answers(
                run.TestDomain.TriggerFault(faulting.Device.DeviceId, 77, 2, 3, Address), Errno.Success,
                "TRIGGER_IOPF");
            byte[] request = Read(run, faulting.File, 1);
            run.Equal(
                (uint)(IommuHwptPgfaultFlags.LastPage | IommuHwptPgfaultFlags.PasidValid), Word(request, 0), "the flags");
            run.Equal(77u, Word(request, 8), "the PASID");
        });
        table.Add("queue-busy-by-table", "a queue is busy while a page table names it", run =>
        {
            Faulting faulting = Attach(run);
            faulting.File.Dispose();
            run.Answers(run.Destroy(faulting.Queue), Errno.EBUSY, "destroying the queue");
            run.TestDomain.Replace(faulting.Device, run.Ioas);
            run.Answers(run.Destroy(faulting.Nested), Errno.Success, "destroying the page table");
            run.Answers(run.Destroy(faulting.Queue), Errno.Success, "destroying the queue");
        });
        table.Add("paging-table", "a paging page table can name a queue too", run =>
        {
            (uint queue, KernelFd file) = Make(run);
            TestDevice device = run.TestDomain.CreateDevice();
            uint hwpt = run.TestDomain.Allocate(
                device, run.Ioas, IommuHwptAllocFlags.FaultIdValid, fault: queue);
            run.TestDomain.Replace(device, hwpt);
            Trigger(run, device);
            run.Equal(2u, Word(Read(run, file, 1), 12), "the group");
            run.TestDomain.Replace(device, run.Ioas);
        });
        table.Add("not-a-queue", "a page table can name only a queue: ENOENT", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            run.Answers(
                run.TestDomain.TryAllocate(device, run.Ioas, IommuHwptAllocFlags.FaultIdValid, out _, fault: run.Ioas),
                Errno.ENOENT, "IOMMU_HWPT_ALLOC");
        });
    }

    private static void AddAnswers(CaseTable table)
    {
        foreach (uint code in (uint[])[0, 1])
        {
            table.Add($"code-{code}", "a request is answered once", run =>
            {
                Faulting faulting = Attach(run);
                Trigger(run, faulting.Device);
                uint cookie = Word(Read(run, faulting.File, 1), 36);
                run.Answers(Answer(run, faulting.File, cookie, code), Errno.Success, "answering");
                run.Answers(Answer(run, faulting.File, cookie, code), Errno.EINVAL, "answering again");
            });
        }

        table.Add("unknown-code-keeps", "an unknown answer is EINVAL, and the request still waits", run =>
        {
            Faulting faulting = Attach(run);
            Trigger(run, faulting.Device);
            uint cookie = Word(Read(run, faulting.File, 1), 36);
            run.Answers(Answer(run, faulting.File, cookie, 2), Errno.EINVAL, "answering");
            run.Answers(Answer(run, faulting.File, cookie, 1), Errno.Success, "answering again");
        });
        table.Add("partly", "answers before a bad one are taken, and their length comes back", run =>
        {
            Faulting faulting = Attach(run);
            Trigger(run, faulting.Device);
            uint cookie = Word(Read(run, faulting.File, 1), 36);
            byte[] both = new byte[2 * AnswerBytes];
            BinaryPrimitives.WriteUInt32LittleEndian(both, cookie);
            BinaryPrimitives.WriteUInt32LittleEndian(both.AsSpan(AnswerBytes), cookie);
            run.Equal((long)AnswerBytes, run.Kernel.Write(faulting.File.Number, both).Value, "what was taken");
        });
        table.Add("unread", "a request that was not read can not be answered", run =>
        {
            Faulting faulting = Attach(run);
            Trigger(run, faulting.Device);
            run.Answers(Answer(run, faulting.File, 1, 0), Errno.EINVAL, "answering");
        });
        table.Add("cookies-are-used-again", "a cookie that was answered is free", run =>
        {
            Faulting faulting = Attach(run);
            Trigger(run, faulting.Device);
            uint first = Word(Read(run, faulting.File, 1), 36);
            run.Equal(1u, first, "the first cookie");
            run.Answers(Answer(run, faulting.File, first, 0), Errno.Success, "answering");
            Trigger(run, faulting.Device);
            uint second = Word(Read(run, faulting.File, 1), 36);
            run.Answers(Answer(run, faulting.File, second, 0), Errno.Success, "answering");
        });
    }

    private static (uint Id, KernelFd File) Make(CaseRun run)
    {
        IommuFaultAlloc call = IommuFaultAlloc.Create();
        run.Answers(ref call, Errno.Success);
        return (call.OutFaultId, run.Own(new KernelFd(run.Kernel, (int)call.OutFaultFd)));
    }

    /// <summary>A device on a nested page table that names a queue.</summary>
    private static Faulting Attach(CaseRun run)
    {
        TestRig rig = run.TestDomain;
        TestDevice device = rig.CreateDevice();
        uint parent = rig.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent);
        (uint queue, KernelFd file) = Make(run);
        uint nested = rig.Allocate(device, parent, IommuHwptAllocFlags.FaultIdValid, nested: true, queue);
        rig.Replace(device, nested);
        return new Faulting(device, queue, file, nested);
    }

    private static void Trigger(CaseRun run, TestDevice device) =>
        run.Answers(
            run.TestDomain.TriggerFault(device.DeviceId, 0, 2, 3, Address), Errno.Success, "TRIGGER_IOPF");

    private static byte[] Read(CaseRun run, KernelFd file, int requests)
    {
        // Requests are delivered by a worker of the kernel's; poll tells when.
        WaitFor(run, file);
        byte[] buffer = new byte[requests * RequestBytes];
        run.Equal((long)buffer.Length, run.Kernel.Read(file.Number, buffer).Value, "what was read");
        return buffer;
    }

    private static Errno Answer(CaseRun run, KernelFd file, uint cookie, uint code)
    {
        byte[] answer = new byte[AnswerBytes];
        BinaryPrimitives.WriteUInt32LittleEndian(answer, cookie);
        BinaryPrimitives.WriteUInt32LittleEndian(answer.AsSpan(4), code);
        return run.Kernel.Write(file.Number, answer).Errno;
    }

    private static void WaitFor(CaseRun run, KernelFd file)
    {
        const int Patience = 5000;
        Span<PollDescriptor> descriptors = [new PollDescriptor { Fd = file.Number, Events = PollEvents.In }];
        run.Equal(1L, run.Kernel.Poll(descriptors, Patience).Value, "the number of queues with requests");
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

    private sealed record Faulting(TestDevice Device, uint Queue, KernelFd File, uint Nested);
}
