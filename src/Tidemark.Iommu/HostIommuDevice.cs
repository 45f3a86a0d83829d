using System.Numerics;
using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>What can be asked of a <see cref="HostIommuDevice"/>. Open: an unknown number is refused, never
/// guessed.</summary>
public enum HostIommuCapability
{
    /// <summary>The <see cref="IommuHwInfoType"/>.</summary>
    IommuType,

    /// <summary>Width of IOVAs in bits.</summary>
    AddressWidth,

    /// <summary>1 when the IOMMU sets dirty bits, else 0.</summary>
    DirtyTracking,

    /// <summary>Width of PASIDs in bits; 0: none.</summary>
    PasidWidth,
}

/// <summary>
/// The host's IOMMU as seen from one assigned device. Made when the device is attached; mediated devices have none.
/// </summary>
/// <param name="iovaRanges">
/// Asks the container for its usable IOVAs, ascending; null when they can not be had. A question and not a value
/// because the ranges change with every attach.
/// </param>
public sealed class HostIommuDevice(
    string name, uint deviceId, HostIommuCaps caps, Func<IReadOnlyList<IovaRange>?> iovaRanges)
{
    /// <summary>LIMIT: assumed when the ranges are unknown; every IOVA is expressible then.</summary>
    public const int UnknownAddressWidth = 64;

    /// <summary>The device's name.</summary>
    public string Name { get; } = name;

    /// <summary>The id of the bound device in its iommufd.</summary>
    public uint DeviceId { get; } = deviceId;

    public HostIommuCaps Caps { get; } = caps;

    /// <summary>Bits needed for the highest usable IOVA, computed anew at each call; 64 when unknown.</summary>
    public int ComputeAddressWidth()
    {
        IReadOnlyList<IovaRange>? ranges = iovaRanges();
        if (ranges is null || ranges.Count == 0)
            return UnknownAddressWidth;
        ulong last = ranges.Max(range => range.Last.Value);
        return Math.Max(1, 64 - BitOperations.LeadingZeroCount(last));
    }

    /// <summary>Reads one capability.</summary>
    /// <returns><see cref="Errno.EINVAL"/> for a capability this code does not know; <paramref name="value"/> is then
    /// 0.</returns>
    public Errno TryGet(HostIommuCapability capability, out ulong value)
    {
        switch (capability)
        {
            case HostIommuCapability.IommuType:
                value = (ulong)Caps.Type;
                return Errno.Success;
            case HostIommuCapability.AddressWidth:
                value = (ulong)ComputeAddressWidth();
                return Errno.Success;
            case HostIommuCapability.DirtyTracking:
                value = Caps.SupportsDirtyTracking ? 1UL : 0UL;
                return Errno.Success;
            case HostIommuCapability.PasidWidth:
                value = Caps.MaximumPasidLog2;
                return Errno.Success;
            default:
                value = 0;
                return Errno.EINVAL;
        }
    }
}
