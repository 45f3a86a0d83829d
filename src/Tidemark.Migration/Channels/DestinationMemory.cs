using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>
/// The destination's guest memory while it is filled: knows which pages may hold something else than zeros, so that pages
/// told to be zero need not be read, and gives pages memory of their own ahead of the network. Channels share it: in one
/// pass they never touch the same 64 pages.
/// </summary>
internal sealed class DestinationMemory(GuestMemory memory, PageBitmap touched, Action<PageRun>? populate)
{
    public GuestMemory Guest => memory;

    /// <summary>Contents are about to arrive here.</summary>
    public void Prepare(ReadOnlySpan<PageRun> runs)
    {
        foreach (PageRun run in runs)
        {
            // A page that was written before has memory already.
            if (populate is not null && !touched[run.FirstPage])
                populate(run);
            touched.SetRange(run.FirstPage, run.Count);
        }
    }

    public void Zero(PageRun run)
    {
        ulong end = run.FirstPage + run.Count;
        ulong page = run.FirstPage;
        while (page < end && touched.TryNextRun(page, end - page, out PageRun dirty) && dirty.FirstPage < end)
        {
            page = Math.Min(end, dirty.FirstPage + dirty.Count);
            for (ulong index = dirty.FirstPage; index < page; index++)
            {
                // Looking is cheaper than writing.
                Span<byte> bytes = memory.PagesSpan(index, 1);
                if (!PageKernels.IsZero(bytes))
                    bytes.Clear();
            }
        }
    }
}
