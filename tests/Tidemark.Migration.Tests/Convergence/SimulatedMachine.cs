namespace Tidemark.Migration.Tests;

public enum WritePattern
{
    Sequential,
    Uniform,

    /// <summary>Few pages get most of the writes.</summary>
    Skewed,

    /// <summary>All writes in a quarter of the time.</summary>
    Bursts,
}

public sealed record SimulatedCase(WritePattern Pattern, double WriteMegabytes, double LinkMegabytes, int Seed)
{
    public int MemoryPages { get; init; } = 2 << 18;

    public int SetPages { get; init; } = 512 << 8;

    /// <summary>Share of the pages of a full copy that are zero.</summary>
    public double ZeroShare { get; init; }

    public double LimitMilliseconds { get; init; } = 300;

    public double Jitter { get; init; } = 0.04;

    public double RoundTripMilliseconds { get; init; } = 0.5;

    /// <summary>The same switchover was measured before.</summary>
    public bool KnowsCosts { get; init; }

    public double StateMegabytes { get; init; } = 0.1;

    /// <summary>The engine harvests during passes when the policy says so.</summary>
    public bool HarvestsDuringPass { get; init; } = true;

    public double BurstPeriod { get; init; } = 0.4;
}

/// <summary>Guest memory with a writer, and nothing else: pages become dirty as simulated time goes by.</summary>
public sealed class SimulatedMachine
{
    private readonly SimulatedCase _case;
    private readonly Random _random;
    private readonly bool[] _dirty;
    private readonly List<int> _list = [];
    private readonly int _setStart;
    private double _owed;
    private int _cursor;
    private double _now;

    public SimulatedMachine(SimulatedCase simulated)
    {
        _case = simulated;
        _random = new Random(simulated.Seed);
        _dirty = new bool[simulated.MemoryPages];
        _setStart = _random.Next(simulated.MemoryPages - simulated.SetPages + 1);
        _cursor = _random.Next(simulated.SetPages);
    }

    /// <summary>0 to 100; slows the writer.</summary>
    public int Throttle { get; set; }

    public void Advance(double seconds)
    {
        double writes = _case.WriteMegabytes * 1e6 / 4096 * (1 - Throttle / 100.0);
        if (_case.Pattern != WritePattern.Bursts)
        {
            Write(writes * seconds);
            _now += seconds;
            return;
        }

        while (seconds > 1e-9)
        {
            double phase = _now % _case.BurstPeriod;
            double quarter = _case.BurstPeriod / 4;
            bool writing = phase < quarter;
            double step = Math.Min(seconds, (writing ? quarter : _case.BurstPeriod) - phase + 1e-9);
            if (writing)
                Write(4 * writes * step);
            _now += step;
            seconds -= step;
        }
    }

    /// <summary>Read and clear.</summary>
    public int[] Harvest()
    {
        int[] pages = [.. _list];
        foreach (int page in pages)
            _dirty[page] = false;
        _list.Clear();
        return pages;
    }

    private void Write(double pages)
    {
        _owed += pages;
        int count = (int)_owed;
        _owed -= count;
        int set = _case.SetPages;
        // Far beyond the whole set nothing changes any more.
        for (int left = Math.Min(count, 8 * set); left > 0; left--)
        {
            int page;
            if (_case.Pattern == WritePattern.Sequential)
            {
                page = _cursor;
                _cursor = _cursor + 1 == set ? 0 : _cursor + 1;
            }
            else
            {
                double at = _random.NextDouble();
                if (_case.Pattern == WritePattern.Skewed)
                    at *= at * at;
                page = (int)(at * set);
            }

            page += _setStart;
            if (_dirty[page])
                continue;
            _dirty[page] = true;
            _list.Add(page);
        }
    }
}
