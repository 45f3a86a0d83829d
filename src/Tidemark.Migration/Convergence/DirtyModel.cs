namespace Tidemark.Migration;

/// <summary>
/// How many pages become dirty in a time: not rate x time, because a page that is written twice is dirty once. Fitted to
/// harvests over intervals of different lengths.
/// </summary>
/// <remarks>
/// Both shapes begin with a rate r and end at a working set of W pages: writes at random give W (1 - exp(-r t / W)), a
/// writer that walks through gives min(r t, W). Both are concave, as the true curve is for every machine that writes
/// evenly. A machine whose writes come in bursts, or whose pages differ widely in heat, fits neither: then
/// <see cref="Misfit"/> is large, and nothing may be proved with the model.
/// </remarks>
internal sealed class DirtyModel(ulong memoryPages)
{
    /// <summary>LIMIT: harvests remembered; a machine changes, and old ones tell of another one.</summary>
    private const int Remembered = 96;

    /// <summary>LIMIT: lengths of intervals told apart, two an octave from 1 ms to an hour.</summary>
    private const int Buckets = 44;

    /// <summary>LIMIT: working sets tried, evenly on a logarithmic scale.</summary>
    private const int Candidates = 32;

    /// <summary>LIMIT: a shorter interval tells of the harvest, not of the machine.</summary>
    private static readonly TimeSpan LeastInterval = TimeSpan.FromMilliseconds(2);

    private const double Fading = 0.96;

    /// <summary>Fewer pages than this are too noisy a count to compare.</summary>
    private const double NoisyPages = 64;

    private readonly (double Seconds, double Pages)[] _seen = new (double, double)[Remembered];
    private readonly (double Seconds, double Pages)[] _low = new (double, double)[Buckets];
    private readonly (double Seconds, double Pages)[] _high = new (double, double)[Buckets];
    private int _count;
    private int _next;
    private bool _isFitted;
    private double _highRate;
    private Curve _random;
    private Curve _walking;

    public int Count => _count;

    /// <summary>The better of the two shapes.</summary>
    public Curve Best => Walking.Misfit < Random.Misfit ? Walking : Random;

    public Curve Random
    {
        get
        {
            Fit();
            return _random;
        }
    }

    public Curve Walking
    {
        get
        {
            Fit();
            return _walking;
        }
    }

    /// <summary>Deviation of the better shape from what was seen, as a share.</summary>
    public double Misfit => Best.Misfit;

    /// <summary>
    /// Intervals of about one length found about the same number of pages. A machine that writes in bursts has moments in
    /// which it can be stopped, and nothing can be proved of it from averages.
    /// </summary>
    public bool IsSteady
    {
        get
        {
            Fit();
            for (int bucket = 0; bucket < Buckets; bucket++)
            {
                if (_high[bucket].Pages < NoisyPages || _high[bucket].Seconds <= 0)
                    continue;
                double low = _low[bucket].Pages / _low[bucket].Seconds;
                double high = _high[bucket].Pages / _high[bucket].Seconds;
                if (low < 0.65 * high)
                    return false;
            }

            return true;
        }
    }

    /// <summary>The largest rate of the last harvests: for promises.</summary>
    public double HighRate
    {
        get
        {
            Fit();
            return _highRate;
        }
    }

    /// <summary>Everything before is void: the machine writes differently from now on.</summary>
    public void Forget()
    {
        _count = 0;
        _next = 0;
        _isFitted = false;
    }

    public void Add(ulong pages, TimeSpan interval)
    {
        if (interval < LeastInterval)
            return;
        _seen[_next] = (interval.TotalSeconds, pages);
        _next = (_next + 1) % Remembered;
        _count = Math.Min(_count + 1, Remembered);
        _isFitted = false;
    }

    /// <summary>
    /// Pages that become dirty in this time at the very least, by what was seen and without any curve: the true one is
    /// concave, so it runs above straight lines between its points. Of intervals of about one length the one with the
    /// fewest pages counts, so that a machine with quiet moments gets a low bound.
    /// </summary>
    public double AtLeast(double seconds)
    {
        Fit();
        (double Seconds, double Pages) below = (0, 0);
        (double Seconds, double Pages) above = (double.MaxValue, 0);
        for (int bucket = 0; bucket < Buckets; bucket++)
        {
            (double Seconds, double Pages) point = _low[bucket];
            if (point.Seconds <= 0)
                continue;
            if (point.Seconds <= seconds && point.Seconds > below.Seconds)
                below = point;
            if (point.Seconds > seconds && point.Seconds < above.Seconds)
                above = point;
        }

        if (above.Seconds == double.MaxValue)
            return below.Pages;
        double share = (seconds - below.Seconds) / (above.Seconds - below.Seconds);
        return below.Pages + share * (above.Pages - below.Pages);
    }

    private (double Seconds, double Pages) Back(int steps) => _seen[(_next - 1 - steps + 2 * Remembered) % Remembered];

    /// <summary>Once for all harvests since the last time somebody asked.</summary>
    private void Fit()
    {
        if (_isFitted)
            return;
        _isFitted = true;
        double most = 1;
        _highRate = 0;
        Array.Clear(_low);
        Array.Clear(_high);
        for (int back = 0; back < _count; back++)
        {
            (double seconds, double pages) = Back(back);
            most = Math.Max(most, pages);
            int bucket = Math.Clamp((int)(2 * Math.Log2(seconds * 1000)), 0, Buckets - 1);
            if (_low[bucket].Seconds <= 0 || pages * _low[bucket].Seconds < _low[bucket].Pages * seconds)
                _low[bucket] = (seconds, pages);
            if (_high[bucket].Seconds <= 0 || pages * _high[bucket].Seconds > _high[bucket].Pages * seconds)
                _high[bucket] = (seconds, pages);
            if (back < 8)
                _highRate = Math.Max(_highRate, pages / seconds);
        }

        double largest = Math.Max(memoryPages, most * 1.01);
        _random = _walking = default;
        if (_count == 0)
            return;
        _random = _walking = new Curve(true, most, 0, double.MaxValue);
        double ratio = Math.Pow(largest / most, 1.0 / (Candidates - 1));
        double set = most * 1.0005;
        for (int candidate = 0; candidate < Candidates; candidate++, set *= ratio)
        {
            Try(random: true, set, ref _random);
            Try(random: false, set, ref _walking);
        }
    }

    private void Try(bool random, double set, ref Curve best)
    {
        double weights = 0;
        double logs = 0;
        double least = 0;
        double weight = 1;
        for (int back = 0; back < _count; back++, weight *= Fading)
        {
            (double seconds, double pages) = Back(back);
            double filled = pages / set;
            least = Math.Max(least, pages / seconds);
            if (filled > 0.95 || pages < 1)
                continue;
            double rate = (random ? -Math.Log(1 - filled) * set : pages) / seconds;
            // Few pages are a noisy count.
            double trust = weight * Math.Min(1, pages / 100) * (1 - filled);
            weights += trust;
            logs += trust * Math.Log(rate);
        }

        // Every interval filled the set: the rate is at least that, and how much more can not be known.
        var curve = new Curve(random, set, weights > 0 ? Math.Exp(logs / weights) : least * (random ? 3 : 1), 0);
        double errors = 0;
        double total = 0;
        weight = 1;
        for (int back = 0; back < _count; back++, weight *= Fading)
        {
            (double seconds, double pages) = Back(back);
            double expected = curve.Pages(seconds);
            double error = Math.Log(Math.Max(expected, 1)) - Math.Log(Math.Max(pages, 1));
            double trust = weight * Math.Min(1, Math.Max(Math.Max(pages, expected), 1) / 100);
            errors += trust * error * error;
            total += trust;
        }

        double misfit = total > 0 ? Math.Sqrt(errors / total) : 0;
        // Larger sets come later, and must be better to win: the smaller explains as much with less.
        if (misfit < best.Misfit - 1e-6)
            best = curve with { Misfit = misfit };
    }

    /// <summary>One shape with its figures.</summary>
    /// <param name="IsRandom">Writes at random; else a walk.</param>
    /// <param name="Set">Working set in pages.</param>
    /// <param name="Rate">Pages a second while the set is clean.</param>
    /// <param name="Misfit">Root mean square of the logarithms' differences.</param>
    internal readonly record struct Curve(bool IsRandom, double Set, double Rate, double Misfit)
    {
        /// <summary>Pages dirty after this time.</summary>
        public double Pages(double seconds)
        {
            if (Set <= 0 || Rate <= 0)
                return 0;
            return IsRandom ? Set * (1 - Math.Exp(-Rate * seconds / Set)) : Math.Min(Rate * seconds, Set);
        }

        /// <summary>Pages that come on top of those dirty already.</summary>
        public double Further(double dirty, double seconds) =>
            Set <= 0 ? 0 : Pages(seconds) * Math.Max(0, 1 - Math.Min(dirty, Set) / Set);

        /// <summary>
        /// Share of a pass that is sent when pages written again before their turn are left out; the best case.
        /// </summary>
        public double SentShare(double seconds)
        {
            if (Set <= 0 || seconds <= 0)
                return 1;
            double turns = Rate * seconds / Set;
            if (turns < 1e-6)
                return 1;
            return IsRandom ? (1 - Math.Exp(-turns)) / turns : 1 - Math.Min(turns, 1) / 2;
        }
    }
}
