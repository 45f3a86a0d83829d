using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Vfio;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Iommufd;

/// <summary>
/// The requests of a VFIO container, on an iommufd: they go to the one IOAS that is set for them.
/// </summary>
internal sealed partial class IommufdContext
{
    private const int InfoLength = (int)VfioIommuType1Info.StructSize;
    private const int AvailableLength = 16;
    private const int RangesHeader = 16;
    private const int RangeLength = 16;

    /// <summary>Keeps the context alive until <see cref="Drop"/>; false: it has ended.</summary>
    public bool TryHold()
    {
        lock (Gate)
        {
            if (_references == 0)
                return false;
            _references++;
            return true;
        }
    }

    /// <summary>The IOAS of these requests is made if there is none.</summary>
    public void EnsureCompatibilityIoas()
    {
        lock (Gate)
        {
            if (_compatibilityIoas is not null)
                return;
            _compatibilityIoas = new Ioas(this);
            Objects.Add(_compatibilityIoas);
        }
    }

    /// <summary>ENODEV: there is none.</summary>
    public Errno TryGetCompatibilityIoas(out uint id)
    {
        lock (Gate)
        {
            id = _compatibilityIoas?.Id ?? 0;
            return _compatibilityIoas is null ? Errno.ENODEV : Errno.Success;
        }
    }

    /// <summary>Requests whose argument is a number; for the others it is a pointer to nothing.</summary>
    public SyscallResult CompatibilityIoctl(uint request, ulong argument)
    {
        if (request == VfioRequests.CheckExtension.Value)
        {
            Errno errno = CheckExtension(argument, out long answer);
            return errno == Errno.Success ? SyscallResult.Ok(answer) : SyscallResult.Fail(errno);
        }

        return request == VfioRequests.SetIommu.Value
            ? Answer(SetIommu(argument))
            : CompatibilityIoctl(request, []);
    }

    private SyscallResult CompatibilityIoctl(uint request, Span<byte> argument)
    {
        // An address, where a number is wanted, is one that means nothing.
        const ulong Nothing = ulong.MaxValue;
        if (request == VfioRequests.GetApiVersion.Value)
            return SyscallResult.Ok(VfioApi.Version);
        if (request == VfioRequests.CheckExtension.Value || request == VfioRequests.SetIommu.Value)
            return CompatibilityIoctl(request, Nothing);
        return Answer(
            request == VfioRequests.IommuGetInfo.Value ? GetContainerInfo(argument)
            : request == VfioRequests.IommuMapDma.Value ? MapDma(argument)
            : request == VfioRequests.IommuUnmapDma.Value ? UnmapDma(argument)
            : Errno.ENOTTY);
    }

    private static SyscallResult Answer(Errno errno) =>
        errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);

    private Errno CheckExtension(ulong extension, out long answer)
    {
        answer = 0;
        if (extension > uint.MaxValue)
            return Errno.Success;
        switch ((VfioExtension)extension)
        {
            case VfioExtension.Type1 or VfioExtension.Type1V2 or VfioExtension.UnmapAll or VfioExtension.Noiommu:
                // The kernel is built with support for groups without IOMMU, and that is all that the last one asks.
                answer = 1;
                return Errno.Success;
            case VfioExtension.DmaCc:
                lock (Gate)
                {
                    if (_compatibilityIoas is null)
                        return Errno.ENODEV;
                    answer = _compatibilityIoas.IsCoherent ? 1 : 0;
                    return Errno.Success;
                }

            default:
                return Errno.Success;
        }
    }

    private Errno SetIommu(ulong type)
    {
        if (type is not ((ulong)VfioExtension.Type1 or (ulong)VfioExtension.Type1V2))
            return Errno.EINVAL;
        lock (Gate)
        {
            if (_compatibilityIoas is not Ioas ioas)
                return Errno.ENODEV;
            // Version 1 may unmap part of a mapping, and large leaves could not be cut.
            return type == (ulong)VfioExtension.Type1 ? ioas.SetLargeLeaves(0) : Errno.Success;
        }
    }

    private Errno MapDma(ReadOnlySpan<byte> argument)
    {
        const int Length = (int)VfioIommuType1DmaMap.MinimumSize;
        if (!VfioArgument.TryRead(argument, Length, out VfioIommuType1DmaMap map))
            return Errno.EFAULT;
        if (map.Argsz < Length || (map.Flags & ~(VfioDmaMapFlags.Read | VfioDmaMapFlags.Write)) != 0)
            return Errno.EINVAL;
        IommuIoasMapFlags flags = IommuIoasMapFlags.FixedIova
            | ((map.Flags & VfioDmaMapFlags.Read) != 0 ? IommuIoasMapFlags.Readable : 0)
            | ((map.Flags & VfioDmaMapFlags.Write) != 0 ? IommuIoasMapFlags.Writeable : 0);
        lock (Gate)
        {
            if (_compatibilityIoas is not Ioas ioas)
                return Errno.ENODEV;
            if (map.Vaddr > ulong.MaxValue - map.Size)
                return Errno.EOVERFLOW;
            if (map.Size == 0 || map.Size > ulong.MaxValue - GuestPage.Size)
                return Errno.EINVAL;
            var pages = PageSet.OfUser(
                User, map.Vaddr, (map.Flags & VfioDmaMapFlags.Write) != 0, NewCharge());
            return ioas.TryMap([new PagePiece(pages, 0, map.Size)], flags, ref map.Iova);
        }
    }

    private Errno UnmapDma(Span<byte> argument)
    {
        const int Length = (int)VfioIommuType1DmaUnmap.MinimumSize;
        if (!VfioArgument.TryRead(argument, Length, out VfioIommuType1DmaUnmap unmap))
            return Errno.EFAULT;
        if (unmap.Argsz < Length || (unmap.Flags & ~VfioDmaUnmapFlags.All) != 0)
            return Errno.EINVAL;
        bool all = (unmap.Flags & VfioDmaUnmapFlags.All) != 0;
        Errno errno;
        lock (Gate)
        {
            if (_compatibilityIoas is not Ioas ioas)
                return Errno.ENODEV;
            if (all && (unmap.Iova != 0 || unmap.Size != 0))
                return Errno.EINVAL;
            if (!all && !ioas.LargeLeaves)
            {
                // ORDER: the end is cut before the beginning, and before the range is looked at.
                errno = ioas.TryCut(unchecked(unmap.Iova + unmap.Size - 1));
                if (errno == Errno.Success && unmap.Iova != 0)
                    errno = ioas.TryCut(unmap.Iova - 1);
                if (errno != Errno.Success)
                    return errno;
            }

            errno = UnmapRange(ioas, all, unmap.Iova, unmap.Size, out unmap.Size);
        }

        // Told after a failure too.
        VfioArgument.Write(argument, unmap, Length);
        return errno;
    }

    /// <summary>Nothing mapped is a success of 0 bytes here.</summary>
    private static Errno UnmapRange(Ioas ioas, bool all, ulong iova, ulong length, out ulong unmapped)
    {
        unmapped = 0;
        if (all)
            return ioas.TryUnmapAll(out unmapped);
        if (length == 0)
            return Errno.EINVAL;
        if (iova > ulong.MaxValue - (length - 1))
            return Errno.EOVERFLOW;
        ulong last = iova + (length - 1);
        return ioas.IsMapped(iova, last) ? ioas.TryUnmap(iova, last, out unmapped) : Errno.Success;
    }

    /// <summary>
    /// IOMMU_GET_INFO: DMA_AVAIL, then IOVA_RANGE. What fits of the chain is written although only a whole chain is
    /// pointed to; nothing beyond argsz is.
    /// </summary>
    private Errno GetContainerInfo(Span<byte> argument)
    {
        const int Minimum = (int)VfioIommuType1Info.MinimumSize;
        if (!VfioArgument.TryRead(argument, Minimum, out VfioIommuType1Info info))
            return Errno.EFAULT;
        if (info.Argsz < Minimum)
            return Errno.EINVAL;
        int answered = (int)Math.Min(info.Argsz, InfoLength);
        List<(ulong First, ulong Last)> ranges;
        lock (Gate)
        {
            if (_compatibilityIoas is not Ioas ioas)
                return Errno.ENODEV;
            info.IovaPgsizes = ioas.PageSizes;
            ranges = ioas.UsableRanges();
        }

        uint total = InfoLength + AvailableLength + RangesHeader + ((uint)ranges.Count * RangeLength);
        // The caller's memory ends where the argument does, whatever argsz says.
        Span<byte> room = argument[..(int)Math.Min(info.Argsz, (uint)argument.Length)];
        if (argument.Length < info.Argsz && argument.Length < total)
            return Errno.EFAULT;
        WriteChain(room, ranges);
        info.Flags = VfioIommuInfoFlags.Pgsizes | VfioIommuInfoFlags.Caps;
        info.CapOffset = info.Argsz >= total ? (uint)InfoLength : 0;
        info.Argsz = total;
        info.Pad = 0;
        VfioArgument.Write(argument, info, answered);
        return Errno.Success;
    }

    private static void WriteChain(Span<byte> room, List<(ulong First, ulong Last)> ranges)
    {
        const int RangesAt = InfoLength + AvailableLength;
        const int FirstRangeAt = RangesAt + RangesHeader;
        // The header of a capability is written as a whole; its link when room goes as far as the next one begins.
        if (room.Length >= InfoLength + 12)
        {
            WriteHeader(room[InfoLength..], VfioIommuType1InfoCapId.DmaAvail, 0);
            BinaryPrimitives.WriteUInt32LittleEndian(room[(InfoLength + 8)..], uint.MaxValue);
        }

        if (room.Length >= RangesAt)
            BinaryPrimitives.WriteInt32LittleEndian(room[(InfoLength + 4)..], RangesAt);
        for (int index = 0; index < ranges.Count; index++)
        {
            int at = FirstRangeAt + (index * RangeLength);
            if (room.Length < at + RangeLength)
                return;
            BinaryPrimitives.WriteUInt64LittleEndian(room[at..], ranges[index].First);
            BinaryPrimitives.WriteUInt64LittleEndian(room[(at + 8)..], ranges[index].Last);
        }

        if (room.Length < FirstRangeAt)
            return;
        WriteHeader(room[RangesAt..], VfioIommuType1InfoCapId.IovaRange, 0);
        BinaryPrimitives.WriteInt32LittleEndian(room[(RangesAt + 8)..], ranges.Count);
        BinaryPrimitives.WriteInt32LittleEndian(room[(RangesAt + 12)..], 0);
    }

    private static void WriteHeader(Span<byte> at, VfioIommuType1InfoCapId id, int next)
    {
        const ushort Version = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(at, (ushort)id);
        BinaryPrimitives.WriteUInt16LittleEndian(at[2..], Version);
        BinaryPrimitives.WriteInt32LittleEndian(at[4..], next);
    }
}
