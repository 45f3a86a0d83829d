using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Files;

internal sealed partial class UserMemory
{
    /// <summary>How many pages from an address on, up to a number, can be pinned.</summary>
    /// <param name="address">A page's.</param>
    /// <param name="write">To be written, not only read.</param>
    public ulong CountPinnablePages(ulong address, ulong most, bool write)
    {
        ulong count = 0;
        MemoryProtection needed = write ? MemoryProtection.Read | MemoryProtection.Write : MemoryProtection.Read;
        _gate.EnterReadLock();
        try
        {
            while (count < most && TryFind(address, out Region region) && region.Memory is MemoryObject memory
                && (region.Protection & needed) == needed
                && memory.Holds(region.Offset + (address - region.Start)))
            {
                count++;
                address = unchecked(address + GuestPage.Size);
            }
        }
        finally
        {
            _gate.ExitReadLock();
        }

        return count;
    }
}
