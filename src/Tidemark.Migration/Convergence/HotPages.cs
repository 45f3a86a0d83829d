using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>
/// Which pages are written all the time: those in this harvest and in the ones before it. Allocates nothing after it was
/// made.
/// </summary>
internal sealed class HotPages
{
    private PageBitmap _previous;
    private PageBitmap _hot;
    private PageBitmap _scratch;
    private bool _any;

    public HotPages(ulong pageCount)
    {
        _previous = new PageBitmap(pageCount);
        _hot = new PageBitmap(pageCount);
        _scratch = new PageBitmap(pageCount);
    }

    /// <summary>Dirty in the last harvest and in the one before. Valid until the next <see cref="Add"/>.</summary>
    public PageBitmap Hot => _hot;

    /// <summary>Number of <see cref="Hot"/>.</summary>
    public ulong Count { get; private set; }

    /// <summary>Share of the pages that were hot before and are dirty once more, 0 to 1; 0 when none were.</summary>
    public double Again { get; private set; }

    /// <summary>Takes the pages that became dirty during the last pass, without those held back.</summary>
    public void Add(PageBitmap fresh)
    {
        ulong before = Count;
        if (_any)
        {
            // What was hot and is dirty once more.
            _hot.And(fresh);
            Again = before == 0 ? 0 : _hot.CountSet() / (double)before;
            _scratch.Clear();
            _scratch.Or(fresh);
            _scratch.And(_previous);
            (_hot, _scratch) = (_scratch, _hot);
            Count = _hot.CountSet();
        }

        _any = true;
        _previous.Clear();
        _previous.Or(fresh);
    }

    /// <summary>Takes the hot pages out of the pages of a pass; they stay with whoever carries them.</summary>
    /// <returns>Pages left.</returns>
    public ulong HoldBack(PageBitmap pages)
    {
        ArgumentNullException.ThrowIfNull(pages);
        pages.AndNot(_hot);
        return pages.CountSet();
    }
}
