using System.Numerics;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>
/// The memory into which a kernel writes dirty bits: page aligned, zero between uses, and no page of it holds anything
/// else, because a kernel that reports a large leaf may write to the end of the last page.
/// </summary>
/// <remarks>Its size is a constant, whatever the size of the address space. One caller at a time.</remarks>
public sealed class DirtyBuffer : IDisposable
{
    /// <summary>
    /// LIMIT: IOVAs covered by one read, in bytes: 64 GiB, whose bits are 2 MiB and which the kernel pins in one go.
    /// </summary>
    public const ulong ChunkLength = 64UL << 30;

    private const int WordsPerPage = GuestPage.Size / sizeof(ulong);

    private readonly Mapping _memory;

    private DirtyBuffer(Mapping memory)
    {
        _memory = memory;
    }

    /// <summary>Where the bits go; bit 0 is the first page of the chunk.</summary>
    public HostAddress Address => _memory.Address;

    /// <exception cref="KernelException">There is no memory.</exception>
    public static DirtyBuffer Create(IKernel kernel) =>
        new(Mapping.CreateAnonymous(kernel, ChunkLength >> GuestPage.Shift >> 3));

    /// <summary>
    /// Adds the bits of a chunk of <paramref name="pageCount"/> pages to <paramref name="pages"/> from page
    /// <paramref name="firstPage"/> on, and makes the buffer zero again.
    /// </summary>
    internal void MoveTo(PageBitmap pages, ulong firstPage, ulong pageCount)
    {
        int wordCount = (int)((pageCount + 63) / 64);
        // A kernel that goes past the chunk stays inside the page: clean up to its end.
        int touched = (wordCount + WordsPerPage - 1) / WordsPerPage * WordsPerPage;
        Span<ulong> words = _memory.Words(touched);
        if (BitmapKernels.IndexOfNonZero(words) < 0)
            return;
        if (pageCount % 64 != 0)
            words[wordCount - 1] &= ulong.MaxValue >> (int)(64 - (pageCount % 64));
        pages.OrAt(firstPage, words[..wordCount]);
        words.Clear();
    }

    /// <summary>How many bits of a chunk are set, for the trace.</summary>
    internal ulong Count(ulong pageCount)
    {
        ulong count = 0;
        Span<ulong> words = _memory.Words((int)((pageCount + 63) / 64));
        for (int index = 0; index < words.Length; index++)
        {
            bool isCut = index == words.Length - 1 && pageCount % 64 != 0;
            count += (ulong)BitOperations.PopCount(isCut ? words[index] & (ulong.MaxValue >> (int)(64 - (pageCount % 64))) : words[index]);
        }

        return count;
    }

    public void Dispose() => _memory.Dispose();
}
