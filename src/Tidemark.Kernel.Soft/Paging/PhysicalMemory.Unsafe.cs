using System.Runtime.CompilerServices;
using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Paging;

internal sealed partial class PhysicalMemory
{
    /// <summary>The 512 entries of a table page.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public unsafe Span<ulong> Table(ulong physical) =>
        // SAFETY: table pages come from TryAllocatePage, whose arenas stay mapped while one of their pages is in use.
        new((void*)HostAddress(physical), EntriesPerTable);

    private unsafe void ClearPage(ulong physical) =>
        // SAFETY: a page of an arena, on the free list: nobody else uses it.
        new Span<byte>((void*)HostAddress(physical), GuestPage.Size).Clear();
}
