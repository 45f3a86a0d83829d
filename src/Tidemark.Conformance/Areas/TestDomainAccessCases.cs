using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Accesses: the way of emulated devices to memory, by IOVA and without an IOMMU.</summary>
internal static class TestDomainAccessCases
{
    private const string Area = "test-domain-access";
    private const uint Write = 1;
    private const uint Slow = 4;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddObject(new CaseTable(cases, Area, "testdomain.access", "kernel behaviour, accesses"));
        AddPins(new CaseTable(cases, Area, "testdomain.access.pin", "kernel behaviour, pins of accesses"));
        AddUnmap(new CaseTable(cases, Area, "testdomain.access.unmap", "kernel behaviour, unmapping what is accessed"));
        AddCopies(new CaseTable(cases, Area, "testdomain.access.rw", "kernel behaviour, copies by accesses"));
    }

    private static void AddObject(CaseTable table)
    {
        table.Add("unknown-flag", "an unknown flag is EOPNOTSUPP", run =>
            run.Answers(run.TestDomain.TryCreateAccess(run.Ioas, 2, out _), Errno.EOPNOTSUPP, "CREATE_ACCESS"));
        table.Add("unknown-ioas", "an unknown IOAS is ENOENT", run =>
            run.Answers(run.TestDomain.TryCreateAccess(999, 0, out _), Errno.ENOENT, "CREATE_ACCESS"));
        table.Add("page-table", "an access is to an IOAS, not to a page table: ENOENT", run =>
            run.Answers(
                run.TestDomain.TryCreateAccess(run.TestDomain.CreateDevice().Hwpt, 0, out _), Errno.ENOENT,
                "CREATE_ACCESS"));
        foreach ((string name, bool pins, ulong expected) in
            ((string, bool, ulong)[])[("pins-align-to-pages", true, Page), ("copies-do-not-align", false, 1)])
        {
            table.Add(name, "an access that pins makes pages the unit of its IOAS", run =>
            {
                KernelFd access = run.TestDomain.CreateAccess(pins: pins);
                run.Ranges(run.Ioas, out ulong alignment);
                run.Equal(expected, alignment, "the alignment");
                access.Dispose();
                run.Ranges(run.Ioas, out alignment);
                run.Equal(1ul, alignment, "the alignment afterwards");
            });
        }

        table.Add("unaligned-mapping", "a mapping in smaller units refuses an access that pins: EADDRINUSE", run =>
        {
            run.Map(Iova, 7);
            run.Answers(run.TestDomain.TryCreateAccess(run.Ioas, 1, out _), Errno.EADDRINUSE, "CREATE_ACCESS");
            run.TestDomain.CreateAccess(pins: false);
        });
        table.Add("ioas-is-busy", "an IOAS is busy while it is accessed", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess();
            run.Answers(run.Destroy(run.Ioas), Errno.EBUSY, "destroying the IOAS");
            access.Dispose();
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the IOAS");
        });
        table.Add("not-an-access", "a descriptor of something else is EBADFD", run =>
        {
            TestRig rig = run.TestDomain;
            run.Answers(rig.TryPin(run.Iommufd, Iova, Page, out _), Errno.EBADFD, "pinning");
            run.Answers(rig.Unpin(run.Iommufd, 0), Errno.EBADFD, "unpinning");
            run.Answers(rig.ReadWrite(run.Iommufd, Iova, 1, run.MemoryAddress, 0), Errno.EBADFD, "reading");
            run.Answers(rig.ReplaceAccess(run.Iommufd, run.Ioas), Errno.EBADFD, "replacing");
        });
        table.Add("replace", "an access that moves lets go of its IOAS, whose pins end", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, 4 * Page);
            uint item = rig.Pin(access, Iova, 2 * Page, run.MemoryAddress);
            uint other = run.CreateIoas();
            run.Answers(rig.ReplaceAccess(access, other), Errno.Success, "ACCESS_REPLACE_IOAS");
            run.Answers(rig.Unpin(access, item), Errno.ENOENT, "unpinning what is gone");
            rig.IsPinned(run.MemoryAddress, 2 * Page, 0);
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "destroying the first IOAS");
            run.Answers(run.Destroy(other), Errno.EBUSY, "destroying the second");
        });
        table.Add("replace-unknown", "an access can not move to an unknown IOAS, and stays", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess();
            run.Answers(run.TestDomain.ReplaceAccess(access, 999), Errno.ENOENT, "ACCESS_REPLACE_IOAS");
            run.Answers(run.Destroy(run.Ioas), Errno.EBUSY, "destroying the IOAS");
        });
        table.Add("replace-same", "an access that moves to where it is keeps its pins", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess();
            run.Map(Iova, Page);
            uint item = run.TestDomain.Pin(access, Iova, Page);
            run.Answers(run.TestDomain.ReplaceAccess(access, run.Ioas), Errno.Success, "ACCESS_REPLACE_IOAS");
            run.Answers(run.TestDomain.Unpin(access, item), Errno.Success, "unpinning");
        });
        table.Add("copied-memory", "memory that an access has pinned can be copied to an IOAS with a page table", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, 4 * Page);
            rig.Pin(access, Iova, 4 * Page, run.MemoryAddress);
            uint other = run.CreateIoas();
            uint hwpt = rig.CreateDevice(other).Hwpt;
            IommuIoasCopy copy = IommuIoasCopy.Create(other, Iova, run.Ioas, Iova, 4 * Page, Fixed);
            run.Answers(ref copy, Errno.Success);
            rig.Shows(hwpt, Iova, 4 * Page, run.MemoryAddress);
            rig.IsPinned(run.MemoryAddress, 4 * Page, 1);
        });
    }

    private static void AddPins(CaseTable table)
    {
        table.Refusals<TestCommand>(
            run =>
            {
                KernelFd access = run.TestDomain.CreateAccess();
                run.Map(Iova, 4 * Page);
                return TestCommand.Create(TestOperation.AccessPages, (uint)access.Number) with
                {
                    Word0 = 1, Word1 = Iova, Word2 = Page,
                };
            },
            Calls.Iommufd,
            new("too-long", "length", Errno.ENOMEM, (_, ref command) => command.Word2 = (16 << 20) + 1),
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref command) => command.Word0 = 2),
            new("closed", "access", Errno.EBADFD, (_, ref command) => command.Id = 0x7FFF_FFFF),
            new("without-pinning", "access", Errno.EOPNOTSUPP, (run, ref command) =>
                command.Id = (uint)run.TestDomain.CreateAccess(pins: false).Number),
            new("length-0", "length", Errno.EINVAL, (_, ref command) => command.Word2 = 0),
            new("wraps", "length iova", Errno.EOVERFLOW, (_, ref command) =>
                (command.Word1, command.Word2) = (ulong.MaxValue, 2)),
            new("unaligned", "iova", Errno.EINVAL, (_, ref command) => command.Word1 = Iova + 8),
            new("unmapped", "iova", Errno.ENOENT, (_, ref command) => command.Word1 = Iova - Page));
        table.Add("other-memory", "pages that are not what lies at an address are EBADE, and not pinned", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, 4 * Page);
            run.Memory.Words(8 * (int)Page / 8).Fill(1);
            run.Answers(
                rig.TryPin(access, Iova, Page, out _, run.MemoryAddress + Page), Errno.EBADE, "pinning");
            rig.IsPinned(run.MemoryAddress, 4 * Page, 0);
        });
        table.Add("runs-into-a-hole", "a range that runs into a hole is ENOENT, and nothing is pinned", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, 2 * Page);
            run.Memory.Words(8 * (int)Page / 8).Fill(1);
            run.Answers(rig.TryPin(access, Iova, 3 * Page, out _), Errno.ENOENT, "pinning");
            rig.IsPinned(run.MemoryAddress, 2 * Page, 0);
        });
        table.Add("across-mappings", "a range may span mappings that touch", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, 2 * Page);
            run.Map(Iova + (2 * Page), 2 * Page, 2 * Page);
            uint item = rig.Pin(access, Iova + Page, 2 * Page, run.MemoryAddress + Page);
            rig.IsPinned(run.MemoryAddress + Page, 2 * Page, 1);
            run.Answers(rig.Unpin(access, item), Errno.Success, "unpinning");
            rig.IsPinned(run.MemoryAddress, 4 * Page, 0);
        });
        foreach ((string name, IommuIoasMapFlags flags, bool write) in
            ((string, IommuIoasMapFlags, bool)[])[
                ("read-only-for-writing", IommuIoasMapFlags.Readable, true),
                ("write-only-for-reading", IommuIoasMapFlags.Writeable, false)])
        {
            table.Add(name, "a mapping that does not permit it is EPERM", run =>
            {
                KernelFd access = run.TestDomain.CreateAccess();
                run.Answers(
                    run.TryMap(Iova, run.MemoryAddress, Page, flags | IommuIoasMapFlags.FixedIova), Errno.Success,
                    "mapping");
                run.Answers(
                    run.TestDomain.TryPin(access, Iova, Page, out _, flags: write ? Write : 0), Errno.EPERM, "pinning");
                run.Answers(
                    run.TestDomain.TryPin(access, Iova, Page, out _, flags: write ? 0 : Write), Errno.Success,
                    "pinning for the other");
            });
        }

        table.Add("bad-address", "memory that is not there is EFAULT only now", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess();
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping where nothing is");
            run.Answers(run.TestDomain.TryPin(access, Iova, Page, out _), Errno.EFAULT, "pinning");
        });
        table.Add("unpin-unknown", "an unknown number is ENOENT", run =>
            run.Answers(run.TestDomain.Unpin(run.TestDomain.CreateAccess(), 5), Errno.ENOENT, "unpinning"));
        table.Add("unpin-twice", "what is unpinned is not there any more", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess();
            run.Map(Iova, Page);
            uint item = run.TestDomain.Pin(access, Iova, Page);
            run.Answers(run.TestDomain.Unpin(access, item), Errno.Success, "unpinning");
            run.Answers(run.TestDomain.Unpin(access, item), Errno.ENOENT, "unpinning again");
        });
        table.Add("close-unpins", "closing an access ends its pins", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess();
            run.Map(Iova, 2 * Page);
            run.TestDomain.Pin(access, Iova, 2 * Page);
            run.TestDomain.IsPinned(run.MemoryAddress, 2 * Page, 1);
            access.Dispose();
            run.TestDomain.IsPinned(run.MemoryAddress, 2 * Page, 0);
        });
        for (ulong pages = 1; pages < MemoryPages; pages++)
        {
            ulong length = pages * Page;
            table.Add($"{pages}-pages", "pins and page tables come and go in any order and share one pin", run =>
            {
                TestRig rig = run.TestDomain;
                KernelFd access = rig.CreateAccess();
                run.Map(Iova, MemoryPages * Page);
                uint first = rig.Pin(access, Iova, length, run.MemoryAddress);
                uint second = rig.Pin(access, Iova, length, run.MemoryAddress);
                rig.IsPinned(run.MemoryAddress, length, 1);
                TestDevice device = rig.CreateDevice();
                rig.Shows(device.Hwpt, Iova, MemoryPages * Page, run.MemoryAddress);
                run.Answers(rig.Unpin(access, first), Errno.Success, "unpinning");
                rig.IsPinned(run.MemoryAddress, MemoryPages * Page, 1);
                rig.DestroyDevice(device);
                rig.IsPinned(run.MemoryAddress, length, 1);
                run.Answers(rig.Unpin(access, second), Errno.Success, "unpinning the second");
                rig.IsPinned(run.MemoryAddress, MemoryPages * Page, 0);
            });
        }

        table.Add("inner-page-outlives-table", "a pinned page stays pinned when the page table goes", run =>
        {
            TestRig rig = run.TestDomain;
            TestDevice device = rig.CreateDevice();
            run.Map(Iova, 8 * Page);
            KernelFd access = rig.CreateAccess();
            uint item = rig.Pin(access, Iova + (3 * Page), Page, run.MemoryAddress + (3 * Page));
            rig.DestroyDevice(device);
            rig.IsPinned(run.MemoryAddress, 3 * Page, 0);
            rig.IsPinned(run.MemoryAddress + (3 * Page), Page, 1);
            rig.IsPinned(run.MemoryAddress + (4 * Page), 4 * Page, 0);
            run.Answers(rig.Unpin(access, item), Errno.Success, "unpinning");
            rig.IsPinned(run.MemoryAddress, 8 * Page, 0);
        });
    }

    private static void AddUnmap(CaseTable table)
    {
        table.Add("lets-go", "unmapping what is pinned succeeds, and the pin is gone", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, 4 * Page);
            uint item = rig.Pin(access, Iova + Page, 2 * Page);
            run.Answers(run.Unmap(Iova, 4 * Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(4 * Page, unmapped, "what was unmapped");
            run.Answers(rig.Unpin(access, item), Errno.ENOENT, "unpinning");
            rig.IsPinned(run.MemoryAddress, 4 * Page, 0);
        });
        table.Add("all", "unmapping everything ends every pin", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, Page);
            run.Map(Iova + (4 * Page), Page, 4 * Page);
            rig.Pin(access, Iova, Page);
            rig.Pin(access, Iova + (4 * Page), Page);
            run.Answers(run.Unmap(0, ulong.MaxValue, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(2 * Page, unmapped, "what was unmapped");
            rig.IsPinned(run.MemoryAddress, 5 * Page, 0);
        });
        table.Add("neighbour-stays", "a pin of another mapping stays", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, Page);
            run.Map(Iova + Page, Page, Page);
            uint item = rig.Pin(access, Iova + Page, Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Answers(rig.Unpin(access, item), Errno.Success, "unpinning");
        });
        table.Add("part-is-refused", "a range that cuts a mapping is ENOENT, and its pin stays", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd access = rig.CreateAccess();
            run.Map(Iova, 4 * Page);
            uint item = rig.Pin(access, Iova, Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.ENOENT, "unmapping a part");
            run.Answers(rig.Unpin(access, item), Errno.Success, "unpinning");
        });
        table.Add("copies-hold-nothing", "an access that only copies holds nothing", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess(pins: false);
            run.Map(Iova, Page);
            run.Answers(
                run.TestDomain.ReadWrite(access, Iova, 8, run.ScratchAddress, 0), Errno.Success, "reading");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Answers(
                run.TestDomain.ReadWrite(access, Iova, 8, run.ScratchAddress, 0), Errno.ENOENT, "reading again");
        });
    }

    private static void AddCopies(CaseTable table)
    {
        table.Refusals<TestCommand>(
            run =>
            {
                KernelFd access = run.TestDomain.CreateAccess(pins: false);
                run.Map(Iova, 4 * Page);
                return TestCommand.Create(TestOperation.AccessReadWrite, (uint)access.Number) with
                {
                    Word0 = Iova, Word1 = 8, Word2 = run.ScratchAddress,
                };
            },
            Calls.Iommufd,
            new("too-long", "length", Errno.ENOMEM, (_, ref command) => command.Word1 = (16 << 20) + 1),
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref command) => command.Word3 = 2),
            new("closed", "access", Errno.EBADFD, (_, ref command) => command.Id = 0x7FFF_FFFF),
            new("length-0", "length", Errno.EINVAL, (_, ref command) => command.Word1 = 0),
            new("wraps", "length iova", Errno.EOVERFLOW, (_, ref command) =>
                (command.Word0, command.Word1) = (ulong.MaxValue, 2)),
            new("unmapped", "iova", Errno.ENOENT, (_, ref command) => command.Word0 = Iova - Page),
            new("bad-buffer", "buffer", Errno.EFAULT, (_, ref command) => command.Word2 = BadAddress));
        foreach (uint flags in (uint[])[0, Slow])
        {
            string way = flags == 0 ? "" : "-slow";
            table.Add($"around-a-page-edge{way}", "any bytes around the edge of two pages are read and written", run =>
                CopyAround(run, Iova, run.MemoryAddress, flags));
            table.Add($"around-a-page-edge-with-table{way}", "a page table makes no difference to copies", run =>
            {
                run.TestDomain.CreateDevice();
                CopyAround(run, Iova, run.MemoryAddress, flags);
            });
            table.Add($"half-a-page-off{way}", "IOVAs and addresses need not lie alike in their pages", run =>
            {
                run.Map(Iova + TestRig.SmallPage, 4 * Page);
                KernelFd access = run.TestDomain.CreateAccess(pins: false);
                run.Memory.Bytes(0, 4096).Fill(0x21);
                run.Answers(
                    run.TestDomain.ReadWrite(access, Iova + TestRig.SmallPage, Page, run.ScratchAddress, flags),
                    Errno.Success, "reading");
                run.Holds(!run.Scratch.Bytes(0, 4096).ContainsAnyExcept((byte)0x21), "the first page of the memory");
            });
            table.Add($"across-mappings{way}", "a copy may span mappings", run =>
            {
                run.Map(Iova, Page, 2 * Page);
                run.Map(Iova + Page, Page);
                KernelFd access = run.TestDomain.CreateAccess(pins: false);
                run.Scratch.Bytes(0, 8192).Fill(0x77);
                run.Answers(
                    run.TestDomain.ReadWrite(access, Iova + 0xFF0, 32, run.ScratchAddress, Write | flags),
                    Errno.Success, "writing");
                run.Equal((byte)0x77, run.Memory.Bytes(0x2FF0, 16)[15], "the last byte of the first mapping");
                run.Equal((byte)0x77, run.Memory.Bytes(0, 17)[15], "the last byte written to the second");
                run.Equal((byte)0, run.Memory.Bytes(0, 17)[16], "the byte after it");
            });
            table.Add($"file{way}", "a mapping of a memory file is read and written", run =>
            {
                KernelFd file = run.CreateMemoryFile(2 * Page);
                IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, Iova, file.Number, 0, 2 * Page, Fixed);
                run.Answers(ref map, Errno.Success);
                KernelFd access = run.TestDomain.CreateAccess(pins: false);
                run.Scratch.Bytes(0, 64).Fill(0x42);
                run.Answers(
                    run.TestDomain.ReadWrite(access, Iova + 0xFF0, 64, run.ScratchAddress, Write | flags),
                    Errno.Success, "writing");
                byte[] read = new byte[64];
                run.Equal(64L, run.Kernel.Pread(file.Number, read, 0xFF0).Value, "the length of a read of the file");
                run.Holds(!read.AsSpan().ContainsAnyExcept((byte)0x42), "what was written to be in the file");
            });
        }

        foreach ((string name, IommuIoasMapFlags flags, uint copy) in
            ((string, IommuIoasMapFlags, uint)[])[
                ("read-only", IommuIoasMapFlags.Readable, Write), ("write-only", IommuIoasMapFlags.Writeable, 0)])
        {
            table.Add($"{name}-the-other-way", "a mapping that does not permit it is EPERM", run =>
            {
                KernelFd access = run.TestDomain.CreateAccess(pins: false);
                run.Answers(
                    run.TryMap(Iova, run.MemoryAddress, Page, flags | IommuIoasMapFlags.FixedIova), Errno.Success,
                    "mapping");
                run.Answers(
                    run.TestDomain.ReadWrite(access, Iova, 8, run.ScratchAddress, copy), Errno.EPERM, "copying");
                run.Answers(
                    run.TestDomain.ReadWrite(access, Iova, 8, run.ScratchAddress, copy ^ Write), Errno.Success,
                    "copying the other way");
            });
        }

        table.Add("bad-address", "memory that is not there is EFAULT", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess(pins: false);
            run.Answers(run.TryMap(Iova, 0x1000, Page), Errno.Success, "mapping where nothing is");
            run.Answers(run.TestDomain.ReadWrite(access, Iova, 8, run.ScratchAddress, 0), Errno.EFAULT, "reading");
            run.Answers(
                run.TestDomain.ReadWrite(access, Iova, 8, run.ScratchAddress, Slow), Errno.EFAULT, "reading slowly");
        });
        table.Add("stops-at-a-hole", "a copy that runs into a hole is ENOENT", run =>
        {
            KernelFd access = run.TestDomain.CreateAccess(pins: false);
            run.Map(Iova, Page);
            run.Answers(
                run.TestDomain.ReadWrite(access, Iova + 0xFF8, 16, run.ScratchAddress, 0), Errno.ENOENT, "reading");
        });
    }

    /// <summary>Reads and writes lengths of 1 to 63 bytes at each offset before the edge of the first page.</summary>
    private static void CopyAround(CaseRun run, ulong iova, ulong address, uint flags)
    {
        const int Longest = 63;
        run.Map(iova, 4 * Page, address - run.MemoryAddress);
        KernelFd access = run.TestDomain.CreateAccess(pins: false);
        for (int before = 0; before < 32; before++)
        {
            for (int length = 1; length <= Longest; length += 2)
            {
                Span<byte> memory = run.Memory.Bytes(0, 8192);
                memory.Clear();
                Span<byte> buffer = run.Scratch.Bytes(0, Longest);
                for (int index = 0; index < Longest; index++)
                    buffer[index] = (byte)(index + 1);
                ulong at = iova + Page - (ulong)before;
                Errno errno = run.TestDomain.ReadWrite(access, at, (ulong)length, run.ScratchAddress, Write | flags);
                run.Answers(errno, Errno.Success, $"writing {length} bytes {before} before the edge");
                int start = 4096 - before;
                run.Holds(
                    memory.Slice(start, length).SequenceEqual(buffer[..length]) && memory[start + length] == 0
                        && memory[start - 1] == 0,
                    $"just {length} bytes to be written {before} before the edge");
                buffer.Clear();
                errno = run.TestDomain.ReadWrite(access, at, (ulong)length, run.ScratchAddress, flags);
                run.Answers(errno, Errno.Success, $"reading {length} bytes {before} before the edge");
                run.Holds(
                    memory.Slice(start, length).SequenceEqual(buffer[..length]) 
                        && !buffer[length..].ContainsAnyExcept((byte)0),
                    $"the {length} bytes {before} before the edge");
            }
        }
    }
}
