using Tidemark.Memory;

namespace Tidemark.Kernel.Soft.Files;

internal sealed partial class UserMemory
{
    /// <summary>How many pages from an address on, up to a number, can be pinned to be written.</summary>
    /// <param name="address">A page's.</param>
    public ulong CountWritablePages(ulong address, ulong most)
    {
        ulong count = 0;
        _gate.EnterReadLock();
        try
        {
            while (count < most && TryFind(address, out Region region) && region.Memory is MemoryObject memory
                && (region.Protection & MemoryProtection.Write) != 0
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
