using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>
/// What a dirty page costs on the wire. Zero pages, unchanged ones and compression make it less than its size; when it is
/// little, the time goes into looking at pages, and then time a page is what counts.
/// </summary>
internal sealed class PageCost
{
    /// <summary>A page and its share of tables and headers.</summary>
    public const double WholePage = GuestPage.Size + 24;

    /// <summary>LIMIT: fewer pages say nothing about the mix.</summary>
    private const ulong MeasurablePages = 256;

    private const double Gain = 0.5;

    private double _secondsPerPage;
    private bool _measured;

    public double Bytes { get; private set; } = WholePage;

    public void Add(in PassFacts facts)
    {
        if (facts.HandledPages < MeasurablePages)
            return;
        if (facts.Pass == 0)
        {
            // Memory never written is most of what is zero, and it does not become dirty: only content is taken over.
            if (facts.SentPages >= MeasurablePages)
                Bytes = Math.Min(WholePage, facts.BytesOfPages / (double)facts.SentPages);
            return;
        }

        double bytes = Math.Min(WholePage, facts.BytesOfPages / (double)facts.HandledPages);
        double seconds = facts.Duration.TotalSeconds / facts.HandledPages;
        double gain = _measured ? Gain : 1;
        Bytes += gain * (bytes - Bytes);
        _secondsPerPage += gain * (seconds - _secondsPerPage);
        _measured = true;
    }

    /// <summary>Seconds that one more dirty page takes at this bandwidth.</summary>
    public double Seconds(double bytesPerSecond)
    {
        double wire = Bytes / bytesPerSecond;
        return _measured && Bytes < WholePage / 2 ? Math.Max(wire, _secondsPerPage) : wire;
    }
}
