using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>Told of each dirty leaf, in ascending order.</summary>
internal interface IDirtyLeafVisitor
{
    void OnDirtyLeaf(ulong iova, ulong byteLength);
}

/// <summary>
/// One page table of an IOMMU: a tree of real 64-bit entries in memory, in one of the layouts of
/// <see cref="PageTableLayout"/>.
/// </summary>
/// <remarks>
/// <code>
/// level 4 (57 bits) .. 3 (48) .. 2 .. 1 .. 0     512 entries each; a leaf ends the walk at any level that may have one
/// </code>
/// Mapping, unmapping and reading dirty bits are the owner's, under its lock. Devices walk at the same time with no
/// lock of the table: they set A and D with compare-and-exchange, so an entry that was just cleared never comes back.
/// Table pages that unmapping takes out are handed to the caller, who frees them after invalidating every port.
/// </remarks>
internal abstract class IoPageTable(PageTableFormat format) : IDisposable
{
    /// <summary>What the table is like.</summary>
    public PageTableFormat Format { get; } = format;

    /// <summary>The lowest address that may be mapped.</summary>
    public ulong FirstIova => Format.FirstIova;

    /// <summary>The highest address that may be mapped.</summary>
    public ulong LastIova => Format.LastIova;

    /// <summary>log2 of what a walk resolves: a page of 4 KiB, or less when leaves can be smaller.</summary>
    public abstract int PageShift { get; }

    /// <summary>
    /// Whether a walk marks what it uses. The switch lies in each attached device's entry (SSADE, HAD): off, a walk
    /// sets neither A nor D. Invalidate the ports after a change. Where hardware has no such switch it is constant, and
    /// setting it does nothing.
    /// </summary>
    public abstract bool Tracking { get; set; }

    /// <summary>What the hardware is pointed to: the first table's address, and its level.</summary>
    public abstract (ulong Physical, int Level) Root { get; }

    /// <summary>Null: no memory.</summary>
    public static IoPageTable? TryCreate(PhysicalMemory physical, PageTableFormat format)
    {
        if (!physical.TryAllocatePage(out ulong root))
            return null;
        return format.Layout switch
        {
            PageTableLayout.VtdSecondStage => new RadixPageTable<VtdSecondStage>(physical, format, root),
            PageTableLayout.X86FirstStage => new RadixPageTable<X86FirstStage>(physical, format, root),
            PageTableLayout.AmdV1 => new RadixPageTable<AmdV1>(physical, format, root),
            PageTableLayout.AmdV1TwoKibibyte => new RadixPageTable<AmdV1TwoKibibyte>(physical, format, root),
            PageTableLayout.SmmuV3Stage1 => new RadixPageTable<SmmuV3Stage1>(physical, format, root),
            PageTableLayout.NoIommu => new NoIommuPageTable(physical, format, root),
            _ => throw new ArgumentOutOfRangeException(nameof(format)),
        };
    }

    /// <summary>
    /// Maps a physically contiguous range, aligned to the smallest page and empty until now, with the largest leaves
    /// that fit: not larger than the alignment of both addresses, nor than what is left. Without
    /// <paramref name="largeLeaves"/> none is larger than 4 KiB.
    /// ENOMEM: no table page; part of the range may then be mapped.
    /// </summary>
    public abstract Errno Map(
        ulong iova, ulong physical, ulong byteLength, bool read, bool write, bool largeLeaves);

    /// <summary>
    /// Empties the range, which cuts no leaf. Table pages without entries leave the tree and are added to
    /// <paramref name="freed"/>.
    /// </summary>
    public abstract void Unmap(ulong first, ulong last, List<ulong> freed);

    /// <summary>
    /// Reports the dirty leaves that the range touches, as the layout's driver does; clears the bits if
    /// <paramref name="clear"/>. Widens the range of what was reported. False: the walk broke off.
    /// </summary>
    public abstract bool ReadDirty<TVisitor>(
        ulong first, ulong last, bool clear, ref TVisitor visitor, ref DirtyExtent reported)
        where TVisitor : struct, IDirtyLeafVisitor, allows ref struct;

    /// <summary>
    /// The IOMMU's walk for one access: permission, then A (and D for a write) when tracking, then the physical
    /// address of the page (<see cref="PageShift"/>). False: a fault.
    /// </summary>
    public abstract bool TryWalk(ulong iova, bool write, out ulong physical, out IotlbFlags flags);

    /// <summary>
    /// The owner's look at one address, which leaves no mark: where it goes to the byte, and the leaf's size. False:
    /// not mapped.
    /// </summary>
    public abstract bool TryFind(ulong iova, out ulong physical, out ulong leafByteLength);

    /// <summary>Sets the dirty bit of the leaf at an address, as a test of the kernel does. False: not mapped.</summary>
    public abstract bool TrySetDirty(ulong iova);

    /// <summary>Frees every table page. No port uses the table any more.</summary>
    public abstract void Dispose();
}

/// <summary>The range of what was found dirty, which an IOTLB invalidation covers in one piece.</summary>
internal struct DirtyExtent
{
    private ulong _first;
    private ulong _last;

    public bool IsEmpty { get; private set; }

    public readonly ulong First => _first;

    public readonly ulong Last => _last;

    public static DirtyExtent Empty => new() { IsEmpty = true, _first = ulong.MaxValue };

    public void Add(ulong first, ulong last)
    {
        IsEmpty = false;
        _first = Math.Min(_first, first);
        _last = Math.Max(_last, last);
    }
}
