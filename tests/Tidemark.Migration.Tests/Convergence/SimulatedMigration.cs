using Tidemark.Memory;

namespace Tidemark.Migration.Tests;

public sealed record SimulatedResult(
    ConvergenceStep End, int Passes, double Bytes, double PredictedMilliseconds, double ActualMilliseconds,
    IReadOnlyList<ConvergenceDecision> Decisions)
{
    /// <summary>Passes done when it was first told that the machine can not be moved; 0: never.</summary>
    public int ToldAfter { get; init; }

    public double Seconds { get; init; }

    public double Error => Math.Abs(PredictedMilliseconds - ActualMilliseconds) / ActualMilliseconds;
}

/// <summary>One migration of a simulated machine over a simulated link, decided by the policy or as QEMU does.</summary>
public sealed class SimulatedMigration
{
    private const double Tick = 0.01;
    private const double PageBytes = 4096 + 24;

    private readonly SimulatedCase _case;
    private readonly SimulatedMachine _machine;
    /// <summary>What stopping and starting take here is what a machine with two devices takes, and a device has two parts.</summary>
    private const int DeviceParts = 4;

    private readonly Random _random;
    private readonly double _stop;
    private readonly double _start;
    private readonly double _harvest;
    private readonly bool[] _pending;
    private readonly bool[] _next;
    private double _drift;
    private double _time;

    public SimulatedMigration(SimulatedCase simulated)
    {
        _case = simulated;
        _machine = new SimulatedMachine(simulated);
        _random = new Random(simulated.Seed ^ 0x5eed);
        _stop = 0.001 + 0.004 * _random.NextDouble();
        _start = 0.002 + 0.006 * _random.NextDouble();
        _harvest = 0.0002 + 0.0002 * simulated.MemoryPages / (1 << 18);
        _pending = new bool[simulated.MemoryPages];
        _next = new bool[simulated.MemoryPages];
    }

    public SimulatedResult RunPolicy(ConvergenceOptions options)
    {
        var policy = new ConvergencePolicy(options, (ulong)_case.MemoryPages);
        var hot = new HotPages((ulong)_case.MemoryPages);
        var fresh = new PageBitmap((ulong)_case.MemoryPages);
        var decisions = new List<ConvergenceDecision>();
        Array.Fill(_pending, true);
        double every = policy.FirstHarvestEvery.TotalSeconds;
        double bytes = 0;
        int toldAfter = 0;
        double lastHarvest = _time;
        for (int pass = 0; ; pass++)
        {
            double intervalBegan = lastHarvest;
            fresh.Clear();
            double began = _time;
            Pass done = SendPass(pass, _case.HarvestsDuringPass ? every : double.MaxValue, Harvest);
            double duration = _time - began;
            bytes += done.Bytes;
            Harvest(last: true);
            Spend(_harvest);
            hot.Add(fresh);
            ulong dirty = Count(_next);
            var facts = new PassFacts
            {
                Pass = pass,
                DirtyPages = dirty,
                FreshPages = fresh.CountSet(),
                Interval = TimeSpan.FromSeconds(lastHarvest - intervalBegan),
                SinceHarvest = TimeSpan.FromSeconds(_harvest),
                SentPages = done.Sent,
                ZeroPages = done.Zero,
                SkippedPages = done.Skipped,
                Bytes = (ulong)done.Bytes,
                Duration = TimeSpan.FromSeconds(duration),
                HarvestTime = TimeSpan.FromSeconds(_harvest),
                StateBytes = (ulong)(_case.StateMegabytes * 1e6),
                HotPages = hot.Count,
                HotAgain = hot.Again,
                Costs = _case.KnowsCosts ? new FixedCosts
                {
                    Stop = TimeSpan.FromSeconds(_stop),
                    Start = TimeSpan.FromSeconds(_start),
                    RoundTrip = TimeSpan.FromMilliseconds(_case.RoundTripMilliseconds),
                }
                : new FixedCosts { DeviceParts = DeviceParts },
                Elapsed = TimeSpan.FromSeconds(_time),
                CanThrottle = true,
            };
            ConvergenceDecision decision = policy.Decide(facts);
            decisions.Add(decision);
            if (toldAfter == 0 && decision.Verdict == ConvergenceVerdict.CanNotConverge)
                toldAfter = pass + 1;
            if (decision.ThrottlePercent is { } percent)
                _machine.Throttle = percent;
            double actual = 0;
            if (decision.Step == ConvergenceStep.SwitchOver)
                (actual, bytes) = SwitchOver(bytes);
            if (decision.Step != ConvergenceStep.AnotherPass)
            {
                return new(
                    decision.Step, pass + (decision.Step == ConvergenceStep.SwitchOver ? 2 : 1), bytes,
                    decision.Predicted.Total.TotalMilliseconds, actual * 1000, decisions)
                {
                    ToldAfter = toldAfter,
                    Seconds = _time,
                };
            }

            every = decision.HarvestEvery.TotalSeconds;
            for (int page = 0; page < _next.Length; page++)
            {
                bool held = decision.HoldBackHot && _next[page] && hot.Hot[(ulong)page];
                _pending[page] = _next[page] && !held;
                _next[page] = held;
            }
        }

        void Harvest(bool last)
        {
            int[] pages = _machine.Harvest();
            foreach (int page in pages)
            {
                _next[page] = true;
                fresh.Set((ulong)page);
            }

            if (!last)
                policy.Observe((ulong)pages.Length, TimeSpan.FromSeconds(_time - lastHarvest));
            lastHarvest = _time;
        }
    }

    /// <summary>Stops as soon as the rest fits the limit at the bandwidth of the pass before; holds nothing back.</summary>
    public SimulatedResult RunLikeQemu(int maximumPasses)
    {
        Array.Fill(_pending, true);
        double bytes = 0;
        for (int pass = 0; ; pass++)
        {
            double began = _time;
            Pass done = SendPass(pass, double.MaxValue, _ => { });
            bytes += done.Bytes;
            double bandwidth = done.Bytes / Math.Max(_time - began, 1e-6);
            foreach (int page in _machine.Harvest())
                _next[page] = true;
            Spend(_harvest);
            double predicted = (Count(_next) * PageBytes + _case.StateMegabytes * 1e6) / bandwidth;
            if (predicted <= _case.LimitMilliseconds / 1000)
            {
                (double actual, bytes) = SwitchOver(bytes);
                return new(ConvergenceStep.SwitchOver, pass + 2, bytes, predicted * 1000, actual * 1000, []);
            }

            if (pass + 1 >= maximumPasses)
                return new(ConvergenceStep.GiveUp, pass + 1, bytes, predicted * 1000, 0, []);
            Array.Copy(_next, _pending, _next.Length);
            Array.Clear(_next);
        }
    }

    private Pass SendPass(int pass, double harvestEvery, Action<bool> harvest)
    {
        double sent = 0;
        ulong pages = 0;
        ulong zero = 0;
        ulong skipped = 0;
        double sinceHarvest = 0;
        int zeroEvery = pass == 0 && _case.ZeroShare > 0 ? (int)(1 / _case.ZeroShare) : 0;
        bool left = true;
        int cursor = 0;
        while (left)
        {
            double rate = NextRate();
            double room = rate * Tick;
            while (room > 0 && cursor < _pending.Length)
            {
                if (_pending[cursor])
                {
                    // Found written again since the harvest: it belongs to the next pass already.
                    if (_next[cursor] && harvestEvery < double.MaxValue)
                    {
                        skipped++;
                    }
                    else if (zeroEvery > 0 && cursor % zeroEvery == 0)
                    {
                        zero++;
                        room -= 16;
                        sent += 16;
                    }
                    else
                    {
                        pages++;
                        room -= PageBytes;
                        sent += PageBytes;
                    }
                }

                cursor++;
            }

            left = cursor < _pending.Length;
            double spent = left ? Tick : Tick * Math.Clamp(1 - room / (rate * Tick), 0, 1);
            Spend(spent);
            sinceHarvest += spent;
            if (left && sinceHarvest >= harvestEvery)
            {
                harvest(false);
                sinceHarvest = 0;
            }
        }

        Spend(_case.RoundTripMilliseconds / 1000);
        return new(sent, pages, zero, skipped);
    }

    private (double Seconds, double Bytes) SwitchOver(double bytes)
    {
        double began = _time;
        // On average the writers run on for half of the stop.
        Spend(_stop / 2);
        double stood = _stop / 2;
        foreach (int page in _machine.Harvest())
            _next[page] = true;
        double left = Count(_next) * PageBytes + _case.StateMegabytes * 1e6;
        bytes += left;
        double seconds = _time - began + stood + _harvest + _start + 2 * _case.RoundTripMilliseconds / 1000;
        while (left > 0)
        {
            double rate = NextRate();
            double step = Math.Min(Tick, left / rate);
            left -= rate * step;
            seconds += step;
        }

        return (seconds, bytes);
    }

    private double NextRate()
    {
        // Neighbouring ticks are alike, as on a link that others use, too.
        double noise = (_random.NextDouble() + _random.NextDouble() + _random.NextDouble() - 1.5) * 2;
        _drift = 0.9 * _drift + 0.44 * noise;
        return _case.LinkMegabytes * 1e6 * Math.Max(0.3, 1 + _case.Jitter * _drift);
    }

    private void Spend(double seconds)
    {
        _time += seconds;
        _machine.Advance(seconds);
    }

    private static ulong Count(bool[] pages)
    {
        ulong count = 0;
        foreach (bool page in pages)
            count += page ? 1ul : 0;
        return count;
    }

    private readonly record struct Pass(double Bytes, ulong Sent, ulong Zero, ulong Skipped);
}
