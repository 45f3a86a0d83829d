namespace Tidemark.Migration;

/// <summary>
/// Bytes a second: a mean that follows the link, and a low estimate for promises. Small samples are latency or a socket's
/// buffer, not bandwidth: they count only until there is a real one, and then can not lower it.
/// </summary>
internal sealed class BandwidthEstimator
{
    /// <summary>LIMIT: below this a sample measures round trips.</summary>
    private const ulong MeasurableBytes = 8 << 20;

    /// <summary>LIMIT: below this it measures the granularity of the scheduler.</summary>
    private static readonly TimeSpan MeasurableTime = TimeSpan.FromMilliseconds(10);

    private const double Gain = 0.25;

    /// <summary>Of the mean: nobody's link is steadier than this between two passes.</summary>
    private const double LeastDeviation = 0.03;

    private double _mean;
    private double _deviation;
    private int _samples;

    /// <summary>At least one sample was big enough.</summary>
    public bool IsMeasured => _samples > 0;

    /// <summary>What to expect; never 0.</summary>
    public double Mean => Math.Max(_mean, 1);

    /// <summary>
    /// What to promise with: two deviations below, but at least half. With few samples the spread is not known yet, and
    /// is taken for larger.
    /// </summary>
    public double Low
    {
        get
        {
            double deviation = Math.Max(_deviation / Mean, LeastDeviation + (_samples < 3 ? 0.04 : 0));
            return Mean * Math.Max(0.5, 1 - 2 * deviation);
        }
    }

    /// <summary>Bytes acknowledged and the time from sending to acknowledgement.</summary>
    public void Add(ulong bytes, TimeSpan duration)
    {
        if (duration <= TimeSpan.Zero || bytes == 0)
            return;
        double rate = bytes / duration.TotalSeconds;
        if (bytes < MeasurableBytes || duration < MeasurableTime)
        {
            if (_samples == 0)
                _mean = Math.Max(_mean, rate);
            return;
        }

        if (_samples++ == 0)
        {
            _mean = rate;
            return;
        }

        // The first samples count alike; later ones push old ones out.
        double gain = Math.Max(Gain, 1.0 / _samples);
        _deviation += gain * (Math.Abs(rate - _mean) - _deviation);
        _mean += gain * (rate - _mean);
    }
}
