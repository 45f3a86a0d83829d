using System.Collections.Concurrent;
using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// The table of a device without IOMMU: AMD's entries, which only software looks up, and the physical pages that the
/// mappings lead to.
/// </summary>
/// <remarks>
/// <code>
/// owner:  iova --table--> physical address               IOAS_NOIOMMU_GET_PA
/// device: physical address --mapped by anything?--> the same address
/// </code>
/// FIDELITY: nothing on a host keeps such a device from any memory; here it reaches what is mapped in the IOAS that it
/// is attached to, and any other access fails. Devices look while the owner maps and unmaps.
/// LIMIT: an entry of about 60 bytes for each mapped page.
/// </remarks>
internal sealed class NoIommuPageTable(PhysicalMemory physical, PageTableFormat format, ulong root)
    : IoPageTable(format)
{
    private readonly RadixPageTable<AmdV1> _table = new(physical, format, root);

    /// <summary>Physical pages by number: how many mappings lead to each.</summary>
    private readonly ConcurrentDictionary<ulong, int> _pages = new();

    public override int PageShift => _table.PageShift;

    public override (ulong Physical, int Level) Root => _table.Root;

    public override bool Tracking
    {
        get => false;
        set
        {
        }
    }

    public override Errno Map(ulong iova, ulong physical, ulong byteLength, bool read, bool write, bool largeLeaves)
    {
        Errno errno = _table.Map(iova, physical, byteLength, read, write, largeLeaves);
        // What a failure left mapped is unmapped by the caller, so it is counted as far as it got.
        for (ulong done = 0; done < byteLength; done += GuestPage.Size)
        {
            if (errno != Errno.Success && !_table.TryFind(iova + done, out _, out _))
                break;
            _pages.AddOrUpdate((physical + done) >> GuestPage.Shift, 1, (_, count) => count + 1);
        }

        return errno;
    }

    public override void Unmap(ulong first, ulong last, List<ulong> freed)
    {
        for (ulong iova = first; ; iova += GuestPage.Size)
        {
            if (_table.TryFind(iova, out ulong physical, out _))
                Forget(physical >> GuestPage.Shift);
            if (last - iova < GuestPage.Size)
                break;
        }

        _table.Unmap(first, last, freed);
    }

    public override bool ReadDirty<TVisitor>(
        ulong first, ulong last, bool clear, ref TVisitor visitor, ref DirtyExtent reported) =>
        _table.ReadDirty(first, last, clear, ref visitor, ref reported);

    /// <summary>A device's access: the address is physical already.</summary>
    public override bool TryWalk(ulong iova, bool write, out ulong physical, out IotlbFlags flags)
    {
        physical = iova & ~((ulong)GuestPage.Size - 1);
        flags = IotlbFlags.Read | IotlbFlags.Write | IotlbFlags.DirtyKnown;
        return _pages.ContainsKey(iova >> GuestPage.Shift);
    }

    public override bool TryFind(ulong iova, out ulong physical, out ulong leafByteLength) =>
        _table.TryFind(iova, out physical, out leafByteLength);

    public override bool TrySetDirty(ulong iova) => _table.TrySetDirty(iova);

    public override void Dispose()
    {
        _pages.Clear();
        _table.Dispose();
    }

    private void Forget(ulong page)
    {
        // Only the owner changes counts, under its lock.
        if (_pages.TryGetValue(page, out int count) && count > 1)
            _pages[page] = count - 1;
        else
            _pages.TryRemove(page, out _);
    }
}
