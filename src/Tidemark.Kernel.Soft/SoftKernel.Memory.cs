using System.Diagnostics.CodeAnalysis;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft;

/// <summary>Memory: what is mapped, and which descriptors are memory files.</summary>
public sealed partial class SoftKernel
{
    /// <summary>MADV_REMOVE of madvise(2): gives the pages of a shared mapping back.</summary>
    private const MemoryAdvice RemovePages = (MemoryAdvice)9;

    private readonly Lock _memoryFilesGate = new();
    private readonly Dictionary<int, MemoryObject> _memoryFiles = [];

    public SyscallResult MemfdCreate(string name, MemfdFlags flags)
    {
        SyscallResult created = _host.MemfdCreate(name, flags);
        if (!created.Succeeded)
            return created;
        // A descriptor of our own: the object outlives the caller's.
        SyscallResult own = _host.Dup((int)created.Value);
        if (!own.Succeeded)
        {
            _host.Close((int)created.Value);
            return own;
        }

        lock (_memoryFilesGate)
        {
            _memoryFiles[(int)created.Value] =
                new MemoryObject(_host, Physical, (int)own.Value, isAnonymous: false);
        }

        return created;
    }

    public SyscallResult Ftruncate(int fd, ulong byteLength)
    {
        if (FdTable.IsSoft(fd))
            return SyscallResult.Fail(IsOpen(fd) ? Errno.EINVAL : Errno.EBADF);
        if (!TryReferenceMemory(fd, out MemoryObject? memory))
            return _host.Ftruncate(fd, byteLength);
        SyscallResult result = User.Truncate(memory, memory.HostFd, byteLength);
        memory.Release();
        return result;
    }

    public SyscallResult Mmap(ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset)
    {
        if ((flags & MapFlags.Anonymous) != 0)
            return MapAnonymous(byteLength, protection, flags);
        if (FdTable.IsSoft(fd))
            return MapSoftFile(byteLength, protection, flags, fd, offset);
        TryReferenceMemory(fd, out MemoryObject? memory);
        // FIDELITY: a private mapping of a memory file has copies of its own that the twin can not reach: not pinnable.
        MemoryObject? pinnable = (flags & MapFlags.Private) == 0 ? memory : null;
        // ORDER: through the object's own descriptor, which nobody can close and give to another file meanwhile.
        SyscallResult mapped = User.Map(byteLength, protection, flags, memory?.HostFd ?? fd, offset, pinnable);
        memory?.Release();
        return mapped;
    }

    public SyscallResult Munmap(ulong address, ulong byteLength) => User.Unmap(address, byteLength);

    public SyscallResult Madvise(ulong address, ulong byteLength, MemoryAdvice advice)
    {
        if (advice != MemoryAdvice.DontNeed || address > ulong.MaxValue - byteLength)
            return _host.Madvise(address, byteLength, advice);
        // Mapping by mapping: what gives anonymous memory back would cut holes into a file that lies beside it.
        ulong end = address + byteLength;
        SyscallResult result;
        do
        {
            MemoryObject? memory = User.FindObject(address, out ulong last);
            ulong part = last < end ? last - address + 1 : end - address;
            result = Discard(address, part, memory);
            memory?.Release();
            address += part;
        }
        while (result.Succeeded && address < end);
        return result;
    }

    /// <summary>
    /// A descriptor for MAP_FILE; false when it is not open. <paramref name="memory"/>: with a reference, or null for
    /// an open file that is not a memory file.
    /// </summary>
    internal bool TryFindFile(int fd, out MemoryObject? memory)
    {
        if (FdTable.IsSoft(fd))
        {
            memory = null;
            return IsOpen(fd);
        }

        return TryReferenceMemory(fd, out memory) || IsOpenOnHost(fd);
    }

    /// <summary>The dma-buf that a descriptor names, with a reference; false: it names something else or nothing.</summary>
    internal bool TryFindDmaBuf(int fd, [NotNullWhen(true)] out DmaBuf? lent)
    {
        lent = null;
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return false;
        lent = (file.File as DmaBufFile)?.Buffer;
        lent?.AddReference();
        _files.Drop(file);
        return lent is not null;
    }

    /// <summary>There is no call that only asks; a duplicate that is closed again tells.</summary>
    private bool IsOpenOnHost(int fd)
    {
        SyscallResult duplicate = _host.Dup(fd);
        if (duplicate.Succeeded)
            _host.Close((int)duplicate.Value);
        return duplicate.Succeeded;
    }

    /// <summary>MADV_DONTNEED inside one mapping, or where there is none of ours.</summary>
    private SyscallResult Discard(ulong address, ulong byteLength, MemoryObject? memory)
    {
        if (memory is not { IsAnonymous: true })
            return _host.Madvise(address, byteLength, MemoryAdvice.DontNeed);
        // FIDELITY: Linux would give the caller new zero pages and leave the old ones to the device.
        return memory.PinnedPages != 0
            ? SyscallResult.Fail(Errno.EBUSY)
            : _host.Madvise(address, byteLength, RemovePages);
    }

    /// <summary>Memory of the kernel's own, of zeros, with a reference; null: none can be had.</summary>
    internal MemoryObject? TryCreateMemory(ulong byteLength)
    {
        SyscallResult created = _host.MemfdCreate("tidemark kernel", MemfdFlags.CloseOnExec);
        if (!created.Succeeded)
            return null;
        var memory = new MemoryObject(_host, Physical, (int)created.Value, isAnonymous: false);
        if (memory.Truncate(memory.HostFd, byteLength).Succeeded)
            return memory;
        memory.Release();
        return null;
    }

    private SyscallResult MapAnonymous(ulong byteLength, MemoryProtection protection, MapFlags flags)
    {
        // A memfd underneath, shared, so that pinned pages outlive the mapping.
        SyscallResult created = _host.MemfdCreate("tidemark anonymous", MemfdFlags.CloseOnExec);
        if (!created.Succeeded)
            return created;
        var memory = new MemoryObject(_host, Physical, (int)created.Value, isAnonymous: true);
        SyscallResult sized = byteLength > long.MaxValue
            ? SyscallResult.Fail(Errno.ENOMEM)
            : memory.Truncate(memory.HostFd, byteLength);
        SyscallResult result = sized;
        if (sized.Succeeded)
        {
            MapFlags shared = (flags & ~(MapFlags.Private | MapFlags.Anonymous)) | MapFlags.Shared;
            result = User.Map(byteLength, protection, shared, memory.HostFd, 0, memory);
        }

        memory.Release();
        return result;
    }

    private SyscallResult MapSoftFile(
        ulong byteLength, MemoryProtection protection, MapFlags flags, int fd, ulong offset)
    {
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return SyscallResult.Fail(Errno.EBADF);
        try
        {
            SyscallResult resolved = file.File.ResolveMmap(
                byteLength, protection, offset, out int hostFd, out ulong hostOffset, out IMappingOwner? owner);
            // A file that can be mapped at all wants it shared: there are no private copies of a device's memory.
            SyscallResult result = resolved.Errno != Errno.ENODEV && (flags & MapFlags.Shared) == 0
                ? SyscallResult.Fail(Errno.EINVAL)
                // Device memory: neither pinnable nor a place for arguments, like VM_PFNMAP.
                : resolved.Succeeded
                    ? User.Map(byteLength, protection, flags, hostFd, hostOffset, memory: null, owner)
                    : resolved;
            if (!result.Succeeded)
                owner?.RemoveMapping();
            return result;
        }
        finally
        {
            _files.Drop(file);
        }
    }

    private SyscallResult CloseHost(int fd)
    {
        MemoryObject? memory;
        lock (_memoryFilesGate)
            _memoryFiles.Remove(fd, out memory);
        // Forgotten first: the host may give the number to someone else at once.
        SyscallResult closed = _host.Close(fd);
        memory?.Release();
        return closed;
    }

    private SyscallResult DupHost(int fd)
    {
        SyscallResult duplicate = _host.Dup(fd);
        if (duplicate.Succeeded && TryReferenceMemory(fd, out MemoryObject? memory))
        {
            lock (_memoryFilesGate)
                _memoryFiles[(int)duplicate.Value] = memory;
        }

        return duplicate;
    }

    private bool TryReferenceMemory(int fd, [NotNullWhen(true)] out MemoryObject? memory)
    {
        lock (_memoryFilesGate)
        {
            if (!_memoryFiles.TryGetValue(fd, out memory))
                return false;
            memory.AddReference();
            return true;
        }
    }

    private int CountMemoryDescriptors()
    {
        lock (_memoryFilesGate)
            return _memoryFiles.Count;
    }
}
