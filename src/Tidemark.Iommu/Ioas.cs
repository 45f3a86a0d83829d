using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>
/// An I/O address space: IOVAs and the memory they show. Devices see it through page tables (<see cref="Hwpt"/>) over
/// it.
/// </summary>
/// <remarks>
/// <see cref="Areas"/> is exactly what is mapped through this object, after success and after failure of every member.
/// Members are serialised; a list that was handed out does not change.
/// </remarks>
public sealed class Ioas : IDisposable
{
    /// <summary>LIMIT: the list of usable IOVAs can change while it is asked for; after this many growths we give
    /// up.</summary>
    private const int RangeQueryAttempts = 8;

    /// <summary>LIMIT: more usable ranges than this is not a real machine; bounds what a broken kernel makes us
    /// allocate.</summary>
    private const uint MaximumRangeCount = 65536;

    private const uint RangeSize = 16;

    private readonly Lock _gate = new();
    private readonly AreaList _areas = new();
    private bool _disposed;

    internal Ioas(Iommufd iommufd, uint id)
    {
        Iommufd = iommufd;
        Id = id;
    }

    /// <summary>Goes on with an address space that another process made in the same iommufd.</summary>
    /// <param name="areas">All that is mapped in it: the kernel does not tell.</param>
    public static Ioas Adopt(Iommufd iommufd, uint id, IReadOnlyList<MappedArea> areas)
    {
        ArgumentNullException.ThrowIfNull(iommufd);
        ArgumentNullException.ThrowIfNull(areas);
        var adopted = new Ioas(iommufd, id);
        foreach (MappedArea area in areas)
            adopted._areas.Add(area);
        return adopted;
    }

    public Iommufd Iommufd { get; }

    public uint Id { get; }

    /// <summary>All mappings, ascending by IOVA.</summary>
    public IReadOnlyList<MappedArea> Areas
    {
        get { lock (_gate) return _areas.Snapshot; }
    }

    /// <summary>The mappings that have a byte in a range, ascending; without a copy of all the others.</summary>
    public MappedArea[] FindAreas(IovaRange range)
    {
        lock (_gate)
            return _areas.FindOverlapping(range);
    }

    /// <summary>Whether exactly this mapping is still there.</summary>
    public bool Has(MappedArea area)
    {
        lock (_gate)
            return _areas.Has(area);
    }

    private IKernel Kernel => Iommufd.Kernel;

    /// <summary>Maps memory of this process at a chosen IOVA.</summary>
    /// <param name="host">Inside a <see cref="Mapping"/> of the same kernel that outlives the mapping made
    /// here.</param>
    /// <param name="guest">The guest-physical address of the first byte, if it is guest memory.</param>
    /// <exception cref="KernelException">The kernel refused; nothing changed.</exception>
    public void Map(
        Iova iova, HostAddress host, ulong byteLength, DmaAccess access, GuestPhysicalAddress? guest = null)
    {
        MappedArea area = DescribeArea(iova, byteLength, access, guest);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            MapLocked(area, host);
        }
    }

    /// <summary>
    /// Maps part of a memory file at a chosen IOVA. Such a mapping does not depend on this process's view of the file.
    /// A kernel before 6.13 can not do it and gets the same memory by address.
    /// </summary>
    /// <param name="fileOffset">Where in the file the mapped part begins, in bytes.</param>
    /// <param name="host">Where the same bytes lie in this process, for an old kernel.</param>
    /// <exception cref="KernelException">The kernel refused; nothing changed.</exception>
    public void MapFile(
        Iova iova, KernelFd file, ulong fileOffset, ulong byteLength, HostAddress host, DmaAccess access,
        GuestPhysicalAddress? guest = null)
    {
        ArgumentNullException.ThrowIfNull(file);
        MappedArea area = DescribeArea(iova, byteLength, access, guest);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            IommuIoasMapFile argument = IommuIoasMapFile.Create(
                Id, iova.Value, file.Number, fileOffset, byteLength, ToFlags(access));
            SyscallResult result = Kernel.Ioctl(Iommufd.Fd, ref argument);
            GC.KeepAlive(file);
            if (StepEvents.Log.IsEnabled())
                Tell(area, $"fd {file.Number} offset 0x{fileOffset:x}", result);
            if (result.Errno == Errno.ENOTTY)
                MapLocked(area, host);
            else if (result.Succeeded)
                _areas.Add(area);
            else
                throw MapFailure(area, result.Errno);
        }
    }

    /// <summary>
    /// Makes every mapping of another address space of the same iommufd here too: same IOVAs, same access, the same
    /// pinned pages. No memory is looked up again, so it works also when this process no longer maps it.
    /// </summary>
    /// <exception cref="KernelException">The kernel refused one; the lower ones are here, it and the higher ones are
    /// not.</exception>
    public void CopyFrom(Ioas source)
    {
        ArgumentNullException.ThrowIfNull(source);
        IReadOnlyList<MappedArea> areas = source.Areas;
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            foreach (MappedArea area in areas)
            {
                // One call for each mapping: the kernel does not say how far a call over several came when it fails.
                IommuIoasCopy argument = IommuIoasCopy.Create(
                    Id, area.Range.First.Value, source.Id, area.Range.First.Value, area.Range.ByteLength,
                    ToFlags(area.Access));
                SyscallResult result = Kernel.Ioctl(Iommufd.Fd, ref argument);
                StepEvents.Log.AreaCopied(
                    source.Id, Id, area.Range.First.Value, area.Range.ByteLength, StepEvents.Outcome(result));
                result.ThrowIfFailed($"Copying {area} from IOAS {source.Id} to IOAS {Id}");
                _areas.Add(area);
            }
        }
    }

    /// <summary>
    /// Unmaps every mapping inside the range, lowest first. Dirty bits of what is unmapped are lost: harvest before.
    /// </summary>
    /// <returns>Bytes unmapped; 0 when nothing was mapped there.</returns>
    /// <exception cref="ArgumentException">The range cuts a mapping; nothing changed.</exception>
    /// <exception cref="KernelException">The kernel refused one; the lower ones are gone, it and the higher ones
    /// remain.</exception>
    public ulong Unmap(IovaRange range)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            MappedArea[] inside = _areas.FindOverlapping(range);
            MappedArea? cut = Array.Find(inside, area => !range.Contains(area.Range));
            if (cut is not null)
                throw new ArgumentException($"Unmapping {range} would cut the mapping {cut.Range}.", nameof(range));

            ulong total = 0;
            int gone = 0;
            try
            {
                foreach (MappedArea area in inside)
                {
                    // One call for each mapping: the kernel does not say how far a call over several came when it
                    // fails.
                    IommuIoasUnmap argument = IommuIoasUnmap.Create(
                        Id, area.Range.First.Value, area.Range.ByteLength);
                    SyscallResult result = Kernel.Ioctl(Iommufd.Fd, ref argument);
                    StepEvents.Log.AreaUnmapped(
                        Id, area.Range.First.Value, area.Range.ByteLength, result.Succeeded ? argument.Length : 0,
                        StepEvents.Outcome(result));
                    if (result.Errno == Errno.ENOENT)
                        argument.Length = 0;
                    else
                        result.ThrowIfFailed($"Unmapping {area.Range} from IOAS {Id}");
                    gone++;
                    total += argument.Length;
                }
            }
            finally
            {
                // Once for all of them: there may be thousands.
                _areas.Remove(inside.AsSpan(0, gone));
            }

            return total;
        }
    }

    /// <summary>Asks which IOVAs can be used now. Attaching a device can shrink the answer.</summary>
    /// <exception cref="KernelException">The kernel failed or its answer kept growing.</exception>
    public UsableIovas GetUsableIovas()
    {
        // The first call asks for the count and is answered EMSGSIZE; the second fetches. Another thread's attach can
        // lengthen the list between the two.
        uint count = 0;
        for (int attempt = 0; attempt < RangeQueryAttempts; attempt++)
        {
            using Mapping? buffer = count == 0 ? null : Mapping.CreateAnonymous(Kernel, (ulong)count * RangeSize);
            IommuIoasIovaRanges argument = IommuIoasIovaRanges.Create(Id, buffer?.Address.Value ?? 0, count);
            SyscallResult result = Kernel.Ioctl(Iommufd.Fd, ref argument);
            if (result.Errno == Errno.EMSGSIZE && argument.NumIovas > count && argument.NumIovas <= MaximumRangeCount)
            {
                count = argument.NumIovas;
                continue;
            }

            result.ThrowIfFailed($"Asking for the usable IOVAs of IOAS {Id}");
            return new UsableIovas(
                ReadRanges(buffer, Math.Min(argument.NumIovas, count)), argument.OutIovaAlignment);
        }

        throw new KernelException(
            $"Asking for the usable IOVAs of IOAS {Id}", Errno.EMSGSIZE, "The list kept growing.");
    }

    /// <summary>
    /// Lets later mappings use large leaves or not. Without them one dirty 4 KiB page costs 4 KiB. Refused once a page
    /// table and mappings exist.
    /// </summary>
    /// <exception cref="KernelException">The kernel refused; nothing changed.</exception>
    public void SetHugePages(bool allowed)
    {
        IommuOption argument = IommuOption.Create(
            IommuOptionId.HugePages, IommuOptionOp.Set, Id, allowed ? 1UL : 0UL);
        SyscallResult result = Kernel.Ioctl(Iommufd.Fd, ref argument);
        StepEvents.Log.HugePagesSet(Id, allowed, StepEvents.Outcome(result));
        result.ThrowIfFailed($"Switching large pages {(allowed ? "on" : "off")} for IOAS {Id}");
    }

    /// <summary>Destroys it with all its mappings. Devices and page tables must be gone.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_disposed)
                return;
            _disposed = true;
            _areas.Clear();
            Iommufd.Destroy(Id);
        }
    }

    public override string ToString() => $"IOAS {Id}";

    private static MappedArea DescribeArea(
        Iova iova, ulong byteLength, DmaAccess access, GuestPhysicalAddress? guest)
    {
        ArgumentOutOfRangeException.ThrowIfZero(byteLength);
        if (access == DmaAccess.None)
            throw new ArgumentException("A mapping is for reading, writing, or both.", nameof(access));
        return new MappedArea(IovaRange.FromLength(iova, byteLength), access, guest);
    }

    private static IommuIoasMapFlags ToFlags(DmaAccess access)
    {
        IommuIoasMapFlags flags = IommuIoasMapFlags.FixedIova;
        if ((access & DmaAccess.Read) != 0)
            flags |= IommuIoasMapFlags.Readable;
        if ((access & DmaAccess.Write) != 0)
            flags |= IommuIoasMapFlags.Writeable;
        return flags;
    }

    private static IovaRange[] ReadRanges(Mapping? buffer, uint count)
    {
        if (buffer is null)
            return [];
        ReadOnlySpan<byte> bytes = buffer.Bytes(0, checked((int)(count * RangeSize)));
        var ranges = new IovaRange[count];
        for (int index = 0; index < ranges.Length; index++)
        {
            ReadOnlySpan<byte> range = bytes.Slice(index * (int)RangeSize, (int)RangeSize);
            ranges[index] = new IovaRange(
                new Iova(BinaryPrimitives.ReadUInt64LittleEndian(range)),
                new Iova(BinaryPrimitives.ReadUInt64LittleEndian(range[8..])));
        }

        return ranges;
    }

    private void MapLocked(MappedArea area, HostAddress host)
    {
        IommuIoasMap argument = IommuIoasMap.Create(
            Id, area.Range.First.Value, host.Value, area.Range.ByteLength, ToFlags(area.Access));
        SyscallResult result = Kernel.Ioctl(Iommufd.Fd, ref argument);
        if (StepEvents.Log.IsEnabled())
            Tell(area, $"0x{host.Value:x}", result);
        if (!result.Succeeded)
            throw MapFailure(area, result.Errno);
        _areas.Add(area);
    }

    private void Tell(MappedArea area, string source, SyscallResult result) => StepEvents.Log.AreaMapped(
        Id, area.Range.First.Value, area.Range.ByteLength, source, area.Access.ToString(), StepEvents.Outcome(result));

    private KernelException MapFailure(MappedArea area, Errno errno) => new(
        $"Mapping {area} into IOAS {Id}", errno, MapRemedy.Find(errno));
}
