using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>
/// The type1 driver of one container: mappings that every group of the container sees, in as many page tables as its
/// IOMMUs need. Version 1 unmaps whole mappings from their first address; version 2 refuses to cut one, and tracks.
/// </summary>
/// <remarks>
/// Invariants: mappings are sorted and disjoint; each is in every domain, its pages pinned, exactly while there is a
/// domain; each has a bitmap exactly while dirty pages are tracked.
/// Nothing here reads dirty bits of an IOMMU: a group that can write memory makes every mapped page dirty, always.
/// FIDELITY: a device's own memory (the mapping of a region) is EFAULT, where Linux maps it for other devices to reach.
/// </remarks>
internal sealed partial class Type1Iommu(SoftKernel kernel, bool isVersion2)
{
    /// <summary>The module's dma_entry_limit: mappings of one container.</summary>
    private const uint MappingLimit = 65535;

    /// <summary>Whole pages: what there is while no domain narrows it.</summary>
    private const ulong AnyPageSizes = ~((ulong)GuestPage.Size - 1);

    private readonly Lock _gate = new();
    private readonly List<Type1Domain> _domains = [];
    private readonly List<VfioGroup> _mediated = [];
    private readonly List<Type1Mapping> _mappings = [];
    private Type1IovaList _iovas = new();
    private ulong _pageSizes = AnyPageSizes;
    private int _invalidAddresses;
    private ulong _trackedPages;
    private bool _tracking;
    private bool _released;

    private UserMemory User => kernel.User;

    private PhysicalMemory Physical => kernel.Physical;

    private bool LargeLeaves => !kernel.Hardware.Type1DisablesHugePages;

    /// <summary>The smallest page, which addresses and lengths are multiples of.</summary>
    private ulong PageSize => _pageSizes & unchecked(0 - _pageSizes);

    /// <param name="iommu">Null: asked of the driver before a container uses it.</param>
    public static long CheckExtension(Type1Iommu? iommu, ulong extension)
    {
        if (extension > uint.MaxValue)
            return 0;
        return (VfioExtension)extension switch
        {
            VfioExtension.Type1 or VfioExtension.Type1V2 or VfioExtension.UnmapAll => 1,
            VfioExtension.UpdateVaddr => iommu is { HasMediated: false } ? 1 : 0,
            VfioExtension.DmaCc => iommu is { IsCoherent: true } ? 1 : 0,
            _ => 0,
        };
    }

    private bool HasMediated
    {
        get
        {
            lock (_gate)
                return _mediated.Count != 0;
        }
    }

    /// <summary>No device can write past the processor's caches.</summary>
    private bool IsCoherent
    {
        get
        {
            lock (_gate)
                return _domains.TrueForAll(domain => domain.IsCoherent);
        }
    }

    public Errno Ioctl(uint request, Span<byte> argument)
    {
        if (request == VfioRequests.IommuGetInfo.Value)
            return GetInfo(argument);
        if (request == VfioRequests.IommuMapDma.Value)
            return MapDma(argument);
        if (request == VfioRequests.IommuUnmapDma.Value)
            return UnmapDma(argument);
        return request == VfioRequests.IommuDirtyPages.Value ? DirtyPages(argument) : Errno.ENOTTY;
    }

    /// <summary>
    /// A group sees the mappings from here on. EBUSY: an address is invalid; EINVAL: a mapping lies where the group or
    /// its IOMMU has no room. On failure nothing is changed.
    /// </summary>
    public Errno Attach(VfioGroup group)
    {
        lock (_gate)
        {
            if (_invalidAddresses != 0)
                return Errno.EBUSY;
            if (group.Iommu is null)
            {
                _mediated.Add(group);
                return Errno.Success;
            }

            IommuDriver driver = group.Iommu.Driver;
            Errno errno = Type1Domain.TryCreate(Physical, driver, out Type1Domain? created);
            if (created is null)
                return errno;
            errno = TryFit(created, driver, out Type1IovaList iovas);
            Type1Domain? shared = errno == Errno.Success ? _domains.Find(domain => domain.CanReplace(created)) : null;
            if (errno == Errno.Success && shared is null)
                errno = TryReplay(created);
            if (errno != Errno.Success || shared is not null)
                created.Dispose();
            if (errno != Errno.Success)
                return errno;
            if (shared is null)
            {
                // Newest first, as Linux searches them.
                _domains.Insert(0, created);
                UpdatePageSizes();
            }

            (shared ?? created).Add(group);
            _iovas = iovas;
            return Errno.Success;
        }
    }

    /// <summary>
    /// A group leaves. The last one with an IOMMU unpins every mapping; the last one of all unmaps them.
    /// </summary>
    public void Detach(VfioGroup group)
    {
        lock (_gate)
        {
            if (_mediated.Remove(group))
            {
                if (_mediated.Count == 0 && _domains.Count == 0)
                    RemoveMappings(0, _mappings.Count);
                return;
            }

            if (_domains.Find(domain => domain.Groups.Contains(group)) is not Type1Domain domain)
                return;
            domain.Remove(group);
            if (domain.Groups.Count == 0)
                RemoveDomain(domain);
            RefreshIovas();
            if (_tracking)
                SetAllDirty();
        }
    }

    /// <summary>The container gives the driver up: nothing of it is left.</summary>
    public void Release()
    {
        lock (_gate)
        {
            _released = true;
            RemoveMappings(0, _mappings.Count);
            _mediated.Clear();
            foreach (Type1Domain domain in _domains)
            {
                foreach (VfioGroup group in domain.Groups.ToArray())
                    domain.Remove(group);
                domain.Dispose();
            }

            _domains.Clear();
        }
    }

    /// <summary>What the IOVAs become with a further domain, and whether the mappings leave it room.</summary>
    private Errno TryFit(Type1Domain domain, IommuDriver driver, out Type1IovaList iovas)
    {
        iovas = _iovas.Copy();
        if (_iovas.Conflicts(domain.FirstIova, domain.LastIova, IsMapped)
            || driver.ReservedRegions.Any(region => IsMapped(region.First, region.Last)))
        {
            return Errno.EINVAL;
        }

        iovas.Narrow(domain.FirstIova, domain.LastIova);
        foreach ((ulong first, ulong last) in driver.ReservedRegions)
            iovas.Exclude(first, last);
        return iovas.Ranges.Count == 0 ? Errno.EINVAL : Errno.Success;
    }

    /// <summary>Fills a new domain with every mapping, pinning what is not pinned yet.</summary>
    private Errno TryReplay(Type1Domain domain)
    {
        var pinned = new List<Type1Mapping>();
        Errno errno = Errno.Success;
        foreach (Type1Mapping mapping in _mappings)
        {
            if (!mapping.IsMapped)
            {
                errno = mapping.TryPin(kernel.Caller);
                if (errno != Errno.Success)
                    break;
                pinned.Add(mapping);
            }

            errno = domain.Map(mapping, LargeLeaves);
            if (errno != Errno.Success)
                break;
        }

        // The table is thrown away, and nobody was behind it.
        if (errno != Errno.Success)
            pinned.ForEach(mapping => mapping.Unpin());
        return errno;
    }

    private void RemoveDomain(Type1Domain domain)
    {
        if (_domains.Count == 1 && _mediated.Count == 0)
            RemoveMappings(0, _mappings.Count);
        _domains.Remove(domain);
        if (_domains.Count == 0)
            _mappings.ForEach(mapping => mapping.Unpin());
        domain.Dispose();
        UpdatePageSizes();
    }

    /// <summary>The IOVAs of the domains and groups that are left.</summary>
    private void RefreshIovas()
    {
        ulong first = _domains.Count == 0 ? 0 : _domains.Max(domain => domain.FirstIova);
        ulong last = _domains.Count == 0 ? ulong.MaxValue : _domains.Min(domain => domain.LastIova);
        _iovas.Reset(first, last);
        foreach (VfioGroup group in _domains.SelectMany(domain => domain.Groups))
        {
            foreach ((ulong reservedFirst, ulong reservedLast) in group.Iommu!.Driver.ReservedRegions)
                _iovas.Exclude(reservedFirst, reservedLast);
        }
    }

    /// <summary>What all domains have; sizes below a page count as a page.</summary>
    private void UpdatePageSizes()
    {
        ulong sizes = _domains.Aggregate(ulong.MaxValue, (common, domain) => common & domain.PageSizes);
        _pageSizes = (sizes & ~AnyPageSizes) == 0 ? sizes : (sizes & AnyPageSizes) | GuestPage.Size;
    }

    private bool IsMapped(ulong first, ulong last) => Find(first, last) is not null;

    /// <summary>The first mapping that touches a range.</summary>
    private Type1Mapping? Find(ulong first, ulong last)
    {
        int index = FirstEndingAtOrAbove(first);
        return index < _mappings.Count && _mappings[index].First <= last ? _mappings[index] : null;
    }

    private int FirstEndingAtOrAbove(ulong iova)
    {
        int low = 0, high = _mappings.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_mappings[middle].Last < iova)
                low = middle + 1;
            else
                high = middle;
        }

        return low;
    }

    /// <summary>Takes mappings away: out of every table first, then no device can reach the pages.</summary>
    private void RemoveMappings(int index, int count)
    {
        foreach (Type1Mapping mapping in _mappings.GetRange(index, count))
        {
            foreach (Type1Domain domain in _domains)
                domain.Unmap(mapping.First, mapping.Last);
            mapping.Unpin();
            RemoveBitmap(mapping);
            if (mapping.AddressIsInvalid)
                _invalidAddresses--;
        }

        _mappings.RemoveRange(index, count);
    }
}
