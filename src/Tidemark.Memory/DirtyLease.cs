namespace Tidemark.Memory;

/// <summary>
/// Harvested dirty pages: the only record of those writes, held until the destination has them.
/// </summary>
/// <remarks>
/// <code>
/// Harvest --> live --Acknowledge, any number of times--> live
///              |--Commit--> ended: every page of it is with the destination
///              '--Dispose-> ended: what was not acknowledged is in the tracker's pending set
/// </code>
/// Read-and-clear moves the record of a write into this process. If a pass then fails, forgetting it is silent memory
/// corruption. So a lease ends in exactly one of two ways.
/// The bitmap is the tracker's and serves another harvest once the lease has ended. So every use after the end, through
/// any copy of this value or through <see cref="Pages"/>, is an <see cref="InvariantException"/>; except
/// <see cref="PageCount"/>, and <see cref="Dispose"/>, which then does nothing. Whoever reads <see cref="Pages"/> on other
/// threads has them stop first: words that are being read when the lease ends may already be another harvest's.
/// </remarks>
public readonly record struct DirtyLease : IDisposable
{
    private readonly DirtyLeaseSlot? _slot;
    private readonly ulong _generation;

    internal DirtyLease(DirtyLeaseSlot slot, ulong generation, ulong pageCount)
    {
        _slot = slot;
        _generation = generation;
        PageCount = pageCount;
    }

    /// <summary>
    /// The dirty pages that are not acknowledged yet, by guest-physical page number. Changed by this lease only.
    /// </summary>
    public PageBitmap Pages => Live.View(_generation);

    /// <summary>Number of dirty pages in the union, when they were harvested. Stays valid after the end.</summary>
    public ulong PageCount { get; }

    /// <summary>
    /// Pages per source before the union: overlaps count in each. A list of its own, made when it is first asked for,
    /// before the end; it stays valid after it.
    /// </summary>
    public IReadOnlyList<DirtyCount> BySource => Live.Describe(_generation);

    private DirtyLeaseSlot Live
    {
        get
        {
            Invariant.Require(_slot is not null && _slot.Generation == _generation, DirtyLeaseSlot.Ended);
            return _slot;
        }
    }

    /// <summary>
    /// The destination has these pages: they leave the lease. Any thread, also while other threads read words of
    /// <see cref="Pages"/> that hold other pages. Pages that are not in the lease may be among them.
    /// </summary>
    public void Acknowledge(ulong firstPage, ulong pageCount) => Live.Acknowledge(_generation, firstPage, pageCount);

    /// <summary>Lists runs of pages without an allocation; see <see cref="BitmapKernels.ListRuns"/>.</summary>
    public int ListRuns(ref ulong fromPage, Span<PageRun> into) => Live.ListRuns(ref fromPage, into);

    /// <summary>The destination has acknowledged every page: the record is no longer needed.</summary>
    public void Commit() => Live.End(_generation, keepPages: false);

    /// <summary>Returns the pages that were not acknowledged to the pending set, unless the lease has ended.</summary>
    public void Dispose() => _slot?.TryEnd(_generation, keepPages: true);
}

/// <summary>What one source reported in one harvest.</summary>
/// <param name="Buckets">Dirty pages in each of <see cref="BucketCount"/> equal parts of guest memory, for heat
/// maps.</param>
public sealed record DirtyCount(string Source, DirtySourceKind Kind, ulong PageCount, IReadOnlyList<uint> Buckets)
{
    /// <summary>LIMIT: fine enough for a picture, small enough for an event line.</summary>
    public const int BucketCount = 256;
}
