namespace Tidemark.Memory;

/// <summary>
/// All dirty sources of one machine, and the set of pages known dirty but not yet safely elsewhere.
/// </summary>
/// <remarks>
/// Invariant: a page is, at each instant, clean at the destination's knowledge, or marked in a source, or in the
/// pending set, or in a live <see cref="DirtyLease"/>. Harvest moves bits source to lease, a lease that is not
/// committed moves them back to pending, and the next harvest takes pending along. One harvest at a time; leases may be
/// returned from any thread, and wait for a harvest that is under way. Writers may come and go while tracking is on
/// (<see cref="Add"/>, <see cref="Remove"/>), and what is mapped for them may change (<see cref="Change"/>): each between two harvests, never inside one.
/// A harvest allocates nothing: bitmaps of ended leases are used again, and every one of them is empty while nobody has
/// it. The cost of a harvest is one trip over each source's bits, of which empty parts are only read.
/// </remarks>
public sealed class DirtyTracker
{
    /// <summary>What reports call the pages that <see cref="Change"/> and <see cref="Remove"/> brought.</summary>
    private const string ChangesName = "what came and went";

    /// <summary>LIMIT: leases that live at a time in a migration; more only grow the list of free ones.</summary>
    private const int UsualLeases = 3;

    private readonly Lock _gate = new();
    private IDirtySource[] _sources;
    private readonly PageBitmap _pending;
    private readonly PageBitmap _scratch;
    private readonly PageBitmap _changed;
    private readonly Stack<DirtyLeaseSlot> _free;
    private bool _started;
    private ulong _session;

    /// <param name="pageCount">Guest pages from guest-physical 0 to the end of the last slot.</param>
    public DirtyTracker(ulong pageCount, IReadOnlyList<IDirtySource> sources)
    {
        ArgumentNullException.ThrowIfNull(sources);
        PageCount = pageCount;
        _sources = [.. sources];
        _pending = new PageBitmap(pageCount);
        _scratch = new PageBitmap(pageCount);
        _changed = new PageBitmap(pageCount);
        _free = new Stack<DirtyLeaseSlot>(UsualLeases);
    }

    public ulong PageCount { get; }

    /// <summary>A list that was handed out does not change.</summary>
    public IReadOnlyList<IDirtySource> Sources => Volatile.Read(ref _sources);

    public bool IsStarted
    {
        get { lock (_gate) return _started; }
    }

    /// <summary>
    /// Starts every source, and keeps nothing from before: what was pending is dropped, and a lease of an earlier
    /// session that ends later gives nothing back. Whoever starts sends everything first, or names it with
    /// <see cref="AddPending(PageBitmap)"/>.
    /// If a source fails, exactly those already started are stopped again, and it throws.
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
                for (; begun < _sources.Length; begun++)
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
            _changed.Clear();
            _scratch.Clear();
            _session++;
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
            DirtyLeaseSlot lease = _free.Count > 0 ? _free.Pop() : new DirtyLeaseSlot(this, PageCount);
            try
            {
                foreach (IDirtySource source in _sources)
                    lease.Harvest(source, _scratch);
            }
            catch
            {
                // The kernel has cleared what was read: only the lease knows it now, so it becomes pending.
                _pending.Or(lease.Words);
                lease.Reset();
                _free.Push(lease);
                throw;
            }

            // Where nothing came or went, a report has no line for it.
            if (BitmapKernels.IndexOfNonZero(_changed.Words) >= 0)
                lease.Take(_changed, ChangesName, DirtySourceKind.Changes);
            lease.TakeSilently(_pending);
            return lease.Begin(_session);
        }
    }

    /// <summary>
    /// Adds pages to the next harvest: ones that must be sent again, or for the first time. Any thread. They appear in
    /// no source's count.
    /// </summary>
    /// <exception cref="InvalidOperationException">Tracking is off: nothing would remember them.</exception>
    public void AddPending(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        lock (_gate)
        {
            RequireStarted();
            _pending.Or(pages);
        }
    }

    /// <inheritdoc cref="AddPending(PageBitmap)"/>
    public void AddPending(PageRun run)
    {
        lock (_gate)
        {
            RequireStarted();
            _pending.SetRange(run.FirstPage, run.Count);
        }
    }

    /// <summary>
    /// Adds a source; while tracking is on it is started first. Pages written before it was on are the caller's to add
    /// (see <see cref="Change"/>).
    /// </summary>
    /// <exception cref="Exception">The source could not be started; it was not added.</exception>
    public void Add(IDirtySource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        lock (_gate)
        {
            if (_started)
                source.Start();
            Volatile.Write(ref _sources, [.. _sources, source]);
        }
    }

    /// <summary>
    /// Takes a source away. While tracking is on it is harvested a last time, so its writer must be quiet, and stopped.
    /// Nothing when it is not there.
    /// </summary>
    /// <exception cref="Exception">The harvest or the stop failed; the source is gone all the same, and what the harvest
    /// gave is pending.</exception>
    public void Remove(IDirtySource source)
    {
        lock (_gate)
        {
            if (!_sources.Contains(source))
                return;
            Volatile.Write(ref _sources, [.. _sources.Where(other => other != source)]);
            if (!_started)
                return;
            try
            {
                source.Harvest(_changed);
            }
            finally
            {
                source.Stop();
            }
        }
    }

    /// <summary>
    /// Runs a change of what the sources observe, with no harvest under way.
    /// </summary>
    /// <param name="change">
    /// Gets a bitmap: the pages it sets are in the next harvest, also when it fails; and whether tracking is on. When it
    /// is off the bitmap is of no consequence, because everything is sent first.
    /// </param>
    public void Change(Action<PageBitmap, bool> change)
    {
        ArgumentNullException.ThrowIfNull(change);
        lock (_gate)
            change(_started ? _changed : new PageBitmap(PageCount), _started);
    }

    /// <summary>
    /// Pages that a failed or cancelled pass gave back, or that were added, and that the next harvest will contain.
    /// </summary>
    public ulong CountPending()
    {
        lock (_gate)
            return BitmapKernels.CountUnion(_pending.Words, _changed.Words);
    }

    /// <summary>Takes an ended lease's bitmap back, and what was not acknowledged with it.</summary>
    internal void Return(DirtyLeaseSlot lease, bool keepPages)
    {
        lock (_gate)
        {
            if (keepPages && lease.Session == _session)
                _pending.Or(lease.Words);
            lease.Reset();
            _free.Push(lease);
        }
    }

    private void RequireStarted()
    {
        if (!_started)
            throw new InvalidOperationException("Dirty tracking is off; pages can not wait for the next harvest.");
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
