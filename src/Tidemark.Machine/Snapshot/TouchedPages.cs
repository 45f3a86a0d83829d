using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Machine.Snapshot;

/// <summary>
/// Which pages of a guest's memory file exist. All others are zero, and reading them would make them exist.
/// </summary>
internal static class TouchedPages
{
    /// <summary>Every page that exists when it is called, and perhaps some more.</summary>
    public static PageBitmap Find(IKernel kernel, KernelFd file, GuestMemory memory)
    {
        var pages = new PageBitmap(memory.SpanPages);
        foreach (MemorySlot slot in memory.Slots)
        {
            ulong at = slot.FileOffset;
            ulong end = slot.FileOffset + slot.ByteLength;
            while (at < end)
            {
                SyscallResult data = kernel.Lseek(file.Number, at, SeekWhence.Data);
                if (data.Errno == Errno.ENXIO)
                    break;
                if (!data.Succeeded)
                    return memory.AllPages();
                ulong first = (ulong)data.Value;
                if (first >= end)
                    break;
                SyscallResult hole = kernel.Lseek(file.Number, first, SeekWhence.Hole);
                if (!hole.Succeeded)
                    return memory.AllPages();
                ulong last = Math.Min(end, (ulong)hole.Value);
                ulong firstPage = (first - slot.FileOffset) >> GuestPage.Shift;
                ulong endPage = (last - slot.FileOffset + (GuestPage.Size - 1)) >> GuestPage.Shift;
                pages.SetRange(slot.FirstPage + firstPage, endPage - firstPage);
                at = last;
            }
        }

        return pages;
    }
}
