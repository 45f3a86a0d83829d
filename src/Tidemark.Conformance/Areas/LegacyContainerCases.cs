using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Conformance.Areas;

/// <summary>VFIO's own container: what it answers without and with a driver.</summary>
internal static class LegacyContainerCases
{
    private const string Area = "legacy-container";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddExtensions(new CaseTable(cases, Area, "legacy.container.extension", "vfio.h, VFIO_CHECK_EXTENSION"));
        AddWithoutDriver(new CaseTable(
            cases, Area, "legacy.container.without-driver", "kernel behaviour, a container without a driver"));
        AddSetIommu(new CaseTable(cases, Area, "legacy.container.set-iommu", "vfio.h, VFIO_SET_IOMMU"));
        AddLifetime(new CaseTable(cases, Area, "legacy.container.lifetime", "kernel behaviour, container and groups"));
    }

    private static void AddExtensions(CaseTable table)
    {
        table.Add("api-version", "VFIO_GET_API_VERSION answers 0", run =>
        {
            SyscallResult answer = run.Kernel.IoctlValue(
                GroupSession.OpenContainer(run).Number, VfioRequests.GetApiVersion.Value, 0);
            run.Answers(answer.Errno, Errno.Success, "VFIO_GET_API_VERSION");
            run.Equal((long)VfioApi.Version, answer.Value, "the version");
        });
        (string Name, ulong Extension, long Empty, long Type1)[] rows =
        [
            ("type1", (ulong)VfioExtension.Type1, 1, 1), ("type1v2", (ulong)VfioExtension.Type1V2, 1, 1),
            ("unmap-all", (ulong)VfioExtension.UnmapAll, 1, 1),
            ("update-vaddr", (ulong)VfioExtension.UpdateVaddr, 0, 1),
            ("spapr", (ulong)VfioExtension.SpaprTce, 0, 0), ("spapr-v2", (ulong)VfioExtension.SpaprTceV2, 0, 0),
            ("eeh", (ulong)VfioExtension.Eeh, 0, 0),
            ("nesting", (ulong)VfioExtension.ReservedType1Nesting, 0, 0),
            ("zero", 0, 0, 0), ("unknown", 11, 0, 0), ("far-unknown", uint.MaxValue, 0, 0),
        ];
        foreach ((string name, ulong extension, long empty, long type1) in rows)
        {
            table.Add($"{name}.without-driver", $"extension {extension} is {empty} before a driver is chosen", run =>
                Check(run, GroupSession.OpenContainer(run), extension, empty));
            table.Add($"{name}.with-type1", $"extension {extension} is {type1} with type1", run =>
                Check(run, run.Group.Container, extension, type1));
        }

        table.Add("dma-cc.without-driver", "DMA_CC is 0 before a driver is chosen", run =>
            Check(run, GroupSession.OpenContainer(run), (ulong)VfioExtension.DmaCc, 0));
        table.Add("dma-cc.with-type1", "DMA_CC is 0 or 1 with type1", run =>
            run.Holds(run.Group.Extension(VfioExtension.DmaCc) is 0 or 1, "0 or 1"));
        table.Add("type1v2.with-version-1", "type1 knows both its versions, whichever is in use", run =>
            Check(run, GroupSession.InType1(run, VfioExtension.Type1).Container, (ulong)VfioExtension.Type1V2, 1));
        table.Add("update-vaddr.with-version-1", "UPDATE_VADDR is 1 with version 1 too", run =>
            Check(run, GroupSession.InType1(run, VfioExtension.Type1).Container, (ulong)VfioExtension.UpdateVaddr, 1));
    }

    private static void AddWithoutDriver(CaseTable table)
    {
        (string Name, uint Request)[] requests =
        [
            ("get-info", VfioRequests.IommuGetInfo.Value), ("map", VfioRequests.IommuMapDma.Value),
            ("unmap", VfioRequests.IommuUnmapDma.Value), ("dirty-pages", VfioRequests.IommuDirtyPages.Value),
            ("unknown-request", 0x3BEE),
        ];
        foreach ((string name, uint request) in requests)
        {
            table.Add(name, $"request 0x{request:x} is EINVAL", run => run.Answers(
                run.Kernel.Ioctl(GroupSession.OpenContainer(run).Number, request, new byte[64]).Errno, Errno.EINVAL,
                $"request 0x{request:x}"));
            table.Add($"{name}.with-group", $"request 0x{request:x} is EINVAL with a group too", run =>
            {
                GroupSession session = GroupSession.Open(run);
                session.Join(GroupSession.OpenContainer(run));
                run.Answers(
                    run.Kernel.Ioctl(session.Container.Number, request, new byte[64]).Errno, Errno.EINVAL,
                    $"request 0x{request:x}");
            });
        }

        table.Add("set-iommu", "a container without groups gets no driver: EINVAL", run => run.Answers(
            run.Kernel.IoctlValue(
                GroupSession.OpenContainer(run).Number, VfioRequests.SetIommu.Value, (ulong)VfioExtension.Type1).Errno,
            Errno.EINVAL, "VFIO_SET_IOMMU"));
        table.Add("set-iommu.unknown", "without groups an unknown driver is EINVAL too", run => run.Answers(
            run.Kernel.IoctlValue(GroupSession.OpenContainer(run).Number, VfioRequests.SetIommu.Value, 77).Errno,
            Errno.EINVAL, "VFIO_SET_IOMMU"));
    }

    private static void AddSetIommu(CaseTable table)
    {
        (string Name, ulong Type, Errno Errno)[] rows =
        [
            ("type1", 1, Errno.Success), ("type1v2", 3, Errno.Success), ("zero", 0, Errno.ENODEV),
            ("spapr", 2, Errno.ENODEV), ("nesting", 6, Errno.ENODEV), ("noiommu", 8, Errno.ENODEV),
            ("update-vaddr", 10, Errno.ENODEV), ("unknown", 77, Errno.ENODEV), ("unmap-all", 9, Errno.EINVAL),
        ];
        foreach ((string name, ulong type, Errno errno) in rows)
        {
            table.Add(name, $"type {type} is {errno} with a group", run =>
            {
                GroupSession session = GroupSession.Open(run);
                session.Join(GroupSession.OpenContainer(run));
                run.Answers(session.SetIommu(type), errno, $"VFIO_SET_IOMMU {type}");
            });
        }

        table.Add("twice", "a driver is chosen once: EINVAL", run =>
            run.Answers(run.Group.SetIommu((ulong)VfioExtension.Type1V2), Errno.EINVAL, "VFIO_SET_IOMMU again"));
        table.Add("after-a-refusal", "after a refusal another type can be chosen", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Join(GroupSession.OpenContainer(run));
            run.Answers(session.SetIommu(77), Errno.ENODEV, "VFIO_SET_IOMMU 77");
            run.Answers(session.SetIommu((ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
        });
        table.Add("unknown-request", "with type1 an unknown request is ENOTTY", run => run.Answers(
            run.Kernel.Ioctl(run.Group.Container.Number, 0x3BEE, new byte[64]).Errno, Errno.ENOTTY, "request 0x3bee"));
        table.Add("spapr-request", "with type1 the requests of spapr are ENOTTY", run => run.Answers(
            run.Kernel.Ioctl(run.Group.Container.Number, 0x3B73, new byte[64]).Errno, Errno.ENOTTY, "request 0x3b73"));
        table.Add("group-request", "a group's request on a container is ENOTTY", run => run.Answers(
            run.Kernel.Ioctl(run.Group.Container.Number, VfioRequests.GroupGetStatus.Value, new byte[64]).Errno,
            Errno.ENOTTY, "VFIO_GROUP_GET_STATUS"));
        foreach (IoctlRequest request in (IoctlRequest[])
            [
                VfioRequests.IommuGetInfo, VfioRequests.IommuMapDma, VfioRequests.IommuUnmapDma,
                VfioRequests.IommuDirtyPages,
            ])
        {
            string name = request.Name["VFIO_IOMMU_".Length..].ToLowerInvariant().Replace('_', '-');
            table.Add($"null-pointer.{name}", $"{request.Name} with a null pointer is EFAULT", run => run.Answers(
                run.Kernel.IoctlValue(run.Group.Container.Number, request.Value, 0).Errno, Errno.EFAULT, request.Name));
        }
    }

    private static void AddLifetime(CaseTable table)
    {
        table.Add("driver-goes-with-last-group", "the last group takes the driver with it", run =>
        {
            run.Answers(run.Group.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            run.Answers(
                run.Group.TryMap(CaseRun.Iova, run.MemoryAddress, CaseRun.Page), Errno.EINVAL, "mapping");
        });
        table.Add("mappings-go-with-last-group", "the last group takes the mappings with it", run =>
        {
            run.Group.Map(CaseRun.Iova, CaseRun.Page);
            run.Answers(run.Group.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            run.Group.Join(run.Group.Container);
            run.Answers(run.Group.SetIommu((ulong)VfioExtension.Type1V2), Errno.Success, "VFIO_SET_IOMMU");
            run.Group.Map(CaseRun.Iova, 2 * CaseRun.Page);
        });
        table.Add("other-version-afterwards", "another version can be chosen afterwards", run =>
        {
            run.Answers(run.Group.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            run.Group.Join(run.Group.Container);
            run.Answers(run.Group.SetIommu((ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
        });
        table.Add("group-keeps-container", "a group keeps a container whose file is closed", run =>
        {
            run.Group.Map(CaseRun.Iova, CaseRun.Page);
            run.Group.Container.Dispose();
            run.Holds(run.Group.Status().HasFlag(VfioGroupFlags.ContainerSet), "the group in a container");
            run.Group.OpenDevice();
        });
        table.Add("closing-the-group-leaves", "closing a group's file takes it out of its container", run =>
        {
            run.Group.Group.Dispose();
            run.Answers(
                run.Group.TryMap(CaseRun.Iova, run.MemoryAddress, CaseRun.Page), Errno.EINVAL, "mapping");
        });
        table.Add("device-keeps-group", "a device's file keeps the group in its container", run =>
        {
            run.Group.OpenDevice();
            run.Group.Group.Dispose();
            run.Group.Map(CaseRun.Iova, CaseRun.Page);
        });
        table.Add("two-groups", "two groups share a container and its mappings", run =>
        {
            GroupSession second = GroupSession.Open(run);
            run.Group.Map(CaseRun.Iova, CaseRun.Page);
            second.Join(run.Group.Container);
            run.Answers(second.SetIommu((ulong)VfioExtension.Type1V2), Errno.EINVAL, "VFIO_SET_IOMMU again");
            run.Answers(run.Group.Leave(), Errno.Success, "VFIO_GROUP_UNSET_CONTAINER");
            second.Unmap(CaseRun.Iova, CaseRun.Page, CaseRun.Page);
        });
        table.Add("two-groups-before-driver", "SET_IOMMU attaches every group of the container", run =>
        {
            GroupSession first = GroupSession.Open(run);
            first.Join(GroupSession.OpenContainer(run));
            GroupSession second = GroupSession.Open(run);
            second.Join(first.Container);
            run.Answers(first.SetIommu((ulong)VfioExtension.Type1V2), Errno.Success, "VFIO_SET_IOMMU");
            second.OpenDevice();
        });
        table.Add("numbers-by-value", "the type is the argument itself, not what it points to", run =>
        {
            GroupSession session = GroupSession.Open(run);
            session.Join(GroupSession.OpenContainer(run));
            byte[] pointed = new byte[8];
            BinaryPrimitives.WriteUInt64LittleEndian(pointed, (ulong)VfioExtension.Type1V2);
            run.Answers(
                run.Kernel.Ioctl(session.Container.Number, VfioRequests.SetIommu.Value, pointed).Errno, Errno.ENODEV,
                "VFIO_SET_IOMMU with a pointer");
        });
    }

    private static void Check(CaseRun run, KernelFd container, ulong extension, long expected)
    {
        SyscallResult answer = run.Kernel.IoctlValue(
            container.Number, VfioRequests.CheckExtension.Value, extension);
        run.Answers(answer.Errno, Errno.Success, "VFIO_CHECK_EXTENSION");
        run.Equal(expected, answer.Value, $"extension {extension}");
    }
}
