using System.Numerics;
using Tidemark.Abi;
using Tidemark.Kernel;
using static Tidemark.Conformance.CaseRun;

namespace Tidemark.Conformance;

/// <summary>
/// 2 MiB of memory that are physically contiguous and aligned, and a tracked IOAS with nothing mapped around
/// <see cref="CaseRun.Iova"/>. Whether there is such memory is the host's luck; it is proved by a leaf of 2 MiB.
/// </summary>
internal sealed class ContiguousMemory
{
    public const ulong ByteLength = 2 << 20;

    private readonly CaseRun _run;
    private readonly ulong _address;
    private readonly int _file;

    private ContiguousMemory(CaseRun run, TrackedMemory tracked, ulong address, int file)
    {
        _run = run;
        Tracked = tracked;
        _address = address;
        _file = file;
    }

    public TrackedMemory Tracked { get; }

    /// <param name="need">A tracked writer.</param>
    public static ContiguousMemory Create(CaseRun run, DeviceNeed need)
    {
        run.Unrepeatable = "The leaves are those of the physical pages that the host happened to have.";
        TrackedMemory tracked = TrackedMemory.Create(run, hugePages: true, map: () => { }, need: need);
        foreach (ContiguousMemory candidate in Candidates(run, tracked))
        {
            candidate.Map(Iova, 0, ByteLength);
            candidate.ReadBits(Iova, ByteLength);
            tracked.Writer.Write(Iova + (100 * Page));
            bool large = candidate.ReadBits(Iova, ByteLength) == (int)(ByteLength / Page);
            run.Answers(run.Unmap(Iova, ByteLength, out _), Errno.Success, "unmapping");
            if (large)
                return candidate;
        }

        throw NotApplicable("There are no 2 MiB of contiguous memory here, so the leaves are small.");
    }

    /// <summary>Maps a part at an IOVA, for reading and writing.</summary>
    public void Map(ulong iova, ulong offset, ulong byteLength, IommuIoasMapFlags flags = Fixed)
    {
        if (_file < 0)
        {
            _run.Answers(_run.TryMap(iova, _address + offset, byteLength, flags), Errno.Success, "mapping");
            return;
        }

        IommuIoasMapFile map = IommuIoasMapFile.Create(_run.Ioas, iova, _file, offset, byteLength, flags);
        _run.Answers(ref map, Errno.Success);
    }

    /// <summary>Reads and clears, a bit for 4 KiB, into <see cref="CaseRun.Scratch"/>; the number of bits set.</summary>
    public int ReadBits(ulong iova, ulong byteLength, bool clear = true)
    {
        Span<ulong> words = _run.Scratch.Words(4 * 512);
        words.Clear();
        Tracked.Read(iova, byteLength, Page, _run.ScratchAddress, clear);
        int bits = 0;
        foreach (ulong word in words)
            bits += BitOperations.PopCount(word);
        return bits;
    }

    /// <summary>
    /// The bits that were read last are those of a run of pages and no others. Pages are counted from the query's start.
    /// </summary>
    public void AreSet(ulong firstPage, ulong pages, string what)
    {
        ReadOnlySpan<ulong> words = _run.Scratch.Words(4 * 512);
        for (ulong page = 0; page < (ulong)words.Length * 64; page++)
        {
            bool set = ((words[(int)(page / 64)] >> (int)(page % 64)) & 1) != 0;
            if (set != (page >= firstPage && page - firstPage < pages))
            {
                throw Broken(
                    $"Expected {what} to be pages {firstPage} to {firstPage + pages - 1}; page {page} is {(set ? "" : "not ")}among them.");
            }
        }

        _run.Holds(true, what);
    }

    private static IEnumerable<ContiguousMemory> Candidates(CaseRun run, TrackedMemory tracked)
    {
        yield return new ContiguousMemory(run, tracked, 0, run.CreateMemoryFile(ByteLength).Number);
        Mapping memory = run.CreateMemory(2 * ByteLength / Page);
        ulong aligned = (memory.Address.Value + (ByteLength - 1)) & ~(ByteLength - 1);
        run.Kernel.Madvise(aligned, ByteLength, MemoryAdvice.HugePage);
        run.Kernel.Madvise(aligned, ByteLength, MemoryAdvice.PopulateWrite);
        yield return new ContiguousMemory(run, tracked, aligned, -1);
    }
}
