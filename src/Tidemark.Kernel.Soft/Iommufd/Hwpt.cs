using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// A page table of an IOAS and the devices behind it. Guarded by the context's lock.
/// </summary>
/// <remarks>
/// Why reading dirty bits loses nothing:
/// <code>
/// device: set D in the leaf ---- post ---- store lands        a cached translation skips "set D"
/// reader: read and clear D, for all leaves; then invalidate the IOTLBs and wait for posted writes; then answer
/// </code>
/// A write translated before the invalidation is in memory when the answer comes; one after it sets D again.
/// </remarks>
internal sealed class Hwpt : AttachableTable
{
    private readonly SoftKernelFaults _faults;
    private readonly PhysicalMemory _physical;
    private readonly List<DevicePort> _ports = [];
    private readonly List<ulong> _freed = [];

    public Hwpt(SoftKernel kernel, Ioas ioas, IoPageTable table, IommuDriver driver, bool automatic)
    {
        _faults = kernel.Faults;
        _physical = kernel.Physical;
        Ioas = ioas;
        Table = table;
        Driver = driver;
        IsAutomatic = automatic;
    }

    public Ioas Ioas { get; }

    public IoPageTable Table { get; }

    /// <summary>Whose table it is.</summary>
    public IommuDriver Driver { get; }

    /// <summary>Allocated with the flag: has dirty operations, and demands a tracking IOMMU of each device.</summary>
    public bool DirtyTracking => Table.Format.DirtyTracking;

    /// <summary>Made by attaching to an IOAS; goes with its last device.</summary>
    public bool IsAutomatic { get; }

    /// <summary>Nested tables may be made of it.</summary>
    public bool IsNestParent { get; set; }

    public override Hwpt Paging => this;

    public override void Destroy()
    {
        base.Destroy();
        Ioas.RemoveTable(this);
        Table.Dispose();
    }

    /// <summary>Whether the IOMMU of a device can use this table.</summary>
    public bool Suits(IommuDriver driver) => driver.Accepts(Table.Format, Driver);

    public override void AddPort(DevicePort port)
    {
        _ports.Add(port);
        port.SetTable(Table);
    }

    /// <summary>The port is already elsewhere, or blocked.</summary>
    public override void RemovePort(DevicePort port) => _ports.Remove(port);

    /// <summary>
    /// Shows an area whose pages are pinned. ENOMEM: no table pages, EINVAL: neither readable nor writable; unmap the
    /// area's range then.
    /// </summary>
    public Errno Map(IoasArea area)
    {
        // What was revoked is not shown again.
        if (area.Pages.IsHidden)
            return Errno.Success;
        // Only the VFIO compatibility maps without any permission, and these formats have no entry for that.
        if (area.Permissions == 0
            && Table.Format.Layout is PageTableLayout.VtdSecondStage or PageTableLayout.SmmuV3Stage1)
            return Errno.EINVAL;
        PinnedPages pins = area.Pins!;
        ulong done = 0;
        ulong length = area.Last - area.First + 1;
        while (done < length)
        {
            (ulong physical, ulong run) = pins.RunAt(area.SourceAddress + done);
            ulong part = Math.Min(run, length - done);
            Errno errno = Table.Map(
                area.First + done, physical, part,
                read: (area.Permissions & IommuIoasMapFlags.Readable) != 0,
                write: (area.Permissions & IommuIoasMapFlags.Writeable) != 0,
                Ioas.LargeLeaves);
            if (errno != Errno.Success)
                return errno;
            done += part;
        }

        return Errno.Success;
    }

    /// <summary>Hides ranges, ascending. When this returns no device can reach them, and none will still
    /// write.</summary>
    public void Unmap(List<(ulong First, ulong Last)> ranges)
    {
        foreach ((ulong first, ulong last) in ranges)
            Table.Unmap(first, last, _freed);
        Invalidate(ranges[0].First, ranges[^1].Last);
        foreach (ulong page in _freed)
            _physical.FreePage(page);
        _freed.Clear();
    }

    /// <summary>Starts tracking from a clean table, or stops. Starting again cleans again.</summary>
    public void SetTracking(bool enable)
    {
        if (enable)
        {
            var nobody = new DiscardedLeaves();
            DirtyExtent cleared = DirtyExtent.Empty;
            foreach (IoasArea area in Ioas.Areas)
                Table.ReadDirty(area.First, area.Last, clear: true, ref nobody, ref cleared);
            if (!cleared.IsEmpty)
                Invalidate(cleared.First, cleared.Last);
        }

        if (Table.Tracking == enable)
            return;
        Table.Tracking = enable;
        if (Table.Tracking != enable)
            return;
        // The switch changes what a walk does, so everything cached before it goes.
        Invalidate(0, ulong.MaxValue);
    }

    /// <summary>
    /// Reports dirty leaves of the mapped run at the start of a range, up to its first hole; clears them if asked.
    /// </summary>
    public void ReadDirty<TVisitor>(ulong first, ulong last, bool clear, ref TVisitor visitor)
        where TVisitor : struct, IDirtyLeafVisitor, allows ref struct
    {
        DirtyExtent cleared = DirtyExtent.Empty;
        foreach ((ulong from, ulong to) in Ioas.ContiguousParts(first, last))
        {
            if (!Table.ReadDirty(from, to, clear, ref visitor, ref cleared))
                break;
        }

        if (!cleared.IsEmpty && (_faults & SoftKernelFaults.SkipIotlbDrain) == 0)
            Invalidate(cleared.First, cleared.Last);
    }

    private void Invalidate(ulong first, ulong last)
    {
        // A device without IOMMU has physical addresses, which are anywhere.
        if (Table is NoIommuPageTable)
            (first, last) = (0, ulong.MaxValue);
        foreach (DevicePort port in _ports)
            port.InvalidateAndDrain(first, last);
    }

    private struct DiscardedLeaves : IDirtyLeafVisitor
    {
        public readonly void OnDirtyLeaf(ulong iova, ulong byteLength)
        {
        }
    }
}
