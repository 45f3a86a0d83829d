using System.Numerics;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>DIRTY_PAGES.</summary>
internal sealed partial class Type1Iommu
{
    private const int DirtyLength = (int)VfioIommuType1DirtyBitmap.MinimumSize;
    private const int DirtyGetLength = 40;

    /// <summary>The largest bitmap that a call takes, in bytes: a bit for each of 2^31 pages.</summary>
    private const ulong LargestBitmap = 1UL << 28;

    /// <summary>LIMIT: pages with bits in one container, 256 MiB of bitmaps; ENOMEM beyond.</summary>
    private const ulong MostTrackedPages = 1UL << 31;

    private Errno DirtyPages(ReadOnlySpan<byte> argument)
    {
        if (!isVersion2)
            return Errno.EACCES;
        if (!VfioArgument.TryRead(argument, DirtyLength, out VfioIommuType1DirtyBitmap dirty))
            return Errno.EFAULT;
        if (dirty.Argsz < DirtyLength)
            return Errno.EINVAL;
        switch (dirty.Flags)
        {
            case VfioIommuDirtyPagesFlags.Start:
                lock (_gate)
                    return _released ? Errno.EINVAL : StartTracking();
            case VfioIommuDirtyPagesFlags.Stop:
                lock (_gate)
                {
                    _tracking = false;
                    _mappings.ForEach(RemoveBitmap);
                }

                return Errno.Success;
            case VfioIommuDirtyPagesFlags.GetBitmap:
                return GetBitmap(argument[DirtyLength..], dirty.Argsz - DirtyLength);
            default:
                // None, several, or one that is unknown.
                return Errno.EINVAL;
        }
    }

    private Errno StartTracking()
    {
        if (_tracking)
            return Errno.Success;
        foreach (Type1Mapping mapping in _mappings)
        {
            Errno errno = TryAddBitmap(mapping);
            if (errno == Errno.Success)
                continue;
            _mappings.ForEach(RemoveBitmap);
            return errno;
        }

        _tracking = true;
        return Errno.Success;
    }

    private Errno GetBitmap(ReadOnlySpan<byte> data, uint dataLength)
    {
        if (dataLength < DirtyGetLength)
            return Errno.EINVAL;
        if (!VfioArgument.TryRead(data, DirtyGetLength, out VfioIommuType1DirtyBitmapGet range))
            return Errno.EFAULT;
        if (range.Size == 0)
            return Errno.EINVAL;
        if (range.Iova > ulong.MaxValue - (range.Size - 1))
            return Errno.EOVERFLOW;
        if (!CanHold(range.Bitmap, range.Size))
            return Errno.EINVAL;
        lock (_gate)
        {
            if (range.Bitmap.Pgsize != PageSize || ((range.Iova | range.Size) & (PageSize - 1)) != 0 || !_tracking)
                return Errno.EINVAL;
            ulong last = range.Iova + (range.Size - 1);
            if (CutsMapping(range.Iova, last))
                return Errno.EINVAL;
            for (int index = FirstEndingAtOrAbove(range.Iova);
                index < _mappings.Count && _mappings[index].First <= last; index++)
            {
                Errno errno = Report(_mappings[index], range.Bitmap.Data, range.Iova);
                if (errno != Errno.Success)
                    return errno;
                _mappings[index].Bitmap!.Clear();
            }

            return Errno.Success;
        }
    }

    /// <summary>
    /// Writes the bits of a mapping. Every group of a domain can write memory on its own, so a mapping in a domain is
    /// dirty all over; one that only mediated devices see is clean, since none of them pins pages.
    /// </summary>
    private Errno Report(Type1Mapping mapping, ulong bitmap, ulong firstIova)
    {
        if (mapping.IsMapped)
            mapping.Bitmap!.SetAll();
        return mapping.Bitmap!.Report(User, bitmap, (mapping.First - firstIova) / PageSize);
    }

    private Errno TryAddBitmap(Type1Mapping mapping)
    {
        ulong pages = mapping.ByteLength / PageSize;
        if (pages > int.MaxValue)
            return Errno.EINVAL;
        if (_trackedPages + pages > MostTrackedPages)
            return Errno.ENOMEM;
        _trackedPages += pages;
        mapping.Bitmap = new Type1Bitmap((int)pages);
        return Errno.Success;
    }

    private void RemoveBitmap(Type1Mapping mapping)
    {
        if (mapping.Bitmap is null)
            return;
        _trackedPages -= mapping.ByteLength / PageSize;
        mapping.Bitmap = null;
    }

    private void SetAllDirty() => _mappings.ForEach(mapping => mapping.Bitmap!.SetAll());

    /// <summary>Whether a bitmap lies in user space and has room for a range, in whole words.</summary>
    private static bool CanHold(VfioBitmap bitmap, ulong byteLength)
    {
        if (bitmap.Data >= UserEnd || bitmap.Size > UserEnd - bitmap.Data)
            return false;
        // A page size of 0 shifts by nothing, as the processor does; it is refused later.
        ulong pages = byteLength >> (BitOperations.TrailingZeroCount(bitmap.Pgsize) & 63);
        return pages != 0 && bitmap.Size != 0 && bitmap.Size <= LargestBitmap
            && bitmap.Size >= Type1Bitmap.BytesOf(pages);
    }
}
