using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Page tables nested in a parent, and invalidating what they cache.</summary>
internal static class TestDomainNestedCases
{
    private const string Area = "test-domain-nested";
    private const ulong EntriesOffset = 0x1000;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddAllocation(new CaseTable(cases, Area, "testdomain.nested.alloc", "iommufd.h, iommu_hwpt_alloc"));
        AddLife(new CaseTable(cases, Area, "testdomain.nested", "kernel behaviour, nested page tables"));
        AddInvalidation(new CaseTable(cases, Area, "testdomain.nested.invalidate", "iommufd.h, iommu_hwpt_invalidate"));
        AddParents(new CaseTable(cases, Area, "testdomain.paging.alloc", "iommufd.h, iommu_hwpt_alloc"));
    }

    private static void AddAllocation(CaseTable table)
    {
        table.Errors<IommuHwptAlloc>(
            run =>
            {
                TestDevice device = run.TestDomain.CreateDevice();
                uint parent = run.TestDomain.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent);
                IommuHwptAlloc allocate = IommuHwptAlloc.Create(device.DeviceId, IommuHwptAllocFlags.None, parent);
                run.TestDomain.WriteNestedData(ref allocate);
                return allocate;
            },
            Calls.Iommufd,
            new("reserved", "reserved", Errno.EOPNOTSUPP, (_, ref call) => call.Reserved = 1),
            new("none-with-data", "data", Errno.EINVAL, (_, ref call) => call.DataType = IommuHwptDataType.None),
            new("type-without-data", "data", Errno.EINVAL, (_, ref call) => call.DataLen = 0),
            new("device-is-an-ioas", "device", Errno.ENOENT, (run, ref call) => call.DevId = run.Ioas),
            new("unknown-device", "device", Errno.ENOENT, (_, ref call) => call.DevId = 999),
            new("unknown-parent", "parent", Errno.EINVAL, (_, ref call) => call.PtId = 999),
            new("parent-is-a-device", "parent device", Errno.EINVAL, (_, ref call) => call.PtId = call.DevId),
            new("nest-parent-flag", "flags", Errno.EOPNOTSUPP,
                (_, ref call) => call.Flags = IommuHwptAllocFlags.NestParent),
            new("dirty-flag", "flags", Errno.EOPNOTSUPP,
                (_, ref call) => call.Flags = IommuHwptAllocFlags.DirtyTracking),
            new("parent-is-no-parent", "parent device", Errno.EINVAL, (run, ref call) =>
                call.PtId = run.TestDomain.Allocate(new TestDevice(0, call.DevId, 0), run.Ioas)),
            new("parent-is-automatic", "parent", Errno.EINVAL, (run, ref call) =>
                call.PtId = run.TestDomain.CreateDevice().Hwpt),
            new("unknown-type", "data", Errno.EOPNOTSUPP, (_, ref call) => call.DataType = IommuHwptDataType.VtdS1),
            new("short-data", "data", Errno.EINVAL, (_, ref call) => call.DataLen = 3),
            new("long-data", "data", Errno.EINVAL, (_, ref call) => call.DataLen = 9),
            new("bad-data", "data", Errno.EFAULT, (_, ref call) => call.DataUptr = BadAddress),
            new("null-data", "data", Errno.EFAULT, (_, ref call) => call.DataUptr = 0),
            new("unknown-fault-queue", "flags", Errno.ENOENT, (_, ref call) =>
                (call.Flags, call.FaultId) = (IommuHwptAllocFlags.FaultIdValid, 999)));
        table.Add("smallest-data", "the first four bytes of the data are enough", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            uint parent = run.TestDomain.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent);
            IommuHwptAlloc allocate = IommuHwptAlloc.Create(device.DeviceId, IommuHwptAllocFlags.None, parent);
            run.TestDomain.WriteNestedData(ref allocate);
            allocate.DataLen = 4;
            run.Answers(ref allocate, Errno.Success);
        });
        table.Add("parent-is-nested", "a nested page table is no parent: EINVAL", run =>
        {
            (TestDevice device, _, uint nested) = Make(run);
            run.Answers(
                run.TestDomain.TryAllocate(device, nested, IommuHwptAllocFlags.None, out _, nested: true),
                Errno.EINVAL, "IOMMU_HWPT_ALLOC");
        });
        table.Add("other-ioas", "a parent of another IOAS than the device's is good", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            uint parent = run.TestDomain.Allocate(device, run.CreateIoas(), IommuHwptAllocFlags.NestParent);
            run.TestDomain.Allocate(device, parent, nested: true);
        });
    }

    private static void AddLife(CaseTable table)
    {
        table.Add("parent-is-busy", "a parent is busy while it has children", run =>
        {
            (_, uint parent, uint nested) = Make(run);
            run.Answers(run.Destroy(parent), Errno.EBUSY, "destroying the parent");
            run.Answers(run.Destroy(nested), Errno.Success, "destroying the child");
            run.Answers(run.Destroy(parent), Errno.Success, "destroying the parent");
        });
        table.Add("attach", "a device can be attached to a nested page table, which is busy then", run =>
        {
            (TestDevice device, _, uint nested) = Make(run);
            run.Equal(nested, run.TestDomain.Replace(device, nested), "the page table");
            run.Answers(run.Destroy(nested), Errno.EBUSY, "destroying it");
            run.TestDomain.Replace(device, run.Ioas);
            run.Answers(run.Destroy(nested), Errno.Success, "destroying it");
        });
        table.Add("between-children", "a device can move between children of one parent", run =>
        {
            (TestDevice device, uint parent, uint first) = Make(run);
            uint second = run.TestDomain.Allocate(device, parent, nested: true);
            run.TestDomain.Replace(device, first);
            run.TestDomain.Replace(device, second);
            run.Answers(run.Destroy(first), Errno.Success, "destroying the first");
            run.Answers(run.Destroy(second), Errno.EBUSY, "destroying the second");
            run.Answers(run.Destroy(parent), Errno.EBUSY, "destroying the parent");
        });
        table.Add("second-device", "a device can be made on a nested page table", run =>
        {
            (_, _, uint nested) = Make(run);
            run.Equal(nested, run.TestDomain.CreateDevice(nested).Hwpt, "the page table");
            run.Answers(run.Destroy(nested), Errno.EBUSY, "destroying it");
        });
        table.Add("mapping-in-the-parent", "mappings are shown by the parent", run =>
        {
            (TestDevice device, uint parent, uint nested) = Make(run);
            run.TestDomain.Replace(device, nested);
            run.Map(Iova, 2 * Page);
            run.TestDomain.Shows(parent, Iova, 2 * Page, run.MemoryAddress);
            run.Answers(
                run.TestDomain.CheckMap(nested, Iova, Page, run.MemoryAddress), Errno.ENOENT, "looking at the child");
        });
        table.Add("iotlb-default", "the entries hold what the data said", run =>
        {
            (_, uint parent, uint nested) = Make(run);
            CheckAll(run, nested, [TestRig.IotlbValue, TestRig.IotlbValue, TestRig.IotlbValue, TestRig.IotlbValue]);
            run.Answers(run.TestDomain.CheckIotlb(nested, 4, 0), Errno.EINVAL, "looking at a fifth entry");
            run.Answers(run.TestDomain.CheckIotlb(parent, 0, 0), Errno.ENOENT, "looking at the parent");
        });
    }

    private static void AddInvalidation(CaseTable table)
    {
        table.Refusals<IommuHwptInvalidate>(
            run =>
            {
                (_, _, uint nested) = Make(run);
                WriteEntries(run, (0, 0));
                return Invalidate(run, nested, 1);
            },
            Calls.Iommufd,
            new("reserved", "reserved", Errno.EOPNOTSUPP, (_, ref call) => call.Reserved = 1),
            new("null-data", "data", Errno.EINVAL, (_, ref call) => call.DataUptr = 0),
            new("entry-length-0", "length", Errno.EINVAL, (_, ref call) => call.EntryLen = 0),
            new("entry-length-above-a-page", "length", Errno.EINVAL, (_, ref call) => call.EntryLen = 4097),
            new("too-many-entries", "entries", Errno.EINVAL, (_, ref call) => call.EntryNum = (1 << 19) + 1),
            new("unknown-table", "table", Errno.ENOENT, (_, ref call) => call.HwptId = 999),
            new("table-is-an-ioas", "table", Errno.EINVAL, (run, ref call) => call.HwptId = run.Ioas),
            new("table-is-paging", "table", Errno.EINVAL,
                (run, ref call) => call.HwptId = run.TestDomain.CreateDevice().Hwpt),
            new("unknown-type", "type", Errno.EINVAL,
                (_, ref call) => call.DataType = (IommuHwptInvalidateDataType)0xDA_DBEEF),
            new("short-entry", "length", Errno.EINVAL, (_, ref call) => call.EntryLen = 7),
            new("long-entry", "length", Errno.EINVAL, (_, ref call) => call.EntryLen = 16),
            new("bad-data", "data", Errno.EFAULT, (_, ref call) => call.DataUptr = BadAddress),
            new("unknown-flag", "content", Errno.EOPNOTSUPP, (run, ref _) => WriteEntries(run, (2, 0))),
            new("entry-beyond", "content", Errno.EINVAL, (run, ref _) => WriteEntries(run, (0, 4))),
            new("entry-beyond-with-all", "content", Errno.EINVAL, (run, ref _) => WriteEntries(run, (1, 4))));
        table.Add("no-entries", "without entries nothing is done, but the type is looked at", run =>
        {
            (_, _, uint nested) = Make(run);
            IommuHwptInvalidate call = Invalidate(run, nested, 0);
            run.Answers(ref call, Errno.Success);
            call = Invalidate(run, nested, 0);
            (call.DataUptr, call.EntryLen) = (0, 0);
            run.Answers(ref call, Errno.Success);
            call = Invalidate(run, nested, 0);
            call.DataType = (IommuHwptInvalidateDataType)0xDA_DBEEF;
            run.Answers(ref call, Errno.EINVAL);
        });
        table.Add("failure-counts-none", "a refusal tells that nothing was done", run =>
        {
            (_, _, uint nested) = Make(run);
            WriteEntries(run, (0, 0), (0, 1));
            IommuHwptInvalidate call = Invalidate(run, nested, 2);
            call.DataType = (IommuHwptInvalidateDataType)0xDA_DBEEF;
            run.Answers(ref call, Errno.EINVAL);
            run.Equal(0u, call.EntryNum, "the number of entries done");
        });
        for (uint entry = 0; entry < 4; entry++)
        {
            uint index = entry;
            table.Add($"entry-{index}", "one entry is invalidated, the others stay", run =>
            {
                (_, _, uint nested) = Make(run);
                WriteEntries(run, (0, index));
                IommuHwptInvalidate call = Invalidate(run, nested, 1);
                run.Answers(ref call, Errno.Success);
                run.Equal(1u, call.EntryNum, "the number of entries done");
                uint[] expected = [.. Enumerable.Repeat(TestRig.IotlbValue, 4)];
                expected[index] = 0;
                CheckAll(run, nested, expected);
            });
        }

        table.Add("all", "all entries can be invalidated at once", run =>
        {
            (_, _, uint nested) = Make(run);
            WriteEntries(run, (1, 0));
            IommuHwptInvalidate call = Invalidate(run, nested, 1);
            run.Answers(ref call, Errno.Success);
            CheckAll(run, nested, [0, 0, 0, 0]);
        });
        table.Add("several", "entries are done one after the other", run =>
        {
            (_, _, uint nested) = Make(run);
            WriteEntries(run, (0, 1), (0, 3));
            IommuHwptInvalidate call = Invalidate(run, nested, 2);
            run.Answers(ref call, Errno.Success);
            run.Equal(2u, call.EntryNum, "the number of entries done");
            CheckAll(run, nested, [TestRig.IotlbValue, 0, TestRig.IotlbValue, 0]);
        });
        (string Name, uint Flags, uint Index, Errno Errno)[] seconds =
            [("entry", 0, 4, Errno.EINVAL), ("flag", 4, 1, Errno.EOPNOTSUPP)];
        foreach ((string name, uint flags, uint index, Errno errno) in seconds)
        {
            table.Add($"second-{name}-bad", "what came before a bad entry is done and counted", run =>
            {
                (_, _, uint nested) = Make(run);
                WriteEntries(run, (0, 0), (flags, index));
                IommuHwptInvalidate call = Invalidate(run, nested, 2);
                run.Answers(ref call, errno);
                run.Equal(1u, call.EntryNum, "the number of entries done");
                CheckAll(run, nested, [0, TestRig.IotlbValue, TestRig.IotlbValue, TestRig.IotlbValue]);
            });
        }
    }

    private static void AddParents(CaseTable table)
    {
        (string Name, IommuHwptAllocFlags Flags, Errno Errno)[] rows =
        [
            ("none", IommuHwptAllocFlags.None, Errno.Success),
            ("parent", IommuHwptAllocFlags.NestParent, Errno.Success),
            ("dirty", IommuHwptAllocFlags.DirtyTracking, Errno.Success),
            ("pasid", IommuHwptAllocFlags.Pasid, Errno.Success),
            ("dirty-parent", IommuHwptAllocFlags.DirtyTracking | IommuHwptAllocFlags.NestParent, Errno.Success),
            ("dirty-pasid", IommuHwptAllocFlags.DirtyTracking | IommuHwptAllocFlags.Pasid, Errno.Success),
            ("parent-with-fault-queue", IommuHwptAllocFlags.NestParent | IommuHwptAllocFlags.FaultIdValid,
                Errno.EOPNOTSUPP),
            ("unknown-flag", (IommuHwptAllocFlags)16, Errno.EOPNOTSUPP),
            ("unknown-high-flag", (IommuHwptAllocFlags)(1u << 31), Errno.EOPNOTSUPP),
        ];
        foreach ((string name, IommuHwptAllocFlags flags, Errno errno) in rows)
        {
            table.Add($"flags-{name}", $"a paging page table with these flags is answered with {errno}", run =>
            {
                TestDevice device = run.TestDomain.CreateDevice();
                run.Answers(
                    run.TestDomain.TryAllocate(device, run.Ioas, flags, out _), errno, "IOMMU_HWPT_ALLOC");
            });
        }

        table.Add("data", "the test domain takes its data for a paging page table too", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            run.TestDomain.Allocate(device, run.Ioas, nested: true);
        });
        table.Add("data-of-unknown-kind", "a kind of page table that it does not have is EOPNOTSUPP", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            IommuHwptAlloc allocate = IommuHwptAlloc.Create(device.DeviceId, IommuHwptAllocFlags.None, run.Ioas);
            run.TestDomain.WriteNestedData(ref allocate);
            run.Scratch.Words(1)[0] = 2ul << 32;
            run.Answers(ref allocate, Errno.EOPNOTSUPP);
        });
    }

    private static (TestDevice Device, uint Parent, uint Nested) Make(CaseRun run)
    {
        TestRig rig = run.TestDomain;
        TestDevice device = rig.CreateDevice();
        uint parent = rig.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent);
        return (device, parent, rig.Allocate(device, parent, nested: true));
    }

    private static void CheckAll(CaseRun run, uint nested, uint[] values)
    {
        for (uint entry = 0; entry < values.Length; entry++)
        {
            run.Answers(
                run.TestDomain.CheckIotlb(nested, entry, values[entry]), Errno.Success,
                $"looking for 0x{values[entry]:x} in entry {entry}");
        }
    }

    private static void WriteEntries(CaseRun run, params (uint Flags, uint Index)[] entries)
    {
        Span<ulong> words = run.Scratch.Words(512 + entries.Length)[512..];
        for (int index = 0; index < entries.Length; index++)
            words[index] = TestCommand.Pair(entries[index].Flags, entries[index].Index);
    }

    private static IommuHwptInvalidate Invalidate(CaseRun run, uint nested, uint entries) =>
        IommuHwptInvalidate.Create(nested, run.ScratchAddress + EntriesOffset, TestRig.Invalidation, 8, entries);
}
