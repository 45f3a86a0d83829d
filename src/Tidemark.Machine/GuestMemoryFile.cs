using Tidemark.Kernel;
using Tidemark.Machine.Description;
using Tidemark.Memory;

namespace Tidemark.Machine;

/// <summary>Guest memory: one memfd, mapped slot by slot. Owns both.</summary>
public sealed class GuestMemoryFile : IDisposable
{
    private readonly List<Mapping> _mappings;

    private GuestMemoryFile(KernelFd file, GuestMemory memory, List<Mapping> mappings)
    {
        File = file;
        Memory = memory;
        _mappings = mappings;
    }

    public KernelFd File { get; }

    public GuestMemory Memory { get; }

    /// <summary>Goes on with the memory file of another process: the same pages, mapped here.</summary>
    /// <param name="file">Belongs to the result; after a failure it is the caller's.</param>
    /// <exception cref="KernelException">It can not be mapped, or is shorter than the layout; nothing is left
    /// behind.</exception>
    public static GuestMemoryFile Adopt(KernelFd file, MemoryLayout layout)
    {
        ArgumentNullException.ThrowIfNull(file);
        ArgumentNullException.ThrowIfNull(layout);
        var mappings = new List<Mapping>();
        try
        {
            return new GuestMemoryFile(file, MapSlots(file, layout, mappings, prefault: false), mappings);
        }
        catch
        {
            mappings.ForEach(mapping => mapping.Dispose());
            throw;
        }
    }

    /// <exception cref="KernelException">There is not that much memory to be had; nothing is left behind.</exception>
    public static GuestMemoryFile Create(IKernel kernel, MemoryLayout layout, bool prefault)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(layout);
        ulong total = layout.Slots.Aggregate(0UL, (sum, slot) => sum + slot.ByteLength);
        var file = new KernelFd(kernel, (int)kernel.MemfdCreate("tidemark-guest", MemfdFlags.CloseOnExec)
            .ThrowIfFailed("Creating the guest's memory file").Value);
        var mappings = new List<Mapping>();
        try
        {
            SyscallResult sized = kernel.Ftruncate(file.Number, total);
            if (!sized.Succeeded)
            {
                throw new KernelException(
                    $"Sizing the guest's memory file to {ByteSize.Format(total)}", sized.Errno,
                    "The limit for files (ulimit -f) or the memory of this host is smaller.");
            }

            return new GuestMemoryFile(file, MapSlots(file, layout, mappings, prefault), mappings);
        }
        catch
        {
            mappings.ForEach(mapping => mapping.Dispose());
            file.Dispose();
            throw;
        }
    }

    /// <summary>
    /// The pages whose place in the memory file is not a hole. All others read as zeros, and are best not read: a read
    /// through the mapping allocates the page. Pages touched meanwhile may be missing: a migration asks when tracking
    /// of writes is on.
    /// </summary>
    /// <remarks>
    /// lseek(2) moves the file's offset, which every duplicate of the descriptor shares. Harmless here: nobody reads or
    /// writes this file at its offset (it is mapped, here and by devices), and both questions name their own place, so
    /// that two callers do not disturb each other either.
    /// </remarks>
    /// <param name="reason">Why pages count as touched that may be holes; null when every page was told apart.</param>
    public PageBitmap FindTouched(out string? reason) => TouchedPages.Find(
        Memory, (offset, whence) => File.Kernel.Lseek(File.Number, offset, whence), TouchedPages.MaximumStretches, out reason);

    public void Dispose()
    {
        _mappings.ForEach(mapping => mapping.Dispose());
        File.Dispose();
    }

    private static GuestMemory MapSlots(KernelFd file, MemoryLayout layout, List<Mapping> mappings, bool prefault)
    {
        var slots = new List<MemorySlot>();
        ulong offset = 0;
        foreach ((GuestPhysicalAddress start, ulong byteLength) in layout.Slots)
        {
            Mapping mapping = Mapping.CreateShared(
                file, byteLength, offset, MemoryProtection.Read | MemoryProtection.Write, MapFlags.NoReserve);
            mappings.Add(mapping);
            if (prefault)
                Populate(file.Kernel, mapping);
            slots.Add(new MemorySlot(start, byteLength, mapping.Address, offset));
            offset += byteLength;
        }

        return new GuestMemory(slots);
    }

    private static void Populate(IKernel kernel, Mapping mapping)
    {
        SyscallResult populated = kernel.Madvise(mapping.Address.Value, mapping.ByteLength, MemoryAdvice.PopulateWrite);
        if (!populated.Succeeded)
        {
            throw new KernelException(
                $"Prefaulting {ByteSize.Format(mapping.ByteLength)} of guest memory", populated.Errno,
                "Leave \"prefault\" out, or give the host more memory.");
        }
    }
}
