using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Machine.CpuTracking;

/// <summary>
/// Writes through this process's mapping of guest memory, seen by the kernel: asynchronous write protection of
/// userfaultfd, read with PAGEMAP_SCAN. Needs Linux 6.7.
/// </summary>
/// <remarks>
/// <code>
///   off --Start: REGISTER each slot, WRITEPROTECT it--> on --Harvest: PAGEMAP_SCAN finds written pages and protects
///    ^                                                  |              them again, in one step--> on
///    '------------ Stop: UNREGISTER each slot ----------'
///   a page while on:   protected --a write, resolved in the kernel without a message--> written --scan--> protected
/// </code>
/// Tracking belongs to the mapping, not to the memory: DMA, and writes through another mapping of the same file, are
/// invisible here and need a source of their own.
/// </remarks>
public sealed class UserfaultfdDirtySource : IDirtySource, IDisposable
{
    internal const UffdFeatures NeededFeatures =
        UffdFeatures.WpAsync | UffdFeatures.WpUnpopulated | UffdFeatures.WpHugetlbfsShmem;

    /// <summary>LIMIT: runs of written pages that one call can report; more make more calls.</summary>
    internal const int RegionCount = 4096;

    /// <summary>LIMIT: the kernel asks to try again only while it changes the mappings, which ends.</summary>
    private const int MaximumTries = 1000;

    private const int WordsPerRegion = 3;

    /// <summary>What one processor protects at a time; a multiple of what a page table maps.</summary>
    private const ulong PartBytes = 8 << 20;

    /// <summary>What one processor scans at a time: about 0.2 ms of clean pages. A multiple of a bitmap's word.</summary>
    internal ulong ScannedPages { get; set; } = 64 << 10;

    /// <summary>LIMIT: it is one step of one machine, and not to take a whole host.</summary>
    private const int MaximumWorkers = 8;

    private readonly GuestMemory _memory;
    private readonly KernelFd _userfaultfd;
    private readonly KernelFd _pagemap;

    /// <summary>
    /// Room for what one call reports, for as many calls as are made at the same time: made before tracking is on, because a
    /// host without memory for one more must not fail the harvest in a machine's pause. Under its own lock.
    /// </summary>
    private readonly Stack<Mapping> _regions = new();
    private int _registeredSlots;

    private UserfaultfdDirtySource(GuestMemory memory, KernelFd userfaultfd, KernelFd pagemap)
    {
        _memory = memory;
        _userfaultfd = userfaultfd;
        _pagemap = pagemap;
    }

    public string Name => "cpu (userfaultfd)";

    public DirtySourceKind Kind => DirtySourceKind.Cpu;

    private IKernel Kernel => _userfaultfd.Kernel;

    private static int Workers => Math.Min(Environment.ProcessorCount, MaximumWorkers);

    /// <summary>
    /// Makes the source if the kernel can do all that it needs, which is tried out on the first page of guest memory.
    /// </summary>
    /// <param name="reason">When null is returned: which call answered what, and which kernel has it. Else
    /// empty.</param>
    public static UserfaultfdDirtySource? TryCreate(IKernel kernel, GuestMemory memory, out string reason)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(memory);
        KernelFd? userfaultfd = UserfaultfdProbe.TryOpen(kernel, NeededFeatures, out string failure);
        if (userfaultfd is null)
            return Refuse(kernel, failure, out reason);
        SyscallResult opened = kernel.Open("/proc/self/pagemap", OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
        if (!opened.Succeeded)
        {
            userfaultfd.Dispose();
            return Refuse(kernel, $"Opening /proc/self/pagemap answered {opened.Errno}", out reason);
        }

        var pagemap = new KernelFd(kernel, (int)opened.Value);
        UserfaultfdDirtySource? source = null;
        try
        {
            source = new UserfaultfdDirtySource(memory, userfaultfd, pagemap);
            for (int worker = 0; worker < Workers; worker++)
                source._regions.Push(CreateRegions(kernel));
            source.TryOut();
            reason = "";
            return source;
        }
        catch (KernelException refusal)
        {
            // Everything made above is released; tracking is off.
            source?.Dispose();
            userfaultfd.Dispose();
            pagemap.Dispose();
            return Refuse(kernel, $"{refusal.Operation} answered {refusal.Errno}", out reason);
        }
    }

    /// <inheritdoc/>
    /// <exception cref="KernelException">The kernel refused; every slot registered by this call is unregistered
    /// again.</exception>
    public void Start()
    {
        if (_registeredSlots != 0)
            throw new InvalidOperationException("Tracking of processor writes is already on.");
        try
        {
            foreach (MemorySlot slot in _memory.Slots)
            {
                Register(slot.Host.Value, slot.ByteLength);
                _registeredSlots++;
                ProtectInParts(slot.Host.Value, slot.ByteLength);
            }
        }
        catch (KernelException)
        {
            // Off as before: unregistering lifts the protection of what was protected.
            TryStop();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        KernelException? first = TryStop();
        if (first is not null)
            throw first;
    }

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        if (_registeredSlots == 0 && _memory.Slots.Count != 0)
            throw new InvalidOperationException("Tracking of processor writes is off.");
        foreach (MemorySlot slot in _memory.Slots)
            ScanInParts(slot, pages);
    }

    /// <summary>
    /// Ends tracking, also when the kernel has objections, and releases the descriptors. Never throws.
    /// </summary>
    public void Dispose()
    {
        // The kernel drops every registration with the descriptor, so a failure here leaves nothing behind.
        TryStop();
        _userfaultfd.Dispose();
        _pagemap.Dispose();
        foreach (Mapping regions in _regions)
            regions.Dispose();
    }

    private static UserfaultfdDirtySource? Refuse(IKernel kernel, string failure, out string reason)
    {
        reason = $"{failure}; tracking processor writes in the kernel needs Linux 6.7 or newer with userfaultfd"
            + $" (this is {kernel.Identity})";
        return null;
    }

    private static Mapping CreateRegions(IKernel kernel) =>
        Mapping.CreateAnonymous(kernel, RegionCount * WordsPerRegion * sizeof(ulong));

    /// <summary>The whole cycle on one page: a kernel may have the handshake and lack, or forbid, the rest.</summary>
    private void TryOut()
    {
        if (_memory.Slots.Count == 0)
            return;
        ulong address = _memory.Slots[0].Host.Value;
        Register(address, GuestPage.Size);
        try
        {
            Protect(address, GuestPage.Size);
            var found = new PageBitmap(1);
            Scan(address, GuestPage.Size, firstPage: 0, found);
        }
        finally
        {
            Unregister(address, GuestPage.Size);
        }
    }

    private void Register(ulong address, ulong byteLength)
    {
        var register = UffdioRegister.Create(
            new UffdioRange { Start = address, Len = byteLength }, UffdioRegisterMode.Wp);
        Kernel.Ioctl(_userfaultfd, ref register)
            .ThrowIfFailed($"UFFDIO_REGISTER of 0x{address:x} with 0x{byteLength:x} bytes");
    }

    /// <summary>All of a slot, by several processors: a migration waits for it before its first page (on one, 20 s for 1 TiB).</summary>
    private void ProtectInParts(ulong address, ulong byteLength)
    {
        int parts = (int)((byteLength + PartBytes - 1) / PartBytes);
        if (parts == 1)
        {
            Protect(address, byteLength);
            return;
        }

        // The caller lifts the protection of all.
        InParallel(parts, part =>
        {
            ulong at = (ulong)part * PartBytes;
            Protect(address + at, Math.Min(PartBytes, byteLength - at));
        });
    }

    /// <summary>
    /// Each part by one of a few processors; after a failure no further part is begun.
    /// </summary>
    /// <exception cref="KernelException">The first that a part threw, when all that were begun have ended.</exception>
    private static void InParallel(int parts, Action<int> work)
    {
        KernelException? first = null;
        var options = new ParallelOptions { MaxDegreeOfParallelism = Workers };
        Parallel.For(0, parts, options, (part, loop) =>
        {
            try
            {
                work(part);
            }
            catch (KernelException failure)
            {
                Interlocked.CompareExchange(ref first, failure, null);
                loop.Stop();
            }
        });
        if (first is not null)
            throw first;
    }

    private void Protect(ulong address, ulong byteLength)
    {
        for (int tries = 1; ; tries++)
        {
            var protect = UffdioWriteprotect.Create(
                new UffdioRange { Start = address, Len = byteLength }, UffdioWriteprotectMode.Wp);
            SyscallResult result = Kernel.Ioctl(_userfaultfd, ref protect);
            if (result.Errno is Errno.EAGAIN or Errno.EINTR && tries < MaximumTries)
                continue;
            result.ThrowIfFailed($"UFFDIO_WRITEPROTECT of 0x{address:x} with 0x{byteLength:x} bytes");
            return;
        }
    }

    /// <summary>Unregisters one range, which also lifts its protection.</summary>
    private SyscallResult Unregister(ulong address, ulong byteLength)
    {
        // struct uffdio_range
        Span<byte> range = stackalloc byte[2 * sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(range, address);
        BinaryPrimitives.WriteUInt64LittleEndian(range[sizeof(ulong)..], byteLength);
        return Kernel.Ioctl(_userfaultfd.Number, UserfaultfdRequests.Unregister.Value, range);
    }

    private KernelException? TryStop()
    {
        KernelException? first = null;
        for (; _registeredSlots > 0; _registeredSlots--)
        {
            MemorySlot slot = _memory.Slots[_registeredSlots - 1];
            SyscallResult result = Unregister(slot.Host.Value, slot.ByteLength);
            if (!result.Succeeded)
            {
                first ??= new KernelException(
                    $"UFFDIO_UNREGISTER of {slot.Host} with 0x{slot.ByteLength:x} bytes", result.Errno);
            }
        }

        return first;
    }

    /// <summary>
    /// All of a slot, by several processors: the last harvest is in the pause of the machine (on one, 0.7 s for 1 TiB). Parts
    /// begin at whole words of the bitmap, so that no two write one. What was not begun after a failure is found next time.
    /// </summary>
    private void ScanInParts(MemorySlot slot, PageBitmap pages)
    {
        ulong end = slot.FirstPage + slot.PageCount;
        ulong firstPart = slot.FirstPage / ScannedPages;
        int parts = (int)((end + ScannedPages - 1) / ScannedPages - firstPart);
        if (parts == 1)
        {
            ScanPart(0);
            return;
        }

        InParallel(parts, ScanPart);

        void ScanPart(int part)
        {
            ulong from = Math.Max(slot.FirstPage, (firstPart + (ulong)part) * ScannedPages);
            ulong until = Math.Min(end, (firstPart + (ulong)part + 1) * ScannedPages);
            Scan(slot.Host.Value + ((from - slot.FirstPage) << GuestPage.Shift), (until - from) << GuestPage.Shift, from, pages);
        }
    }

    private void Scan(ulong address, ulong byteLength, ulong firstPage, PageBitmap pages)
    {
        Mapping regions;
        lock (_regions)
            regions = _regions.Pop();
        try
        {
            Scan(address, byteLength, firstPage, pages, regions);
        }
        finally
        {
            lock (_regions)
                _regions.Push(regions);
        }
    }

    private void Scan(ulong address, ulong byteLength, ulong firstPage, PageBitmap pages, Mapping regions)
    {
        ulong end = address + byteLength;
        ulong at = address;
        while (at < end)
        {
            var scan = PagemapScanArgument.Create(
                at, end, PagemapScanFlags.WpMatching | PagemapScanFlags.CheckWpAsync,
                regions.Address.Value, RegionCount);
            // UAPI: asked for exactly "written" and nothing else, the kernel reports every entry that is not protected,
            // absent ones included: a page that was written and then reclaimed by the kernel has no entry.
            scan.CategoryMask = PageCategories.Written;
            scan.ReturnMask = PageCategories.Written;
            SyscallResult result = Kernel.Ioctl(_pagemap, ref scan);
            if (!result.Succeeded || result.Value > RegionCount || scan.WalkEnd <= at || scan.WalkEnd > end)
            {
                // The kernel may have protected pages again that it then did not report: all it could have met are
                // dirty.
                pages.SetRange(firstPage + PagesBetween(address, at), PagesBetween(at, end));
                throw new KernelException(
                    $"PAGEMAP_SCAN of 0x{at:x}-0x{end - 1:x}", result.Succeeded ? Errno.EPROTO : result.Errno);
            }

            Collect(regions, (int)result.Value, address, at, end, firstPage, pages);
            at = scan.WalkEnd;
        }
    }

    private static void Collect(Mapping regions, int count, ulong address, ulong from, ulong end, ulong firstPage, PageBitmap pages)
    {
        ReadOnlySpan<ulong> words = regions.Words(count * WordsPerRegion);
        for (int index = 0; index < words.Length; index += WordsPerRegion)
        {
            ulong start = words[index];
            ulong past = words[index + 1];
            Invariant.Require(
                start >= from && past > start && past <= end,
                $"PAGEMAP_SCAN of 0x{from:x}-0x{end - 1:x} reported 0x{start:x}-0x{past:x}.");
            pages.SetRange(firstPage + PagesBetween(address, start), PagesBetween(start, past));
        }
    }

    private static ulong PagesBetween(ulong from, ulong to) => (to - from) >> GuestPage.Shift;
}
