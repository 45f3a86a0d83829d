using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// The regions of an open device. A region's place in the file is its index shifted left by 40. Reads and writes are
/// made under the device's gate.
/// </summary>
internal sealed class VfioRegions(SoftDeviceModel model)
{
    private const int IndexShift = 40;
    private const ulong OffsetMask = (1UL << IndexShift) - 1;
    private const int SparseHeaderLength = 16;
    private const int SparseAreaLength = 16;

    /// <summary>Where a region begins in the device's file.</summary>
    public static ulong OffsetOf(VfioPciRegionIndex region) => (ulong)region << IndexShift;

    /// <summary>VFIO_DEVICE_GET_REGION_INFO with its capability chain.</summary>
    public Errno GetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioRegionInfo.MinimumSize, out VfioRegionInfo info))
            return Errno.EFAULT;
        // A device without VGA ranges has no such region.
        if (info.Argsz < VfioRegionInfo.MinimumSize || info.Index >= (uint)VfioPciRegionIndex.Vga)
            return Errno.EINVAL;
        SoftRegion? region = Find(info.Index);
        info.Offset = (ulong)info.Index << IndexShift;
        info.Size = region?.ByteLength ?? 0;
        info.CapOffset = 0;
        info.Flags = VfioRegionInfoFlags.None;
        IReadOnlyList<SoftMmapArea> sparse = [];
        if (region is not null)
        {
            if (region.Readable)
                info.Flags |= VfioRegionInfoFlags.Read;
            if (region.Writable)
                info.Flags |= VfioRegionInfoFlags.Write;
            if (region.MmapAreas.Count > 0)
                info.Flags |= VfioRegionInfoFlags.Mmap;
            if (!IsMappableWhole(region))
                sparse = region.MmapAreas;
        }

        if (sparse.Count > 0)
        {
            info.Flags |= VfioRegionInfoFlags.Caps;
            int chain = SparseHeaderLength + (sparse.Count * SparseAreaLength);
            uint needed = VfioRegionInfo.StructSize + (uint)chain;
            if (info.Argsz < needed)
            {
                info.Argsz = needed;
            }
            else
            {
                if (argument.Length < needed)
                    return Errno.EFAULT;
                WriteSparse(argument.Slice((int)VfioRegionInfo.StructSize, chain), sparse);
                info.CapOffset = VfioRegionInfo.StructSize;
            }
        }

        VfioArgument.Write(argument, info, (int)VfioRegionInfo.StructSize);
        return Errno.Success;
    }

    /// <summary>read at an offset. Value: the bytes read; fewer at a BAR's end.</summary>
    public SyscallResult Read(Span<byte> buffer, ulong offset)
    {
        if (buffer.Length == 0)
            return SyscallResult.Ok();
        Errno errno = Locate(offset, write: false, buffer.Length, out uint index, out ulong position, out int count);
        if (errno == Errno.Success)
        {
            errno = model.ReadRegion(index, position, buffer[..count]);
            // The host's kernel owns the table: nobody reads it here, and what is written there is lost.
            if (errno == Errno.Success && FindTable(index, position, count, out int from, out int to))
                buffer[from..to].Fill(0xFF);
        }

        return errno == Errno.Success ? SyscallResult.Ok(count) : SyscallResult.Fail(errno);
    }

    /// <summary>write at an offset. Value: the bytes written; fewer at a BAR's end.</summary>
    public SyscallResult Write(ReadOnlySpan<byte> buffer, ulong offset)
    {
        if (buffer.Length == 0)
            return SyscallResult.Ok();
        Errno errno = Locate(offset, write: true, buffer.Length, out uint index, out ulong position, out int count);
        if (errno == Errno.Success)
        {
            errno = FindTable(index, position, count, out int from, out int to)
                ? WriteAround(index, position, buffer[..count], from, to)
                : model.WriteRegion(index, position, buffer[..count]);
        }

        return errno == Errno.Success ? SyscallResult.Ok(count) : SyscallResult.Fail(errno);
    }

    /// <summary>Where a mapping lies in a host file. EINVAL unless it is inside one mappable area.</summary>
    public SyscallResult ResolveMmap(ulong byteLength, ulong offset, out int hostFd, out ulong hostOffset)
    {
        hostFd = -1;
        hostOffset = 0;
        ulong index = offset >> IndexShift;
        if (index < (ulong)VfioPciRegionIndex.Rom && byteLength > 0 && Find((uint)index) is { } region)
        {
            ulong position = offset & OffsetMask;
            foreach (SoftMmapArea area in region.MmapAreas)
            {
                if (position < area.Offset || position - area.Offset >= area.ByteLength
                    || byteLength > area.ByteLength - (position - area.Offset))
                    continue;
                hostFd = area.HostFd;
                hostOffset = area.HostOffset + (position - area.Offset);
                return SyscallResult.Ok();
            }
        }

        return SyscallResult.Fail(Errno.EINVAL);
    }

    private static bool IsMappableWhole(SoftRegion region) =>
        region.MmapAreas.Count == 1 && region.MmapAreas[0].Offset == 0
        && region.MmapAreas[0].ByteLength == region.ByteLength;

    private static void WriteSparse(Span<byte> chain, IReadOnlyList<SoftMmapArea> areas)
    {
        var capability = new VfioRegionInfoCapSparseMmap
        {
            Header = new VfioInfoCapHeader { Id = (ushort)VfioRegionInfoCapId.SparseMmap, Version = 1 },
            NrAreas = (uint)areas.Count,
        };
        VfioArgument.Write(chain, capability, SparseHeaderLength);
        for (int index = 0; index < areas.Count; index++)
        {
            var area = new VfioRegionSparseMmapArea { Offset = areas[index].Offset, Size = areas[index].ByteLength };
            VfioArgument.Write(
                chain[(SparseHeaderLength + (index * SparseAreaLength))..], area, SparseAreaLength);
        }
    }

    /// <summary>The part of an access that lies in the MSI-X table; false: none.</summary>
    private bool FindTable(uint index, ulong position, int count, out int from, out int to)
    {
        (uint bar, ulong offset, ulong byteLength) = model.MsixTable;
        ulong first = Math.Max(position, offset);
        ulong end = Math.Min(position + (ulong)count, offset + byteLength);
        bool touches = index == bar && first < end;
        (from, to) = touches ? ((int)(first - position), (int)(end - position)) : (0, 0);
        return touches;
    }

    private Errno WriteAround(uint index, ulong position, ReadOnlySpan<byte> buffer, int from, int to)
    {
        Errno errno = from == 0 ? Errno.Success : model.WriteRegion(index, position, buffer[..from]);
        return errno == Errno.Success && to < buffer.Length
            ? model.WriteRegion(index, position + (ulong)to, buffer[to..]) : errno;
    }

    private SoftRegion? Find(uint index) =>
        index < (uint)model.Regions.Count && model.Regions[(int)index].ByteLength > 0
            ? model.Regions[(int)index]
            : null;

    private Errno Locate(ulong offset, bool write, int length, out uint index, out ulong position, out int count)
    {
        position = offset & OffsetMask;
        count = 0;
        index = (uint)Math.Min(offset >> IndexShift, uint.MaxValue);
        if (Find(index) is not { } region || !(write ? region.Writable : region.Readable))
            return Errno.EINVAL;
        ulong left = position < region.ByteLength ? region.ByteLength - position : 0;
        if (index == (uint)VfioPciRegionIndex.Config)
        {
            // Configuration space is not read short: an access that leaves it is EFAULT.
            count = length;
            return (ulong)length > left ? Errno.EFAULT : Errno.Success;
        }

        count = (int)Math.Min((ulong)length, left);
        return left == 0 ? Errno.EINVAL : Errno.Success;
    }
}
