using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>
/// A page table of a type1 container and the groups behind it. Guarded by the container's IOMMU. It never tracks.
/// </summary>
internal sealed class Type1Domain : IDisposable
{
    private readonly PhysicalMemory _physical;
    private readonly IoPageTable _table;
    private readonly IommuDriver _driver;
    private readonly List<VfioGroup> _groups = [];
    private readonly List<ulong> _freed = [];

    private Type1Domain(PhysicalMemory physical, IoPageTable table, IommuDriver driver)
    {
        _physical = physical;
        _table = table;
        _driver = driver;
    }

    public IReadOnlyList<VfioGroup> Groups => _groups;

    /// <summary>The lowest address that may be mapped.</summary>
    public ulong FirstIova => _table.FirstIova;

    /// <summary>The highest address that may be mapped.</summary>
    public ulong LastIova => _table.LastIova;

    /// <summary>A bit for each size of leaf.</summary>
    public ulong PageSizes => _table.Format.PageSizes;

    /// <summary>All accesses snoop the processor's caches.</summary>
    public bool IsCoherent => _table.Format.ForceCoherent;

    /// <summary>A domain as the IOMMU's driver makes one without being asked for anything.</summary>
    public static Errno TryCreate(PhysicalMemory physical, IommuDriver driver, out Type1Domain? domain)
    {
        domain = null;
        Errno errno = driver.Choose(IommuHwptAllocFlags.None, hasData: false, out PageTableFormat? format);
        if (errno != Errno.Success)
            return errno;
        if (IoPageTable.TryCreate(physical, format!) is not IoPageTable table)
            return Errno.ENOMEM;
        domain = new Type1Domain(physical, table, driver);
        return Errno.Success;
    }

    /// <summary>Whether a group for which another domain was made can be in this one instead.</summary>
    public bool CanReplace(Type1Domain other) =>
        IsCoherent == other.IsCoherent && _table.Format.Layout == other._table.Format.Layout
        && other._driver.Accepts(_table.Format, _driver);

    public void Add(VfioGroup group)
    {
        _groups.Add(group);
        group.Iommu!.SetTable(_table);
    }

    public void Remove(VfioGroup group)
    {
        group.Iommu!.SetTable(null);
        _groups.Remove(group);
    }

    /// <summary>Shows a mapping whose pages are pinned. ENOMEM: no table pages; unmap its range then.</summary>
    public Errno Map(Type1Mapping mapping, bool largeLeaves)
    {
        ulong done = 0;
        while (done < mapping.ByteLength)
        {
            (ulong physical, ulong run) = mapping.RunAt(done);
            ulong part = Math.Min(run, mapping.ByteLength - done);
            Errno errno = _table.Map(
                mapping.First + done, physical, part, mapping.IsReadable, mapping.IsWritable, largeLeaves);
            if (errno != Errno.Success)
                return errno;
            done += part;
        }

        return Errno.Success;
    }

    /// <summary>Hides a range. When this returns no device can reach it, and none will still write.</summary>
    public void Unmap(ulong first, ulong last)
    {
        _table.Unmap(first, last, _freed);
        foreach (VfioGroup group in _groups)
            group.Iommu!.InvalidateAndDrain(first, last);
        foreach (ulong page in _freed)
            _physical.FreePage(page);
        _freed.Clear();
    }

    /// <summary>Nobody is behind it any more.</summary>
    public void Dispose() => _table.Dispose();
}
