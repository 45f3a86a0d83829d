using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>The requests of a VFIO container on an iommufd: which there are, and what it tells of itself.</summary>
internal static class CompatCases
{
    private const string Area = "legacy-compat";

    public static void AddTo(List<ConformanceCase> cases)
    {
        AddExtensions(new CaseTable(cases, Area, "compat.extension", "vfio.h, VFIO_CHECK_EXTENSION"));
        AddWithoutIoas(new CaseTable(
            cases, Area, "compat.without-ioas", "kernel behaviour, an iommufd without compatibility IOAS"));
        AddSetIommu(new CaseTable(cases, Area, "compat.set-iommu", "vfio.h, VFIO_SET_IOMMU"));
        AddInfo(new CaseTable(cases, Area, "compat.info", "vfio.h, vfio_iommu_type1_info"));
        AddIoas(new CaseTable(cases, Area, "compat.ioas", "iommufd.h, iommu_vfio_ioas"));
    }

    public static Errno GetIoas(CaseRun run, out uint ioas)
    {
        IommuVfioIoas call = IommuVfioIoas.Create(IommuVfioIoasOp.Get);
        Errno errno = run.Kernel.Ioctl(run.Iommufd, ref call).Errno;
        ioas = call.IoasId;
        return errno;
    }

    public static void SetIoas(CaseRun run, uint ioas)
    {
        IommuVfioIoas call = IommuVfioIoas.Create(IommuVfioIoasOp.Set, ioas);
        run.Answers(ref call, Errno.Success);
    }

    public static void ClearIoas(CaseRun run)
    {
        IommuVfioIoas call = IommuVfioIoas.Create(IommuVfioIoasOp.Clear);
        run.Answers(ref call, Errno.Success);
    }

    public static Errno SetIommu(CaseRun run, ulong type) =>
        run.Kernel.IoctlValue(run.Iommufd.Number, VfioRequests.SetIommu.Value, type).Errno;

    private static void AddExtensions(CaseTable table)
    {
        table.Add("api-version", "VFIO_GET_API_VERSION answers 0", run =>
        {
            SyscallResult answer = run.Kernel.IoctlValue(
                run.Iommufd.Number, VfioRequests.GetApiVersion.Value, 0);
            run.Answers(answer.Errno, Errno.Success, "VFIO_GET_API_VERSION");
            run.Equal((long)VfioApi.Version, answer.Value, "the version");
        });
        (string Name, ulong Extension, long Value)[] rows =
        [
            ("type1", (ulong)VfioExtension.Type1, 1), ("type1v2", (ulong)VfioExtension.Type1V2, 1),
            ("unmap-all", (ulong)VfioExtension.UnmapAll, 1), ("update-vaddr", (ulong)VfioExtension.UpdateVaddr, 0),
            ("spapr", (ulong)VfioExtension.SpaprTce, 0), ("spapr-v2", (ulong)VfioExtension.SpaprTceV2, 0),
            ("eeh", (ulong)VfioExtension.Eeh, 0), ("nesting", (ulong)VfioExtension.ReservedType1Nesting, 0),
            ("zero", 0, 0), ("unknown", 11, 0), ("far-unknown", uint.MaxValue, 0),
        ];
        foreach ((string name, ulong extension, long value) in rows)
        {
            table.Add(name, $"extension {extension} is {value}, with or without an IOAS", run =>
            {
                Check(run, extension, value);
                SetIoas(run, run.Ioas);
                Check(run, extension, value);
            });
        }

        table.Add("dma-cc.without-ioas", "DMA_CC is ENODEV without an IOAS", run => run.Answers(
            run.Kernel.IoctlValue(
                run.Iommufd.Number, VfioRequests.CheckExtension.Value, (ulong)VfioExtension.DmaCc).Errno,
            Errno.ENODEV, "VFIO_CHECK_EXTENSION"));
        table.Add("dma-cc.without-tables", "DMA_CC is 1 for an IOAS without page tables", run =>
        {
            SetIoas(run, run.Ioas);
            Check(run, (ulong)VfioExtension.DmaCc, 1);
        });
    }

    private static void AddWithoutIoas(CaseTable table)
    {
        table.Add("set-iommu.type1", "SET_IOMMU is ENODEV", run =>
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.ENODEV, "VFIO_SET_IOMMU"));
        table.Add("set-iommu.type1v2", "SET_IOMMU is ENODEV", run =>
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1V2), Errno.ENODEV, "VFIO_SET_IOMMU"));
        table.Add("set-iommu.unknown", "an unknown type is seen first: EINVAL", run =>
            run.Answers(SetIommu(run, 77), Errno.EINVAL, "VFIO_SET_IOMMU"));
        table.Refusals<VfioIommuType1Info>(
            _ => VfioIommuType1Info.Create(), Calls.Iommufd,
            new("get-info-argsz-15", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15),
            new("get-info", "none", Errno.ENODEV, (_, ref _) => { }));
        table.Refusals<VfioIommuType1DmaMap>(
            run => VfioIommuType1DmaMap.Create(VfioDmaMapFlags.Read, Iova, run.MemoryAddress, Page), Calls.Iommufd,
            new("map-argsz-31", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 31),
            new("map-unknown-flag", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = (VfioDmaMapFlags)(1u << 31)),
            new("map-vaddr-flag", "flags", Errno.EINVAL, (_, ref argument) => argument.Flags = VfioDmaMapFlags.Vaddr),
            new("map", "none", Errno.ENODEV, (_, ref _) => { }),
            new("map-size-0", "size", Errno.ENODEV, (_, ref argument) => argument.Size = 0));
        table.Refusals<VfioIommuType1DmaUnmap>(
            _ => VfioIommuType1DmaUnmap.Create(VfioDmaUnmapFlags.None, Iova, Page), Calls.Iommufd,
            new("unmap-argsz-23", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 23),
            new("unmap-unknown-flag", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = (VfioDmaUnmapFlags)(1u << 31)),
            new("unmap-bitmap-flag", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = VfioDmaUnmapFlags.GetDirtyBitmap),
            new("unmap-vaddr-flag", "flags", Errno.EINVAL, (_, ref argument) =>
                argument.Flags = VfioDmaUnmapFlags.Vaddr),
            new("unmap", "none", Errno.ENODEV, (_, ref _) => { }),
            new("unmap-size-0", "size", Errno.ENODEV, (_, ref argument) => argument.Size = 0));
        foreach ((string name, uint request) in ((string, uint)[])
            [
                ("dirty-pages", VfioRequests.IommuDirtyPages.Value), ("enable", 0x3B73), ("disable", 0x3B74),
                ("group-status", VfioRequests.GroupGetStatus.Value), ("unknown", 0x3B7F), ("high-unknown", 0x3BEE),
            ])
        {
            table.Add($"request.{name}", $"request 0x{request:x} is ENOTTY", run => run.Answers(
                run.Kernel.Ioctl(run.Iommufd.Number, request, new byte[64]).Errno, Errno.ENOTTY,
                $"request 0x{request:x}"));
            table.Add($"request.{name}.with-ioas", $"request 0x{request:x} is ENOTTY with an IOAS too", run =>
            {
                SetIoas(run, run.Ioas);
                run.Answers(
                    run.Kernel.Ioctl(run.Iommufd.Number, request, new byte[64]).Errno, Errno.ENOTTY,
                    $"request 0x{request:x}");
            });
        }

        foreach (IoctlRequest request in (IoctlRequest[])
            [VfioRequests.IommuGetInfo, VfioRequests.IommuMapDma, VfioRequests.IommuUnmapDma])
        {
            string name = request.Name["VFIO_IOMMU_".Length..].ToLowerInvariant().Replace('_', '-');
            table.Add($"null-pointer.{name}", $"{request.Name} with a null pointer is EFAULT", run => run.Answers(
                run.Kernel.IoctlValue(run.Iommufd.Number, request.Value, 0).Errno, Errno.EFAULT, request.Name));
        }
    }

    private static void AddSetIommu(CaseTable table)
    {
        foreach ((string name, ulong type, Errno errno) in ((string, ulong, Errno)[])
            [
                ("type1", 1, Errno.Success), ("type1v2", 3, Errno.Success), ("zero", 0, Errno.EINVAL),
                ("spapr", 2, Errno.EINVAL), ("nesting", 6, Errno.EINVAL), ("noiommu", 8, Errno.EINVAL),
                ("unmap-all", 9, Errno.EINVAL), ("unknown", 77, Errno.EINVAL),
            ])
        {
            table.Add(name, $"type {type} is {errno}", run =>
            {
                SetIoas(run, run.Ioas);
                run.Answers(SetIommu(run, type), errno, "VFIO_SET_IOMMU");
            });
        }

        table.Add("repeated", "it can be repeated, with either type", run =>
        {
            SetIoas(run, run.Ioas);
            foreach (ulong type in (ulong[])[1, 1, 3, 1, 3])
                run.Answers(SetIommu(run, type), Errno.Success, "VFIO_SET_IOMMU");
        });
        table.Add("type1-without-huge-pages", "type1 turns huge pages off", run =>
        {
            SetIoas(run, run.Ioas);
            run.Equal(1ul, HugePages(run), "huge pages before");
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
            run.Equal(0ul, HugePages(run), "huge pages");
        });
        table.Add("type1v2-leaves-huge-pages", "type1v2 changes nothing", run =>
        {
            SetIoas(run, run.Ioas);
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1V2), Errno.Success, "VFIO_SET_IOMMU");
            run.Equal(1ul, HugePages(run), "huge pages");
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1V2), Errno.Success, "VFIO_SET_IOMMU");
            run.Equal(0ul, HugePages(run), "huge pages afterwards");
        });
        table.Add("type1-over-unaligned", "type1 is EADDRINUSE over mappings that are not of pages", run =>
        {
            SetIoas(run, run.Ioas);
            run.Map(Iova, 512);
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.EADDRINUSE, "VFIO_SET_IOMMU");
        });
        table.Add("type1-over-mappings", "type1 is accepted over mappings of pages while there is no table", run =>
        {
            SetIoas(run, run.Ioas);
            run.Map(Iova, Page);
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
        });
        table.Add("type1-over-mapped-device", "type1 is EINVAL over mappings that a device sees", run =>
        {
            SetIoas(run, run.Ioas);
            run.Use(DeviceNeed.InGroup).Attach(run.Ioas);
            run.Map(Iova, Page);
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.EINVAL, "VFIO_SET_IOMMU");
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1V2), Errno.Success, "VFIO_SET_IOMMU");
        });
        table.Add("type1-over-device", "type1 is accepted with a device and no mappings", run =>
        {
            SetIoas(run, run.Ioas);
            run.Use(DeviceNeed.InGroup).Attach(run.Ioas);
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.Success, "VFIO_SET_IOMMU");
        });
    }

    private static void AddInfo(CaseTable table)
    {
        table.Errors<VfioIommuType1Info>(
            run =>
            {
                SetIoas(run, run.Ioas);
                return VfioIommuType1Info.Create();
            },
            Calls.Iommufd,
            new("argsz-0", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 0),
            new("argsz-15", "argsz", Errno.EINVAL, (_, ref argument) => argument.Argsz = 15),
            new("no-ioas", "ioas", Errno.ENODEV, (run, ref _) => ClearIoas(run)));
        table.Add("flags", "both flags are set, and page sizes are told", run =>
        {
            ContainerInfo info = Info(run, 4096);
            run.Equal((uint)(VfioIommuInfoFlags.Pgsizes | VfioIommuInfoFlags.Caps), info.Flags, "flags");
            run.Equal(Page, info.PageSizes & (~info.PageSizes + 1), "the smallest page");
        });
        table.Add("page-sizes-without-table", "without a page table every size is told", run =>
            run.Equal(~(Page - 1), Info(run, 4096).PageSizes, "iova_pgsizes"));
        table.Add("page-sizes-of-a-device", "a device's page table limits the sizes", run =>
        {
            run.Use(DeviceNeed.InGroup).Attach(run.Ioas);
            ulong sizes = Info(run, 4096).PageSizes;
            run.Equal(Page, sizes & (~sizes + 1), "the smallest page");
            // A paravirtual IOMMU may have every size.
            run.Holds(
                sizes != ~(Page - 1) || run.Device.Profile.IommuType == IommuHwInfoType.None,
                "fewer sizes than without a table");
        });
        table.Add("argsz-told", "argsz becomes what it takes, also when more was given", run =>
        {
            uint needed = Info(run, 16).Argsz;
            run.Equal(needed, Info(run, needed).Argsz, "argsz when it fits");
            run.Equal(needed, Info(run, 4096).Argsz, "argsz with more room");
            run.Equal(24u + 16 + 16 + 16, needed, "what one range takes");
        });
        table.Add("chain", "the capabilities are DMA_AVAIL and IOVA_RANGE, of version 1", run =>
        {
            var chain = Info(run, 4096).Chain();
            run.Equal(2, chain.Count, "the number of capabilities");
            run.Equal((VfioIommuType1InfoCapId.DmaAvail, (ushort)1, 24), chain[0], "the first");
            run.Equal((VfioIommuType1InfoCapId.IovaRange, (ushort)1, 40), chain[1], "the second");
        });
        table.Add("available", "DMA_AVAIL knows no limit", run =>
        {
            ContainerInfo info = Info(run, 4096);
            run.Equal(uint.MaxValue, info.Word(info.Find(VfioIommuType1InfoCapId.DmaAvail) + 8), "avail");
        });
        table.Add("ranges-without-table", "without a page table there is one range: everything", run =>
        {
            var ranges = Info(run, 4096).Ranges();
            run.Equal(1, ranges.Count, "the number of ranges");
            run.Equal((0ul, ulong.MaxValue), ranges[0], "the range");
        });
        table.Add("ranges-of-a-device", "the ranges are those of IOMMU_IOAS_IOVA_RANGES", run =>
        {
            run.Use(DeviceNeed.InGroup).Attach(run.Ioas);
            run.Holds(
                Info(run, 4096).Ranges().SequenceEqual(
                    run.Ranges(run.Ioas, out _).ConvertAll(range => (range.Start, range.Last))),
                "the same ranges");
        });
        table.Add("every-argsz", "nothing is written beyond argsz, and a chain is pointed to only if it is whole", run =>
        {
            uint needed = Info(run, 16).Argsz;
            for (uint room = 16; room <= needed; room++)
            {
                ContainerInfo info = Info(run, room);
                run.Holds(
                    !info.Bytes.AsSpan((int)room).ContainsAnyExcept((byte)0xA5),
                    $"nothing written beyond argsz {room}");
                if (room >= 24)
                    run.Equal(room == needed ? 24u : 0, info.CapOffset, $"cap_offset with argsz {room}");
            }
        });
        table.Add("first-capability-without-chain",
            "with room for the first capability only it is written although it is not pointed to", run =>
        {
            ContainerInfo info = Info(run, 24 + 12);
            run.Equal(0u, info.CapOffset, "cap_offset");
            run.Equal((uint)VfioIommuType1InfoCapId.DmaAvail | 1u << 16, info.Word(24), "id and version");
            run.Equal(0u, info.Word(28), "the link");
            run.Equal(uint.MaxValue, info.Word(32), "avail");
        });
        table.Add("link-without-second", "with room up to the second capability the first has its link", run =>
            run.Equal(40u, Info(run, 40).Word(28), "the link"));
        table.Add("first-capability-too-short", "with a byte too little the first capability is not written", run =>
            run.Holds(!Info(run, 24 + 11).Bytes.AsSpan(24).ContainsAnyExcept((byte)0xA5), "the rest as it was"));
    }

    private static void AddIoas(CaseTable table)
    {
        table.Add("another", "the requests go to the IOAS that is set at the time", run =>
        {
            uint second = run.CreateIoas();
            SetIoas(run, run.Ioas);
            run.Answers(CompatMapCases.Map(run, Iova, Page), Errno.Success, "mapping in the first");
            SetIoas(run, second);
            run.Answers(CompatMapCases.Map(run, Iova, Page), Errno.Success, "mapping in the second");
            run.Answers(run.Unmap(Iova, Page, out _), Errno.Success, "unmapping in the first");
            run.Answers(run.Unmap(Iova, Page, out _, second), Errno.Success, "unmapping in the second");
        });
        table.Add("destroyed", "destroying the IOAS ends them: ENODEV", run =>
        {
            SetIoas(run, run.Ioas);
            run.Answers(run.Destroy(run.Ioas), Errno.Success, "IOMMU_DESTROY");
            run.Answers(GetIoas(run, out _), Errno.ENODEV, "IOMMU_VFIO_IOAS");
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1), Errno.ENODEV, "VFIO_SET_IOMMU");
        });
        table.Add("no-ioas-of-its-own", "SET_IOMMU makes no IOAS", run =>
        {
            run.Answers(SetIommu(run, (ulong)VfioExtension.Type1V2), Errno.ENODEV, "VFIO_SET_IOMMU");
            run.Answers(GetIoas(run, out _), Errno.ENODEV, "IOMMU_VFIO_IOAS");
        });
        table.Add("rlimit-mode", "memory is charged to the user at first", run =>
        {
            IommuOption option = IommuOption.Create(IommuOptionId.RlimitMode, IommuOptionOp.Get, 0, 7);
            run.Answers(ref option, Errno.Success);
            run.Equal(0ul, option.Val64, "the mode");
        });
    }

    private static ContainerInfo Info(CaseRun run, uint room)
    {
        SetIoas(run, run.Ioas);
        ContainerInfo info = ContainerInfo.Read(run.Kernel, run.Iommufd, room, out Errno errno);
        run.Answers(errno, Errno.Success, "VFIO_IOMMU_GET_INFO");
        return info;
    }

    private static ulong HugePages(CaseRun run)
    {
        IommuOption option = IommuOption.Create(IommuOptionId.HugePages, IommuOptionOp.Get, run.Ioas, 0);
        run.Answers(ref option, Errno.Success);
        return option.Val64;
    }

    private static void Check(CaseRun run, ulong extension, long expected)
    {
        SyscallResult answer = run.Kernel.IoctlValue(
            run.Iommufd.Number, VfioRequests.CheckExtension.Value, extension);
        run.Answers(answer.Errno, Errno.Success, "VFIO_CHECK_EXTENSION");
        run.Equal(expected, answer.Value, $"extension {extension}");
    }
}
