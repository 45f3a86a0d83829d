using Tidemark.Abi;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Files;

/// <summary>Part of a memory object that is pinned. Whole pages.</summary>
internal readonly record struct PinnedExtent(MemoryObject Object, ulong Offset, ulong ByteLength);

/// <summary>
/// The only gate to the callers' memory. It knows what was mapped through this kernel; every other address is EFAULT,
/// so that a bad pointer is an errno and not a dead process.
/// </summary>
/// <remarks>
/// A copy holds the lock for reading, munmap and truncation hold it for writing: no page goes away during a copy.
/// FIDELITY: Linux takes any address of the process.
/// </remarks>
internal sealed partial class UserMemory(IKernel host) : IDisposable
{
    private readonly ReaderWriterLockSlim _gate = new(LockRecursionPolicy.NoRecursion);
    private readonly List<Region> _regions = [];

    /// <summary>Mapped regions.</summary>
    public int Count
    {
        get
        {
            _gate.EnterReadLock();
            int count = _regions.Count;
            _gate.ExitReadLock();
            return count;
        }
    }

    /// <summary>
    /// Maps and remembers. <paramref name="memory"/>: what lies behind, or null for memory that can be neither pinned
    /// nor pointed to (ordinary files, device regions); the region takes its own reference.
    /// </summary>
    /// <param name="owner">Has counted this mapping already, if it succeeds.</param>
    public SyscallResult Map(
        ulong byteLength, MemoryProtection protection, MapFlags flags, int hostFd, ulong offset, MemoryObject? memory,
        IMappingOwner? owner = null)
    {
        if (byteLength == 0)
            return SyscallResult.Fail(Errno.EINVAL);
        if (byteLength > ulong.MaxValue - GuestPage.Size)
            return SyscallResult.Fail(Errno.ENOMEM);
        ulong rounded = RoundUp(byteLength);
        _gate.EnterWriteLock();
        try
        {
            SyscallResult mapped = host.Mmap(rounded, protection, flags, hostFd, offset);
            if (!mapped.Succeeded)
                return mapped;
            memory?.AddReference();
            ulong start = unchecked((ulong)mapped.Value);
            _regions.Insert(FirstAbove(start), new Region(start, start + rounded, protection, memory, offset, owner));
            return mapped;
        }
        finally
        {
            _gate.ExitWriteLock();
        }
    }

    /// <summary>Unmaps what of the range was mapped here; the rest of the range is left alone.</summary>
    public SyscallResult Unmap(ulong address, ulong byteLength)
    {
        if (address % GuestPage.Size != 0 || byteLength == 0 || byteLength > ulong.MaxValue - GuestPage.Size
            || address > ulong.MaxValue - RoundUp(byteLength))
        {
            return SyscallResult.Fail(Errno.EINVAL);
        }

        // Told when the lock is free: what goes with the last mapping may take others.
        var left = new List<(IMappingOwner Owner, int Pieces)>();
        SyscallResult result = Unmap(address, address + RoundUp(byteLength), left);
        foreach ((IMappingOwner owner, int pieces) in left)
        {
            if (pieces == 2)
                owner.AddMapping();
            else if (pieces == 0)
                owner.RemoveMapping();
        }

        return result;
    }

    /// <param name="left">Gets the owners of mappings that were cut, and how many pieces are left of each.</param>
    private SyscallResult Unmap(ulong address, ulong end, List<(IMappingOwner Owner, int Pieces)> left)
    {
        _gate.EnterWriteLock();
        try
        {
            int index = Math.Max(0, FirstAbove(address) - 1);
            while (index < _regions.Count && _regions[index].Start < end)
            {
                Region region = _regions[index];
                ulong from = Math.Max(address, region.Start);
                ulong to = Math.Min(end, region.End);
                if (from >= to)
                {
                    index++;
                    continue;
                }

                SyscallResult unmapped = host.Munmap(from, to - from);
                if (!unmapped.Succeeded)
                    return unmapped;
                if (region.Owner is IMappingOwner owner)
                    left.Add((owner, (region.Start < from ? 1 : 0) + (to < region.End ? 1 : 0)));
                index = Cut(index, region, from, to);
            }

            return SyscallResult.Ok();
        }
        finally
        {
            _gate.ExitWriteLock();
        }
    }

    /// <summary>Truncates a file that may be mapped, while nobody copies.</summary>
    public SyscallResult Truncate(MemoryObject memory, int fd, ulong byteLength)
    {
        _gate.EnterWriteLock();
        SyscallResult result = memory.Truncate(fd, byteLength);
        _gate.ExitWriteLock();
        return result;
    }

    /// <summary>The memory object behind an address, with a reference for the caller; null: none.</summary>
    /// <param name="last">The last address up to which the answer is the same.</param>
    public MemoryObject? FindObject(ulong address, out ulong last)
    {
        _gate.EnterReadLock();
        int above = FirstAbove(address);
        last = above < _regions.Count ? _regions[above].Start - 1 : ulong.MaxValue;
        MemoryObject? memory = null;
        if (TryFind(address, out Region region))
        {
            last = region.End - 1;
            memory = region.Memory;
            memory?.AddReference();
        }

        _gate.ExitReadLock();
        return memory;
    }

    /// <summary>
    /// Pins whole pages, appending the parts in order of address. EFAULT: not mapped, not permitted, or not memory;
    /// nothing is then pinned.
    /// </summary>
    public Errno TryPin(ulong address, ulong byteLength, bool write, List<PinnedExtent> extents)
    {
        int before = extents.Count;
        MemoryProtection needed = write ? MemoryProtection.Read | MemoryProtection.Write : MemoryProtection.Read;
        Errno errno = Errno.Success;
        _gate.EnterReadLock();
        try
        {
            ulong end = address + byteLength;
            while (address < end && errno == Errno.Success)
            {
                if (!TryFind(address, out Region region) || region.Memory is not MemoryObject memory
                    || (region.Protection & needed) != needed)
                {
                    errno = Errno.EFAULT;
                    break;
                }

                ulong part = Math.Min(end, region.End) - address;
                ulong offset = region.Offset + (address - region.Start);
                errno = memory.TryPin(offset, part);
                if (errno == Errno.Success)
                    extents.Add(new PinnedExtent(memory, offset, part));
                address += part;
            }
        }
        finally
        {
            _gate.ExitReadLock();
        }

        if (errno != Errno.Success)
        {
            for (int index = before; index < extents.Count; index++)
                extents[index].Object.Unpin(extents[index].ByteLength);
            extents.RemoveRange(before, extents.Count - before);
        }

        return errno;
    }

    public void Dispose() => _gate.Dispose();

    private static ulong RoundUp(ulong byteLength) =>
        (byteLength + GuestPage.Size - 1) & ~((ulong)GuestPage.Size - 1);

    /// <summary>Replaces a region by what is left of it; answers the index to go on at.</summary>
    private int Cut(int index, Region region, ulong from, ulong to)
    {
        _regions.RemoveAt(index);
        if (region.Start < from)
        {
            region.Memory?.AddReference();
            _regions.Insert(index++, region with { End = from });
        }

        if (to < region.End)
        {
            region.Memory?.AddReference();
            _regions.Insert(index++, region with { Start = to, Offset = region.Offset + (to - region.Start) });
        }

        region.Memory?.Release();
        return index;
    }

    private bool TryFind(ulong address, out Region region)
    {
        int index = FirstAbove(address) - 1;
        region = index >= 0 ? _regions[index] : default;
        return index >= 0 && address < region.End;
    }

    /// <summary>Index of the first region that starts above an address.</summary>
    private int FirstAbove(ulong address)
    {
        int low = 0, high = _regions.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_regions[middle].Start <= address)
                low = middle + 1;
            else
                high = middle;
        }

        return low;
    }

    /// <summary>A mapped range, its end excluded, and where it shows its object.</summary>
    private readonly record struct Region(
        ulong Start, ulong End, MemoryProtection Protection, MemoryObject? Memory, ulong Offset,
        IMappingOwner? Owner);
}
