namespace Tidemark.Memory;

/// <summary>
/// Harvested dirty pages: the only record of those writes, held until the destination has them.
/// </summary>
/// <remarks>
/// Read-and-clear moves the record of a write into this process. If a pass then fails, forgetting it is silent memory
/// corruption. So a lease ends in exactly one of two ways: <see cref="Commit"/>, when every page of it was sent and
/// acknowledged, or <see cref="Dispose"/> without commit, which puts the pages back into the tracker's pending set.
/// </remarks>
public sealed class DirtyLease : IDisposable
{
    private readonly DirtyTracker _tracker;
    private int _ended;

    internal DirtyLease(DirtyTracker tracker, PageBitmap pages, IReadOnlyList<DirtyCount> bySource)
    {
        _tracker = tracker;
        Pages = pages;
        BySource = bySource;
        PageCount = pages.CountSet();
    }

    /// <summary>
    /// The dirty pages, by guest-physical page number. Read only by convention: it is put back as it is.
    /// </summary>
    public PageBitmap Pages { get; }

    /// <summary>Number of dirty pages in the union.</summary>
    public ulong PageCount { get; }

    /// <summary>Pages per source before the union: overlaps count in each.</summary>
    public IReadOnlyList<DirtyCount> BySource { get; }

    /// <summary>
    /// The destination has these pages: they leave the lease, which gives back only the others if it is not committed.
    /// Any thread, for runs that share no word of 64 pages with what others read or acknowledge meanwhile.
    /// </summary>
    public void Acknowledge(ulong firstPage, ulong pageCount) => Pages.ClearRange(firstPage, pageCount);

    /// <summary>The destination has acknowledged every page: the record is no longer needed.</summary>
    public void Commit()
    {
        if (Interlocked.Exchange(ref _ended, 1) != 0)
            throw new InvalidOperationException("A dirty lease is committed or returned once, not twice.");
    }

    /// <summary>Returns the pages to the pending set unless they were committed.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _ended, 1) == 0)
            _tracker.Return(Pages);
    }
}

/// <summary>What one source reported in one harvest.</summary>
/// <param name="Buckets">Dirty pages in each of <see cref="BucketCount"/> equal parts of guest memory, for heat
/// maps.</param>
public sealed record DirtyCount(string Source, DirtySourceKind Kind, ulong PageCount, IReadOnlyList<uint> Buckets)
{
    /// <summary>LIMIT: fine enough for a picture, small enough for an event line.</summary>
    public const int BucketCount = 256;
}
