using System.Diagnostics;

namespace Tidemark.Bench;

/// <summary>Measurements of one thing: bytes a second, one figure a round.</summary>
internal sealed class Series(string name, ulong bytesPerRound, Action body)
{
    private readonly List<double> _figures = [];

    internal string Name => name;

    internal double Median => Quantile(0.5);

    internal double Minimum => Quantile(0);

    internal double Maximum => Quantile(1);

    /// <summary>
    /// Runs all in turns, so that a neighbour's load falls on each alike. The first round only warms up.
    /// </summary>
    internal static void RunInterleaved(int rounds, params ReadOnlySpan<Series> all)
    {
        for (int round = -1; round < rounds; round++)
        {
            foreach (Series series in all)
                series.Measure(keep: round >= 0);
        }
    }

    /// <summary>The ratio to a yardstick, round by round: median, lowest and highest.</summary>
    internal (double Median, double Minimum, double Maximum) RatioTo(Series yardstick)
    {
        double[] ratios = new double[_figures.Count];
        for (int round = 0; round < ratios.Length; round++)
            ratios[round] = _figures[round] / yardstick._figures[round];
        Array.Sort(ratios);
        return (ratios[ratios.Length / 2], ratios[0], ratios[^1]);
    }

    private void Measure(bool keep)
    {
        long start = Stopwatch.GetTimestamp();
        body();
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        if (keep)
            _figures.Add(bytesPerRound / seconds);
    }

    private double Quantile(double part)
    {
        double[] sorted = [.. _figures.Order()];
        return sorted[(int)Math.Round(part * (sorted.Length - 1))];
    }
}
