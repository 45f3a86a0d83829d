namespace Tidemark.Memory;

/// <summary>
/// The bitmap and the counts of a lease, used for one after the other. What a user holds is a <see cref="DirtyLease"/>,
/// which names the generation it belongs to; the generation goes up when a lease ends.
/// </summary>
/// <remarks>
/// Invariant: while the slot is free, no bit of it is set.
/// Lock order: the tracker's gate is never taken inside the slot's.
/// </remarks>
internal sealed class DirtyLeaseSlot
{
    internal const string Ended = "A dirty lease was used after it had been committed or returned.";

    /// <summary>
    /// Between the look at the generation and the last bit of an acknowledgement the lease must not end: the bit could
    /// be one of the next lease. Held for no more than that.
    /// </summary>
    private readonly Lock _gate = new();
    private readonly DirtyTracker _tracker;
    private readonly ulong _pageCount;
    private readonly ulong[] _words;

    /// <summary>The same bits for sources; users of a lease get a view that can be taken from them.</summary>
    private readonly PageBitmap _bits;
    private SourceCount[] _counts = [];
    private int _countsUsed;
    private DirtyCount[]? _described;
    private PageBitmap? _view;
    private ulong _generation;

    /// <summary>Whether <see cref="PageCount"/> is right for the bits as they are.</summary>
    private bool _isCounted = true;

    internal DirtyLeaseSlot(DirtyTracker tracker, ulong pageCount)
    {
        _tracker = tracker;
        _pageCount = pageCount;
        _words = new ulong[PageBitmap.WordsFor(pageCount)];
        _bits = new PageBitmap(pageCount, _words);
    }

    internal ReadOnlySpan<ulong> Words => _words;

    internal ulong Generation => Volatile.Read(ref _generation);

    internal ulong PageCount { get; private set; }

    /// <summary>Of which start of the tracker the lease is.</summary>
    internal ulong Session { get; private set; }

    /// <summary>
    /// Harvests a source. On failure (an exception) what it gave is here all the same, and in no count.
    /// </summary>
    /// <param name="scratch">Empty before and after.</param>
    internal void Harvest(IDirtySource source, PageBitmap scratch)
    {
        // The first one finds the union empty and needs no bitmap of its own.
        if (_countsUsed == 0)
        {
            source.Harvest(_bits);
            ref SourceCount count = ref NextCount(source.Name, source.Kind);
            for (int bucket = 0; bucket < DirtyCount.BucketCount; bucket++)
                count.Add(bucket, BitmapKernels.CountSet(_words.AsSpan(Bucket(bucket))));
            PageCount = count.PageCount;
            return;
        }

        try
        {
            source.Harvest(scratch);
        }
        catch
        {
            // What it gave before it failed is known to nobody else.
            BitmapKernels.Move(_words, scratch.Bits);
            throw;
        }

        Take(scratch, source.Name, source.Kind);
    }

    /// <summary>Moves pages here and counts them as one source's.</summary>
    internal void Take(PageBitmap pages, string name, DirtySourceKind kind)
    {
        ref SourceCount count = ref NextCount(name, kind);
        for (int bucket = 0; bucket < DirtyCount.BucketCount; bucket++)
        {
            Range range = Bucket(bucket);
            count.Add(bucket, BitmapKernels.Move(_words.AsSpan(range), pages.Bits[range]));
        }

        _isCounted &= count.PageCount == 0;
    }

    /// <summary>Moves pages here that no source reported this time.</summary>
    internal void TakeSilently(PageBitmap pages) => _isCounted &= BitmapKernels.Move(_words, pages.Bits) == 0;

    internal DirtyLease Begin(ulong session)
    {
        // One source alone has been counted already.
        if (!_isCounted)
            PageCount = BitmapKernels.CountSet(_words);
        Session = session;
        return new DirtyLease(this, Generation, PageCount);
    }

    /// <summary>Empty and unnamed again, as a free slot must be.</summary>
    internal void Reset()
    {
        BitmapKernels.Clear(_words);
        PageCount = 0;
        _countsUsed = 0;
        _isCounted = true;
    }

    internal PageBitmap View(ulong generation)
    {
        lock (_gate)
        {
            Invariant.Require(_generation == generation, Ended);
            return _view ??= new PageBitmap(_pageCount, _words);
        }
    }

    internal IReadOnlyList<DirtyCount> Describe(ulong generation)
    {
        lock (_gate)
        {
            Invariant.Require(_generation == generation, Ended);
            if (_described is null)
            {
                _described = new DirtyCount[_countsUsed];
                for (int index = 0; index < _countsUsed; index++)
                {
                    SourceCount count = _counts[index];
                    _described[index] = new DirtyCount(count.Name, count.Kind, count.PageCount, [.. count.Buckets]);
                }
            }

            return _described;
        }
    }

    internal int ListRuns(ref ulong fromPage, Span<PageRun> into) =>
        BitmapKernels.ListRuns(_words, _pageCount, ref fromPage, into);

    internal void Acknowledge(ulong generation, ulong firstPage, ulong pageCount)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(firstPage, _pageCount);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pageCount, _pageCount - firstPage);
        if (pageCount == 0)
            return;
        lock (_gate)
        {
            Invariant.Require(_generation == generation, Ended);
            BitmapKernels.ClearRange(_words, firstPage, pageCount);
        }
    }

    internal void End(ulong generation, bool keepPages) =>
        Invariant.Require(TryEnd(generation, keepPages), Ended);

    internal bool TryEnd(ulong generation, bool keepPages)
    {
        lock (_gate)
        {
            if (_generation != generation)
                return false;
            Volatile.Write(ref _generation, generation + 1);
            _view?.Detach();
            _view = null;
            _described = null;
        }

        // From here on no lease names this slot, so nobody else touches its bits.
        _tracker.Return(this, keepPages);
        return true;
    }

    /// <summary>The words of one bucket, as <see cref="PageBitmap.CountByBucket"/> divides them.</summary>
    private Range Bucket(int bucket) => Border(bucket)..Border(bucket + 1);

    private int Border(int bucket) =>
        (int)(((long)bucket * _words.Length + DirtyCount.BucketCount - 1) / DirtyCount.BucketCount);

    private ref SourceCount NextCount(string name, DirtySourceKind kind)
    {
        if (_countsUsed == _counts.Length)
        {
            // Once for each source that there ever is at a time.
            Array.Resize(ref _counts, _countsUsed + 1);
            _counts[_countsUsed].Buckets = new uint[DirtyCount.BucketCount];
        }

        ref SourceCount count = ref _counts[_countsUsed++];
        count.Name = name;
        count.Kind = kind;
        count.PageCount = 0;
        return ref count;
    }

    private struct SourceCount
    {
        internal string Name;
        internal DirtySourceKind Kind;
        internal ulong PageCount;
        internal uint[] Buckets;

        internal void Add(int bucket, ulong pages)
        {
            Buckets[bucket] = (uint)pages;
            PageCount += pages;
        }
    }
}
