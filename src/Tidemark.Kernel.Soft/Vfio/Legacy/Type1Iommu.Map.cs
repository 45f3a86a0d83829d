using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>MAP_DMA and UNMAP_DMA.</summary>
internal sealed partial class Type1Iommu
{
    private const int MapLength = (int)VfioIommuType1DmaMap.MinimumSize;
    private const int UnmapLength = (int)VfioIommuType1DmaUnmap.MinimumSize;
    private const int BitmapLength = 24;
    private const VfioDmaMapFlags Access = VfioDmaMapFlags.Read | VfioDmaMapFlags.Write;

    /// <summary>TASK_SIZE_MAX of x86-64 with four levels: an address at or above it is none of a process.</summary>
    private const ulong UserEnd = 0x7FFF_FFFF_F000;

    private Errno MapDma(ReadOnlySpan<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, MapLength, out VfioIommuType1DmaMap map))
            return Errno.EFAULT;
        if (map.Argsz < MapLength || (map.Flags & ~(Access | VfioDmaMapFlags.Vaddr)) != 0)
            return Errno.EINVAL;
        if (map.Size == 0)
            return Errno.EINVAL;
        if (map.Iova > ulong.MaxValue - (map.Size - 1) || map.Vaddr > ulong.MaxValue - (map.Size - 1))
            return Errno.EOVERFLOW;
        bool setsAddress = (map.Flags & VfioDmaMapFlags.Vaddr) != 0;
        if (setsAddress == ((map.Flags & Access) != 0))
            return Errno.EINVAL;
        lock (_gate)
        {
            if (_released || ((map.Size | map.Iova | map.Vaddr) & (PageSize - 1)) != 0)
                return Errno.EINVAL;
            Type1Mapping? present = Find(map.Iova, map.Iova + (map.Size - 1));
            if (setsAddress)
                return SetAddress(present, map);
            return present is null ? TryMap(map) : Errno.EEXIST;
        }
    }

    private Errno SetAddress(Type1Mapping? mapping, VfioIommuType1DmaMap map)
    {
        if (mapping is null)
            return Errno.ENOENT;
        if (!mapping.AddressIsInvalid || mapping.First != map.Iova || mapping.ByteLength != map.Size)
            return Errno.EINVAL;
        Errno errno = mapping.TrySetAddress(map.Vaddr, kernel.Caller);
        if (errno != Errno.Success)
            return errno;
        mapping.AddressIsInvalid = false;
        _invalidAddresses--;
        return Errno.Success;
    }

    private Errno TryMap(VfioIommuType1DmaMap map)
    {
        if (_mappings.Count >= MappingLimit)
            return Errno.ENOSPC;
        if (!_iovas.Allows(map.Iova, map.Iova + (map.Size - 1)))
            return Errno.EINVAL;
        var mapping = new Type1Mapping(User, kernel.Caller, map.Iova, map.Vaddr, map.Size, map.Flags);
        // Without a domain nothing is looked at: mediated devices pin what they use.
        Errno errno = _domains.Count == 0 ? Errno.Success : mapping.TryPin(kernel.Caller);
        foreach (Type1Domain domain in _domains)
        {
            if (errno == Errno.Success)
                errno = domain.Map(mapping, LargeLeaves);
        }

        if (errno == Errno.Success && _tracking)
            errno = TryAddBitmap(mapping);
        if (errno == Errno.Success)
        {
            _mappings.Insert(FirstEndingAtOrAbove(map.Iova), mapping);
            return errno;
        }

        // Unmapping what was never mapped does nothing.
        foreach (Type1Domain domain in _domains)
            domain.Unmap(mapping.First, mapping.Last);
        mapping.Unpin();
        return errno;
    }

    private Errno UnmapDma(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, UnmapLength, out VfioIommuType1DmaUnmap unmap))
            return Errno.EFAULT;
        const VfioDmaUnmapFlags Known =
            VfioDmaUnmapFlags.GetDirtyBitmap | VfioDmaUnmapFlags.All | VfioDmaUnmapFlags.Vaddr;
        if (unmap.Argsz < UnmapLength || (unmap.Flags & ~Known) != 0)
            return Errno.EINVAL;
        VfioBitmap bitmap = default;
        if ((unmap.Flags & VfioDmaUnmapFlags.GetDirtyBitmap) != 0)
        {
            if ((unmap.Flags & (VfioDmaUnmapFlags.All | VfioDmaUnmapFlags.Vaddr)) != 0)
                return Errno.EINVAL;
            if (unmap.Argsz < UnmapLength + BitmapLength)
                return Errno.EINVAL;
            if (!VfioArgument.TryRead(argument[UnmapLength..], BitmapLength, out bitmap))
                return Errno.EFAULT;
            if (!CanHold(bitmap, unmap.Size))
                return Errno.EINVAL;
        }

        lock (_gate)
        {
            Errno errno = UnmapLocked(unmap, bitmap, out unmap.Size);
            if (errno != Errno.Success)
                return errno;
        }

        VfioArgument.Write(argument, unmap, UnmapLength);
        return Errno.Success;
    }

    private Errno UnmapLocked(VfioIommuType1DmaUnmap unmap, VfioBitmap bitmap, out ulong unmapped)
    {
        unmapped = 0;
        bool all = (unmap.Flags & VfioDmaUnmapFlags.All) != 0;
        bool withBitmap = (unmap.Flags & VfioDmaUnmapFlags.GetDirtyBitmap) != 0;
        bool invalidates = (unmap.Flags & VfioDmaUnmapFlags.Vaddr) != 0;
        if (invalidates && _mediated.Count != 0)
            return Errno.EBUSY;
        if ((unmap.Iova & (PageSize - 1)) != 0)
            return Errno.EINVAL;
        if (all && (unmap.Iova != 0 || unmap.Size != 0))
            return Errno.EINVAL;
        if (!all && (unmap.Size == 0 || (unmap.Size & (PageSize - 1)) != 0))
            return Errno.EINVAL;
        if (!all && unmap.Iova > ulong.MaxValue - (unmap.Size - 1))
            return Errno.EOVERFLOW;
        ulong last = all ? ulong.MaxValue : unmap.Iova + (unmap.Size - 1);
        if (withBitmap && (!_tracking || bitmap.Pgsize != PageSize))
            return Errno.EINVAL;
        if (isVersion2 && !all && CutsMapping(unmap.Iova, last))
            return Errno.EINVAL;
        int from = FirstEndingAtOrAbove(unmap.Iova);
        int to = from;
        // Version 1: what begins before the range ends the walk at once.
        bool blocked = !isVersion2 && from < _mappings.Count && _mappings[from].First < unmap.Iova;
        while (!blocked && to < _mappings.Count && _mappings[to].First <= last)
            to++;
        return invalidates
            ? InvalidateAddresses(from, to, out unmapped)
            : RemoveReporting(from, to, unmap.Iova, withBitmap ? bitmap.Data : null, out unmapped);
    }

    /// <summary>Takes mappings away one after the other, telling their dirty pages; those before a fault are gone.</summary>
    private Errno RemoveReporting(int from, int to, ulong firstIova, ulong? bitmap, out ulong unmapped)
    {
        unmapped = 0;
        Errno errno = Errno.Success;
        int index = from;
        for (; index < to; index++)
        {
            if (bitmap is ulong address)
                errno = Report(_mappings[index], address, firstIova);
            if (errno != Errno.Success)
                break;
            unmapped = unchecked(unmapped + _mappings[index].ByteLength);
        }

        RemoveMappings(from, index - from);
        return errno;
    }

    /// <summary>EINVAL: the address of one is invalid already. Then it is as valid as it was said to be: all that come
    /// before it in the range are valid again.</summary>
    private Errno InvalidateAddresses(int from, int to, out ulong length)
    {
        length = 0;
        for (int index = from; index < to; index++)
        {
            if (_mappings[index].AddressIsInvalid)
            {
                for (int before = from; before < index; before++)
                    _mappings[before].AddressIsInvalid = false;
                _invalidAddresses -= index - from;
                length = 0;
                return Errno.EINVAL;
            }

            _mappings[index].AddressIsInvalid = true;
            _invalidAddresses++;
            length = unchecked(length + _mappings[index].ByteLength);
        }

        return Errno.Success;
    }

    /// <summary>Whether a range begins or ends inside a mapping.</summary>
    private bool CutsMapping(ulong first, ulong last) =>
        (Find(first, first) is Type1Mapping atFirst && atFirst.First != first)
        || (Find(last, last) is Type1Mapping atLast && atLast.Last != last);
}
