using Tidemark.Memory;

namespace Tidemark.Machine.CpuTracking;

/// <summary>
/// Writes that go through guest memory's own <c>Write</c> members, marked there: the processors' dirty source where the
/// kernel has none. A store that bypasses <see cref="GuestMemory"/> is not seen.
/// </summary>
/// <remarks>
/// Lock-free. Marks arrive also while tracking is off and are dropped by <see cref="Start"/>: testing a switch before
/// marking would race with Start.
/// </remarks>
public sealed class WriteBarrierDirtySource : IDirtySource, IWriteBarrier
{
    private readonly ulong[] _marks;
    private readonly ulong[] _taken;
    private readonly ulong _pageCount;

    /// <param name="pageCount">Guest pages from guest-physical 0 to the end of the last slot.</param>
    public WriteBarrierDirtySource(ulong pageCount)
    {
        _pageCount = pageCount;
        _marks = new ulong[checked((int)((pageCount + 63) / 64))];
        _taken = new ulong[_marks.Length];
    }

    public string Name => "cpu (write barrier)";

    public DirtySourceKind Kind => DirtySourceKind.Cpu;

    /// <inheritdoc/>
    public void Start() => Take();

    /// <inheritdoc/>
    public void Stop()
    {
        // Marks go on and mean nothing until Start drops them.
    }

    /// <inheritdoc/>
    public void Mark(GuestPhysicalAddress address, ulong byteLength)
    {
        if (byteLength == 0)
            return;
        ulong first = address.Page;
        ulong last = new GuestPhysicalAddress(checked(address.Value + (byteLength - 1))).Page;
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(last, _pageCount);
        for (ulong word = first >> 6; word <= last >> 6; word++)
        {
            ulong mask = ulong.MaxValue;
            if (word == first >> 6)
                mask &= ulong.MaxValue << (int)(first & 63);
            if (word == last >> 6)
                mask &= ulong.MaxValue >> (63 - (int)(last & 63));
            // ORDER: always the locked operation, never "only if the bit is clear": it is the full fence between the
            // store to memory and the mark. A plain look could see a bit that Harvest takes while the store is still in
            // this processor's buffer; the page would be sent without it and nobody would know.
            Interlocked.Or(ref _marks[word], mask);
        }
    }

    /// <inheritdoc/>
    public void Harvest(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        ArgumentOutOfRangeException.ThrowIfNotEqual(pages.PageCount, _pageCount);
        Take();
        pages.OrAt(0, _taken);
    }

    private void Take()
    {
        for (int index = 0; index < _marks.Length; index++)
        {
            // ORDER: a mark that this look misses is found by the next harvest, and the last harvest is taken after the
            // last writer was joined.
            _taken[index] = Volatile.Read(ref _marks[index]) == 0 ? 0 : Interlocked.Exchange(ref _marks[index], 0);
        }
    }
}
