using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Machine;

/// <summary>
/// Which pages of a memory file have content, asked of the file and not of the memory: reading a hole through a mapping
/// would allocate the page.
/// </summary>
/// <remarks>
/// Errs on one side only: a page that counts as a hole reads as zeros; one that counts as touched may do so too.
/// </remarks>
internal static class TouchedPages
{
    /// <summary>
    /// LIMIT: stretches of content in one slot that are told apart, two system calls each: some ten milliseconds. Memory
    /// in more pieces is mostly content anyway.
    /// </summary>
    internal const int MaximumStretches = 16 * 1024;

    /// <param name="seek">lseek(2) of the memory file.</param>
    /// <param name="reason">Why holes count as touched, all or those behind the last piece looked at; else
    /// null.</param>
    internal static PageBitmap Find(
        GuestMemory memory, Func<ulong, SeekWhence, SyscallResult> seek, int maximumStretches, out string? reason)
    {
        var touched = new PageBitmap(memory.SpanPages);
        reason = null;
        foreach (MemorySlot slot in memory.Slots)
        {
            if (!TryFind(slot, seek, maximumStretches, touched, ref reason))
                return memory.AllPages();
        }

        return touched;
    }

    private static bool TryFind(
        MemorySlot slot, Func<ulong, SeekWhence, SyscallResult> seek, int maximumStretches, PageBitmap touched,
        ref string? reason)
    {
        ulong end = slot.FileOffset + slot.ByteLength;
        ulong at = slot.FileOffset;
        for (int stretch = 0; at < end; stretch++)
        {
            if (stretch == maximumStretches)
            {
                reason = $"Memory from {new GuestPhysicalAddress(slot.Start.Value + (at - slot.FileOffset))} on counts as "
                    + $"touched up to {slot.End}: it is in more than {maximumStretches} pieces.";
                Mark(slot, at, end, touched);
                return true;
            }

            SyscallResult data = seek(at, SeekWhence.Data);
            // UAPI: ENXIO: no data from there to the end of the file.
            if (data.Errno == Errno.ENXIO)
                return true;
            if (!IsPlace(data, at, "data", ref reason))
                return false;
            ulong from = (ulong)data.Value;
            if (from >= end)
                return true;
            SyscallResult hole = seek(from, SeekWhence.Hole);
            if (!IsPlace(hole, from + 1, "a hole", ref reason))
                return false;
            at = Math.Min((ulong)hole.Value, end);
            Mark(slot, from, at, touched);
        }

        return true;
    }

    /// <summary>Whether the answer can be true; an answer that can not is no better than none.</summary>
    private static bool IsPlace(SyscallResult answer, ulong lowest, string sought, ref string? reason)
    {
        if (answer.Succeeded && answer.Value >= 0 && (ulong)answer.Value >= lowest)
            return true;
        reason = $"All memory counts as touched: asked for {sought} in the memory file from 0x{lowest:x} on, the kernel "
            + $"answered {answer}.";
        return false;
    }

    /// <summary>A page counts when any byte of it does.</summary>
    private static void Mark(MemorySlot slot, ulong from, ulong to, PageBitmap touched)
    {
        ulong first = (from - slot.FileOffset) >> GuestPage.Shift;
        ulong past = ((to - slot.FileOffset - 1) >> GuestPage.Shift) + 1;
        touched.SetRange(slot.FirstPage + first, past - first);
    }
}
