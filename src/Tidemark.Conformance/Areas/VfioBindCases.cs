using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>Binding a device file to an iommufd, and what works before.</summary>
internal static class VfioBindCases
{
    private const string Area = "vfio-bind";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddErrors(new CaseTable(cases, Area, "vfio.bind", "vfio.h, vfio_device_bind_iommufd"));
        AddRepeated(new CaseTable(cases, Area, "vfio.bind", "kernel behaviour, files of one device"));
        AddUnbound(new CaseTable(cases, Area, "vfio.unbound", "kernel behaviour, a device file that is not bound"));
    }

    private static void AddErrors(CaseTable table)
    {
        table.Errors<VfioDeviceBindIommufd>(
            run =>
            {
                VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.Iommufd.Number);
                bind.Argsz = VfioDeviceBindIommufd.StructSize;
                return bind;
            },
            (run, ref argument) => run.Kernel.Ioctl(run.OpenDevice(run.Find(DeviceNeed.Vfio)), ref argument).Errno,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-below-minimum", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15),
            new("negative-iommufd", "iommufd", Errno.EINVAL, (_, ref argument) => argument.Iommufd = -1),
            new("unknown-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = (VfioDeviceBindFlags)2),
            new("unknown-high-flag", "flags", Errno.EINVAL,
                (_, ref argument) => argument.Flags = (VfioDeviceBindFlags)(1u << 31)),
            new("iommufd-not-open", "iommufd", Errno.EBADF, (_, ref argument) => argument.Iommufd = 0x7FFF_0000),
            new("not-an-iommufd", "iommufd", Errno.EBADFD, (run, ref argument) =>
                argument.Iommufd = run.CreateMemoryFile(CaseRun.Page).Number),
            new("eventfd-as-iommufd", "iommufd", Errno.EBADFD, (run, ref argument) =>
                argument.Iommufd = run.CreateEventfd().Number));
        table.Add("argsz-minimum", "the smallest argsz is accepted", run => run.Use(DeviceNeed.Any));
        table.Add("argsz-larger-zero-tail", "a larger argsz is accepted when all bytes beyond the struct are 0", run =>
            run.Answers(BindRaw(run, 0), Errno.Success, "VFIO_DEVICE_BIND_IOMMUFD"));
        table.Add("argsz-larger-non-zero-tail", "a larger argsz is E2BIG when a byte beyond the struct is not 0", run =>
            run.Answers(BindRaw(run, 1), Errno.E2BIG, "VFIO_DEVICE_BIND_IOMMUFD"));
        table.Add("null-pointer", "an argument that can not be read is EFAULT", run =>
            run.Answers(
                run.Kernel.IoctlValue(
                    run.OpenDevice(run.Find(DeviceNeed.Vfio)).Number, VfioRequests.DeviceBindIommufd.Value, 0).Errno,
                Errno.EFAULT, "VFIO_DEVICE_BIND_IOMMUFD with a null pointer"));
        table.Add("id-is-not-0",
            "the device's id is not 0", run => run.Holds(run.Device.Id != 0, "an id that is not 0"));
        table.Add("id-is-no-ioas", "the device's id is none of an IOAS", run =>
        {
            uint ioas = run.Ioas;
            run.Holds(run.Device.Id != ioas, "an id of its own");
            run.Answers(
                run.TryMap(CaseRun.Iova, run.MemoryAddress, CaseRun.Page, ioas: run.Device.Id), Errno.ENOENT,
                "mapping into it");
        });
        table.Add("id-for-hw-info", "the device's id is good for GET_HW_INFO", run =>
        {
            IommuHwInfo info = IommuHwInfo.Create(run.Device.Id);
            run.Answers(ref info, Errno.Success);
        });
    }

    private static void AddRepeated(CaseTable table)
    {
        table.Add("twice", "binding a bound file is EINVAL", run =>
            run.Answers(Bind(run, run.Device.File), Errno.EINVAL, "binding again"));
        table.Add("second-file-opens", "a device can be opened again while it is bound", run =>
            run.OpenDevice(run.Device.Profile));
        table.Add("second-file-does-not-bind", "binding a second file of a bound device is EINVAL", run =>
            run.Answers(Bind(run, run.OpenDevice(run.Device.Profile)), Errno.EINVAL, "binding a second file"));
        table.Add("iommufd-before-second-file",
            "the iommufd is looked up before the device is seen to be in use", run =>
        {
            VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(0x7FFF_0000);
            run.Answers(
                run.Kernel.Ioctl(run.OpenDevice(run.Device.Profile), ref bind).Errno, Errno.EBADF,
                "binding a second file");
        });
        table.Add("second-file-binds-after-close", "closing the bound file lets the second one bind", run =>
        {
            KernelFd second = run.OpenDevice(run.Device.Profile);
            run.Device.File.Dispose();
            run.Answers(Bind(run, second), Errno.Success, "binding the second file");
        });
        table.Add("refused-file-binds-later", "a file that was refused can bind later", run =>
        {
            DeviceProfile profile = run.Find(DeviceNeed.Vfio);
            KernelFd file = run.OpenDevice(profile);
            VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(-1);
            run.Answers(run.Kernel.Ioctl(file, ref bind).Errno, Errno.EINVAL, "binding to -1");
            run.Answers(Bind(run, file), Errno.Success, "binding");
        });
        table.Add("duplicate-keeps-bound", "a duplicate of the descriptor keeps the device bound", run =>
        {
            KernelFd duplicate = run.OwnFd(run.Kernel.Dup(run.Device.File.Number), "dup");
            run.Device.File.Dispose();
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.Answers(run.Kernel.Ioctl(duplicate, ref info).Errno, Errno.Success, "VFIO_DEVICE_GET_INFO");
        });
        table.Add("two-devices", "two devices can be bound to one iommufd", run =>
            run.Holds(run.Use(DeviceNeed.Any).Id != run.Bind(DeviceNeed.Any).Id, "two ids"));
        table.Add("two-iommufds", "two devices can be bound to two iommufds", run =>
        {
            run.Use(DeviceNeed.Any);
            KernelFd file = run.OpenDevice(run.Find(DeviceNeed.Vfio));
            VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.OpenIommufd().Number);
            Errno errno = run.Kernel.Ioctl(file, ref bind).Errno;
            if (errno is Errno.EPERM or Errno.EBUSY)
                throw CaseRun.NotApplicable("The two devices share an IOMMU group.");
            run.Answers(errno, Errno.Success, "binding to a second iommufd");
        });
    }

    private static void AddUnbound(CaseTable table)
    {
        (string Name, IoctlRequest Request, int Length)[] requests =
        [
            ("get-info", VfioRequests.DeviceGetInfo, 24), ("get-region-info", VfioRequests.DeviceGetRegionInfo, 32),
            ("get-irq-info", VfioRequests.DeviceGetIrqInfo, 16), ("set-irqs", VfioRequests.DeviceSetIrqs, 20),
            ("reset", VfioRequests.DeviceReset, 8), ("feature", VfioRequests.DeviceFeature, 16),
            ("attach", VfioRequests.DeviceAttachIommufdPt, 16), ("detach", VfioRequests.DeviceDetachIommufdPt, 12),
            ("hot-reset-info", VfioRequests.DeviceGetPciHotResetInfo, 20),
        ];
        foreach ((string name, IoctlRequest request, int length) in requests)
        {
            table.Add(name, $"{request} is EINVAL before the file is bound", run =>
            {
                KernelFd file = run.OpenDevice(run.Find(DeviceNeed.Vfio));
                byte[] argument = new byte[length];
                BinaryPrimitives.WriteInt32LittleEndian(argument, length);
                run.Answers(run.Kernel.Ioctl(file.Number, request.Value, argument).Errno, Errno.EINVAL, request.Name);
            });
        }

        table.Add("unknown-request", "an unknown request is EINVAL too", run =>
            run.Answers(
                run.Kernel.Ioctl(run.OpenDevice(run.Find(DeviceNeed.Vfio)).Number, 0x3BEE, new byte[8]).Errno,
                Errno.EINVAL,
                "request 0x3bee"));
        table.Add("read", "reading is EINVAL before the file is bound", run =>
            run.Answers(
                run.Kernel.Pread(run.OpenDevice(run.Find(DeviceNeed.Vfio)).Number, new byte[4], 0).Errno, Errno.EINVAL,
                "pread"));
        table.Add("write", "writing is EINVAL before the file is bound", run =>
            run.Answers(
                run.Kernel.Pwrite(run.OpenDevice(run.Find(DeviceNeed.Vfio)).Number, new byte[4], 0).Errno, Errno.EINVAL,
                "pwrite"));
        table.Add("mmap", "mapping is EINVAL before the file is bound", run =>
            run.Answers(
                run.Kernel.Mmap(
                    CaseRun.Page, MemoryProtection.Read, MapFlags.Shared,
                    run.OpenDevice(run.Find(DeviceNeed.Vfio)).Number, 0).Errno,
                Errno.EINVAL, "mmap"));
    }

    private static Errno Bind(CaseRun run, KernelFd file)
    {
        VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.Iommufd.Number);
        return run.Kernel.Ioctl(file, ref bind).Errno;
    }

    private static Errno BindRaw(CaseRun run, byte tail)
    {
        byte[] argument = new byte[32];
        BinaryPrimitives.WriteInt32LittleEndian(argument, argument.Length);
        BinaryPrimitives.WriteInt32LittleEndian(argument.AsSpan(8), run.Iommufd.Number);
        argument[^1] = tail;
        return run.Kernel.Ioctl(
            run.OpenDevice(run.Find(DeviceNeed.Vfio)).Number, VfioRequests.DeviceBindIommufd.Value, argument).Errno;
    }
}
