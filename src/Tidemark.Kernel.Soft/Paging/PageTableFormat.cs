namespace Tidemark.Kernel.Soft.Paging;

/// <summary>The layouts of entries.</summary>
internal enum PageTableLayout
{
    VtdSecondStage,
    X86FirstStage,
    AmdV1,

    /// <summary>AMD's with a granule of 2 KiB: the kernel's test domain.</summary>
    AmdV1TwoKibibyte,

    SmmuV3Stage1,

    /// <summary>AMD's, for software to look up: devices without IOMMU.</summary>
    NoIommu,
}

/// <summary>What a page table is to be like. Chosen by a driver for a unit and the flags of HWPT_ALLOC.</summary>
/// <param name="FirstIova">Lowest address of the aperture.</param>
/// <param name="LastIova">Highest address of the aperture.</param>
/// <param name="PageSizes">
/// A bit for each size of leaf that may be used, as far as the layout has it: bit 12 is 4 KiB.
/// </param>
internal sealed record PageTableFormat(PageTableLayout Layout, ulong FirstIova, ulong LastIova, ulong PageSizes)
{
    private const ulong Page4K = 1UL << 12;
    private const ulong Page2M = 1UL << 21;
    private const ulong Page1G = 1UL << 30;
    private const ulong Page512G = 1UL << 39;

    /// <summary>Bits of addresses that the tables resolve; the aperture may be narrower.</summary>
    public int AddressWidth { get; init; } = 48;

    /// <summary>It has dirty operations (HWPT_ALLOC with DIRTY_TRACKING).</summary>
    public bool DirtyTracking { get; init; }

    /// <summary>Leaves and, where the layout has a bit for it, enforce that accesses snoop the caches.</summary>
    public bool ForceCoherent { get; init; }

    /// <summary>The smallest leaf: addresses and lengths of mappings are multiples of it.</summary>
    public ulong SmallestPage => PageSizes & (~PageSizes + 1);

    /// <summary>Levels of VT-d's second stage are 3 for 39 bits, 4 for 48, 5 for 57.</summary>
    public static PageTableFormat VtdSecondStage(int addressWidth, bool dirtyTracking) =>
        new(PageTableLayout.VtdSecondStage, 0, Last(addressWidth), Page4K | Page2M | Page1G)
        {
            AddressWidth = addressWidth, DirtyTracking = dirtyTracking,
        };

    /// <summary>Addresses are sign-extended, and the lower half is used.</summary>
    public static PageTableFormat X86FirstStage(int addressWidth) =>
        new(PageTableLayout.X86FirstStage, 0, Last(addressWidth - 1), Page4K | Page2M | Page1G)
        {
            AddressWidth = addressWidth,
        };

    /// <summary>
    /// All 64 bits of addresses, and leaves of every power of two from 4 KiB to 2^51 but for 512 GiB, which hardware gets
    /// wrong.
    /// </summary>
    public static PageTableFormat AmdV1(bool dirtyTracking) =>
        new(PageTableLayout.AmdV1, 0, ulong.MaxValue, (Last(52) & ~(Page4K - 1)) & ~Page512G)
        {
            AddressWidth = 64, DirtyTracking = dirtyTracking, ForceCoherent = true,
        };

    /// <summary>virtio-iommu: of every size, for it has mappings and no leaves.</summary>
    public static PageTableFormat Virtio() =>
        new(PageTableLayout.VtdSecondStage, 0, Last(39), ~(Page4K - 1)) { AddressWidth = 39 };

    public static PageTableFormat SmmuV3Stage1(bool dirtyTracking) =>
        new(PageTableLayout.SmmuV3Stage1, 0, Last(48), Page4K | Page2M | Page1G) { DirtyTracking = dirtyTracking };

    /// <summary>
    /// The table of the kernel's test domain (iommufd/selftest.c): three levels, so 38 bits. <paramref
    /// name="hugePages"/>: the variant that a test asks for with user data: leaves of 1 MiB and 4 KiB only, and no
    /// narrowed aperture.
    /// </summary>
    public static PageTableFormat TestDomain(bool dirtyTracking, bool hugePages = false)
    {
        const int Width = 38;
        const ulong Page2K = 1UL << 11;
        const ulong Page1M = 1UL << 20;
        (ulong first, ulong last, ulong sizes) = hugePages
            ? (0UL, Last(Width), Page1M | Page4K)
            : (0x100_0000UL, 0x7FFF_FFFFUL, Last(Width - 1) & ~(Page2K - 1));
        return new(PageTableLayout.AmdV1TwoKibibyte, first, last, sizes)
        {
            AddressWidth = Width, DirtyTracking = dirtyTracking,
        };
    }

    /// <summary>All addresses of 64 bits.</summary>
    public static PageTableFormat NoIommu { get; } =
        new(PageTableLayout.NoIommu, 0, ulong.MaxValue, ~(Page4K - 1) & ~Page512G)
        {
            AddressWidth = 64, ForceCoherent = true,
        };

    private static ulong Last(int bits) => (1UL << bits) - 1;
}
