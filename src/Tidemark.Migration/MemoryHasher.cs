using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration;

/// <summary>
/// Hashes all guest memory on a few threads, in chunks: consecutive pages of one slot, cut the same on both sides.
/// </summary>
internal sealed class MemoryHasher : IDisposable
{
    // LIMIT: memory bandwidth is used up by then.
    private const int MaximumThreads = 4;

    private readonly GuestMemory _memory;
    private readonly Action<int, PageRun, ReadOnlySpan<ulong>> _done;
    private readonly Action<Exception> _failed;
    private readonly Thread[] _threads;
    private int _next = -1;
    private volatile bool _stopping;

    /// <param name="done">Gets the hashes of a chunk, on a hashing thread; the span is reused afterwards.</param>
    /// <param name="failed">Gets what stopped a thread, if anything did.</param>
    public MemoryHasher(GuestMemory memory, Action<int, PageRun, ReadOnlySpan<ulong>> done, Action<Exception> failed)
    {
        _memory = memory;
        _done = done;
        _failed = failed;
        Chunks = Cut(memory);
        _threads = new Thread[Math.Min(Math.Min(MaximumThreads, Environment.ProcessorCount), Math.Max(1, Chunks.Count))];
        for (int index = 0; index < _threads.Length; index++)
        {
            _threads[index] = new Thread(Work) { IsBackground = true, Name = $"tidemark hash {index}" };
            _threads[index].Start();
        }
    }

    /// <summary>All chunks, ascending.</summary>
    public IReadOnlyList<PageRun> Chunks { get; }

    /// <summary>Joins the threads when they are through with all chunks.</summary>
    public void Join()
    {
        foreach (Thread thread in _threads)
            thread.Join();
    }

    /// <summary>Stops early and joins.</summary>
    public void Dispose()
    {
        _stopping = true;
        Join();
    }

    private static List<PageRun> Cut(GuestMemory memory)
    {
        var chunks = new List<PageRun>();
        foreach (MemorySlot slot in memory.Slots)
        {
            for (ulong done = 0; done < slot.PageCount; done += FrameLimits.HashesPerFrame)
                chunks.Add(new PageRun(slot.FirstPage + done, Math.Min(FrameLimits.HashesPerFrame, slot.PageCount - done)));
        }

        return chunks;
    }

    private void Work()
    {
        try
        {
            var hashes = new ulong[FrameLimits.HashesPerFrame];
            int index;
            while (!_stopping && (index = Interlocked.Increment(ref _next)) < Chunks.Count)
            {
                PageRun chunk = Chunks[index];
                Span<ulong> results = hashes.AsSpan(0, (int)chunk.Count);
                Hash(_memory.PagesSpan(chunk.FirstPage, (int)chunk.Count), results);
                if (!_stopping)
                    _done(index, chunk, results);
            }
        }
        catch (Exception failure)
        {
            // The verification is incomplete, and a migration without its verdict does not reach Commit.
            _failed(failure);
        }
    }

    private void Hash(ReadOnlySpan<byte> pages, Span<ulong> results)
    {
        for (int page = 0; page < results.Length; page++)
        {
            if ((page & 255) == 0 && _stopping)
                return;
            results[page] = PageHash.Compute(pages.Slice(page * GuestPage.Size, GuestPage.Size));
        }
    }
}
