using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Kernel.Recording;

/// <summary>
/// The memory that a program obtained through a kernel, and what changed in it since it was last looked at.
/// </summary>
/// <remarks>
/// Anonymous memory and memory files only. Short anonymous regions are read whole; of others only pages that are in the
/// process's page table (/proc/self/pagemap), because reading an absent page would fill it in and spoil what is
/// recorded: huge pages, or a file's end.
/// </remarks>
internal sealed partial class WatchedMemory(IKernel kernel)
{
    /// <summary>LIMIT: longer anonymous regions are read where they are present.</summary>
    private const ulong LongestWhole = 256 << 10;

    /// <summary>LIMIT: of longer regions only the beginning is watched.</summary>
    private const ulong LongestWatched = 4 << 20;

    private const ulong Present = 1UL << 63;
    private const int Word = sizeof(ulong);

    /// <summary>Words that did not change, between two that did, which are told all the same.</summary>
    private const int LongestGap = 2 * Word;

    private static readonly byte[] ZeroPage = new byte[GuestPage.Size];

    private readonly List<WatchedRegion> _regions = [];
    private readonly HashSet<int> _memoryFiles = [];
    private int _pagemap = -1;

    /// <summary>Takes note of a call that made or ended descriptors or regions.</summary>
    public void Learn(RecordedCall call)
    {
        if (!call.Result.Succeeded)
            return;
        int value = call.Result.Value is >= 0 and <= int.MaxValue ? (int)call.Result.Value : -1;
        switch (call.Name)
        {
            case "memfd_create":
            case "dup" when _memoryFiles.Contains((int)call.Numbers[0]):
                _memoryFiles.Add(value);
                break;
            case "close":
                _memoryFiles.Remove((int)call.Numbers[0]);
                break;
            case "mmap":
                Add(call);
                break;
        }
    }

    /// <summary>Takes regions out before they are unmapped; they come back if that fails.</summary>
    public IReadOnlyList<WatchedRegion> Forget(ulong address, ulong byteLength)
    {
        if (address % GuestPage.Size != 0 || byteLength == 0 || address > ulong.MaxValue - GuestPage.Size
            || byteLength > ulong.MaxValue - GuestPage.Size - address)
        {
            return [];
        }


        ulong end = address + ((byteLength + GuestPage.Size - 1) & ~((ulong)GuestPage.Size - 1));
        List<WatchedRegion> touched = _regions.FindAll(region => region.Start < end && region.End > address);
        foreach (WatchedRegion region in touched)
        {
            _regions.Remove(region);
            if (region.Start < address)
                _regions.Add(new WatchedRegion(region.Start, address, region.Watch, region.Seen));
            if (region.End > end)
                _regions.Add(new WatchedRegion(end, region.End, region.Watch, region.Seen));
        }

        return touched;
    }

    public void Restore(IReadOnlyList<WatchedRegion> forgotten)
    {
        foreach (WatchedRegion region in forgotten)
        {
            _regions.RemoveAll(part => part.Start >= region.Start && part.End <= region.End);
            _regions.Add(region);
        }
    }

    /// <summary>What is different from the last time, in order of address.</summary>
    /// <param name="expected">Addresses whose pages are looked at even if the process has not touched them.</param>
    public List<MemoryChange> TakeChanges(IEnumerable<ulong>? expected = null)
    {
        foreach (ulong address in expected ?? [])
            kernel.Madvise(address & ~((ulong)GuestPage.Size - 1), GuestPage.Size, MemoryAdvice.PopulateRead);
        var changes = new List<MemoryChange>();
        foreach (WatchedRegion region in _regions.OrderBy(region => region.Start))
            TakeChanges(region, changes);
        return changes;
    }

    /// <summary>Closes what it opened.</summary>
    public void Close()
    {
        if (_pagemap >= 0)
            kernel.Close(_pagemap);
        _pagemap = -1;
    }

    private void Add(RecordedCall call)
    {
        ulong start = unchecked((ulong)call.Result.Value);
        ulong length = (unchecked((ulong)call.Numbers[0]) + GuestPage.Size - 1) & ~((ulong)GuestPage.Size - 1);
        bool anonymous = ((MapFlags)call.Numbers[2]).HasFlag(MapFlags.Anonymous);
        bool readable = ((MemoryProtection)call.Numbers[1]).HasFlag(MemoryProtection.Read);
        RegionWatch watch = !readable || !(anonymous || _memoryFiles.Contains((int)call.Numbers[3])) ? RegionWatch.None
            : anonymous && length <= LongestWhole ? RegionWatch.Whole
            : RegionWatch.Present;
        _regions.Add(new WatchedRegion(start, start + length, watch, []));
    }

    private void TakeChanges(WatchedRegion region, List<MemoryChange> changes)
    {
        if (region.Watch == RegionWatch.None)
            return;
        ulong pages = Math.Min(region.End - region.Start, LongestWatched) / GuestPage.Size;
        byte[]? present = region.Watch == RegionWatch.Present ? ReadPagemap(region.Start, pages) : null;
        for (ulong page = 0; page < pages; page++)
        {
            if (region.Watch == RegionWatch.Present && (present is null
                || (BinaryPrimitives.ReadUInt64LittleEndian(present.AsSpan((int)page * Word)) & Present) == 0))
            {
                continue;
            }

            ulong address = region.Start + page * GuestPage.Size;
            ReadOnlySpan<byte> now = PageAt(address);
            byte[] before = region.Seen.GetValueOrDefault(address, ZeroPage);
            if (now.SequenceEqual(before))
                continue;
            // A device may write meanwhile: what is told is what is remembered.
            byte[] copy = now.ToArray();
            AddChanges(address, before, copy, changes);
            region.Seen[address] = copy;
        }
    }

    private static void AddChanges(ulong address, byte[] before, byte[] now, List<MemoryChange> changes)
    {
        int from = 0;
        while (from < now.Length)
        {
            from = NextChange(before, now, from);
            if (from == now.Length)
                break;
            int to = from + Word;
            for (int next = NextChange(before, now, to); next < now.Length && next - to <= LongestGap;
                next = NextChange(before, now, to))
            {
                to = next + Word;
            }

            changes.Add(new MemoryChange(address + (ulong)from, now[from..to]));
            from = to;
        }
    }

    /// <summary>Offset of the first word from there on that changed; the page's length when none did.</summary>
    private static int NextChange(byte[] before, byte[] now, int from)
    {
        int same = before.AsSpan(from).CommonPrefixLength(now.AsSpan(from));
        return (from + same) / Word * Word;
    }

    private byte[]? ReadPagemap(ulong start, ulong pages)
    {
        if (_pagemap < 0)
        {
            SyscallResult opened = kernel.Open("/proc/self/pagemap", OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
            if (!opened.Succeeded)
                return null;
            _pagemap = (int)opened.Value;
        }

        byte[] entries = new byte[pages * Word];
        SyscallResult read = kernel.Pread(_pagemap, entries, start / GuestPage.Size * Word);
        return read.Value == entries.Length ? entries : null;
    }
}
