using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Iommu;

/// <summary>What the host's IOMMU before one device is and can do, as the kernel reports it. Immutable.</summary>
public sealed class HostIommuCaps(
    IommuHwInfoType type, IommuHwCapabilities capabilities, byte maximumPasidLog2, ReadOnlyMemory<byte> vendorData)
{
    /// <summary>LIMIT: room for vendor data. Today's longest is 40 bytes; a longer one is cut, as the kernel
    /// allows.</summary>
    internal const uint MaximumVendorDataLength = 256;

    /// <summary>The kernel said nothing: no type, no capability.</summary>
    public static HostIommuCaps Unknown { get; } = new(IommuHwInfoType.None, IommuHwCapabilities.None, 0, default);

    /// <summary>Whose IOMMU; <see cref="IommuHwInfoType.None"/> also for kinds without information.</summary>
    public IommuHwInfoType Type { get; } = type;

    /// <summary>The capability word, bits without a name included.</summary>
    public IommuHwCapabilities Capabilities { get; } = capabilities;

    /// <summary>Width of PASIDs in bits; 0 when the device has PASID disabled.</summary>
    public byte MaximumPasidLog2 { get; } = maximumPasidLog2;

    /// <summary>The vendor's registers as they came from the kernel.</summary>
    public ReadOnlyMemory<byte> VendorData { get; } = vendorData;

    /// <summary>Whether page tables with enforced dirty tracking can be had for the device.</summary>
    public bool SupportsDirtyTracking => (Capabilities & IommuHwCapabilities.DirtyTracking) != 0;

    /// <summary>VT-d's registers, or null when it is another kind or the data is too short.</summary>
    public IommuHwInfoVtd? IntelVtd => Type != IommuHwInfoType.IntelVtd || VendorData.Length < 24 ? null : new()
    {
        Flags = (IommuHwInfoVtdFlags)Read32(0),
        CapReg = Read64(8),
        EcapReg = Read64(16),
    };

    /// <summary>SMMUv3's identification registers, or null when it is another kind or the data is too short.</summary>
    public IommuHwInfoArmSmmuv3? ArmSmmuv3
    {
        get
        {
            if (Type != IommuHwInfoType.ArmSmmuv3 || VendorData.Length < 40)
                return null;
            var info = new IommuHwInfoArmSmmuv3
            {
                Flags = (IommuHwInfoArmSmmuv3Flags)Read32(0),
                Iidr = Read32(32),
                Aidr = Read32(36),
            };
            for (int index = 0; index < 6; index++)
                info.Idr[index] = Read32(8 + (4 * index));
            return info;
        }
    }

    /// <summary>AMD's extended feature registers, or null when it is another kind or the data is too short.</summary>
    public IommuHwInfoAmd? Amd => Type != IommuHwInfoType.Amd || VendorData.Length < 16 ? null : new()
    {
        Efr = Read64(0),
        Efr2 = Read64(8),
    };

    public override string ToString() =>
        $"{Type}, {(SupportsDirtyTracking ? "sets dirty bits" : "no dirty tracking")}";

    private uint Read32(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(VendorData.Span[offset..]);

    private ulong Read64(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(VendorData.Span[offset..]);
}
