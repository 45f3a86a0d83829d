using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>An iommufd as a file, and the ids of the objects in it.</summary>
internal static class ContextCases
{
    private const string Area = "context";
    private const int HwInfoWithoutCapabilities = 32;

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddIds(new CaseTable(cases, Area, "iommufd.context.id", "kernel behaviour, ids of objects"));
        AddFile(new CaseTable(cases, Area, "iommufd.context.file", "kernel behaviour, an iommufd as a file"));
        AddMemory(new CaseTable(cases, Area, "iommufd.context.memory", "kernel behaviour, what is mapped"));
        AddRest(new CaseTable(cases, Area, "iommufd.context", "iommufd.h, structs that end early and IOAS by number"));
    }

    private static void AddIds(CaseTable table)
    {
        table.Add("first", "the first object of a context has id 1", run => run.Equal(1u, run.Ioas, "the id"));
        table.Add("lowest-free", "an id that was given back is the next one to be given out, when it is the lowest", run =>
        {
            uint first = run.CreateIoas(), second = run.CreateIoas();
            run.Equal(first + 1, second, "the second id");
            run.Answers(run.Destroy(first), Errno.Success, "IOMMU_DESTROY");
            run.Equal(first, run.CreateIoas(), "the id after one was given back");
            run.Equal(second + 1, run.CreateIoas(), "the id after that");
        });
        table.Add("failed-call-takes-none", "a call that fails takes no id", run =>
        {
            uint first = run.CreateIoas();
            IommuIoasAlloc wrong = IommuIoasAlloc.Create();
            wrong.Flags = 1;
            run.Answers(ref wrong, Errno.EOPNOTSUPP);
            run.Answers(run.TryAllocateHwpt(run.Device, (IommuHwptAllocFlags)(1u << 31), out _), Errno.EOPNOTSUPP, "IOMMU_HWPT_ALLOC");
            uint next = run.CreateIoas();
            run.Holds(next <= Math.Max(first, Math.Max(run.Device.Id, run.Ioas)) + 1, $"no id to be left out before {next}");
        });
        table.Add("of-each-context", "contexts know nothing of each other's ids", run =>
        {
            uint ours = run.Ioas;
            KernelFd other = run.OpenIommufd();
            IommuDestroy destroy = IommuDestroy.Create(ours);
            run.Answers(run.Kernel.Ioctl(other, ref destroy).Errno, Errno.ENOENT, "IOMMU_DESTROY in the other context");
            IommuIoasAlloc alloc = IommuIoasAlloc.Create();
            run.Answers(run.Kernel.Ioctl(other, ref alloc).Errno, Errno.Success, "IOMMU_IOAS_ALLOC in the other context");
            run.Equal(1u, alloc.OutIoasId, "its id there");
            destroy = IommuDestroy.Create(alloc.OutIoasId);
            run.Answers(run.Kernel.Ioctl(other, ref destroy).Errno, Errno.Success, "IOMMU_DESTROY in the other context");
            run.Ranges(ours, out _);
        });
        table.Add("one-space", "address spaces, page tables and devices have different ids", run =>
        {
            uint hwpt = run.AllocateHwpt(run.Device);
            run.Equal(3, new HashSet<uint> { run.Ioas, hwpt, run.Device.Id }.Count, "different ids");
        });
    }

    private static void AddFile(CaseTable table)
    {
        table.Add("duplicate", "a duplicate of the descriptor is the same context", run =>
        {
            KernelFd duplicate = Duplicate(run);
            IommuDestroy destroy = IommuDestroy.Create(run.Ioas);
            run.Answers(run.Kernel.Ioctl(duplicate, ref destroy).Errno, Errno.Success, "IOMMU_DESTROY");
            destroy = IommuDestroy.Create(run.Ioas);
            run.Answers(ref destroy, Errno.ENOENT);
        });
        table.Add("duplicate-keeps-it", "a context lives as long as a descriptor of it", run =>
        {
            KernelFd duplicate = Duplicate(run);
            uint ioas = run.Ioas;
            run.Iommufd.Dispose();
            IommuDestroy destroy = IommuDestroy.Create(ioas);
            run.Answers(run.Kernel.Ioctl(duplicate, ref destroy).Errno, Errno.Success, "IOMMU_DESTROY");
        });
        table.Add("read", "it can not be read: EINVAL", run =>
            run.Answers(run.Kernel.Read(run.Iommufd.Number, new byte[8]).Errno, Errno.EINVAL, "read"));
        table.Add("write", "it can not be written: EINVAL", run =>
            run.Answers(run.Kernel.Write(run.Iommufd.Number, new byte[8]).Errno, Errno.EINVAL, "write"));
        table.Add("seek", "it has no position: ESPIPE", run =>
            run.Answers(run.Kernel.Lseek(run.Iommufd.Number, 0, SeekWhence.Data).Errno, Errno.ESPIPE, "lseek"));
        table.Add("fsync", "there is nothing to make durable: EINVAL", run =>
            run.Answers(run.Kernel.Fsync(run.Iommufd.Number).Errno, Errno.EINVAL, "fsync"));
        table.Add("truncate", "it has no length: EINVAL", run =>
            run.Answers(run.Kernel.Ftruncate(run.Iommufd.Number, Page).Errno, Errno.EINVAL, "ftruncate"));
        table.Add("poll", "it is always ready", run =>
        {
            PollDescriptor[] descriptors = [new(run.Iommufd.Number, PollEvents.In, PollEvents.None)];
            run.Equal(1L, run.Kernel.Poll(descriptors, 0).Value, "descriptors that are ready");
            run.Equal(PollEvents.In, descriptors[0].Returned, "what it is ready for");
        });
        table.Add("mmap-private", "it is not mapped privately: EINVAL", run =>
            run.Answers(TryMmap(run, MapFlags.Private, MemoryProtection.Read), Errno.EINVAL, "mmap"));
        table.Add("mmap-nothing", "nothing is there to be mapped: ENXIO", run =>
            run.Answers(TryMmap(run, MapFlags.Shared, MemoryProtection.Read), Errno.ENXIO, "mmap"));
        table.Add("mmap-writable", "nor to be mapped for writing: ENXIO", run =>
            run.Answers(TryMmap(run, MapFlags.Shared, MemoryProtection.Read | MemoryProtection.Write), Errno.ENXIO, "mmap"));
    }

    private static void AddMemory(CaseTable table)
    {
        table.Add("twice", "the same memory can be mapped twice, and each mapping goes alone", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Map(Iova, Page);
            run.Map(Iova + (4 * Page), Page);
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "IOMMU_IOAS_UNMAP");
            run.Answers(run.TryMap(Iova + (4 * Page), run.MemoryAddress, Page), Errno.EEXIST, "mapping over the other one");
            run.Answers(run.Unmap(Iova + (4 * Page), Page, out ulong unmapped), Errno.Success, "IOMMU_IOAS_UNMAP");
            run.Equal(Page, unmapped, "the bytes unmapped");
        });
        table.Add("regular-file", "without a page table any file can be mapped: its pages are looked for later", run =>
            run.Answers(run.TryMapFile(RegularFile(run), Iova, Page, flags: ReadOnly), Errno.Success, "IOMMU_IOAS_MAP_FILE"));
        table.Add("regular-file-at-page-table", "a page table can not be made over a file that is no memory file: EINVAL", run =>
        {
            run.Answers(run.TryMapFile(RegularFile(run), Iova, Page, flags: ReadOnly), Errno.Success, "IOMMU_IOAS_MAP_FILE");
            run.Answers(run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.None, out _), Errno.EINVAL, "IOMMU_HWPT_ALLOC");
        });
        table.Add("regular-file-with-page-table", "with a page table a file that is no memory file is EINVAL", run =>
        {
            run.AllocateHwpt(run.Device);
            run.Answers(run.TryMapFile(RegularFile(run), Iova, Page, flags: ReadOnly), Errno.EINVAL, "IOMMU_IOAS_MAP_FILE");
        });
        table.Add("file-twice", "one part of a file can be mapped at two addresses", run =>
        {
            KernelFd file = run.CreateMemoryFile(Page);
            run.AllocateHwpt(run.Device);
            run.Answers(run.TryMapFile(file, Iova, Page), Errno.Success, "IOMMU_IOAS_MAP_FILE");
            run.Answers(run.TryMapFile(file, Iova + Page, Page), Errno.Success, "IOMMU_IOAS_MAP_FILE again");
            run.Answers(run.Unmap(Iova, 2 * Page, out ulong unmapped), Errno.Success, "IOMMU_IOAS_UNMAP");
            run.Equal(2 * Page, unmapped, "the bytes unmapped");
        });
    }

    private static void AddRest(CaseTable table)
    {
        table.Add("vfio-ioas-replaced", "setting another IOAS through iommu_vfio_ioas replaces the first", run =>
        {
            uint second = run.CreateIoas();
            IommuVfioIoas set = IommuVfioIoas.Create(IommuVfioIoasOp.Set, run.Ioas);
            run.Answers(ref set, Errno.Success);
            set = IommuVfioIoas.Create(IommuVfioIoasOp.Set, second);
            run.Answers(ref set, Errno.Success);
            IommuVfioIoas get = IommuVfioIoas.Create(IommuVfioIoasOp.Get, 0);
            run.Answers(ref get, Errno.Success);
            run.Equal(second, get.IoasId, "the IOAS");
        });
        table.Add("hw-info-before-capabilities", "an iommu_hw_info that ends before the capabilities is answered without them", run =>
        {
            IommuHwInfo info = IommuHwInfo.Create(run.Device.Id);
            info.Size = HwInfoWithoutCapabilities;
            info.OutCapabilities = (IommuHwCapabilities)ulong.MaxValue;
            run.Answers(ref info, Errno.Success);
            run.Equal(ulong.MaxValue, (ulong)info.OutCapabilities, "the capabilities, as they were sent");
        });
    }

    private const IommuIoasMapFlags ReadOnly = IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable;

    private static KernelFd Duplicate(CaseRun run) =>
        run.OwnFd(run.Kernel.Dup(run.Iommufd.Number), "Duplicating the iommufd");

    /// <summary>A file of the host's that every process may read and that is on no memory file system.</summary>
    private static KernelFd RegularFile(CaseRun run) =>
        run.OwnFd(run.Kernel.Open("/proc/self/maps", OpenFlags.ReadOnly | OpenFlags.CloseOnExec), "Opening /proc/self/maps");

    private static Errno TryMmap(CaseRun run, MapFlags flags, MemoryProtection protection)
    {
        SyscallResult result = run.Kernel.Mmap(Page, protection, flags, run.Iommufd.Number, 0);
        if (result.Succeeded)
            run.Kernel.Munmap((ulong)result.Value, Page);
        return result.Errno;
    }
}
