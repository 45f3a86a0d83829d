using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>What can be seen of an IOAS only with devices that need no hardware, and with looks into page
/// tables.</summary>
internal static class TestDomainCases
{
    private const string Area = "test-domain";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddCommand(new CaseTable(cases, Area, "testdomain.command", "kernel behaviour, IOMMU_TEST_CMD"));
        AddDevices(new CaseTable(cases, Area, "testdomain.device", "kernel behaviour, test devices"));
        AddSpace(new CaseTable(cases, Area, "testdomain.space", "kernel behaviour, what a page table does to an IOAS"));
        AddReserved(new CaseTable(cases, Area, "testdomain.reserved", "kernel behaviour, reserved IOVAs"));
        AddMapping(new CaseTable(cases, Area, "testdomain.map", "kernel behaviour, mappings in page tables"));
        AddReplace(new CaseTable(cases, Area, "testdomain.replace", "kernel behaviour, replacing an attachment"));
    }

    private static void AddCommand(CaseTable table)
    {
        table.Refusals<TestCommand>(
            run =>
            {
                _ = run.TestDomain;
                return TestCommand.Create(TestOperation.AddReserved, run.Ioas) with { Word0 = 0x1000, Word1 = 0x1000 };
            },
            Calls.Iommufd,
            new("size-below-minimum", "size", Errno.EINVAL,
                (_, ref command) => command.Size = TestCommand.MinimumSize - 1),
            new("unknown-operation", "op", Errno.EOPNOTSUPP,
                (_, ref command) => command.Operation = TestOperation.Unknown),
            new("unknown-high-operation", "op", Errno.EOPNOTSUPP,
                (_, ref command) => command.Operation = (TestOperation)999));
        table.Add("size-minimum", "the last word may end the argument", run =>
        {
            TestRig rig = run.TestDomain;
            TestCommand command = TestCommand.Create(TestOperation.AddReserved, run.Ioas);
            (command.Size, command.Word1) = (TestCommand.MinimumSize, 1);
            run.Answers(rig.Call(ref command), Errno.Success, "IOMMU_TEST_CMD");
        });
        table.Add("memory-limit", "a limit below one element of a batch is EINVAL", run =>
        {
            TestCommand command = TestCommand.Create(TestOperation.SetMemoryLimit, 0);
            command.Word0 = 11;
            run.Answers(run.TestDomain.Call(ref command), Errno.EINVAL, "SET_TEMP_MEMORY_LIMIT");
        });
    }

    private static void AddDevices(CaseTable table)
    {
        table.Add("ids", "a test device has an object, a device id and a page table", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            run.Equal(4, new HashSet<uint> { run.Ioas, device.Id, device.DeviceId, device.Hwpt }.Count, "the ids");
        });
        foreach (uint flags in (uint[])[2, 8, 0x8000_0000])
        {
            table.Add($"unknown-flag-0x{flags:x}", "an unknown flag is EINVAL", run =>
                run.Answers(
                    run.TestDomain.TryCreateDevice(run.Ioas, (TestDeviceFlags)flags, out _), Errno.EINVAL,
                    "making a test device"));
        }

        table.Add("unknown-ioas", "an unknown id to attach to is ENOENT", run =>
            run.Answers(
                run.TestDomain.TryCreateDevice(999, TestDeviceFlags.None, out _), Errno.ENOENT,
                "making a test device"));
        table.Add("failure-leaves-nothing", "a device that can not be attached is not there", run =>
        {
            run.Answers(run.TryMap(TestRig.First, 0x1000, Page), Errno.Success, "mapping where nothing is");
            run.Answers(
                run.TestDomain.TryCreateDevice(run.Ioas, TestDeviceFlags.None, out _), Errno.EFAULT,
                "making a test device");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the IOAS");
        });
        table.Add("device-id-is-busy", "the device id can not be destroyed, its driver holds it", run =>
            run.Answers(run.Destroy(run.TestDomain.CreateDevice().DeviceId), Errno.EBUSY, "IOMMU_DESTROY"));
        table.Add("ioas-is-busy", "an IOAS is busy while a device is attached", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            run.Answers(run.Destroy(run.Ioas), Errno.EBUSY, "destroying the IOAS");
            run.TestDomain.DestroyDevice(device);
            run.Answers(run.Destroy(device.Hwpt), Errno.ENOENT, "destroying the automatic page table");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the IOAS");
        });
        table.Add("page-table-is-shared", "a second device shares the automatic page table", run =>
        {
            TestDevice first = run.TestDomain.CreateDevice();
            TestDevice second = run.TestDomain.CreateDevice();
            run.Equal(first.Hwpt, second.Hwpt, "the page table");
            run.TestDomain.DestroyDevice(first);
            run.Answers(run.Destroy(first.Hwpt), Errno.EBUSY, "destroying the page table in use");
        });
        table.Add("attached-to-a-page-table", "a second device can be attached by the page table's id", run =>
        {
            TestDevice first = run.TestDomain.CreateDevice();
            run.Equal(first.Hwpt, run.TestDomain.CreateDevice(first.Hwpt).Hwpt, "the page table");
        });
        table.Add("attached-to-a-device", "the id of a device is nothing to attach to", run =>
        {
            TestDevice first = run.TestDomain.CreateDevice();
            run.Answers(
                run.TestDomain.TryCreateDevice(first.DeviceId, TestDeviceFlags.None, out _), Errno.EINVAL,
                "making a test device");
        });
        foreach ((TestDeviceFlags flags, IommuHwCapabilities expected) in
            ((TestDeviceFlags, IommuHwCapabilities)[])[
                (TestDeviceFlags.None, IommuHwCapabilities.DirtyTracking),
                (TestDeviceFlags.NoDirtyTracking, IommuHwCapabilities.None)])
        {
            table.Add($"dirty-capability-{(expected == 0 ? "absent" : "present")}",
                "GET_HW_INFO tells whether the IOMMU tracks dirty pages", run =>
            {
                IommuHwInfo info = IommuHwInfo.Create(run.TestDomain.CreateDevice(flags: flags).DeviceId);
                run.Answers(ref info, Errno.Success);
                run.Equal(expected, info.OutCapabilities & IommuHwCapabilities.DirtyTracking, "the capability");
            });
        }

        foreach ((TestDeviceFlags flags, byte bits) in
            ((TestDeviceFlags, byte)[])[(TestDeviceFlags.None, 0), (TestDeviceFlags.Pasid, 20)])
        {
            table.Add($"pasid-bits-{bits}", "GET_HW_INFO tells how many PASIDs there are", run =>
            {
                IommuHwInfo info = IommuHwInfo.Create(run.TestDomain.CreateDevice(flags: flags).DeviceId);
                run.Answers(ref info, Errno.Success);
                run.Equal(bits, info.OutMaxPasidLog2, "log2 of the number of PASIDs");
            });
        }

        AddHwInfo(table);
    }

    private static void AddHwInfo(CaseTable table)
    {
        foreach (uint length in (uint[])[0, 4, 8, 9, 64])
        {
            table.Add($"hw-info-of-{length}-bytes", "what fits is written, the rest of the buffer is zeroed", run =>
            {
                Span<byte> buffer = run.Scratch.Bytes(0, 128);
                buffer.Fill(0xEE);
                IommuHwInfo info = IommuHwInfo.Create(run.TestDomain.CreateDevice().DeviceId);
                (info.DataLen, info.DataUptr) = (length, run.ScratchAddress);
                run.Answers(ref info, Errno.Success);
                run.Equal(8u, info.DataLen, "the length that the kernel has");
                run.Equal(TestRig.HwInfo, info.OutDataType, "the type");
                byte[] all = [0, 0, 0, 0, 0xEF, 0xBE, 0xAD, 0xDE];
                for (int index = 0; index < 128; index++)
                {
                    byte expected = index >= length ? (byte)0xEE : index < 8 ? all[index] : (byte)0;
                    run.Equal(expected, buffer[index], $"byte {index} of the buffer");
                }
            });
        }

        foreach ((string name, IommuHwInfoType type, Errno errno) in
            ((string, IommuHwInfoType, Errno)[])[
                ("own", TestRig.HwInfo, Errno.Success), ("other", IommuHwInfoType.IntelVtd, Errno.EOPNOTSUPP)])
        {
            table.Add($"hw-info-of-{name}-type", "a type that is asked for is the driver's own, or EOPNOTSUPP", run =>
            {
                IommuHwInfo info = IommuHwInfo.Create(run.TestDomain.CreateDevice().DeviceId);
                (info.Flags, info.OutDataType) = (IommuHwInfoFlags.InputType, type);
                run.Answers(ref info, errno);
            });
        }
    }

    private static void AddSpace(CaseTable table)
    {
        table.Add("aperture", "with a page table, its aperture is usable in its smallest page", run =>
        {
            run.TestDomain.CreateDevice();
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(1, ranges.Count, "the number of ranges");
            run.Equal(TestRig.First, ranges[0].Start, "the first address");
            run.Equal(TestRig.Last, ranges[0].Last, "the last address");
            run.Equal(TestRig.SmallPage, alignment, "the alignment");
        });
        table.Add("whole-again", "when the last page table is gone, everything is usable again", run =>
        {
            run.TestDomain.DestroyDevice(run.TestDomain.CreateDevice());
            List<IommuIovaRange> ranges = run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(0ul, ranges[0].Start, "the first address");
            run.Equal(ulong.MaxValue, ranges[0].Last, "the last address");
            run.Equal(1ul, alignment, "the alignment");
        });
        table.Add("huge-pages-off-aligns", "without huge pages the alignment is a page, also with smaller leaves", run =>
        {
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION");
            run.TestDomain.CreateDevice();
            run.Ranges(run.Ioas, out ulong alignment);
            run.Equal(Page, alignment, "the alignment");
        });
        (string Name, ulong Iova)[] outside =
        [
            ("below", 0), ("just-below", TestRig.First - Page), ("across-start", TestRig.First - TestRig.SmallPage),
            ("across-end", TestRig.Last + 1 - TestRig.SmallPage), ("just-above", TestRig.Last + 1),
            ("top", ulong.MaxValue - Page + 1),
        ];
        foreach ((string name, ulong iova) in outside)
        {
            table.Add($"map-{name}-aperture", "a fixed mapping that leaves the aperture is EINVAL", run =>
            {
                run.TestDomain.CreateDevice();
                run.Answers(run.TryMap(iova, run.MemoryAddress, Page), Errno.EINVAL, "mapping");
            });
            table.Add($"mapped-{name}-aperture", "a mapping that leaves the aperture refuses a page table: EADDRINUSE",
                run =>
            {
                run.Answers(run.TryMap(iova, run.MemoryAddress, Page), Errno.Success, "mapping");
                run.Answers(
                    run.TestDomain.TryCreateDevice(run.Ioas, TestDeviceFlags.None, out _), Errno.EADDRINUSE,
                    "making a test device");
            });
        }

        table.Add("edges", "the first and the last page of the aperture can be mapped", run =>
        {
            run.TestDomain.CreateDevice();
            run.Map(TestRig.First, Page);
            run.Map(TestRig.Last + 1 - Page, Page);
        });
        foreach ((string name, ulong iova, ulong offset, ulong length) in
            ((string, ulong, ulong, ulong)[])[
                ("iova", 1024, 0, Page), ("address", 0, 1024, Page), ("length", 0, 0, 1024)])
        {
            table.Add($"map-unaligned-{name}", "with a page table its smallest page is the unit: EINVAL", run =>
            {
                run.TestDomain.CreateDevice();
                run.Answers(
                    run.TryMap(Iova + iova, run.MemoryAddress + offset, length), Errno.EINVAL, "mapping");
            });
            table.Add($"mapped-unaligned-{name}", "a mapping in smaller units refuses a page table: EADDRINUSE", run =>
            {
                run.Answers(
                    run.TryMap(Iova + iova, run.MemoryAddress + offset, length), Errno.Success, "mapping");
                run.Answers(
                    run.TestDomain.TryCreateDevice(run.Ioas, TestDeviceFlags.None, out _), Errno.EADDRINUSE,
                    "making a test device");
            });
        }

        table.Add("huge-pages-with-mapping", "huge pages can not be switched off under a page table with mappings", run =>
        {
            run.TestDomain.CreateDevice();
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.Success, "IOMMU_OPTION without mappings");
            run.Answers(run.SetHugePages(run.Ioas, 1), Errno.Success, "IOMMU_OPTION");
            run.Map(Iova, Page);
            run.Answers(run.SetHugePages(run.Ioas, 0), Errno.EINVAL, "IOMMU_OPTION with a mapping");
        });
    }

    private static void AddReserved(CaseTable table)
    {
        table.Refusals<TestCommand>(
            run =>
            {
                _ = run.TestDomain;
                return TestCommand.Create(TestOperation.AddReserved, run.Ioas) with { Word0 = 0x1000, Word1 = 0x1000 };
            },
            Calls.Iommufd,
            new("length-0", "length", Errno.EINVAL, (_, ref command) => command.Word1 = 0),
            new("wraps", "length start", Errno.EOVERFLOW, (_, ref command) =>
                (command.Word0, command.Word1) = (ulong.MaxValue, 2)),
            new("unknown-ioas", "ioas", Errno.ENOENT, (_, ref command) => command.Id = 999));
        table.Add("splits-the-usable", "a reserved page leaves two ranges, of which a small list gets the first", run =>
        {
            run.Answers(run.TestDomain.AddReserved(run.Ioas, Page, Page), Errno.Success, "ADD_RESERVED");
            run.Scratch.Words(8).Fill(0xEE);
            IommuIoasIovaRanges ranges = IommuIoasIovaRanges.Create(run.Ioas, run.ScratchAddress, 1);
            run.Answers(ref ranges, Errno.EMSGSIZE);
            run.Equal(2u, ranges.NumIovas, "the number of ranges");
            run.Equal(Page - 1, run.Scratch.Words(2)[1], "the end of the first range");
            run.Equal(0xEEul, run.Scratch.Words(3)[2], "the word after it");
            List<IommuIovaRange> both = run.Ranges(run.Ioas, out _);
            run.Equal(2 * Page, both[1].Start, "the start of the second range");
            run.Equal(ulong.MaxValue, both[1].Last, "its end");
        });
        table.Add("fixed", "a fixed mapping there is EINVAL", run =>
        {
            run.Answers(run.TestDomain.AddReserved(run.Ioas, Iova, Page), Errno.Success, "ADD_RESERVED");
            run.Answers(run.TryMap(Iova - Page, run.MemoryAddress, 2 * Page), Errno.EINVAL, "mapping");
        });
        table.Add("over-a-mapping", "what is mapped can not be reserved: EADDRINUSE", run =>
        {
            run.Map(Iova, 4 * Page);
            run.Answers(run.TestDomain.AddReserved(run.Ioas, Iova + Page, 1), Errno.EADDRINUSE, "ADD_RESERVED");
        });
        table.Add("inside-allowed", "what is allowed can not be reserved: EADDRINUSE", run =>
        {
            run.Answers(run.Allow(run.Ioas, (Iova, Iova + (16 * Page) - 1)), Errno.Success, "ALLOW_IOVAS");
            run.Answers(run.TestDomain.AddReserved(run.Ioas, Iova + Page, Page), Errno.EADDRINUSE, "ADD_RESERVED");
            run.Answers(run.Allow(run.Ioas), Errno.Success, "clearing the list");
            run.Answers(run.TestDomain.AddReserved(run.Ioas, Iova + Page, Page), Errno.Success, "ADD_RESERVED");
            run.Answers(
                run.Allow(run.Ioas, (Iova, Iova + (16 * Page) - 1)), Errno.EADDRINUSE, "allowing what is reserved");
        });
        table.Add("nearly-everything", "with nearly everything reserved an automatic mapping is ENOSPC", run =>
        {
            const ulong First = 6;
            run.Answers(
                run.TestDomain.AddReserved(run.Ioas, First, 0xFFFF_FFFF_FFFF_8001), Errno.Success, "ADD_RESERVED");
            run.Answers(
                run.TryMap(0, run.CreateMemory(32).Address.Value, 0x20000, Anywhere), Errno.ENOSPC, "mapping anywhere");
        });
        foreach (int pages in (int[])[1, 2, 3, 5, 8, 10])
        {
            table.Add($"avoided-by-{pages}-pages", "an automatic mapping is aligned and avoids what is reserved", run =>
            {
                run.Answers(
                    run.TestDomain.AddReserved(run.Ioas, TestRig.First, 0x10_0000), Errno.Success, "ADD_RESERVED");
                run.TestDomain.CreateDevice();
                ulong length = (ulong)pages * Page;
                for (int round = 0; round < 4; round++)
                {
                    IommuIoasMap map = IommuIoasMap.Create(run.Ioas, 0, run.MemoryAddress, length, Anywhere);
                    run.Answers(ref map, Errno.Success);
                    ulong lowest = length & (~length + 1);
                    run.Equal(0ul, map.Iova % lowest, "what is left over of the alignment");
                    run.Holds(
                        map.Iova >= TestRig.First + 0x10_0000 && map.Iova + length - 1 <= TestRig.Last,
                        $"0x{map.Iova:x} to be usable");
                }
            });
        }
    }

    private static void AddMapping(CaseTable table)
    {
        AddAligned(table);
        table.Add("shown", "what is mapped is what lies in memory", run =>
        {
            uint hwpt = run.TestDomain.CreateDevice().Hwpt;
            run.Map(Iova, MemoryPages * Page);
            run.TestDomain.Shows(hwpt, Iova, MemoryPages * Page, run.MemoryAddress);
            run.Answers(
                run.TestDomain.CheckMap(hwpt, Iova, Page, run.MemoryAddress + Page), Errno.EINVAL,
                "looking another page up");
        });
        table.Add("shown-when-attached-later", "a new page table shows what was mapped before", run =>
        {
            run.Map(Iova, 4 * Page, 8 * Page);
            run.TestDomain.Shows(
                run.TestDomain.CreateDevice().Hwpt, Iova, 4 * Page, run.MemoryAddress + (8 * Page));
        });
        table.Add("file-shown", "a mapping of a memory file shows the file's pages", run =>
        {
            uint hwpt = run.TestDomain.CreateDevice().Hwpt;
            Kernel.KernelFd file = run.CreateMemoryFile(4 * Page);
            Kernel.Mapping view = run.Own(Kernel.Mapping.CreateShared(
                file, 4 * Page, 0, Kernel.MemoryProtection.Read | Kernel.MemoryProtection.Write));
            IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, Page, 3 * Page, Fixed);
            run.Answers(ref map, Errno.Success);
            run.TestDomain.Shows(hwpt, Iova, 3 * Page, view.Address.Value + Page);
        });
        table.Add("two-tables", "each page table of a space shows each mapping, and pages are pinned once", run =>
        {
            TestRig rig = run.TestDomain;
            TestDevice device = rig.CreateDevice();
            uint other = rig.Allocate(device, run.Ioas);
            run.Map(Iova, 4 * Page);
            rig.Shows(device.Hwpt, Iova, 4 * Page, run.MemoryAddress);
            rig.Shows(other, Iova, 4 * Page, run.MemoryAddress);
            rig.IsPinned(run.MemoryAddress, 4 * Page, 1);
        });
        table.Add("unmapped-is-gone", "what is unmapped is not shown", run =>
        {
            uint hwpt = run.TestDomain.CreateDevice().Hwpt;
            run.Map(Iova, Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Answers(run.TestDomain.CheckMap(hwpt, Iova, Page, run.MemoryAddress), Errno.EINVAL, "looking it up");
        });
        table.Add("mapped-twice-is-pinned-twice", "each mapping pins by itself, a copy shares", run =>
        {
            TestRig rig = run.TestDomain;
            rig.CreateDevice();
            run.Map(Iova, Page);
            run.Map(Iova + Page, Page);
            rig.IsPinned(run.MemoryAddress, Page, 2);
            IommuIoasCopy copy = IommuIoasCopy.Create(run.Ioas, Iova + (2 * Page), run.Ioas, Iova, Page, Fixed);
            run.Answers(ref copy, Errno.Success);
            rig.IsPinned(run.MemoryAddress, Page, 2);
        });
        table.Add("unpinned-without-table", "without a page table nothing is pinned", run =>
        {
            TestRig rig = run.TestDomain;
            run.Map(Iova, Page);
            run.Memory.Words(1)[0] = 1;
            rig.IsPinned(run.MemoryAddress, Page, 0);
            TestDevice device = rig.CreateDevice();
            rig.IsPinned(run.MemoryAddress, Page, 1);
            rig.DestroyDevice(device);
            rig.IsPinned(run.MemoryAddress, Page, 0);
        });
        table.Add("second-page-missing", "a mapping of which a page is not memory is EFAULT, and pins nothing", run =>
        {
            run.TestDomain.CreateDevice();
            run.Answers(
                run.TryMap(Iova, run.MemoryAddress + ((MemoryPages - 1) * Page), 0x4000_0000), Errno.EFAULT,
                "mapping beyond the memory");
            run.Memory.Words(1)[0] = 1;
            run.TestDomain.IsPinned(run.MemoryAddress, Page, 0);
        });
        table.Add("file-beyond-end", "a mapping beyond a file's end is EINVAL once pages are pinned", run =>
        {
            run.TestDomain.CreateDevice();
            Kernel.KernelFd file = run.CreateMemoryFile(Page);
            IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, 0, 2 * Page, Fixed);
            run.Answers(ref map, Errno.EINVAL);
            map = IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, 0, Page, Fixed);
            run.Answers(ref map, Errno.Success);
        });
        foreach ((string name, ulong iova, ulong address, ulong length) in
            ((string, ulong, ulong, ulong)[])[("iova", 1, 0, Page), ("address", 0, 1, Page), ("length", 0, 0, 1)])
        {
            table.Add($"look-unaligned-{name}", "a look that is not aligned to the table's page is EINVAL", run =>
            {
                uint hwpt = run.TestDomain.CreateDevice().Hwpt;
                run.Map(Iova, Page);
                run.Answers(
                    run.TestDomain.CheckMap(hwpt, Iova + iova, length, run.MemoryAddress + address), Errno.EINVAL,
                    "CHECK_MAP");
            });
        }
    }

    /// <summary>Every start and end in units of half a page.</summary>
    private static void AddAligned(CaseTable table)
    {
        const ulong Halves = 8;
        for (ulong first = 0; first < Halves; first++)
        {
            ulong start = first;
            table.Add($"halves-from-{start}", "any multiple of the table's page can be mapped, pinned and unmapped", run =>
            {
                TestRig rig = run.TestDomain;
                uint hwpt = rig.CreateDevice().Hwpt;
                ulong address = run.MemoryAddress + (start * TestRig.SmallPage);
                for (ulong end = start + 1; end <= Halves; end++)
                {
                    ulong length = (end - start) * TestRig.SmallPage;
                    run.Answers(run.TryMap(Iova, address, length), Errno.Success, "mapping");
                    rig.Shows(hwpt, Iova, length, address);
                    ulong firstPage = address & ~(Page - 1);
                    ulong pages = ((address + length + Page - 1) & ~(Page - 1)) - firstPage;
                    rig.IsPinned(firstPage, pages, 1);
                    run.Answers(run.Unmap(Iova, length, out _), Errno.Success, "unmapping");
                    rig.IsPinned(firstPage, pages, 0);
                }
            });
            table.Add($"halves-copied-from-{start}", "a copy shows the same pages, and pins them with its source", run =>
            {
                TestRig rig = run.TestDomain;
                uint other = run.CreateIoas();
                uint hwpt = rig.CreateDevice(other).Hwpt;
                run.Map(Iova, Halves * TestRig.SmallPage);
                for (ulong end = start + 1; end <= Halves; end++)
                {
                    ulong length = (end - start) * TestRig.SmallPage;
                    IommuIoasCopy copy = IommuIoasCopy.Create(
                        other, Iova, run.Ioas, Iova + (start * TestRig.SmallPage), length, Fixed);
                    run.Answers(ref copy, Errno.Success);
                    rig.Shows(hwpt, Iova, length, run.MemoryAddress + (start * TestRig.SmallPage));
                    run.Answers(run.Unmap(Iova, length, out _, other), Errno.Success, "unmapping");
                }

                rig.IsPinned(run.MemoryAddress, Halves * TestRig.SmallPage, 0);
            });
        }
    }

    private static void AddReplace(CaseTable table)
    {
        table.Add("unknown-device", "an unknown test device is ENOENT", run =>
            run.Answers(
                run.TestDomain.TryReplace(new TestDevice(999, 0, 0), run.Ioas, out _), Errno.ENOENT, "replacing"));
        table.Add("unknown-target", "an unknown id is ENOENT, and the old attachment stays", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            run.Answers(run.TestDomain.TryReplace(device, 999, out _), Errno.ENOENT, "replacing");
            run.Answers(run.TestDomain.TryReplace(device, device.DeviceId, out _), Errno.EINVAL, "replacing");
            run.Equal(device.Hwpt, run.TestDomain.Replace(device, device.Hwpt), "the page table");
        });
        table.Add("by-another-ioas", "a lone device that moves frees its automatic page table", run =>
        {
            TestRig rig = run.TestDomain;
            TestDevice device = rig.CreateDevice();
            uint moved = rig.Replace(device, run.CreateIoas());
            run.Answers(rig.TryReplace(device, device.Hwpt, out _), Errno.ENOENT, "moving back to the page table");
            run.Equal(moved, rig.Replace(device, moved), "the page table, replaced by itself");
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the first IOAS");
        });
        table.Add("by-the-same-ioas", "replacing by the IOAS that is in use changes nothing", run =>
        {
            TestDevice device = run.TestDomain.CreateDevice();
            run.Equal(device.Hwpt, run.TestDomain.Replace(device, run.Ioas), "the page table");
        });
        table.Add("rotation", "of two page tables the one in use is busy, the other can be destroyed", run =>
        {
            TestRig rig = run.TestDomain;
            TestDevice device = rig.CreateDevice();
            uint first = rig.Allocate(device, run.Ioas);
            uint second = rig.Allocate(device, run.Ioas);
            rig.Replace(device, first);
            run.Answers(run.Destroy(first), Errno.EBUSY, "destroying the one in use");
            rig.Replace(device, second);
            run.Answers(run.Destroy(second), Errno.EBUSY, "destroying the other in use");
            run.Answers(run.Destroy(first), Errno.Success, "destroying the first");
            rig.Replace(device, run.Ioas);
            run.Answers(run.Destroy(second), Errno.Success, "destroying the second");
        });
        table.Add("unfillable", "a new page table that can not be filled leaves the old attachment", run =>
        {
            TestRig rig = run.TestDomain;
            TestDevice device = rig.CreateDevice();
            uint other = run.CreateIoas();
            run.Answers(run.TryMap(Iova, 0x1000, Page, ioas: other), Errno.Success, "mapping where nothing is");
            run.Answers(rig.TryReplace(device, other, out _), Errno.EFAULT, "replacing");
            run.Equal(device.Hwpt, rig.Replace(device, device.Hwpt), "the page table");
        });
        table.Add("by-a-tracking-table", "a device whose IOMMU does not track can not use a tracking table", run =>
        {
            TestRig rig = run.TestDomain;
            uint dirty = rig.Allocate(rig.CreateDevice(), run.Ioas, IommuHwptAllocFlags.DirtyTracking);
            TestDevice plain = rig.CreateDevice(run.CreateIoas(), TestDeviceFlags.NoDirtyTracking);
            run.Answers(rig.TryReplace(plain, dirty, out _), Errno.EINVAL, "replacing");
            run.Answers(
                rig.TryAllocate(plain, run.Ioas, IommuHwptAllocFlags.DirtyTracking, out _), Errno.EOPNOTSUPP,
                "allocating such a table for it");
        });
    }
}
