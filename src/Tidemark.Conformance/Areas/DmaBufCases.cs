using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Conformance.TestDomain;
using Tidemark.Kernel;
using static Tidemark.Abi.VfioDeviceFeatureFlags;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>Dma-bufs: a device's BAR, or the test domain's memory, lent and mapped into an IOAS, and revoked.</summary>
internal static class DmaBufCases
{
    private const uint PageBytes = (uint)Page;
    private const uint Largest = 512 * PageBytes;

    public static void AddTo(List<ConformanceCase> cases)
    {
        const string Vfio = "vfio-dma-buf";
        AddExports(new CaseTable(cases, Vfio, "vfio.feature.dma-buf", "vfio.h, vfio_device_feature_dma_buf"));
        AddMappings(new CaseTable(cases, Vfio, "vfio.dma-buf", "iommufd.h, iommu_ioas_map_file, of a dma-buf"));
        AddPeers(new CaseTable(cases, Vfio, "vfio.dma-buf.peer", "kernel behaviour, DMA between devices"));
        const string Test = "test-domain-dma-buf";
        AddLending(new CaseTable(cases, Test, "testdomain.dma-buf", "kernel behaviour, dma-bufs of the test domain"));
        AddRevoking(new CaseTable(cases, Test, "testdomain.dma-buf.revoke", "kernel behaviour, revoked dma-bufs"));
    }

    private static void AddExports(CaseTable table)
    {
        table.Refusals<Export>(
            run =>
            {
                RequireDmaBuf(run);
                return new Export();
            },
            (run, ref export) => export.Send(run).Errno,
            new("argsz-below-payload", "argsz", Errno.EINVAL, (_, ref export) => export.Argsz = 23),
            new("no-ranges", "ranges", Errno.EINVAL, (_, ref export) => export.Count = 0),
            new("flags", "flags", Errno.EINVAL, (_, ref export) => export.Flags = 1),
            new("rom", "region", Errno.ENODEV, (_, ref export) => export.Region = (uint)VfioPciRegionIndex.Rom),
            new("unknown-region", "region", Errno.ENODEV, (_, ref export) => export.Region = 999),
            new("length-0", "range", Errno.EINVAL, (_, ref export) => export.Length = 0),
            new("offset-unaligned", "range", Errno.EINVAL, (_, ref export) => export.Offset = 1),
            new("length-unaligned", "range", Errno.EINVAL, (_, ref export) => export.Length = 1),
            new("beyond-the-end", "range", Errno.EINVAL,
                (run, ref export) => export.Offset = run.Device.SizeOf(VfioPciRegionIndex.Bar0)));
        table.Add("absent-region", "a BAR that the device does not have is ENODEV", run =>
        {
            RequireDmaBuf(run);
            run.Equal(0ul, run.Device.SizeOf(VfioPciRegionIndex.Bar5), "the size of BAR5");
            run.Answers(
                new Export { Region = (uint)VfioPciRegionIndex.Bar5, Length = 0 }.Send(run).Errno, Errno.ENODEV,
                "exporting");
        });
        table.Add("wraps", "an offset that ends beyond all addresses is EOVERFLOW", run =>
        {
            RequireDmaBuf(run);
            run.Answers(
                new Export { Offset = 0xFFFF_FFFF_FFFF_F000 }.Send(run).Errno, Errno.EOVERFLOW, "exporting");
        });
        table.Add("longest", "half of all addresses is EINVAL", run =>
        {
            RequireDmaBuf(run);
            run.Answers(
                new Export { Length = 1ul << 63, Offset = 1ul << 63 }.Send(run).Errno, Errno.EINVAL, "exporting");
        });
        table.Add("test-domain-can-not-revoke", "what a device lent is not the test domain's to revoke: EOPNOTSUPP",
            run =>
        {
            KernelFd lent = LendFrom(run);
            run.Answers(run.TestDomain.Revoke(lent.Number), Errno.EOPNOTSUPP, "DMABUF_REVOKE");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
        });
        table.Add("accepted", "a part of a BAR becomes a descriptor, which the call returns", run =>
        {
            RequireDmaBuf(run);
            Lend(run);
        });
        table.Add("set", "it can be asked for, not set: EINVAL", run =>
        {
            RequireDmaBuf(run);
            run.Answers(run.Device.Probe(VfioDeviceFeatureIndex.DmaBuf, Set), Errno.EINVAL, "probing");
        });
        table.Add("survives-the-device", "a descriptor outlives the device's file", run =>
        {
            RequireDmaBuf(run);
            Lend(run);
            run.Device.File.Dispose();
        });
    }

    private static void RequireDmaBuf(CaseRun run, DeviceNeed? need = null)
    {
        run.Use(need ?? DeviceNeed.Writer);
        Errno errno = run.Device.Probe(VfioDeviceFeatureIndex.DmaBuf, Get);
        if (errno is Errno.ENOTTY or Errno.EOPNOTSUPP)
            throw CaseRun.NotApplicable("This kernel, or this device, does not export BARs as DMA-BUFs.");
        run.Answers(errno, Errno.Success, "probing DMA_BUF");
        run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
    }

    private static void AddMappings(CaseTable table)
    {
        table.Errors<IommuIoasMapFile>(
            run => IommuIoasMapFile.Create(run.Ioas, Iova, LendFrom(run).Number, 0, Page, Fixed),
            Calls.Iommufd,
            new("length-0", "length", Errno.EINVAL, (_, ref argument) => argument.Length = 0),
            new("too-long", "length", Errno.EINVAL, (_, ref argument) => argument.Length = Page + 1),
            new("beyond-the-end", "start", Errno.EINVAL, (_, ref argument) => argument.Start = Page),
            new("revoked", "revoked", Errno.ENODEV, (run, ref argument) => SetMemory(run, on: false)),
            new("occupied", "iova", Errno.EEXIST, (run, ref argument) => run.Map(Iova, Page)));
        table.Add("two-ranges", "one of two ranges is made, and can not be mapped: EOPNOTSUPP", run =>
        {
            RequireDmaBuf(run);
            KernelFd lent = run.OwnFd(new Export { Argsz = 56, Count = 2, Given = 2 }.Send(run), "exporting");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.EOPNOTSUPP, "mapping");
        });
        table.Add("revoked-before-two-ranges", "revoked is seen before that it is in two ranges", run =>
        {
            RequireDmaBuf(run);
            KernelFd lent = run.OwnFd(new Export { Argsz = 56, Count = 2, Given = 2 }.Send(run), "exporting");
            SetMemory(run, on: false);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.ENODEV, "mapping");
        });
        table.Add("argsz-without-ranges", "argsz need not tell of the ranges", run =>
        {
            RequireDmaBuf(run);
            run.OwnFd(new Export { Argsz = 24 }.Send(run), "exporting");
        });
        table.Add("attached", "with a page table it is mapped, unmapped, and mapped again", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Device.Attach(run.Ioas);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            run.Answers(run.Unmap(Iova, Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(Page, unmapped, "the bytes unmapped");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping again");
        });
        table.Add("attached-later", "a page table that is made later shows it, revoked or not", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            run.Device.Attach(run.Ioas);
            run.Answers(run.Device.Detach(), Errno.Success, "detaching");
            SetMemory(run, on: false);
            run.Device.Attach(run.Ioas);
            SetMemory(run, on: true);
        });
        table.Add("stays-when-revoked", "a mapping stays when its memory is revoked, and can be unmapped", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Device.Attach(run.Ioas);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            SetMemory(run, on: false);
            run.Answers(run.TryMap(Iova, run.MemoryAddress, Page), Errno.EEXIST, "mapping over it");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.ENODEV, "mapping it again");
            SetMemory(run, on: true);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping it again with memory on");
        });
        table.Add("lent-while-off", "what is lent while memory is off is revoked until it is on", run =>
        {
            RequireDmaBuf(run);
            SetMemory(run, on: false);
            KernelFd lent = Lend(run);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.ENODEV, "mapping");
            SetMemory(run, on: true);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping with memory on");
        });
        table.Add("low-power", "entering low power revokes, leaving it gives back", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.Success, "entering");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.ENODEV, "mapping");
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerExit, Set, 0), Errno.Success, "leaving");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping after low power");
        });
        table.Add("command-in-low-power", "switching memory on gives back in low power too", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.Success, "entering");
            SetMemory(run, on: true);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
        });
        table.Add("low-power-twice", "also a refused entry into low power revokes", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.Success, "entering");
            SetMemory(run, on: true);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.EINVAL, "again");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.ENODEV, "mapping");
        });
        table.Add("lent-in-low-power", "what is lent in low power is not revoked", run =>
        {
            RequireDmaBuf(run);
            run.Answers(run.Device.Feature(VfioDeviceFeatureIndex.LowPowerEntry, Set, 0), Errno.Success, "entering");
            run.Answers(run.TryMapFile(Lend(run), Iova, Page), Errno.Success, "mapping");
        });
        foreach (bool on in (bool[])[true, false])
        {
            table.Add(on ? "reset" : "reset-while-off", "a reset gives back what it revoked only with memory on", run =>
            {
                RequireDmaBuf(run, DeviceNeed.Resettable);
                KernelFd lent = Lend(run);
                run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
                SetMemory(run, on);
                run.Answers(run.Device.Reset(), Errno.Success, "VFIO_DEVICE_RESET");
                run.Answers(
                    run.TryMapFile(lent, Iova + Page, Page), on ? Errno.Success : Errno.ENODEV, "mapping after it");
            });
        }

        table.Add("closed-device", "closing the device revokes for good; mappings stay", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            run.Device.File.Dispose();
            run.Answers(run.TryMapFile(lent, Iova + Page, Page), Errno.ENODEV, "mapping");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
        });
        table.Add("closed-descriptor", "a mapping outlives the descriptor, which names nothing any more", run =>
        {
            KernelFd lent = LendFrom(run);
            int number = lent.Number;
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            lent.Dispose();
            IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, Iova + Page, number, 0, Page, Fixed);
            run.Answers(ref map, Errno.EBADF);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
        });
        table.Add("not-read-or-mapped", "the descriptor itself is neither read nor mapped: EINVAL", run =>
        {
            KernelFd lent = LendFrom(run);
            run.Answers(run.Kernel.Read(lent.Number, new byte[4]).Errno, Errno.EINVAL, "read");
            run.Answers(
                run.Kernel.Mmap(Page, MemoryProtection.Read, MapFlags.Shared, lent.Number, 0).Errno, Errno.EINVAL,
                "mmap");
        });
        table.Add("change-process", "a process that takes over an iommufd can not take over a dma-buf: EINVAL", run =>
        {
            run.Answers(run.TryMapFile(LendFrom(run), Iova, Page), Errno.Success, "mapping");
            IommuIoasChangeProcess change = IommuIoasChangeProcess.Create();
            run.Answers(ref change, Errno.EINVAL);
        });
    }

    private static void AddPeers(CaseTable table)
    {
        table.Add("write-arrives", "a device writes a register of another one through a mapped dma-buf", run =>
        {
            (BoundDevice target, NvmeWriter writer, _) = Peers(run);
            writer.WriteWord(Iova + Page);
            uint expected = BinaryPrimitives.ReadUInt32LittleEndian(run.Memory.Bytes(0, 4)) & 0x0FFF_0FFF;
            run.Holds(expected != 0, "a word that is not zero");
            const ulong AdminQueueSizes = 0x24;
            writer.WriteWord(Iova + AdminQueueSizes);
            run.Equal(
                (ulong)expected, target.ReadRegion(VfioPciRegionIndex.Bar0, AdminQueueSizes, 4) & 0x0FFF_0FFF, "AQA");
        });
        table.Add("revoked-is-not-reached", "memory that was off is not reached until it is mapped anew", run =>
        {
            (BoundDevice target, NvmeWriter writer, KernelFd lent) = Peers(run);
            const ulong AdminQueueSizes = 0x24;
            target.WriteRegion(VfioPciRegionIndex.Bar0, AdminQueueSizes, 4, 0);
            target.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 0);
            // Whether the controller says that its write went nowhere is its own business.
            writer.TryWriteWord(Iova + AdminQueueSizes);
            target.WriteRegion(VfioPciRegionIndex.Config, 4, 2, 2);
            run.Equal(0ul, target.ReadRegion(VfioPciRegionIndex.Bar0, AdminQueueSizes, 4), "AQA");
            writer.TryWriteWord(Iova + AdminQueueSizes);
            run.Equal(0ul, target.ReadRegion(VfioPciRegionIndex.Bar0, AdminQueueSizes, 4), "AQA with memory on");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping it anew");
            writer.WriteWord(Iova + AdminQueueSizes);
            run.Holds(target.ReadRegion(VfioPciRegionIndex.Bar0, AdminQueueSizes, 4) != 0, "another AQA");
        });
    }

    /// <summary>A controller, and another one whose registers are mapped for it, with a page of memory behind.</summary>
    private static (BoundDevice Target, NvmeWriter Writer, KernelFd Lent) Peers(CaseRun run)
    {
        KernelFd lent = LendFrom(run);
        BoundDevice target = run.Device;
        BoundDevice device = run.Bind(DeviceNeed.Writer);
        device.Attach(run.Ioas);
        run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping the registers");
        run.Map(Iova + Page, Page);
        return (target, NvmeWriter.Start(run, device, run.Ioas), lent);
    }

    private static void AddLending(CaseTable table)
    {
        foreach ((string name, uint length, Errno errno) in ((string, uint, Errno)[])[
            ("length-0", 0, Errno.EINVAL), ("length-1", 1, Errno.Success), ("largest", Largest, Errno.Success),
            ("too-long", Largest + 1, Errno.EINVAL), ("longest", uint.MaxValue, Errno.EINVAL)])
        {
            table.Add(name, "one to 512 pages can be lent", run =>
            {
                SyscallResult made = run.TestDomain.TryLend(length);
                run.Answers(made.Errno, errno, "DMABUF_GET");
                if (made.Succeeded)
                    run.OwnFd(made, "making a dma-buf");
            });
        }

        table.Add("length-rounds-up", "one byte is lent as a page", run =>
        {
            KernelFd lent = run.TestDomain.Lend(1);
            run.Answers(run.TryMapFile(lent, Iova, Page + 1), Errno.EINVAL, "mapping more");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
        });
        table.Add("exact", "it is mapped from its start to its end, and not beyond", run =>
        {
            KernelFd lent = run.TestDomain.Lend(4 * PageBytes);
            run.TestDomain.CreateDevice();
            run.Answers(run.TryMapFile(lent, Iova, 4 * Page), Errno.Success, "mapping all of it");
            run.Answers(run.TryMapFile(lent, Iova + (8 * Page), Page, start: 3 * Page), Errno.Success, "its last page");
            run.Answers(run.TryMapFile(lent, Iova + (9 * Page), 2 * Page, 3 * Page), Errno.EINVAL, "beyond its end");
            run.Answers(run.TryMapFile(lent, Iova + (9 * Page), Page, 4 * Page), Errno.EINVAL, "behind its end");
        });
        table.Add("half-a-page", "it is mapped in units of the IOAS", run =>
        {
            KernelFd lent = run.TestDomain.Lend(PageBytes);
            run.Answers(run.TryMapFile(lent, Iova + 5, 7, start: 5), Errno.Success, "seven bytes");
            uint other = run.CreateIoas();
            run.TestDomain.CreateDevice(other);
            run.Answers(
                run.TryMapFile(lent, Iova, TestRig.SmallPage, TestRig.SmallPage, ioas: other), Errno.Success, "half a page");
            run.Answers(
                run.TryMapFile(lent, Iova + Page, TestRig.SmallPage, 1, ioas: other), Errno.EINVAL, "from the second byte");
        });
        table.Add("anywhere", "the kernel finds room for it", run =>
        {
            KernelFd lent = run.TestDomain.Lend(2 * PageBytes);
            run.TestDomain.CreateDevice();
            IommuIoasMapFile map = IommuIoasMapFile.Create(run.Ioas, 0, lent.Number, 0, 2 * Page, Anywhere);
            run.Answers(ref map, Errno.Success);
            run.Equal(TestRig.First, map.Iova, "the IOVA");
        });
        table.Add("access", "an access can neither pin nor read nor write it: EINVAL", run =>
        {
            run.Answers(run.TryMapFile(run.TestDomain.Lend(PageBytes), Iova, Page), Errno.Success, "mapping");
            KernelFd access = run.TestDomain.CreateAccess();
            run.Answers(run.TestDomain.TryPin(access, Iova, Page, out _), Errno.EINVAL, "pinning");
            run.Answers(
                run.TestDomain.ReadWrite(access, Iova, 8, run.MemoryAddress, 0), Errno.EINVAL, "reading");
            run.Answers(
                run.TestDomain.ReadWrite(access, Iova, 8, run.MemoryAddress, 1), Errno.EINVAL, "writing");
        });
        table.Add("access-permission", "a permission that is missing is seen before that it is a dma-buf", run =>
        {
            const IommuIoasMapFlags ReadOnly = IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable;
            run.Answers(
                run.TryMapFile(run.TestDomain.Lend(PageBytes), Iova, Page, flags: ReadOnly), Errno.Success, "mapping");
            KernelFd access = run.TestDomain.CreateAccess();
            run.Answers(run.TestDomain.TryPin(access, Iova, Page, out _, flags: 1), Errno.EPERM, "pinning");
            run.Answers(
                run.TestDomain.ReadWrite(access, Iova, 8, run.MemoryAddress, 1), Errno.EPERM, "writing");
        });
        table.Add("copy", "it is copied like memory, with no more permission than it was mapped with", run =>
        {
            const IommuIoasMapFlags ReadOnly = IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable;
            run.TestDomain.CreateDevice();
            run.Answers(
                run.TryMapFile(run.TestDomain.Lend(PageBytes), Iova, Page, flags: ReadOnly), Errno.Success, "mapping");
            IommuIoasCopy copy = IommuIoasCopy.Create(run.Ioas, Iova + Page, run.Ioas, Iova, Page, Fixed);
            run.Answers(ref copy, Errno.EPERM);
            copy = IommuIoasCopy.Create(run.Ioas, Iova + Page, run.Ioas, Iova, Page, ReadOnly);
            run.Answers(ref copy, Errno.Success);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping the first");
            run.Answers(run.Unmap(Iova + Page, Page, out _), Errno.Success, "unmapping the copy");
        });
        table.Add("change-process", "a process that takes over an iommufd can not take over a dma-buf: EINVAL", run =>
        {
            run.Answers(run.TryMapFile(run.TestDomain.Lend(PageBytes), Iova, Page), Errno.Success, "mapping");
            IommuIoasChangeProcess change = IommuIoasChangeProcess.Create();
            run.Answers(ref change, Errno.EINVAL);
        });
    }

    private static void AddRevoking(CaseTable table)
    {
        table.Add("not-open", "a descriptor that is not open is EBADF", run =>
            run.Answers(run.TestDomain.Revoke(0x7FFF_0000), Errno.EBADF, "DMABUF_REVOKE"));
        table.Add("something-else", "a descriptor of something else is EINVAL", run =>
        {
            run.Answers(run.TestDomain.Revoke(run.Iommufd.Number), Errno.EINVAL, "DMABUF_REVOKE of an iommufd");
            run.Answers(
                run.TestDomain.Revoke(run.CreateMemoryFile(Page).Number), Errno.EINVAL, "DMABUF_REVOKE of a file");
        });
        table.Add("twice", "it can be revoked twice, and given back twice", run =>
        {
            KernelFd lent = run.TestDomain.Lend(PageBytes);
            foreach (bool revoked in (bool[])[true, true, false, false])
                run.Answers(run.TestDomain.Revoke(lent.Number, revoked), Errno.Success, "DMABUF_REVOKE");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
        });
        table.Add("mapping", "what is revoked can not be mapped: ENODEV, after its bounds and before its place", run =>
        {
            KernelFd lent = run.TestDomain.Lend(PageBytes);
            run.Map(Iova, Page);
            run.Answers(run.TestDomain.Revoke(lent.Number), Errno.Success, "DMABUF_REVOKE");
            run.Answers(run.TryMapFile(lent, Iova, 2 * Page), Errno.EINVAL, "mapping more than there is");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.ENODEV, "mapping where something is");
            run.Answers(run.TestDomain.Revoke(lent.Number, revoked: false), Errno.Success, "giving back");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.EEXIST, "mapping where something is");
        });
        table.Add("mapped", "a mapping stays, new page tables are made, and copies are", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd lent = rig.Lend(2 * PageBytes);
            TestDevice device = rig.CreateDevice();
            run.Answers(run.TryMapFile(lent, Iova, 2 * Page), Errno.Success, "mapping");
            run.Answers(rig.Revoke(lent.Number), Errno.Success, "DMABUF_REVOKE");
            run.Answers(run.TryMap(Iova, run.MemoryAddress, Page), Errno.EEXIST, "mapping over it");
            rig.Allocate(device, run.Ioas);
            IommuIoasCopy copy = IommuIoasCopy.Create(run.Ioas, Iova + (4 * Page), run.Ioas, Iova, Page, Fixed);
            run.Answers(ref copy, Errno.Success);
            run.Answers(rig.Revoke(lent.Number, revoked: false), Errno.Success, "giving back");
            run.Answers(run.Unmap(0, ulong.MaxValue, out ulong unmapped), Errno.Success, "unmapping everything");
            run.Equal(3 * Page, unmapped, "the bytes unmapped");
        });
        table.Add("unmapped", "what is revoked can be unmapped, and given back when nobody maps it", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd lent = rig.Lend(PageBytes);
            rig.CreateDevice();
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            run.Answers(rig.Revoke(lent.Number), Errno.Success, "DMABUF_REVOKE");
            run.Answers(run.Unmap(Iova, Page, out ulong unmapped), Errno.Success, "unmapping");
            run.Equal(Page, unmapped, "the bytes unmapped");
            run.Answers(rig.Revoke(lent.Number, revoked: false), Errno.Success, "giving back");
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping at the same place");
        });
        table.Add("access", "an access to what is revoked is EINVAL as well", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd lent = rig.Lend(PageBytes);
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            KernelFd access = rig.CreateAccess();
            run.Answers(rig.Revoke(lent.Number), Errno.Success, "DMABUF_REVOKE");
            run.Answers(rig.TryPin(access, Iova, Page, out _), Errno.EINVAL, "pinning");
        });
        table.Add("two-contexts", "two iommufds map it, and neither is hurt", run =>
        {
            TestRig rig = run.TestDomain;
            KernelFd lent = rig.Lend(PageBytes);
            KernelFd other = run.OpenIommufd();
            IommuIoasAlloc allocate = IommuIoasAlloc.Create();
            run.Answers(run.Kernel.Ioctl(other, ref allocate).Errno, Errno.Success, "IOMMU_IOAS_ALLOC");
            IommuIoasMapFile map = IommuIoasMapFile.Create(allocate.OutIoasId, Iova, lent.Number, 0, Page, Fixed);
            run.Answers(run.Kernel.Ioctl(other, ref map).Errno, Errno.Success, "mapping in the other");
            rig.CreateDevice();
            run.Answers(run.TryMapFile(lent, Iova, Page), Errno.Success, "mapping");
            run.Answers(rig.Revoke(lent.Number), Errno.Success, "DMABUF_REVOKE");
            other.Dispose();
            run.Answers(rig.Revoke(lent.Number, revoked: false), Errno.Success, "giving back");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping");
        });
    }

    private static KernelFd Lend(CaseRun run) => run.OwnFd(new Export().Send(run), "exporting");

    /// <summary>The first page of a controller's BAR0, memory on.</summary>
    private static KernelFd LendFrom(CaseRun run)
    {
        RequireDmaBuf(run);
        return Lend(run);
    }

    private static void SetMemory(CaseRun run, bool on) =>
        run.Device.WriteRegion(VfioPciRegionIndex.Config, 4, 2, on ? 2u : 0);

    /// <summary>An export of BAR0's first page, unless told otherwise.</summary>
    private sealed class Export
    {
        public uint Argsz { get; set; } = 40;

        public uint Region { get; set; }

        public uint Flags { get; set; }

        public uint Count { get; set; } = 1;

        /// <summary>Ranges that the argument holds, all alike.</summary>
        public uint Given { get; set; } = 1;

        public ulong Offset { get; set; }

        public ulong Length { get; set; } = CaseRun.Page;

        public SyscallResult Send(CaseRun run)
        {
            const uint CloseOnExec = 0x80000;
            const uint ReadWrite = 2;
            byte[] argument = new byte[24 + (16 * Math.Max(1, (int)Given))];
            uint[] words =
            [
                Argsz, (uint)Get | (uint)VfioDeviceFeatureIndex.DmaBuf, Region, CloseOnExec | ReadWrite, Flags, Count,
            ];
            for (int word = 0; word < words.Length; word++)
                BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(word * 4), words[word]);
            for (int at = 24; at < argument.Length; at += 16)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(at), Offset);
                BinaryPrimitives.WriteUInt64LittleEndian(argument.AsSpan(at + 8), Length);
            }

            return run.Kernel.Ioctl(run.Device.File.Number, VfioRequests.DeviceFeature.Value, argument);
        }
    }
}
