using Tidemark.Abi;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Files;

/// <summary>
/// Memory that devices can reach: a memfd, or anonymous memory (a memfd underneath). The twin has its own descriptor
/// and, for what is pinned, its own mapping, so nothing that the owner unmaps or closes can pull a page from under a
/// device.
/// </summary>
/// <remarks>
/// Lives while a descriptor, a mapping or a pin refers to it. The mapping of a granule is made at the first pin in it
/// and stays until the object goes. FIDELITY: pages are allocated when first touched, not when pinned.
/// </remarks>
internal sealed class MemoryObject
{
    private readonly Lock _gate = new();
    private readonly IKernel _host;
    private readonly PhysicalMemory _physical;
    private readonly Dictionary<ulong, Granule> _granules = [];
    private int _references = 1;
    private ulong _provenLength;
    private long _pinnedPages;
    private ulong _pinnedEnd;

    /// <param name="hostFd">Owned by the object from here on.</param>
    public MemoryObject(IKernel host, PhysicalMemory physical, int hostFd, bool isAnonymous)
    {
        _host = host;
        _physical = physical;
        HostFd = hostFd;
        IsAnonymous = isAnonymous;
    }

    public int HostFd { get; }

    public bool IsAnonymous { get; }

    public long PinnedPages => Interlocked.Read(ref _pinnedPages);

    /// <summary>The caller already holds a reference, or a lock under which one exists.</summary>
    public void AddReference() => Interlocked.Increment(ref _references);

    public void Release()
    {
        if (Interlocked.Decrement(ref _references) != 0)
            return;
        lock (_gate)
        {
            foreach (Granule granule in _granules.Values)
            {
                _physical.RemoveWindow(granule.Physical);
                _host.Munmap(granule.HostAddress, PhysicalMemory.GranuleSize);
            }

            _granules.Clear();
        }

        _host.Close(HostFd);
    }

    /// <summary>
    /// Whether the file holds this byte. Files only shrink through <see cref="Truncate"/>, so what was proven stays so;
    /// the rest is asked of the host, which knows writes that we did not see.
    /// </summary>
    public bool Holds(ulong offset)
    {
        if (offset < Volatile.Read(ref _provenLength))
            return true;
        lock (_gate)
        {
            Span<byte> probe = stackalloc byte[1];
            SyscallResult read = _host.Pread(HostFd, probe, offset);
            if (!read.Succeeded || read.Value != 1)
                return false;
            _provenLength = Math.Max(_provenLength, offset + 1);
            return true;
        }
    }

    /// <summary>Reads the file; false: part of it is beyond the end.</summary>
    public bool TryRead(ulong offset, Span<byte> into) =>
        Holds(offset + ((ulong)into.Length - 1)) && _host.Pread(HostFd, into, offset).Value == into.Length;

    /// <summary>Writes the file; false: part of it is beyond the end, and nothing is written.</summary>
    public bool TryWrite(ulong offset, ReadOnlySpan<byte> from) =>
        Holds(offset + ((ulong)from.Length - 1)) && _host.Pwrite(HostFd, from, offset).Value == from.Length;

    public SyscallResult Truncate(int fd, ulong byteLength)
    {
        lock (_gate)
        {
            // FIDELITY: Linux truncates, and the device keeps the old pages. Here its next store would end the process.
            if (PinnedPages != 0 && byteLength < _pinnedEnd)
                return SyscallResult.Fail(Errno.EBUSY);
            if (byteLength < _provenLength)
                Volatile.Write(ref _provenLength, byteLength);
            SyscallResult result = _host.Ftruncate(fd, byteLength);
            if (result.Succeeded)
                Volatile.Write(ref _provenLength, byteLength);
            return result;
        }
    }

    /// <summary>
    /// Pins whole pages, all of them in the file. EFAULT: the file is shorter; ENOMEM: no room to map it. A pin is a
    /// reference too.
    /// </summary>
    public Errno TryPin(ulong offset, ulong byteLength)
    {
        ulong lastPage = offset + byteLength - GuestPage.Size;
        if (!Holds(lastPage))
            return Errno.EFAULT;
        lock (_gate)
        {
            // Again, under the lock that truncation takes.
            if (lastPage >= _provenLength)
                return Errno.EFAULT;
            for (ulong granule = offset >> PhysicalMemory.GranuleShift;
                granule <= lastPage >> PhysicalMemory.GranuleShift; granule++)
            {
                if (!TryMapGranule(granule))
                    return Errno.ENOMEM;
            }

            _pinnedEnd = PinnedPages == 0 ? lastPage + 1 : Math.Max(_pinnedEnd, lastPage + 1);
            Count((long)(byteLength / GuestPage.Size));
        }

        AddReference();
        return Errno.Success;
    }

    /// <summary>Pins whole pages that are pinned already.</summary>
    public void PinAgain(ulong byteLength)
    {
        lock (_gate)
            Count((long)(byteLength / GuestPage.Size));
        AddReference();
    }

    public void Unpin(ulong byteLength)
    {
        lock (_gate)
            Count(-(long)(byteLength / GuestPage.Size));
        Release();
    }

    /// <summary>Physical address of a pinned byte.</summary>
    public ulong PhysicalAddress(ulong offset)
    {
        lock (_gate)
        {
            return _granules[offset >> PhysicalMemory.GranuleShift].Physical
                + (offset & (PhysicalMemory.GranuleSize - 1));
        }
    }

    private void Count(long pages)
    {
        Interlocked.Add(ref _pinnedPages, pages);
        _physical.CountPinned(pages);
    }

    private bool TryMapGranule(ulong granule)
    {
        if (_granules.ContainsKey(granule))
            return true;
        // Beyond the file's end too: it may grow into the granule, and only pinned, existing pages are ever touched.
        SyscallResult mapped = _host.Mmap(
            PhysicalMemory.GranuleSize, MemoryProtection.Read | MemoryProtection.Write,
            MapFlags.Shared | MapFlags.NoReserve, HostFd, granule << PhysicalMemory.GranuleShift);
        if (!mapped.Succeeded)
            return false;
        ulong address = unchecked((ulong)mapped.Value);
        if (!_physical.TryAddWindow(address, out ulong physical))
        {
            _host.Munmap(address, PhysicalMemory.GranuleSize);
            return false;
        }

        _granules.Add(granule, new Granule(physical, address));
        return true;
    }

    private readonly record struct Granule(ulong Physical, ulong HostAddress);
}
