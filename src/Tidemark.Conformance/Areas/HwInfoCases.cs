using Tidemark.Abi;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance.Areas;

/// <summary>What GET_HW_INFO tells about a device's IOMMU.</summary>
internal static class HwInfoCases
{
    private const int Room = 256;
    private const byte Untouched = 0x5A;

    public static void AddTo(List<ConformanceCase> cases)
    {
        var table = new CaseTable(cases, "hw-info", "iommufd.hw-info", "iommufd.h, iommu_hw_info");
        table.Errors<IommuHwInfo>(
            run => IommuHwInfo.Create(run.Device.Id, run.ScratchAddress, 64), Calls.Iommufd,
            new("unknown-flag", "flags", Errno.EOPNOTSUPP, (_, ref argument) => argument.Flags = (IommuHwInfoFlags)2),
            new("reserved-byte-0", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved[0] = 1),
            new("reserved-byte-1", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved[1] = 1),
            new("reserved-byte-2", "reserved", Errno.EOPNOTSUPP, (_, ref argument) => argument.Reserved[2] = 1),
            new("unknown-device", "device", Errno.ENOENT, (_, ref argument) => argument.DevId = 999),
            new("ioas-as-device", "device", Errno.ENOENT, (run, ref argument) => argument.DevId = run.Ioas),
            new("unknown-type", "type", Errno.EOPNOTSUPP, (run, ref argument) =>
            {
                IommuHwInfo info = IommuHwInfo.Create(run.Device.Id);
                run.Answers(ref info, Errno.Success);
                if (info.OutDataType == IommuHwInfoType.None)
                    throw NotApplicable($"The IOMMU of {run.Device.Profile.Address} tells nothing of itself.");
                argument.Flags = IommuHwInfoFlags.InputType;
                argument.OutDataType = (IommuHwInfoType)0xDEAD;
            }),
            new("unwritable-data", "data", Errno.EFAULT, (_, ref argument) => argument.DataUptr = BadAddress));
        AddData(table);
        AddCapabilities(table);
    }

    private static void AddData(CaseTable table)
    {
        table.Add("no-room", "no buffer is fine, and the length that there is is told", run =>
        {
            IommuHwInfo info = Get(run, 0);
            run.Equal(Get(run, 64).DataLen, info.DataLen, "the length");
        });
        table.Add("length-by-type", "the length belongs to the type", run =>
        {
            IommuHwInfo info = Get(run, 64);
            uint? expected = info.OutDataType switch
            {
                IommuHwInfoType.None => 0u,
                IommuHwInfoType.IntelVtd => 24u,
                IommuHwInfoType.ArmSmmuv3 => 40u,
                IommuHwInfoType.Tegra241Cmdqv => 8u,
                IommuHwInfoType.Amd => 16u,
                _ => null,
            };
            run.Equal(
                expected ?? throw NotApplicable($"The type {info.OutDataType} is not one of the header's."),
                info.DataLen,
                $"the length for {info.OutDataType}");
        });
        table.Add("rest-is-cleared", "what a larger buffer has left is cleared", run =>
        {
            IommuHwInfo info = Get(run, 64);
            run.Holds(
                !run.Scratch.Bytes(info.DataLen, 64 - (int)info.DataLen).ContainsAnyExcept((byte)0),
                "the rest of the buffer to be 0");
        });
        table.Add("beyond-the-buffer", "nothing is written beyond the buffer", run =>
        {
            Get(run, 64);
            run.Holds(
                !run.Scratch.Bytes(64, Room - 64).ContainsAnyExcept(Untouched), "the bytes beyond to be as they were");
        });
        table.Add("short-buffer", "a short buffer gets the first bytes", run =>
        {
            IommuHwInfo all = Get(run, 64);
            if (all.DataLen < 8)
                throw NotApplicable("The IOMMU tells less than 8 bytes.");
            byte[] whole = run.Scratch.Bytes(0, 8).ToArray();
            IommuHwInfo info = Get(run, 4);
            run.Holds(run.Scratch.Bytes(0, 4).SequenceEqual(whole.AsSpan(0, 4)), "the same first bytes");
            run.Equal(Untouched, run.Scratch.Bytes(4, 1)[0], "the byte after the buffer");
            run.Equal(all.DataLen, info.DataLen, "the length");
        });
        table.Add("type-asked-for", "asking for the type that it has answers the same", run =>
        {
            IommuHwInfo first = Get(run, 64);
            IommuHwInfo info = IommuHwInfo.Create(run.Device.Id, run.ScratchAddress, 64);
            info.Flags = IommuHwInfoFlags.InputType;
            info.OutDataType = first.OutDataType;
            run.Answers(ref info, Errno.Success);
            run.Equal(first.DataLen, info.DataLen, "the length");
        });
        table.Add("default-type", "asking for type 0 answers as without asking", run =>
        {
            IommuHwInfo first = Get(run, 64);
            IommuHwInfo info = IommuHwInfo.Create(run.Device.Id, run.ScratchAddress, 64);
            info.Flags = IommuHwInfoFlags.InputType;
            run.Answers(ref info, Errno.Success);
            run.Equal(first.OutDataType, info.OutDataType, "the type");
        });
        table.Add("type-without-flag", "a type given without its flag is not looked at", run =>
        {
            IommuHwInfo info = IommuHwInfo.Create(run.Device.Id, run.ScratchAddress, 64);
            info.OutDataType = (IommuHwInfoType)0xDEAD;
            run.Answers(ref info, Errno.Success);
        });
    }

    private static void AddCapabilities(CaseTable table)
    {
        table.Add("tracking-capability", "with the capability, HWPT_ALLOC takes the flag", run =>
        {
            run.Use(DeviceNeed.Tracking);
            run.Holds((Get(run, 64).OutCapabilities & IommuHwCapabilities.DirtyTracking) != 0, "the capability");
            run.AllocateHwpt(run.Device, IommuHwptAllocFlags.DirtyTracking);
        });
        table.Add("no-tracking-capability", "without the capability, HWPT_ALLOC refuses the flag", run =>
        {
            run.Use(DeviceNeed.NotTracking);
            run.Holds((Get(run, 64).OutCapabilities & IommuHwCapabilities.DirtyTracking) == 0, "no capability");
            run.Answers(
                run.TryAllocateHwpt(run.Device, IommuHwptAllocFlags.DirtyTracking, out _), Errno.EOPNOTSUPP,
                "IOMMU_HWPT_ALLOC");
        });
        table.Add("pasid-capabilities-need-pasids", "PASID capabilities are only told when there are PASIDs", run =>
        {
            IommuHwInfo info = Get(run, 64);
            const IommuHwCapabilities Pasid = IommuHwCapabilities.PciPasidExec | IommuHwCapabilities.PciPasidPriv;
            run.Holds(
                info.OutMaxPasidLog2 != 0 || (info.OutCapabilities & Pasid) == 0, "no PASID capability without PASIDs");
        });
        table.Add("attachment-changes-nothing", "the answer does not depend on being attached", run =>
        {
            IommuHwCapabilities before = Get(run, 64).OutCapabilities;
            run.Device.Attach(run.Ioas);
            run.Equal(before, Get(run, 64).OutCapabilities, "the capabilities");
        });
    }

    private static IommuHwInfo Get(CaseRun run, uint length)
    {
        run.Scratch.Bytes(0, Room).Fill(Untouched);
        IommuHwInfo info = IommuHwInfo.Create(run.Device.Id, length == 0 ? 0 : run.ScratchAddress, length);
        run.Answers(ref info, Errno.Success);
        return info;
    }
}
