using System.Reflection;
using System.Runtime.InteropServices;
using Tidemark.Abi;

namespace Tidemark.Kernel.Tests;

public sealed class TracingKernelTests
{
    private readonly List<string> _lines = [];
    private readonly ScriptedKernel _inner = new();
    private readonly TracingKernel _kernel;

    public TracingKernelTests()
    {
        _kernel = new TracingKernel(_inner, _lines.Add);
        Assert.Equal(["# kernel=scripted 1.0"], _lines);
        _lines.Clear();
    }

    [Fact]
    public void Calls_are_spelled_as_strace_spells_them()
    {
        EveryCall.Make(_kernel);
        Assert.Equal(
            [
                "openat(AT_FDCWD, \"/dev/null\", O_RDWR) = 3",
                "fcntl(3, F_DUPFD_CLOEXEC, 0) = 4",
                "ioctl(3, 0x3b80, \"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\") = 0",
                "ioctl(3, 0x3b65, 0x1) = 5",
                "read(3, \"rr\", 4) = 2",
                "write(3, \"\\x01\\x02\", 2) = 2",
                "pread64(3, \"\\x00\\x00\\x00\\x00\", 4, 0x8) = 4",
                "pwrite64(3, \"\\x01\\x02\", 2, 0x8) = 2",
                "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x0) = 0x7f0000001000",
                "madvise(0x7f0000001000, 4096, MADV_DONTNEED) = 0",
                "poll([{fd=3, events=POLLIN}], 1, 0) = 1 ([{fd=3, revents=POLLIN}])",
                "eventfd2(1, EFD_NONBLOCK) = 6",
                "memfd_create(\"m\", MFD_CLOEXEC) = 7",
                "ftruncate(3, 4096) = 0",
                "fsync(3) = 0",
                "readv(3, [...], 0) = 0",
                "writev(3, [...], 0) = 0",
                "lseek(3, 0, SEEK_DATA) = 0",
                "userfaultfd(UFFD_USER_MODE_ONLY) = 8",
                "sendmsg(3, \"\", SCM_RIGHTS []) = 0",
                "recvmsg(3, \"\", SCM_RIGHTS []) = 0",
                "openat(AT_FDCWD, \"/dev/iommu\", O_RDONLY) = 9",
                "munmap(0x7f0000001000, 4096) = 0",
                "close(3) = 0",
            ],
            _lines);
    }

    [Fact]
    public void Iommufd_arguments_show_every_field_and_what_the_call_changed()
    {
        int fd = Open("/dev/iommu");
        _inner.OnIoctl = static (_, request, argument) =>
        {
            if (request == IommufdRequests.IoasAlloc.Value)
                argument[8] = 7;
            if (request == IommufdRequests.IoasUnmap.Value)
                argument[17] = 0x10;
            return request == IommufdRequests.IoasMap.Value ? SyscallResult.Fail(Errno.EINVAL) : SyscallResult.Ok();
        };
        Call(fd, IommuIoasAlloc.Create());
        Call(fd, IommuIoasMap.Create(
            7, 0x100000, 0x7f0000000000, 0x200000,
            IommuIoasMapFlags.FixedIova | IommuIoasMapFlags.Readable | IommuIoasMapFlags.Writeable));
        Call(fd, IommuIoasUnmap.Create(7, 0x100000, 0x2000));
        var alloc = IommuHwptAlloc.Create(1, IommuHwptAllocFlags.DirtyTracking | (IommuHwptAllocFlags)0x100, 7);
        Call(fd, alloc);
        Assert.Equal(
            [
                $"ioctl({fd}, IOMMU_IOAS_ALLOC, {{size=12, flags=0x0, out_ioas_id=7}}) = 0",
                $"ioctl({fd}, IOMMU_IOAS_MAP, {{size=40, flags=FIXED_IOVA|WRITEABLE|READABLE, ioas_id=7,"
                    + " user_va=0x7f0000000000, length=0x200000, iova=0x100000}) = -1 EINVAL",
                $"ioctl({fd}, IOMMU_IOAS_UNMAP, {{size=24, ioas_id=7, iova=0x100000, length=0x2000 => 0x1000}}) = 0",
                $"ioctl({fd}, IOMMU_HWPT_ALLOC, {{size=48, flags=DIRTY_TRACKING|0x100, dev_id=1, pt_id=7,"
                    + " out_hwpt_id=0, data_type=NONE, data_len=0, data_uptr=0x0, fault_id=0}) = 0",
            ],
            _lines);
    }

    [Fact]
    public void One_number_has_the_name_that_fits_the_descriptor()
    {
        int container = Open("/dev/vfio/vfio");
        int device = Open("/dev/vfio/devices/vfio0");
        int group = Open("/dev/vfio/12");
        int iommufd = Open("/dev/iommu");
        _inner.OnIoctl = static (_, _, _) => SyscallResult.Ok(77);
        foreach (int fd in (int[])[container, device, iommufd])
            _kernel.Ioctl(fd, 0x3b75, new byte[8]);
        byte[] name = [.. "0000:01:00.0\0"u8];
        _kernel.Ioctl(group, VfioRequests.GroupGetDeviceFd.Value, name);
        _kernel.Ioctl(77, VfioRequests.DeviceReset.Value, []);
        _kernel.Close(77);
        _kernel.Ioctl(77, VfioRequests.DeviceReset.Value, []);
        Assert.Equal(
            [
                $"ioctl({container}, VFIO_IOMMU_DIRTY_PAGES, {{argsz=0, flags=0}}) = 77",
                $"ioctl({device}, VFIO_DEVICE_FEATURE, {{argsz=0, flags=0|PCI_VF_TOKEN}}) = 77",
                $"ioctl({iommufd}, VFIO_IOMMU_DIRTY_PAGES, {{argsz=0, flags=0}}) = 77",
                $"ioctl({group}, VFIO_GROUP_GET_DEVICE_FD, \"0000:01:00.0\") = 77",
                "ioctl(77, VFIO_DEVICE_RESET, {}) = 77",
                "close(77) = 0",
                "ioctl(77, 0x3b6f, \"\") = 77",
            ],
            _lines);
    }

    [Fact]
    public void Feature_payloads_and_the_data_descriptor_are_understood()
    {
        int device = Open("/dev/vfio/devices/vfio0");
        _inner.OnIoctl = static (_, request, argument) =>
        {
            if (request == VfioRequests.DeviceFeature.Value)
                argument[12] = 50;
            return SyscallResult.Ok();
        };
        byte[] argument = new byte[16];
        argument[0] = 16;
        argument[4] = (byte)VfioDeviceFeatureIndex.MigDeviceState;
        argument[6] = 2;
        argument[8] = (byte)VfioDeviceMigState.PreCopyP2P;
        _kernel.Ioctl(device, VfioRequests.DeviceFeature.Value, argument);
        Call(50, VfioPrecopyInfo.Create());
        byte[] irqs = new byte[28];
        MemoryMarshal.Write(irqs, VfioIrqSet.Create(
            VfioIrqSetFlags.DataEventfd | VfioIrqSetFlags.ActionTrigger, 2, 0, 2, 8));
        irqs[20] = 9;
        irqs.AsSpan(24).Fill(0xff);
        _kernel.Ioctl(device, VfioRequests.DeviceSetIrqs.Value, irqs);
        Assert.Equal(
            [
                $"ioctl({device}, VFIO_DEVICE_FEATURE, {{argsz=16, flags=SET|MIG_DEVICE_STATE,"
                    + " device_state=PRE_COPY_P2P, data_fd=50}) = 0",
                "ioctl(50, VFIO_MIG_GET_PRECOPY_INFO, {argsz=24, flags=0, initial_bytes=0, dirty_bytes=0}) = 0",
                $"ioctl({device}, VFIO_DEVICE_SET_IRQS, {{argsz=28, flags=DATA_EVENTFD|ACTION_TRIGGER, index=2,"
                    + " start=0, count=2, fds=[9, -1]}) = 0",
            ],
            _lines);
    }

    [Fact]
    public void Every_layout_is_as_long_as_its_Abi_struct_and_every_struct_has_one()
    {
        int compared = 0;
        foreach (Type type in typeof(IommuIoasMap).Assembly.GetTypes())
        {
            PropertyInfo? property = type.GetProperty("Request", BindingFlags.Static | BindingFlags.Public);
            if (!type.IsValueType || property?.PropertyType != typeof(IoctlRequest))
                continue;
            var request = (IoctlRequest)property.GetValue(null)!;
            ReadOnlySpan<TraceField> layout = TraceLayouts.OfRequest(request.Name);
            Assert.False(layout.IsEmpty, $"{request.Name} has no layout.");
            int length = layout[^1].Offset + layout[^1].Width;
            Assert.Equal((request.Name, Marshal.SizeOf(type)), (request.Name, length));
            compared++;
        }

        Assert.InRange(compared, 40, TraceLayouts.Requests.Count());
    }

    [Fact]
    public void Arguments_of_any_length_and_content_are_survived()
    {
        int[] fds =
            [Open("/dev/iommu"), Open("/dev/vfio/devices/vfio0"), Open("/dev/vfio/vfio"), Open("/proc/self/pagemap")];
        var random = new Random(7);
        for (int round = 0; round < 20_000; round++)
        {
            byte[] argument = new byte[random.Next(64)];
            random.NextBytes(argument);
            _kernel.Ioctl(fds[round % fds.Length], 0x3b64 + (uint)random.Next(0x40), argument);
        }

        Assert.All(_lines, line => Assert.DoesNotContain('\n', line));
    }

    private int Open(string path)
    {
        int fd = (int)_kernel.Open(path, OpenFlags.ReadWrite).Value;
        _lines.Clear();
        return fd;
    }

    private void Call<T>(int fd, T argument)
        where T : unmanaged, IIoctlArgument<T> =>
        _kernel.Ioctl(fd, T.Request.Value, MemoryMarshal.AsBytes(new Span<T>(ref argument)));
}
