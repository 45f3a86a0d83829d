using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>
/// Reads dirty bits the only way that loses none: mapping by mapping, in chunks whose borders no page table leaf
/// crosses.
/// </summary>
/// <remarks>
/// <code>
///  IOVA   0        64 GiB      128 GiB
///         |----------|-----------|---------      chunk borders: multiples of 64 GiB
///            [==== a mapping ====)  [==)         reads: [start, 64G) [64G, end)   [start, end)
/// </code>
/// UAPI: iommufd.h, IOMMU_HWPT_GET_DIRTY_BITMAP. Bits are relative to the start of the read; the kernel only sets bits;
/// a hole ends the walk and is success; a read that starts inside a leaf clears its dirty bit and reports nothing; one
/// that ends inside a leaf writes past the chunk's bits. A leaf is aligned to its own size, is at most 1 GiB here, and
/// never spans two mappings: so a border is safe at a mapping's ends and at any multiple of 1 GiB.
/// </remarks>
public static class DirtyHarvester
{
    /// <summary>One read of the bits of <paramref name="chunk"/> into the bitmap at
    /// <paramref name="bitmap"/>.</summary>
    public delegate SyscallResult ChunkRead(IovaRange chunk, HostAddress bitmap);

    /// <summary>
    /// Reads one mapping with <paramref name="read"/> and adds its bits to <paramref name="pages"/>, from IOVA to guest
    /// page.
    /// </summary>
    /// <param name="operation">How a message about a failure begins.</param>
    /// <exception cref="KernelException">A read failed; everything reported until then is in
    /// <paramref name="pages"/>.</exception>
    public static void Read(
        MappedArea area, DirtyBuffer buffer, PageBitmap pages, ChunkRead read, string operation)
    {
        ArgumentNullException.ThrowIfNull(area);
        ArgumentNullException.ThrowIfNull(buffer);
        ArgumentNullException.ThrowIfNull(read);
        if (area.Guest is not { } guest)
            throw new ArgumentException($"The mapping {area.Range} is not of guest memory.", nameof(area));
        foreach (IovaRange chunk in Cut(area.Range))
        {
            SyscallResult result = read(chunk, buffer.Address);
            // Also after a failure: bits that did arrive are nowhere else any more.
            ulong firstPage = (guest.Value + (chunk.First.Value - area.Range.First.Value)) >> GuestPage.Shift;
            if (StepEvents.Log.IsEnabled())
            {
                ulong count = chunk.ByteLength >> GuestPage.Shift;
                StepEvents.Log.DirtyPagesRead(
                    operation, chunk.First.Value, chunk.ByteLength, (count + 7) / 8, firstPage, buffer.Count(count),
                    StepEvents.Outcome(result));
            }

            buffer.MoveTo(pages, firstPage, chunk.ByteLength >> GuestPage.Shift);
            result.ThrowIfFailed($"{operation} for {chunk}");
        }
    }

    /// <summary>The reads for one mapping: cut at multiples of <see cref="DirtyBuffer.ChunkLength"/> and at its
    /// ends.</summary>
    public static IEnumerable<IovaRange> Cut(IovaRange area)
    {
        ulong first = area.First.Value;
        while (true)
        {
            ulong lastOfChunk = first | (DirtyBuffer.ChunkLength - 1);
            ulong last = Math.Min(area.Last.Value, lastOfChunk);
            yield return new IovaRange(new Iova(first), new Iova(last));
            if (last == area.Last.Value)
                yield break;
            first = last + 1;
        }
    }
}
