using System.Text;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>The file of an IOMMU group.</summary>
internal static class LegacyGroupCases
{
    private const string Area = "legacy-group";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddOpen(new CaseTable(cases, Area, "legacy.group.open", "kernel behaviour, a group's file and its devices' cdevs"));
        AddStatus(new CaseTable(cases, Area, "legacy.group.status", "vfio.h, vfio_group_status"));
        AddSetContainer(new CaseTable(cases, Area, "legacy.group.set-container", "vfio.h, VFIO_GROUP_SET_CONTAINER"));
        AddUnset(new CaseTable(cases, Area, "legacy.group.unset-container", "vfio.h, VFIO_GROUP_UNSET_CONTAINER"));
        AddGetDevice(new CaseTable(cases, Area, "legacy.group.get-device-fd", "vfio.h, VFIO_GROUP_GET_DEVICE_FD"));
        AddIommufd(new CaseTable(cases, Area, "legacy.group.iommufd", "kernel behaviour, a group on an iommufd"));
    }

    private static void AddOpen(CaseTable table)
    {
        table.Add("twice", "a group's file is opened once: EBUSY", run =>
        {
            GroupSession session = GroupSession.Open(run);
            run.Answers(GroupSession.TryOpen(run, session.Profile).Errno, Errno.EBUSY, "opening again");
        });
        table.Add("again-after-close", "a group's file can be opened again after it was closed", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Group.Dispose();
            run.OwnFd(GroupSession.TryOpen(run, session.Profile), "opening again");
        });
        table.Add("duplicate-keeps-it-open", "a duplicate of the descriptor keeps the group open", run =>
        {
            GroupSession session = GroupSession.Open(run);
            run.OwnFd(run.Kernel.Dup(session.Group.Number), "dup");
            session.Group.Dispose();
            run.Answers(GroupSession.TryOpen(run, session.Profile).Errno, Errno.EBUSY, "opening again");
        });
        table.Add("while-cdev-is-bound", "a group can not be opened while a device's cdev is bound: EBUSY", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.InGroup);
            run.Answers(GroupSession.TryOpen(run, device.Profile).Errno, Errno.EBUSY, "opening the group");
        });
        table.Add("after-cdev-was-closed", "a group can be opened after the cdev was closed", run =>
        {
            BoundDevice device = run.Use(DeviceNeed.InGroup);
            device.File.Dispose();
            run.OwnFd(GroupSession.TryOpen(run, device.Profile), "opening the group");
        });
        table.Add("while-cdev-is-open", "a cdev that is open and not bound does not keep the group closed", run =>
        {
            DeviceProfile profile = run.Find(DeviceNeed.InGroup);
            run.OpenDevice(profile);
            run.OwnFd(GroupSession.TryOpen(run, profile), "opening the group");
        });
        table.Add("blocks-bind", "a cdev can not be bound while the group is open: EBUSY", run =>
        {
            GroupSession session = GroupSession.Open(run);
            run.Answers(Bind(run, run.OpenDevice(session.Profile)), Errno.EBUSY, "VFIO_DEVICE_BIND_IOMMUFD");
        });
        table.Add("blocks-bind-before-iommufd", "that is seen before the iommufd is looked at", run =>
        {
            GroupSession session = GroupSession.Open(run);
            VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(0x7FFF_0000);
            run.Answers(
                run.Kernel.Ioctl(run.OpenDevice(session.Profile), ref bind).Errno, Errno.EBUSY,
                "VFIO_DEVICE_BIND_IOMMUFD");
        });
        table.Add("bind-after-close", "a cdev can be bound after the group was closed", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Group.Dispose();
            run.Answers(Bind(run, run.OpenDevice(session.Profile)), Errno.Success, "VFIO_DEVICE_BIND_IOMMUFD");
        });
        table.Add("refused-bind-does-not-count", "a bind that was refused does not keep the group closed", run =>
        {
            DeviceProfile profile = run.Find(DeviceNeed.InGroup);
            KernelFd device = run.OpenDevice(profile);
            VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(0x7FFF_0000);
            run.Answers(run.Kernel.Ioctl(device, ref bind).Errno, Errno.EBADF, "VFIO_DEVICE_BIND_IOMMUFD");
            run.OwnFd(GroupSession.TryOpen(run, profile), "opening the group");
        });
        foreach ((string name, uint request) in ((string, uint)[])
            [
                ("unknown-request", 0x3BEE), ("container-request", VfioRequests.GetApiVersion.Value),
                ("device-request", VfioRequests.DeviceGetInfo.Value),
                ("iommufd-request", IommufdRequests.IoasAlloc.Value),
            ])
        {
            table.Add(name, $"request 0x{request:x} on a group is ENOTTY", run => run.Answers(
                run.Kernel.Ioctl(GroupSession.Open(run).Group.Number, request, new byte[64]).Errno, Errno.ENOTTY,
                $"request 0x{request:x}"));
        }
    }

    private static void AddStatus(CaseTable table)
    {
        table.Errors<VfioGroupStatus>(
            _ => VfioGroupStatus.Create(),
            (run, ref argument) => run.Kernel.Ioctl(GroupSession.Open(run).Group, ref argument).Errno,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-7", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 7));
        table.Add("argsz-larger", "a larger argsz is accepted, whatever follows", run =>
        {
            VfioGroupStatus status = VfioGroupStatus.Create();
            status.Argsz = 4096;
            run.Answers(
                run.Kernel.Ioctl(GroupSession.Open(run).Group, ref status).Errno, Errno.Success,
                "VFIO_GROUP_GET_STATUS");
            run.Equal(4096u, status.Argsz, "argsz");
        });
        table.Add("null-pointer", "a null pointer is EFAULT", run => run.Answers(
            run.Kernel.IoctlValue(GroupSession.Open(run).Group.Number, VfioRequests.GroupGetStatus.Value, 0).Errno,
            Errno.EFAULT, "VFIO_GROUP_GET_STATUS"));
        table.Add("viable", "a group that nobody owns is viable and has no container", run =>
            run.Equal(VfioGroupFlags.Viable, GroupSession.Open(run).Status(), "the status"));
        const VfioGroupFlags Both = VfioGroupFlags.Viable | VfioGroupFlags.ContainerSet;
        table.Add("in-container", "a group in a container is viable and says so", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Join(GroupSession.OpenContainer(run));
            run.Equal(Both, session.Status(), "the status");
        });
        table.Add("on-iommufd", "a group on an iommufd says that it has a container", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Join(run.Iommufd);
            run.Equal(Both, session.Status(), "the status");
        });
        table.Add("after-leaving", "a group that left its container has none", run =>
        {
            run.Answers(run.Group.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            run.Equal(VfioGroupFlags.Viable, run.Group.Status(), "the status");
        });
    }

    private static void AddSetContainer(CaseTable table)
    {
        table.Add("accepted", "a container is accepted", run =>
            GroupSession.Open(run).Join(GroupSession.OpenContainer(run)));
        (string Name, Errno Errno, Func<CaseRun, GroupSession, int> Descriptor)[] rows =
        [
            ("not-open", Errno.EBADF, (_, _) => 0x7FFF_0000), ("negative", Errno.EBADF, (_, _) => -1),
            ("memory-file", Errno.EBADFD, (run, _) => run.CreateMemoryFile(CaseRun.Page).Number),
            ("eventfd", Errno.EBADFD, (run, _) => run.CreateEventfd().Number),
            ("itself", Errno.EBADFD, (_, session) => session.Group.Number),
            ("cdev", Errno.EBADFD, (run, session) => run.OpenDevice(session.Profile).Number),
        ];
        foreach ((string name, Errno errno, Func<CaseRun, GroupSession, int> descriptor) in rows)
        {
            table.Add(name, $"{name.Replace('-', ' ')} as a container is {errno}", run =>
            {
                GroupSession session = GroupSession.Open(run);
                run.Answers(session.TryJoin(descriptor(run, session)), errno, "VFIO_GROUP_SET_CONTAINER");
            });
            Errno first = errno == Errno.EBADF ? errno : Errno.EINVAL;
            table.Add($"{name}.in-a-container", $"{name.Replace('-', ' ')} is {first} when the group has one", run =>
                run.Answers(run.Group.TryJoin(descriptor(run, run.Group)), first, "VFIO_GROUP_SET_CONTAINER"));
        }

        table.Add("null-pointer", "a null pointer is EFAULT", run => run.Answers(
            run.Kernel.IoctlValue(GroupSession.Open(run).Group.Number, VfioRequests.GroupSetContainer.Value, 0).Errno,
            Errno.EFAULT, "VFIO_GROUP_SET_CONTAINER"));
        table.Add("twice", "a group has one container: EINVAL", run =>
        {
            run.Answers(run.Group.TryJoin(run.Group.Container.Number), Errno.EINVAL, "the same container");
            run.Answers(run.Group.TryJoin(GroupSession.OpenContainer(run).Number), Errno.EINVAL, "another container");
            run.Answers(run.Group.TryJoin(run.Iommufd.Number), Errno.EINVAL, "an iommufd");
        });
        table.Add("into-mapped-space", "a group that joins later sees the mappings", run =>
        {
            GroupSession second = GroupSession.Open(run);
            run.Group.Map(CaseRun.Iova, 4 * CaseRun.Page);
            second.Join(run.Group.Container);
            second.OpenDevice();
        });
        table.Add("while-an-address-is-invalid", "a group can not join while an address is invalid: EBUSY", run =>
        {
            GroupSession second = GroupSession.Open(run);
            run.Group.Map(CaseRun.Iova, CaseRun.Page);
            run.Answers(
                run.Group.Unmap(CaseRun.Iova, CaseRun.Page, out _, VfioDmaUnmapFlags.Vaddr), Errno.Success,
                "invalidating an address");
            run.Answers(second.TryJoin(run.Group.Container.Number), Errno.EBUSY, "VFIO_GROUP_SET_CONTAINER");
            run.Equal(VfioGroupFlags.Viable, second.Status(), "the second group's status");
        });
    }

    private static void AddUnset(CaseTable table)
    {
        table.Add("without-container", "a group without container is EINVAL", run =>
            run.Answers(GroupSession.Open(run).Leave(), Errno.EINVAL, "VFIO_GROUP_UNSET_CONTAINER"));
        table.Add("before-driver", "a group leaves a container without driver", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Join(GroupSession.OpenContainer(run));
            run.Answers(session.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            run.Answers(session.Leave(), Errno.EINVAL, "VFIO_GROUP_UNSET_CONTAINER again");
        });
        table.Add("device-open", "a group does not leave while a device is open: EBUSY", run =>
        {
            run.Group.OpenDevice();
            run.Answers(run.Group.Leave(), Errno.EBUSY, "VFIO_GROUP_UNSET_CONTAINER");
        });
        table.Add("device-closed", "a group leaves after its devices were closed", run =>
        {
            run.Group.OpenDevice().Dispose();
            run.Answers(run.Group.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
        });
        table.Add("joins-another", "a group that left can join another container", run =>
        {
            run.Answers(run.Group.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            run.Group.Join(GroupSession.OpenContainer(run));
        });
    }

    private static void AddGetDevice(CaseTable table)
    {
        table.Add("accepted", "a device's name opens it", run => run.Group.OpenDevice());
        (string Name, Errno Errno, Func<string, string> Ask)[] rows =
        [
            ("unknown-name", Errno.ENODEV, _ => "tidemark"), ("empty-name", Errno.ENODEV, _ => ""),
            ("part-of-name", Errno.ENODEV, name => name[..^1]), ("longer-name", Errno.ENODEV, name => $"{name}0"),
            ("unknown-option", Errno.EINVAL, name => $"{name} tidemark"),
            ("bad-token", Errno.EINVAL, name => $"{name} vf_token=1"),
            ("unwanted-token", Errno.EINVAL, name => $"{name} vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"),
        ];
        foreach ((string name, Errno errno, Func<string, string> ask) in rows)
        {
            table.Add(name, $"{name.Replace('-', ' ')} is {errno}", run => run.Answers(
                run.Group.TryOpenDevice(ask(run.Group.Profile.Address)).Errno, errno, "VFIO_GROUP_GET_DEVICE_FD"));
            table.Add($"{name}.before-container", $"{name.Replace('-', ' ')} is seen before the container", run =>
            {
                GroupSession session = GroupSession.Open(run);
                run.Answers(
                    session.TryOpenDevice(ask(session.Profile.Address)).Errno, errno, "VFIO_GROUP_GET_DEVICE_FD");
            });
        }

        table.Add("trailing-space", "a space after the name is accepted", run =>
            run.OwnFd(run.Group.TryOpenDevice($"{run.Group.Profile.Address} "), "VFIO_GROUP_GET_DEVICE_FD"));
        table.Add("too-long", "a name longer than a page is EINVAL", run => run.Answers(
            run.Kernel.Ioctl(
                run.Group.Group.Number, VfioRequests.GroupGetDeviceFd.Value,
                Encoding.ASCII.GetBytes(new string('x', 8192))).Errno,
            Errno.EINVAL, "VFIO_GROUP_GET_DEVICE_FD"));
        table.Add("null-pointer", "a null pointer is EFAULT", run => run.Answers(
            run.Kernel.IoctlValue(run.Group.Group.Number, VfioRequests.GroupGetDeviceFd.Value, 0).Errno, Errno.EFAULT,
            "VFIO_GROUP_GET_DEVICE_FD"));
        table.Add("without-container", "a group without container opens no device: EINVAL", run =>
        {
            GroupSession session = GroupSession.Open(run);
            run.Answers(
                session.TryOpenDevice(session.Profile.Address).Errno, Errno.EINVAL, "VFIO_GROUP_GET_DEVICE_FD");
        });
        table.Add("without-driver", "a container without driver opens no device: EINVAL", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Join(GroupSession.OpenContainer(run));
            run.Answers(
                session.TryOpenDevice(session.Profile.Address).Errno, Errno.EINVAL, "VFIO_GROUP_GET_DEVICE_FD");
        });
        table.Add("twice", "a device can be opened again and stays open until the last file is closed", run =>
        {
            KernelFd first = run.Group.OpenDevice();
            KernelFd second = run.Group.OpenDevice();
            run.Holds(first.Number != second.Number, "a second descriptor");
            first.Dispose();
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.Answers(run.Kernel.Ioctl(second, ref info).Errno, Errno.Success, "VFIO_DEVICE_GET_INFO");
            run.Answers(run.Group.Leave(), Errno.EBUSY, "VFIO_GROUP_UNSET_CONTAINER");
        });
        table.Add("group-closed", "while a device is open its group can not be opened again: EBUSY", run =>
        {
            run.Group.OpenDevice();
            run.Group.Group.Dispose();
            run.Answers(GroupSession.TryOpen(run, run.Group.Profile).Errno, Errno.EBUSY, "opening the group");
        });
        table.Add("group-and-device-closed", "with the device closed as well the group can be opened", run =>
        {
            KernelFd device = run.Group.OpenDevice();
            run.Group.Group.Dispose();
            device.Dispose();
            run.OwnFd(GroupSession.TryOpen(run, run.Group.Profile), "opening the group");
        });
    }

    private static void AddIommufd(CaseTable table)
    {
        table.Add("makes-an-ioas", "SET_CONTAINER makes the compatibility IOAS", run =>
        {
            GroupSession.Open(run).Join(run.Iommufd);
            run.Holds(CompatCases.GetIoas(run, out uint ioas) == Errno.Success && ioas != 0, "a compatibility IOAS");
        });
        table.Add("keeps-the-ioas", "SET_CONTAINER keeps the compatibility IOAS that is set", run =>
        {
            CompatCases.SetIoas(run, run.Ioas);
            GroupSession.Open(run).Join(run.Iommufd);
            run.Answers(CompatCases.GetIoas(run, out uint ioas), Errno.Success, "IOMMU_VFIO_IOAS");
            run.Equal(run.Ioas, ioas, "the compatibility IOAS");
        });
        table.Add("opens-devices", "a device opens without SET_IOMMU", run =>
        {
            GroupSession session = OnIommufd(run);
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.Answers(run.Kernel.Ioctl(session.OpenDevice(), ref info).Errno, Errno.Success, "VFIO_DEVICE_GET_INFO");
        });
        table.Add("attaches-devices", "an open device narrows the compatibility IOAS", run =>
        {
            GroupSession session = OnIommufd(run);
            CompatCases.GetIoas(run, out uint ioas);
            run.Ranges(ioas, out ulong before);
            session.OpenDevice();
            run.Ranges(ioas, out ulong after);
            run.Equal(1ul, before, "the alignment before");
            run.Holds(after > 1, "an alignment of pages");
        });
        table.Add("busy-ioas", "the compatibility IOAS of an open device is not destroyed: EBUSY", run =>
        {
            GroupSession session = OnIommufd(run);
            session.OpenDevice();
            CompatCases.GetIoas(run, out uint ioas);
            run.Answers(run.Destroy(ioas), Errno.EBUSY, "IOMMU_DESTROY");
        });
        table.Add("cleared-ioas", "without a compatibility IOAS a device does not open: ENODEV", run =>
        {
            GroupSession session = OnIommufd(run);
            CompatCases.ClearIoas(run);
            run.Answers(
                session.TryOpenDevice(session.Profile.Address).Errno, Errno.ENODEV, "VFIO_GROUP_GET_DEVICE_FD");
            CompatCases.SetIoas(run, run.Ioas);
            session.OpenDevice();
        });
        table.Add("unset-with-device-open", "a group leaves an iommufd although a device is open", run =>
        {
            GroupSession session = OnIommufd(run);
            KernelFd device = session.OpenDevice();
            run.Answers(session.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            VfioDeviceInfo info = VfioDeviceInfo.Create();
            run.Answers(run.Kernel.Ioctl(device, ref info).Errno, Errno.Success, "VFIO_DEVICE_GET_INFO");
            run.Answers(
                session.TryOpenDevice(session.Profile.Address).Errno, Errno.EINVAL, "VFIO_GROUP_GET_DEVICE_FD");
        });
        table.Add("owned-status", "a group whose device is still open on an iommufd is not viable", run =>
        {
            GroupSession session = OnIommufd(run);
            session.OpenDevice();
            run.Answers(session.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            run.Equal(VfioGroupFlags.None, session.Status(), "the status");
            run.Answers(
                session.TryJoin(GroupSession.OpenContainer(run).Number), Errno.EPERM, "VFIO_GROUP_SET_CONTAINER");
        });
        table.Add("device-does-not-keep-group", "on an iommufd a device does not keep its group's file open", run =>
        {
            GroupSession session = OnIommufd(run);
            session.OpenDevice();
            session.Group.Dispose();
            run.OwnFd(GroupSession.TryOpen(run, session.Profile), "opening the group");
        });
        table.Add("cdev-while-device-is-open", "nor does the cdev bind then: EINVAL", run =>
        {
            GroupSession session = OnIommufd(run);
            session.OpenDevice();
            session.Group.Dispose();
            run.Answers(Bind(run, run.OpenDevice(session.Profile)), Errno.EINVAL, "VFIO_DEVICE_BIND_IOMMUFD");
        });
        table.Add("twice", "a device can be opened again", run =>
        {
            GroupSession session = OnIommufd(run);
            session.OpenDevice().Dispose();
            session.OpenDevice();
            session.OpenDevice();
        });
        table.Add("iommufd-closed", "the group keeps the iommufd", run =>
        {
            GroupSession session = OnIommufd(run);
            run.Iommufd.Dispose();
            session.OpenDevice();
        });
    }

    internal static GroupSession OnIommufd(CaseRun run, DeviceNeed? need = null)
    {
        GroupSession session = GroupSession.Open(run, need);
        session.Join(run.Iommufd);
        return session;
    }

    private static Errno Bind(CaseRun run, KernelFd device)
    {
        VfioDeviceBindIommufd bind = VfioDeviceBindIommufd.Create(run.Iommufd.Number);
        return run.Kernel.Ioctl(device, ref bind).Errno;
    }
}
