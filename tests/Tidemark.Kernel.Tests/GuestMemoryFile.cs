using Tidemark.Memory;

namespace Tidemark.Kernel.Tests;

/// <summary>Guest memory as a machine has it: two slots with a hole between them, in one memory file.</summary>
internal sealed class GuestMemoryFile : IDisposable
{
    internal const ulong PagesPerSlot = 600;
    internal const ulong SecondFirstPage = 1000;
    private const ulong SlotBytes = PagesPerSlot * GuestPage.Size;

    private readonly Mapping _mapping;

    internal GuestMemoryFile(IKernel kernel)
    {
        SyscallResult file = kernel.MemfdCreate("guest", MemfdFlags.CloseOnExec).ThrowIfFailed("memfd_create");
        File = new KernelFd(kernel, (int)file.Value);
        kernel.Ftruncate(File.Number, 2 * SlotBytes).ThrowIfFailed("ftruncate");
        _mapping = Map();
        Memory = new GuestMemory(
        [
            new MemorySlot(new GuestPhysicalAddress(0), SlotBytes, _mapping.Address, 0),
            new MemorySlot(
                new GuestPhysicalAddress(SecondFirstPage << GuestPage.Shift), SlotBytes,
                new HostAddress(_mapping.Address.Value + SlotBytes), SlotBytes),
        ]);
    }

    internal KernelFd File { get; }

    internal GuestMemory Memory { get; }

    /// <summary>Another mapping of the same bytes: what a device's side has.</summary>
    internal Mapping Map() =>
        Mapping.CreateShared(File, 2 * SlotBytes, 0, MemoryProtection.Read | MemoryProtection.Write);

    /// <summary>A processor's write of one byte in a page.</summary>
    internal void Touch(ulong page, int offset = 0) =>
        Memory.Write(new GuestPhysicalAddress((page << GuestPage.Shift) + (ulong)offset), (byte)1);

    public void Dispose()
    {
        _mapping.Dispose();
        File.Dispose();
    }

    internal static List<ulong> Harvest(IDirtySource source, GuestMemory memory)
    {
        var pages = new PageBitmap(memory.SpanPages);
        source.Harvest(pages);
        return Members(pages);
    }

    internal static List<ulong> Members(PageBitmap pages)
    {
        var members = new List<ulong>();
        for (ulong from = 0; pages.TryNextRun(from, ulong.MaxValue, out PageRun run); from = run.FirstPage + run.Count)
        {
            for (ulong page = run.FirstPage; page < run.FirstPage + run.Count; page++)
                members.Add(page);
        }

        return members;
    }
}
