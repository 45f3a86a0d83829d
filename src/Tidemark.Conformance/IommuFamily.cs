using System.Numerics;
using Tidemark.Abi;

namespace Tidemark.Conformance;

/// <summary>What cases expect of the IOMMUs of one driver, for the facts in which drivers differ.</summary>
/// <param name="Name">As it stands in the names of cases.</param>
/// <param name="Type">What GET_HW_INFO calls it.</param>
/// <param name="PageSizes">The leaves its tables have, a bit for each size.</param>
/// <param name="Reserved">What no mapping may touch while a device is attached: first and last IOVA.</param>
internal sealed record IommuFamily(string Name, IommuHwInfoType Type, ulong PageSizes, (ulong First, ulong Last) Reserved)
{
    private static readonly (ulong First, ulong Last) s_x86Interrupts = (0xFEE0_0000, 0xFEEF_FFFF);

    /// <summary>4 KiB, 2 MiB, 1 GiB.</summary>
    private const ulong Natural = 1UL << 12 | 1UL << 21 | 1UL << 30;

    /// <summary>Every power of two from 4 KiB to 256 GiB; a case goes no further.</summary>
    private const ulong EveryPower = (1UL << 39) - (1UL << 12);

    public static IommuFamily Vtd { get; } = new("vtd", IommuHwInfoType.IntelVtd, Natural, s_x86Interrupts);

    public static IommuFamily Amd { get; } = new("amd", IommuHwInfoType.Amd, EveryPower, s_x86Interrupts);

    public static IommuFamily SmmuV3 { get; } =
        new("smmuv3", IommuHwInfoType.ArmSmmuv3, Natural, (0x0800_0000, 0x080F_FFFF));

    public static IReadOnlyList<IommuFamily> All { get; } = [Vtd, Amd, SmmuV3];

    /// <summary>
    /// Writable leaves are dirty from the beginning, there is no switch, and a query counts on from its own start.
    /// </summary>
    public bool StartsDirty => Type == IommuHwInfoType.ArmSmmuv3;

    public DeviceNeed Device => DeviceNeed.Behind(Type);

    public DeviceNeed TrackedWriter => DeviceNeed.TrackedWriterBehind(Type);

    /// <summary>
    /// The leaf that Linux chooses at a place of a contiguous mapping: the largest that both addresses are multiples of
    /// and that is not larger than what is left.
    /// </summary>
    public ulong LeafAt(ulong addresses, ulong left)
    {
        int largest = Math.Min(BitOperations.TrailingZeroCount(addresses), BitOperations.Log2(left));
        return 1UL << BitOperations.Log2(PageSizes & (ulong.MaxValue >> (63 - Math.Min(largest, 38))));
    }
}
