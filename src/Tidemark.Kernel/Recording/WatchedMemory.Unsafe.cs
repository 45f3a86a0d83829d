using Tidemark.Memory;

namespace Tidemark.Kernel.Recording;

internal sealed partial class WatchedMemory
{
    /// <summary>Stores as the program would.</summary>
    /// <returns>False: it is not inside a watched region.</returns>
    public unsafe bool TryStore(ulong address, ReadOnlySpan<byte> bytes)
    {
        ulong length = (ulong)bytes.Length;
        WatchedRegion? region = _regions.Find(region => region.Watch != RegionWatch.None
            && address >= region.Start && address < region.End && region.End - address >= length);
        if (region is null)
            return false;
        ulong first = address & ~((ulong)GuestPage.Size - 1);
        if (length == 0 || !kernel.Madvise(
            first, address + length - first, MemoryAdvice.PopulateWrite).Succeeded)
        {
            return length == 0;
        }

        // SAFETY: the range is inside a live region, and the kernel just proved that it can be written.
        bytes.CopyTo(new Span<byte>((void*)address, bytes.Length));
        return true;
    }

    private static unsafe ReadOnlySpan<byte> PageAt(ulong address) =>
        // SAFETY: a page of a live region that may be read; of a file it is in the page table, so the file has it.
        new((void*)address, (int)GuestPage.Size);
}
