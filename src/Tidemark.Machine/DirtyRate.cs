using System.Diagnostics;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Machine;

/// <summary>How fast a machine's writers dirty its memory, each as its own source sees it.</summary>
/// <param name="Duration">The time in which the pages became dirty.</param>
/// <param name="Sources">Per source; a page that two sources saw counts in both.</param>
/// <param name="Pages">Distinct guest pages.</param>
public sealed record DirtyRate(TimeSpan Duration, IReadOnlyList<DirtyCount> Sources, ulong Pages)
{
    /// <summary>Distinct pages as bytes a second.</summary>
    public double BytesPerSecond => ToRate(Pages);

    /// <summary>What so many pages are as bytes a second.</summary>
    public double ToRate(ulong pages) =>
        Duration > TimeSpan.Zero ? pages * (double)GuestPage.Size / Duration.TotalSeconds : 0;

    /// <summary>
    /// Tracks the machine for periods one after the other and sends nothing: what a forecast needs.
    /// </summary>
    /// <param name="cancellation">Ends it early; the periods until then are the result.</param>
    /// <exception cref="Exception">As for <see cref="Measure"/>.</exception>
    public static IReadOnlyList<ForecastInterval> MeasureIntervals(
        GuestMachine machine, IReadOnlyList<TimeSpan> periods, CancellationToken cancellation, out TimeSpan harvestTime)
    {
        ArgumentNullException.ThrowIfNull(machine);
        ArgumentNullException.ThrowIfNull(periods);
        var intervals = new List<ForecastInterval>();
        harvestTime = default;
        machine.StartTracking();
        try
        {
            machine.DirtyTracker.Harvest().Commit();
            long start = Stopwatch.GetTimestamp();
            foreach (TimeSpan period in periods)
            {
                if (cancellation.WaitHandle.WaitOne(period) && intervals.Count > 0)
                    break;
                long harvest = Stopwatch.GetTimestamp();
                DirtyLease lease = machine.DirtyTracker.Harvest();
                intervals.Add(new ForecastInterval(lease.PageCount, Stopwatch.GetElapsedTime(start, harvest)));
                lease.Commit();
                start = harvest;
                harvestTime = Stopwatch.GetElapsedTime(harvest);
            }

            return intervals;
        }
        finally
        {
            machine.StopTracking(staysHere: true);
        }
    }

    /// <summary>
    /// Tracks the machine for a while, as a migration would, and sends nothing. Pages written more than once in that
    /// time count once.
    /// </summary>
    /// <param name="cancellation">Ends it early; what was seen until then is the result.</param>
    /// <exception cref="Exception">Tracking could not be started or read; it is off again.</exception>
    public static DirtyRate Measure(GuestMachine machine, TimeSpan period, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(machine);
        machine.StartTracking();
        try
        {
            // What was written before tracking was on, or at the time, is no rate.
            machine.DirtyTracker.Harvest().Commit();
            long start = Stopwatch.GetTimestamp();
            cancellation.WaitHandle.WaitOne(period);
            DirtyLease lease = machine.DirtyTracker.Harvest();
            var rate = new DirtyRate(Stopwatch.GetElapsedTime(start), lease.BySource, lease.PageCount);
            // Nobody has or wants these pages: a migration begins with all of them.
            lease.Commit();
            return rate;
        }
        finally
        {
            machine.StopTracking(staysHere: true);
        }
    }
}
