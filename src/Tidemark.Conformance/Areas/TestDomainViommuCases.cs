using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Virtual IOMMUs: their page, devices behind them, tables, and what devices cache.</summary>
internal static class TestDomainViommuCases
{
    internal const string Area = "test-domain-viommu";
    private const ulong EntriesOffset = 0x1000;
    internal const ulong Number = 0x99;
    private const uint Data = 0x1234_5678;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddAllocation(new CaseTable(cases, Area, "testdomain.viommu.alloc", "iommufd.h, iommu_viommu_alloc"));
        AddPage(new CaseTable(cases, Area, "testdomain.viommu.page", "kernel behaviour, pages of virtual IOMMUs"));
        AddDevices(new CaseTable(cases, Area, "testdomain.vdevice", "iommufd.h, iommu_vdevice_alloc"));
        AddNested(new CaseTable(cases, Area, "testdomain.viommu.nested", "iommufd.h, iommu_hwpt_alloc"));
        AddInvalidation(new CaseTable(cases, Area, "testdomain.viommu.invalidate", "iommufd.h, iommu_hwpt_invalidate"));
    }

    private static void AddAllocation(CaseTable table)
    {
        table.Errors<IommuViommuAlloc>(
            run =>
            {
                (TestDevice device, uint parent) = MakeParent(run);
                IommuViommuAlloc call = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
                WriteData(run, ref call);
                return call;
            },
            Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref call) => call.Flags = 1),
            new("type-0", "type", Errno.EOPNOTSUPP, (_, ref call) => call.Type = IommuViommuType.Default),
            new("unknown-device", "device", Errno.ENOENT, (_, ref call) => call.DevId = 999),
            new("device-is-an-ioas", "device", Errno.ENOENT, (run, ref call) => call.DevId = run.Ioas),
            new("unknown-type", "type", Errno.EOPNOTSUPP, (_, ref call) => call.Type = (IommuViommuType)0xDEAD),
            new("unknown-parent", "parent", Errno.ENOENT, (_, ref call) => call.HwptId = 999),
            new("parent-is-an-ioas", "parent", Errno.ENOENT, (run, ref call) => call.HwptId = run.Ioas),
            new("parent-is-automatic", "parent", Errno.EINVAL,
                (run, ref call) => call.HwptId = run.TestDomain.CreateDevice().Hwpt),
            new("short-data", "length", Errno.EINVAL, (_, ref call) => call.DataLen = 7),
            new("long-data", "length", Errno.EINVAL, (_, ref call) => call.DataLen = 25),
            new("bad-data", "data", Errno.EFAULT, (_, ref call) => call.DataUptr = BadAddress));
        foreach (uint length in (uint[])[8, 12, 16, 20, 23])
        {
            table.Add($"data-of-{length}-bytes", "so much data is accepted, and as much comes back", run =>
            {
                (TestDevice device, uint parent) = MakeParent(run);
                IommuViommuAlloc call = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
                WriteData(run, ref call);
                run.Scratch.Words(4)[1..].Fill(ulong.MaxValue);
                call.DataLen = length;
                run.Answers(ref call, Errno.Success);
                run.Equal(Data, (uint)(run.Scratch.Words(1)[0] >> 32), "the number");
                run.Equal(
                    length > 16 ? ulong.MaxValue >> (int)(8 * (length - 16)) << (int)(8 * (length - 16))
                        | (length > 17 ? 2 * Page : 0) : ulong.MaxValue,
                    run.Scratch.Words(3)[2], "the length's bytes");
            });
        }

        table.Add("data", "the test domain's data comes back", run =>
        {
            (_, _, ulong offset, ulong length) = MakeWithPage(run);
            run.Equal(Data, (uint)(run.Scratch.Words(1)[0] >> 32), "the number");
            run.Equal(2 * Page, length, "the length of the page");
            run.Equal(0UL, offset % Page, "the offset in a page");
        });
        table.Add("data-of-two", "pages lie behind each other, and none at offset 0", run =>
        {
            (TestDevice device, uint parent, _, ulong first, _) = MakeWithPageAbove(run);
            IommuViommuAlloc call = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
            WriteData(run, ref call);
            run.Answers(ref call, Errno.Success);
            run.Equal(Page, first, "the first one's offset");
            run.Equal(3 * Page, run.Scratch.Words(3)[1], "the second one's");
        });
        table.Add("parent-is-busy", "the parent is busy as long as the virtual IOMMU is there", run =>
        {
            (_, uint parent, uint viommu) = Make(run);
            run.Answers(run.Destroy(parent), Errno.EBUSY, "destroying the parent");
            run.Answers(run.Destroy(viommu), Errno.Success, "destroying the virtual IOMMU");
            run.Answers(run.Destroy(parent), Errno.Success, "destroying the parent");
        });
        table.Add("twice", "a parent can have several", run =>
        {
            (TestDevice device, uint parent, uint first) = Make(run);
            IommuViommuAlloc call = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
            run.Answers(ref call, Errno.Success);
            run.Holds(call.OutViommuId != first, "two ids");
        });
        table.Add("closed-whole", "closing the iommufd takes all of it along", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            MakeVdevice(run, device, viommu);
            Allocate(run, device, viommu);
            run.Map(Iova, Page);
            run.Answers(TestDomainQueueCases.TryQueue(run, viommu, 0, out _), Errno.Success, "making a queue");
        });
    }

    private static void AddPage(CaseTable table)
    {
        table.Add("shows-the-data", "its page can be mapped and begins with what the data said", run =>
        {
            (_, _, ulong offset, ulong length) = MakeWithPage(run);
            Mapping page = run.Own(Mapping.CreateShared(run.Iommufd, length, offset, MemoryProtection.Read));
            run.Equal(Data, (uint)page.Words(1)[0], "the page's first number");
        });
        (string Name, ulong Offset, ulong Length, MapFlags Flags, MemoryProtection Protection, Errno Errno)[] rows =
        [
            ("other-offset", Page, 0, MapFlags.Shared, MemoryProtection.Read, Errno.ENXIO),
            ("beyond", 0x10_0000, 0, MapFlags.Shared, MemoryProtection.Read, Errno.ENXIO),
            ("half", 0, Page, MapFlags.Shared, MemoryProtection.Read, Errno.ENXIO),
            ("longer", 0, 3 * Page, MapFlags.Shared, MemoryProtection.Read, Errno.ENXIO),
            ("private", 0, 0, MapFlags.Private, MemoryProtection.Read, Errno.EINVAL),
            ("executable", 0, 0, MapFlags.Shared, MemoryProtection.Read | (MemoryProtection)4, Errno.EPERM),
        ];
        foreach (var (name, add, length, flags, protection, errno) in rows)
        {
            table.Add(name, $"any other mapping is answered with {errno}", run =>
            {
                (_, _, ulong offset, ulong whole) = MakeWithPage(run);
                run.Answers(
                    Map(run, offset + add, length == 0 ? whole : length, flags, protection).Errno, errno, "mmap");
            });
        }

        table.Add("without-data", "without data there is nothing to map", run =>
        {
            Make(run);
            run.Answers(Map(run, 0, 2 * Page).Errno, Errno.ENXIO, "mmap");
        });
        table.Add("busy-while-mapped", "the virtual IOMMU is busy as long as its page is mapped", run =>
        {
            (_, uint viommu, ulong offset, ulong length) = MakeWithPage(run);
            SyscallResult mapped = Map(run, offset, length);
            run.Answers(mapped.Errno, Errno.Success, "mmap");
            PageMapping mapping = run.Own(new PageMapping(run.Kernel, (ulong)mapped.Value, length));
            run.Answers(run.Destroy(viommu), Errno.EBUSY, "destroying it");
            mapping.Shrink(Page);
            run.Answers(run.Destroy(viommu), Errno.EBUSY, "destroying it with half a mapping");
            mapping.Dispose();
            run.Answers(run.Destroy(viommu), Errno.Success, "destroying it");
        });
        table.Add("gone", "the page goes with the virtual IOMMU", run =>
        {
            (_, uint viommu, ulong offset, ulong length) = MakeWithPage(run);
            run.Answers(run.Destroy(viommu), Errno.Success, "destroying it");
            run.Answers(Map(run, offset, length).Errno, Errno.ENXIO, "mmap");
        });
    }

    private static void AddDevices(CaseTable table)
    {
        table.Errors<IommuVdeviceAlloc>(
            run =>
            {
                (TestDevice device, _, uint viommu) = Make(run);
                return IommuVdeviceAlloc.Create(viommu, Number, device.DeviceId);
            },
            Calls.Iommufd,
            new("unknown-viommu", "viommu", Errno.ENOENT, (_, ref call) => call.ViommuId = 999),
            new("viommu-is-an-ioas", "viommu", Errno.ENOENT, (run, ref call) => call.ViommuId = run.Ioas),
            new("unknown-device", "device", Errno.ENOENT, (_, ref call) => call.DevId = 999),
            new("device-has-one", "device has viommu number", Errno.EEXIST, (run, ref call) =>
            {
                IommuVdeviceAlloc other = IommuVdeviceAlloc.Create(call.ViommuId, 7, call.DevId);
                run.Answers(ref other, Errno.Success);
            }),
            new("number-is-taken", "number viommu device", Errno.EEXIST, (run, ref call) =>
            {
                IommuVdeviceAlloc other =
                    IommuVdeviceAlloc.Create(call.ViommuId, call.VirtId, run.TestDomain.CreateDevice().DeviceId);
                run.Answers(ref other, Errno.Success);
            }));
        table.Add("same-number-elsewhere", "another virtual IOMMU has numbers of its own", run =>
        {
            (TestDevice device, uint parent, uint viommu) = Make(run);
            MakeVdevice(run, device, viommu);
            TestDevice other = run.TestDomain.CreateDevice();
            IommuViommuAlloc call = IommuViommuAlloc.Create(other.DeviceId, TestRig.Viommu, parent);
            run.Answers(ref call, Errno.Success);
            MakeVdevice(run, other, call.OutViommuId);
        });
        table.Add("largest-number", "a number has 64 bits", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            MakeVdevice(run, device, viommu, ulong.MaxValue - 1);
        });
        table.Add("viommu-is-busy", "a virtual IOMMU is busy as long as there are devices", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            uint vdevice = MakeVdevice(run, device, viommu);
            run.Answers(run.Destroy(viommu), Errno.EBUSY, "destroying the virtual IOMMU");
            run.Answers(run.Destroy(vdevice), Errno.Success, "destroying the device's number");
            MakeVdevice(run, device, viommu);
        });
        table.Add("goes-with-the-device", "a device takes its number along, and the id is not found again", run =>
        {
            (_, _, uint viommu) = Make(run);
            TestDevice device = run.TestDomain.CreateDevice();
            uint vdevice = MakeVdevice(run, device, viommu);
            run.TestDomain.DestroyDevice(device);
            run.Answers(run.Destroy(vdevice), Errno.ENOENT, "destroying the number");
            run.Holds(run.CreateIoas() != vdevice && run.CreateIoas() != vdevice && run.CreateIoas() != vdevice,
                "nothing to get the id again");
            run.Answers(run.Destroy(viommu), Errno.Success, "destroying the virtual IOMMU");
        });
    }

    private static void AddNested(CaseTable table)
    {
        table.Errors<IommuHwptAlloc>(
            run =>
            {
                (TestDevice device, _, uint viommu) = Make(run);
                IommuHwptAlloc allocate = IommuHwptAlloc.Create(device.DeviceId, IommuHwptAllocFlags.None, viommu);
                run.TestDomain.WriteNestedData(ref allocate);
                return allocate;
            },
            Calls.Iommufd,
            new("none-with-data", "data", Errno.EINVAL, (_, ref call) => call.DataType = IommuHwptDataType.None),
            new("unknown-device", "device", Errno.ENOENT, (_, ref call) => call.DevId = 999),
            new("dirty-flag", "flags", Errno.EOPNOTSUPP, (_, ref call) => call.Flags = IommuHwptAllocFlags.DirtyTracking),
            new("parent-flag", "flags", Errno.EOPNOTSUPP, (_, ref call) => call.Flags = IommuHwptAllocFlags.NestParent),
            new("no-data", "data", Errno.EOPNOTSUPP,
                (_, ref call) => (call.DataType, call.DataLen) = (IommuHwptDataType.None, 0)),
            new("unknown-type", "data", Errno.EOPNOTSUPP, (_, ref call) => call.DataType = (IommuHwptDataType)0xBEEF),
            new("short-data", "data", Errno.EINVAL, (_, ref call) => call.DataLen = 3),
            new("bad-data", "data", Errno.EFAULT, (_, ref call) => call.DataUptr = BadAddress),
            new("unknown-queue", "queue flags", Errno.ENOENT, (_, ref call) =>
                (call.Flags, call.FaultId) = (IommuHwptAllocFlags.FaultIdValid, 999)));
        table.Add("attach-without-number", "a device without a number there can not be attached: ENOENT", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            uint nested = Allocate(run, device, viommu);
            run.Answers(run.TestDomain.TryReplace(device, nested, out _), Errno.ENOENT, "moving the device");
            MakeVdevice(run, device, viommu);
            run.Equal(nested, run.TestDomain.Replace(device, nested), "the page table");
            run.Answers(run.Destroy(nested), Errno.EBUSY, "destroying the page table");
        });
        table.Add("number-elsewhere", "a number behind another virtual IOMMU is none: ENOENT", run =>
        {
            (TestDevice device, uint parent, uint viommu) = Make(run);
            IommuViommuAlloc other = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
            run.Answers(ref other, Errno.Success);
            MakeVdevice(run, device, other.OutViommuId);
            uint nested = Allocate(run, device, viommu);
            run.Answers(run.TestDomain.TryReplace(device, nested, out _), Errno.ENOENT, "moving the device");
        });
        table.Add("viommu-is-busy", "a virtual IOMMU is busy as long as there are tables", run =>
        {
            (TestDevice device, uint parent, uint viommu) = Make(run);
            uint nested = Allocate(run, device, viommu);
            run.Answers(run.Destroy(viommu), Errno.EBUSY, "destroying the virtual IOMMU");
            run.Answers(run.Destroy(nested), Errno.Success, "destroying the page table");
            run.Answers(run.Destroy(viommu), Errno.Success, "destroying the virtual IOMMU");
            run.Answers(run.Destroy(parent), Errno.Success, "destroying the parent");
        });
        table.Add("number-goes-while-attached", "an attached device can lose its number, and stays attached", run =>
        {
            (TestDevice device, uint nested, _, uint vdevice) = Attach(run);
            run.Answers(run.Destroy(vdevice), Errno.Success, "destroying the number");
            run.Answers(run.Destroy(nested), Errno.EBUSY, "destroying the page table");
            run.TestDomain.Replace(device, run.Ioas);
            run.Answers(run.Destroy(nested), Errno.Success, "destroying the page table");
        });
        table.Add("pasid", "a PASID needs a table for PASIDs, and its device no number", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice(flags: TestDeviceFlags.Pasid);
            uint parent = run.TestDomain.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent);
            IommuViommuAlloc call = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
            run.Answers(ref call, Errno.Success);
            uint own = run.TestDomain.Allocate(device, run.Ioas, IommuHwptAllocFlags.Pasid);
            run.TestDomain.Replace(device, own);
            uint plain = Allocate(run, device, call.OutViommuId);
            uint nested = run.TestDomain.Allocate(device, call.OutViommuId, IommuHwptAllocFlags.Pasid, nested: true);
            run.Answers(
                run.TestDomain.Pasid(TestOperation.AttachPasid, device, 100, plain), Errno.EINVAL,
                "attaching a PASID to a table that is not for PASIDs");
            run.Answers(
                run.TestDomain.Pasid(TestOperation.AttachPasid, device, 100, nested), Errno.Success,
                "attaching a PASID");
            run.Answers(run.Destroy(nested), Errno.EBUSY, "destroying the page table");
        });
        table.Add("iotlb", "its tables have entries of their own", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            uint nested = Allocate(run, device, viommu);
            run.Answers(run.TestDomain.CheckIotlb(nested, 3, TestRig.IotlbValue), Errno.Success, "looking at an entry");
        });
        table.Add("on-a-table", "a virtual IOMMU is no place for a device", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            run.Answers(run.TestDomain.TryReplace(device, viommu, out _), Errno.EINVAL, "moving the device");
        });
    }

    private static void AddInvalidation(CaseTable table)
    {
        table.Refusals<IommuHwptInvalidate>(
            run =>
            {
                (TestDevice device, _, uint viommu) = Make(run);
                MakeVdevice(run, device, viommu);
                WriteEntries(run, (0, (uint)Number, 0));
                return Invalidate(run, viommu, 1);
            },
            Calls.Iommufd,
            new("reserved", "reserved", Errno.EOPNOTSUPP, (_, ref call) => call.Reserved = 1),
            new("null-data", "data", Errno.EINVAL, (_, ref call) => call.DataUptr = 0),
            new("entry-length-0", "length", Errno.EINVAL, (_, ref call) => call.EntryLen = 0),
            new("unknown-id", "table", Errno.ENOENT, (_, ref call) => call.HwptId = 999),
            new("unknown-type", "type", Errno.EINVAL,
                (_, ref call) => call.DataType = (IommuHwptInvalidateDataType)0xDA_DBEEF),
            new("bad-data", "data", Errno.EFAULT, (_, ref call) => call.DataUptr = BadAddress),
            new("short-entry", "length content", Errno.EINVAL, (_, ref call) => call.EntryLen = 1),
            new("long-entry", "length content", Errno.E2BIG, (run, ref call) =>
            {
                call.EntryLen = 16;
                WriteEntries(run, (0, (uint)Number, 0), (1, 0, 0));
            }),
            new("unknown-flag", "content", Errno.EOPNOTSUPP, (run, ref _) => WriteEntries(run, (2, (uint)Number, 0))),
            new("entry-beyond", "content", Errno.EINVAL, (run, ref _) => WriteEntries(run, (0, (uint)Number, 4))),
            new("entry-beyond-with-all", "content", Errno.EINVAL,
                (run, ref _) => WriteEntries(run, (1, (uint)Number, 4))),
            new("unknown-number", "content", Errno.EINVAL, (run, ref _) => WriteEntries(run, (0, 9, 0))));
        table.Add("no-entries", "without entries nothing is done, but the type is looked at", run =>
        {
            (_, _, uint viommu) = Make(run);
            IommuHwptInvalidate call = Invalidate(run, viommu, 0);
            run.Answers(ref call, Errno.Success);
            call = Invalidate(run, viommu, 0);
            call.DataType = (IommuHwptInvalidateDataType)0xDA_DBEEF;
            run.Answers(ref call, Errno.EINVAL);
        });
        table.Add("entries", "entries of a device's cache are done one after the other, the others stay", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            MakeVdevice(run, device, viommu);
            CheckCache(run, device, TestRig.CacheValue, TestRig.CacheValue, TestRig.CacheValue, TestRig.CacheValue);
            WriteEntries(run, (0, (uint)Number, 1), (0, (uint)Number, 3));
            IommuHwptInvalidate call = Invalidate(run, viommu, 2);
            run.Answers(ref call, Errno.Success);
            run.Equal(2u, call.EntryNum, "the number of entries done");
            CheckCache(run, device, TestRig.CacheValue, 0, TestRig.CacheValue, 0);
        });
        table.Add("all", "a device's whole cache can be invalidated, and no other's", run =>
        {
            (TestDevice device, _, uint viommu) = Make(run);
            MakeVdevice(run, device, viommu);
            TestDevice other = run.TestDomain.CreateDevice();
            MakeVdevice(run, other, viommu, Number + 1);
            WriteEntries(run, (1, (uint)Number, 0));
            IommuHwptInvalidate call = Invalidate(run, viommu, 1);
            run.Answers(ref call, Errno.Success);
            CheckCache(run, device, 0, 0, 0, 0);
            CheckCache(run, other, TestRig.CacheValue, TestRig.CacheValue, TestRig.CacheValue, TestRig.CacheValue);
        });
        (string Name, uint Flags, uint Number, uint Entry, Errno Errno)[] seconds =
        [
            ("flag", 4, (uint)Number, 1, Errno.EOPNOTSUPP), ("entry", 0, (uint)Number, 4, Errno.EINVAL),
            ("number", 0, 5, 1, Errno.EINVAL),
        ];
        foreach ((string name, uint flags, uint number, uint entry, Errno errno) in seconds)
        {
            table.Add($"second-{name}-bad", "what came before a bad entry is done and counted", run =>
            {
                (TestDevice device, _, uint viommu) = Make(run);
                MakeVdevice(run, device, viommu);
                WriteEntries(run, (0, (uint)Number, 0), (flags, number, entry));
                IommuHwptInvalidate call = Invalidate(run, viommu, 2);
                run.Answers(ref call, errno);
                run.Equal(1u, call.EntryNum, "the number of entries done");
                CheckCache(run, device, 0, TestRig.CacheValue, TestRig.CacheValue, TestRig.CacheValue);
            });
        }
    }

    private static (TestDevice Device, uint Parent) MakeParent(CaseRun run)
    {
        TestDevice device = run.TestDomain.CreateDevice();
        return (device, run.TestDomain.Allocate(device, run.Ioas, IommuHwptAllocFlags.NestParent));
    }

    internal static (TestDevice Device, uint Parent, uint Viommu) Make(CaseRun run)
    {
        (TestDevice device, uint parent) = MakeParent(run);
        IommuViommuAlloc call = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
        run.Answers(ref call, Errno.Success);
        return (device, parent, call.OutViommuId);
    }

    private static (TestDevice Device, uint Viommu, ulong Offset, ulong Length) MakeWithPage(CaseRun run)
    {
        (TestDevice device, _, uint viommu, ulong offset, ulong length) = MakeWithPageAbove(run);
        return (device, viommu, offset, length);
    }

    private static (TestDevice Device, uint Parent, uint Viommu, ulong Offset, ulong Length) MakeWithPageAbove(CaseRun run)
    {
        (TestDevice device, uint parent) = MakeParent(run);
        IommuViommuAlloc call = IommuViommuAlloc.Create(device.DeviceId, TestRig.Viommu, parent);
        WriteData(run, ref call);
        run.Answers(ref call, Errno.Success);
        return (device, parent, call.OutViommuId, run.Scratch.Words(3)[1], run.Scratch.Words(3)[2]);
    }

    /// <summary>The test domain's data, at the start of the case's scratch memory.</summary>
    private static void WriteData(CaseRun run, ref IommuViommuAlloc call)
    {
        run.Scratch.Words(4).Clear();
        run.Scratch.Words(1)[0] = Data;
        (call.DataLen, call.DataUptr) = (24, run.ScratchAddress);
    }

    private static SyscallResult Map(
        CaseRun run, ulong offset, ulong length, MapFlags flags = MapFlags.Shared,
        MemoryProtection protection = MemoryProtection.Read) =>
        run.Kernel.Mmap(length, protection, flags, run.Iommufd.Number, offset);

    internal static uint MakeVdevice(CaseRun run, TestDevice device, uint viommu, ulong number = Number)
    {
        IommuVdeviceAlloc call = IommuVdeviceAlloc.Create(viommu, number, device.DeviceId);
        run.Answers(ref call, Errno.Success);
        return call.OutVdeviceId;
    }

    internal static uint Allocate(CaseRun run, TestDevice device, uint viommu) =>
        run.TestDomain.Allocate(device, viommu, nested: true);

    /// <summary>A device on a table of a virtual IOMMU, where it has a number.</summary>
    internal static (TestDevice Device, uint Nested, uint Viommu, uint Vdevice) Attach(CaseRun run, ulong number = Number)
    {
        (TestDevice device, _, uint viommu) = Make(run);
        uint vdevice = MakeVdevice(run, device, viommu, number);
        uint nested = Allocate(run, device, viommu);
        run.TestDomain.Replace(device, nested);
        return (device, nested, viommu, vdevice);
    }

    private static void WriteEntries(CaseRun run, params (uint Flags, uint Number, uint Entry)[] entries)
    {
        // Entries of three times 32 bits, one after the other.
        uint[] halves = [.. entries.SelectMany(entry => (uint[])[entry.Flags, entry.Number, entry.Entry]), 0, 0];
        Span<ulong> words = run.Scratch.Words(1024)[512..];
        words.Clear();
        for (int index = 0; index < halves.Length / 2; index++)
            words[index] = TestCommand.Pair(halves[2 * index], halves[(2 * index) + 1]);
    }

    private static IommuHwptInvalidate Invalidate(CaseRun run, uint viommu, uint entries) =>
        IommuHwptInvalidate.Create(viommu, run.ScratchAddress + EntriesOffset, TestRig.Invalidation, 12, entries);

    private static void CheckCache(CaseRun run, TestDevice device, params ReadOnlySpan<uint> values)
    {
        for (uint entry = 0; entry < values.Length; entry++)
        {
            run.Answers(
                run.TestDomain.CheckCache(device.DeviceId, entry, values[(int)entry]), Errno.Success,
                $"looking for 0x{values[(int)entry]:x} in entry {entry} of the device's cache");
        }
    }

    /// <summary>A mapping of a virtual IOMMU's page, as much of it as is left.</summary>
    private sealed class PageMapping(IKernel kernel, ulong address, ulong byteLength) : IDisposable
    {
        private ulong _address = address;
        private ulong _left = byteLength;

        /// <summary>Unmaps the first bytes.</summary>
        public void Shrink(ulong bytes)
        {
            kernel.Munmap(_address, bytes);
            _address += bytes;
            _left -= bytes;
        }

        public void Dispose()
        {
            if (_left != 0)
                Shrink(_left);
        }
    }
}
