using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>
/// Something of the kernel's that records which pages devices wrote through it: an IOMMU's page table
/// (<see cref="Hwpt"/>), or the bitmaps of a type1 container. For one caller at a time.
/// </summary>
public interface IDirtyTable
{
    /// <summary>What messages call it, for instance <c>HWPT 3</c>.</summary>
    string Name { get; }

    /// <summary>Whether tracking was switched on (and not off since) through this object.</summary>
    bool IsTracking { get; }

    /// <summary>
    /// Switches tracking on or off. Switching on what is on does nothing. A failing switch-off counts as off and never
    /// leads to another switch-on.
    /// </summary>
    /// <exception cref="KernelException">The kernel refused; tracking is off as far as this object is
    /// concerned.</exception>
    void SetDirtyTracking(bool on);

    /// <summary>
    /// Reads and clears the dirty bits of one mapping and adds them to <paramref name="pages"/> by guest page number.
    /// </summary>
    /// <param name="area">A whole mapping of guest memory, exactly as it was made.</param>
    /// <exception cref="KernelException">A read failed; bits taken before it are in
    /// <paramref name="pages"/>.</exception>
    void HarvestDirty(MappedArea area, DirtyBuffer buffer, PageBitmap pages);
}
