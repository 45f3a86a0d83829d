namespace Tidemark.Memory;

/// <summary>
/// All dirty sources of one machine, and the set of pages known dirty but not yet safely elsewhere.
/// </summary>
/// <remarks>
/// Invariant: a page is, at each instant, clean at the destination's knowledge, or marked in a source, or in the
/// pending set, or in a live <see cref="DirtyLease"/>. Harvest moves bits source to lease, a lease that is not
/// committed moves them back to pending, and the next harvest takes pending along. One harvest at a time; leases may be
/// returned from any thread.
/// </remarks>
public sealed class DirtyTracker
{
    private readonly Lock _gate = new();
    private readonly IReadOnlyList<IDirtySource> _sources;
    private readonly PageBitmap _pending;
    private readonly PageBitmap _scratch;
    private bool _started;

    /// <param name="pageCount">Guest pages from guest-physical 0 to the end of the last slot.</param>
    public DirtyTracker(ulong pageCount, IReadOnlyList<IDirtySource> sources)
    {
        PageCount = pageCount;
        _sources = sources;
        _pending = new PageBitmap(pageCount);
        _scratch = new PageBitmap(pageCount);
    }

    public ulong PageCount { get; }

    public IReadOnlyList<IDirtySource> Sources => _sources;

    public bool IsStarted
    {
        get { lock (_gate) return _started; }
    }

    /// <summary>
    /// Starts every source. If one fails, exactly those already started are stopped again, and it throws.
    /// </summary>
    public void Start()
    {
        lock (_gate)
        {
            if (_started)
                throw new InvalidOperationException("Dirty tracking is already on.");
            int begun = 0;
            try
            {
                for (; begun < _sources.Count; begun++)
                    _sources[begun].Start();
            }
            catch
            {
                // Sources 0..begun-1 were started by this call; each is stopped, whatever the others do.
                for (int index = begun - 1; index >= 0; index--)
                    TryStop(_sources[index]);
                throw;
            }

            _pending.Clear();
            _started = true;
        }
    }

    /// <summary>
    /// Stops every source, also when one fails; the first failure is thrown after all were stopped. Idempotent.
    /// </summary>
    public void Stop()
    {
        lock (_gate)
        {
            if (!_started)
                return;
            _started = false;
            Exception? first = null;
            foreach (IDirtySource source in _sources)
            {
                // Not `first ??= TryStop(source)`: that would leave the sources after the first failure on.
                Exception? failure = TryStop(source);
                first ??= failure;
            }

            if (first is not null)
                throw first;
        }
    }

    /// <summary>
    /// Takes the union of all sources and the pending set. On failure (an exception) everything taken so far is
    /// pending.
    /// </summary>
    public DirtyLease Harvest()
    {
        lock (_gate)
        {
            if (!_started)
                throw new InvalidOperationException("Dirty tracking is off; there is nothing to harvest.");
            var union = new PageBitmap(PageCount);
            var bySource = new DirtyCount[_sources.Count];
            try
            {
                for (int index = 0; index < _sources.Count; index++)
                {
                    _scratch.Clear();
                    try
                    {
                        _sources[index].Harvest(_scratch);
                    }
                    finally
                    {
                        union.Or(_scratch);
                    }

                    bySource[index] = new DirtyCount(
                        _sources[index].Name, _sources[index].Kind, _scratch.CountSet(), _scratch.CountByBucket(DirtyCount.BucketCount));
                }
            }
            catch
            {
                // The kernel has cleared what was read: only `union` knows it now, so it becomes pending.
                _pending.Or(union);
                throw;
            }

            union.Or(_pending);
            _pending.Clear();
            return new DirtyLease(this, union, bySource);
        }
    }

    /// <summary>Pages that a failed or cancelled pass gave back and that the next harvest will contain.</summary>
    public ulong CountPending()
    {
        lock (_gate)
            return _pending.CountSet();
    }

    internal void Return(PageBitmap pages)
    {
        lock (_gate)
            _pending.Or(pages);
    }

    private static Exception? TryStop(IDirtySource source)
    {
        try
        {
            source.Stop();
            return null;
        }
        catch (Exception failure)
        {
            // IDirtySource.Stop: the source counts as stopped although it failed; the caller decides what to report.
            return failure;
        }
    }
}
