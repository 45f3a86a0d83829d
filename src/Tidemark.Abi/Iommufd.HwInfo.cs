using System.Runtime.InteropServices;

namespace Tidemark.Abi;

/// <summary>Which hardware answered, or is asked for (C: iommu_hw_info_type, linux/iommufd.h).</summary>
[Uapi("IOMMU_HW_INFO_TYPE_*", Since = "6.6")]
public enum IommuHwInfoType : uint
{
    None = 0,
    Default = 0,
    IntelVtd = 1,
    ArmSmmuv3 = 2,
    Tegra241Cmdqv = 3,
    Amd = 4,
}

/// <summary>What the IOMMU before a device can do (C: iommufd_hw_capabilities, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_HW_CAP_*", Since = "6.7")]
public enum IommuHwCapabilities : ulong
{
    None = 0,
    DirtyTracking = 1,
    PciPasidExec = 2,
    PciPasidPriv = 4,
    PciAtsNotSupported = 8,
}

/// <summary>Flags of <see cref="IommuHwInfo"/> (C: iommufd_hw_info_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_HW_INFO_FLAG_*", Since = "6.17")]
public enum IommuHwInfoFlags : uint
{
    None = 0,

    /// <summary>The data type is an input.</summary>
    InputType = 1,
}

/// <summary>
/// Asks about the IOMMU before a device (C: iommu_hw_info, linux/iommufd.h). A kernel before 6.7 leaves the
/// capabilities 0.
/// </summary>
[Uapi("iommu_hw_info", Since = "6.6")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwInfo : IIoctlArgument<IommuHwInfo>
{
    /// <summary>The size of the layout described here, in bytes.</summary>
    public const uint StructSize = 40;

    /// <summary>The smallest size a kernel accepts.</summary>
    public const uint MinimumSize = 32;

    public uint Size;
    public IommuHwInfoFlags Flags;
    public uint DevId;

    /// <summary>In: room at the address. Out: bytes the kernel has. A rest of the room is zeroed.</summary>
    public uint DataLen;
    public ulong DataUptr;

    /// <summary>In with InputType; out always.</summary>
    [Uapi("in_data_type")]
    [Uapi("out_data_type")]
    public IommuHwInfoType OutDataType;
    public byte OutMaxPasidLog2;
    public Bytes3 Reserved;
    public IommuHwCapabilities OutCapabilities;

    public static IoctlRequest Request => IommufdRequests.GetHwInfo;

    public static IommuHwInfo Create(uint devId, ulong dataUptr = 0, uint dataLen = 0) => new()
    {
        Size = StructSize,
        DevId = devId,
        DataUptr = dataUptr,
        DataLen = dataLen,
    };
}

/// <summary>Flags of <see cref="IommuHwInfoVtd"/> (C: iommu_hw_info_vtd_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_HW_INFO_VTD_*", Since = "6.7")]
public enum IommuHwInfoVtdFlags : uint
{
    None = 0,

    /// <summary>No read-only mappings in a nest parent.</summary>
    [Uapi("IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17")]
    Errata772415Spr17 = 1,
}

/// <summary>VT-d capability registers (C: iommu_hw_info_vtd, linux/iommufd.h).</summary>
[Uapi("iommu_hw_info_vtd", Since = "6.6")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwInfoVtd
{
    public IommuHwInfoVtdFlags Flags;
    public uint Reserved;
    public ulong CapReg;
    public ulong EcapReg;
}

/// <summary>Flags of <see cref="IommuHwInfoArmSmmuv3"/> (C: iommu_hw_info_arm_smmuv3_flags, linux/iommufd.h).</summary>
[Flags]
[Uapi("IOMMU_HW_INFO_ARM_SMMUV3_*", Since = "7.3")]
public enum IommuHwInfoArmSmmuv3Flags : uint
{
    None = 0,

    /// <summary>TLBI and CFGI commands must be issued twice.</summary>
    ErrataRepeatTlbiCfgi = 1,
}

/// <summary>SMMUv3 identification registers (C: iommu_hw_info_arm_smmuv3, linux/iommufd.h).</summary>
[Uapi("iommu_hw_info_arm_smmuv3", Since = "6.13")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwInfoArmSmmuv3
{
    public IommuHwInfoArmSmmuv3Flags Flags;
    public uint Reserved;
    public UInt32x6 Idr;
    public uint Iidr;
    public uint Aidr;
}

/// <summary>
/// Tegra241 command queue virtualisation parameters (C: iommu_hw_info_tegra241_cmdqv, linux/iommufd.h).
/// </summary>
[Uapi("iommu_hw_info_tegra241_cmdqv", Since = "6.17")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwInfoTegra241Cmdqv
{
    public uint Flags;
    public byte Version;
    public byte Log2vcmdqs;
    public byte Log2vsids;
    public byte Reserved;
}

/// <summary>AMD extended feature registers (C: iommu_hw_info_amd, linux/iommufd.h).</summary>
[Uapi("iommu_hw_info_amd", Since = "7.0")]
[StructLayout(LayoutKind.Sequential)]
public struct IommuHwInfoAmd
{
    public ulong Efr;
    public ulong Efr2;
}
