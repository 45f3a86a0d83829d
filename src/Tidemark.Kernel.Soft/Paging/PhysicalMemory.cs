using Tidemark.Kernel.Soft.Devices;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Paging;

/// <summary>
/// The twin's physical address space: granules of 1 GiB, each a window onto memory that the twin itself has mapped.
/// </summary>
/// <remarks>
/// <code>
/// physical address   51 ........ 30 | 29 ........................ 0
///                    granule        | byte; congruent to the offset in the memory object behind it
/// </code>
/// A memory object's granule g lies in some granule of this space, whichever was free. So physical addresses and file
/// offsets agree below 1 GiB, and leaves of 2 MiB and 1 GiB arise as on a host that backs memory with huge pages.
/// The regions of devices that others may reach have granules of their own, behind which there is no memory.
/// Table pages are allocated from granules of their own. Translation takes no lock.
/// </remarks>
internal sealed partial class PhysicalMemory : IDisposable
{
    public const int GranuleShift = 30;
    public const ulong GranuleSize = 1UL << GranuleShift;

    /// <summary>Entries in a table page, whatever its layout.</summary>
    public const int EntriesPerTable = GuestPage.Size / sizeof(ulong);

    /// <summary>LIMIT: physical addresses have 52 bits.</summary>
    private const int MaximumGranules = 1 << (52 - GranuleShift);

    private readonly Lock _gate = new();
    private readonly IKernel _host;
    private readonly Stack<int> _freeGranules = new();
    private readonly Stack<ulong> _freePages = new();
    private readonly List<ulong> _arenas = [];

    /// <summary>Host address of each granule, 0 for none. Replaced when it grows, so readers need no lock.</summary>
    private ulong[] _windows = new ulong[64];

    /// <summary>The device behind each granule that is no memory; null: memory, or nothing. As long as the other.</summary>
    private IPeerTarget?[] _peers = new IPeerTarget?[64];
    private int _granules = 1;
    private ulong _nextPage;
    private ulong _arenaEnd;
    private long _tablePages;
    private long _pinnedPages;
    private bool _disposed;

    public PhysicalMemory(IKernel host) => _host = host;

    /// <summary>Table pages in use.</summary>
    public long TablePages => Interlocked.Read(ref _tablePages);

    /// <summary>Pages of memory objects that are pinned.</summary>
    public long PinnedPages => Interlocked.Read(ref _pinnedPages);

    public void CountPinned(long pages) => Interlocked.Add(ref _pinnedPages, pages);

    /// <summary>Host address of a physical address inside a window.</summary>
    public ulong HostAddress(ulong physical)
    {
        ulong window = Volatile.Read(ref _windows)[physical >> GranuleShift];
        return window + (physical & (GranuleSize - 1));
    }

    /// <summary>Makes host memory of <see cref="GranuleSize"/> bytes a granule.</summary>
    public bool TryAddWindow(ulong hostAddress, out ulong physical)
    {
        lock (_gate)
            return TryAddWindowLocked(hostAddress, out physical);
    }

    /// <summary>Gives a device's region a granule, which it begins. False: there is none left.</summary>
    public bool TryAddPeer(IPeerTarget peer, out ulong physical)
    {
        lock (_gate)
        {
            if (!TryAddWindowLocked(hostAddress: 0, out physical))
                return false;
            Volatile.Write(ref _peers[physical >> GranuleShift], peer);
            return true;
        }
    }

    /// <summary>The device at a physical address; null: it is memory.</summary>
    public IPeerTarget? PeerAt(ulong physical)
    {
        // ORDER: an address comes from a page table, and its granule was there before it was mapped.
        return Volatile.Read(ref Volatile.Read(ref _peers)[physical >> GranuleShift]);
    }

    /// <summary>Takes a granule away. Nobody may hold an address in it.</summary>
    public void RemoveWindow(ulong physical)
    {
        lock (_gate)
        {
            _windows[physical >> GranuleShift] = 0;
            _peers[physical >> GranuleShift] = null;
            _freeGranules.Push((int)(physical >> GranuleShift));
        }
    }

    /// <summary>A zeroed page for a table; false: no memory, or disposed.</summary>
    public bool TryAllocatePage(out ulong physical)
    {
        physical = 0;
        lock (_gate)
        {
            if (_disposed)
                return false;
            if (_freePages.TryPop(out physical))
            {
                ClearPage(physical);
            }
            else
            {
                if (_nextPage == _arenaEnd && !TryAddArena())
                    return false;
                physical = _nextPage;
                _nextPage += GuestPage.Size;
            }

            Interlocked.Increment(ref _tablePages);
            return true;
        }
    }

    public void FreePage(ulong physical)
    {
        lock (_gate)
        {
            _freePages.Push(physical);
            if (Interlocked.Decrement(ref _tablePages) == 0 && _disposed)
                UnmapArenas();
        }
    }

    /// <summary>
    /// No pages are given out any more. Arenas go with the last table page: a call in progress may still hold a table,
    /// and frees it by walking it.
    /// </summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _disposed = true;
            if (TablePages == 0)
                UnmapArenas();
        }
    }

    private void UnmapArenas()
    {
        foreach (ulong arena in _arenas)
            _host.Munmap(arena, GranuleSize);
        _arenas.Clear();
        _freePages.Clear();
        _nextPage = _arenaEnd = 0;
    }

    private bool TryAddArena()
    {
        SyscallResult mapped = _host.Mmap(
            GranuleSize, MemoryProtection.Read | MemoryProtection.Write,
            MapFlags.Private | MapFlags.Anonymous | MapFlags.NoReserve, fd: -1, offset: 0);
        if (!mapped.Succeeded)
            return false;
        ulong address = unchecked((ulong)mapped.Value);
        if (!TryAddWindowLocked(address, out ulong physical))
        {
            _host.Munmap(address, GranuleSize);
            return false;
        }

        _arenas.Add(address);
        _nextPage = physical;
        _arenaEnd = physical + GranuleSize;
        return true;
    }

    private bool TryAddWindowLocked(ulong hostAddress, out ulong physical)
    {
        physical = 0;
        if (!_freeGranules.TryPop(out int granule))
        {
            if (_granules == MaximumGranules)
                return false;
            granule = _granules++;
        }

        ulong[] windows = _windows;
        if (granule >= windows.Length)
        {
            Array.Resize(ref windows, Math.Max(granule + 1, windows.Length * 2));
            IPeerTarget?[] peers = _peers;
            Array.Resize(ref peers, windows.Length);
            Volatile.Write(ref _peers, peers);
        }

        windows[granule] = hostAddress;
        Volatile.Write(ref _windows, windows);
        physical = (ulong)granule << GranuleShift;
        return true;
    }
}
