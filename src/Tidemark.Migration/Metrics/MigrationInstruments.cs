using System.Diagnostics;
using System.Diagnostics.Metrics;

namespace Tidemark.Migration;

/// <summary>
/// The instruments of the meter <c>Tidemark</c>, as docs/reference/metrics.md lists them: names, units and tags are part
/// of the interface.
/// </summary>
internal static class MigrationInstruments
{
    public const string Name = "Tidemark";

    private static readonly Meter s_meter = new(Name);

    /// <summary>From a moment that nobody notices to one that ends connections.</summary>
    private static readonly InstrumentAdvice<double> s_downtimes = new()
    {
        HistogramBucketBoundaries = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 30],
    };

    private static readonly InstrumentAdvice<double> s_durations = new()
    {
        HistogramBucketBoundaries = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600],
    };

    private static readonly InstrumentAdvice<double> s_harvests = new()
    {
        HistogramBucketBoundaries =
            [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
    };

    private static readonly InstrumentAdvice<long> s_states = new()
    {
        HistogramBucketBoundaries =
            [1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1L << 30, 4L << 30],
    };

    public static ActivitySource Activities { get; } = new(Name);

    public static Histogram<double> Downtime { get; } = s_meter.CreateHistogram(
        "tidemark.migration.downtime", "s", "How long the machine stood still, verification not counted.", null,
        s_downtimes);

    public static Histogram<double> PredictedDowntime { get; } = s_meter.CreateHistogram(
        "tidemark.migration.predicted_downtime", "s", "The downtime that a stop after this pass would have had.", null,
        s_downtimes);

    public static Histogram<double> Duration { get; } = s_meter.CreateHistogram(
        "tidemark.migration.duration", "s", "From the first connection to the end.", null, s_durations);

    public static Counter<long> Outcomes { get; } = s_meter.CreateCounter<long>(
        "tidemark.migration.outcomes", "{migration}", "Migrations that ended.");

    public static Counter<long> Retries { get; } = s_meter.CreateCounter<long>(
        "tidemark.migration.retries", "{retry}", "Lost connections after which the migration was to go on.");

    public static Counter<long> Sent { get; } = s_meter.CreateCounter<long>(
        "tidemark.migration.sent", "By", "Bytes put on the wire; channel 0 is control, with the preambles of all.");

    public static Counter<long> Received { get; } = s_meter.CreateCounter<long>(
        "tidemark.migration.received", "By", "Bytes taken from channels.");

    public static Counter<long> Passes { get; } = s_meter.CreateCounter<long>(
        "tidemark.migration.passes", "{pass}", "Passes that ended, the one after the stop included.");

    public static Counter<long> Pages { get; } = s_meter.CreateCounter<long>(
        "tidemark.migration.pages", "{page}", "What became of the pages of the passes.");

    public static Counter<long> DirtyPages { get; } = s_meter.CreateCounter<long>(
        "tidemark.dirty.pages", "{page}", "Pages that a source reported, before the union.");

    public static Histogram<double> HarvestDuration { get; } = s_meter.CreateHistogram(
        "tidemark.dirty.harvest.duration", "s", "One harvest of all sources.", null, s_harvests);

    public static Histogram<long> DeviceState { get; } = s_meter.CreateHistogram(
        "tidemark.migration.device.state", "By", "State of one device, or of the workload.", null, s_states);

    public static Histogram<double> DeviceSave { get; } = s_meter.CreateHistogram(
        "tidemark.migration.device.save", "s", "From the first byte of state after the stop to the last.", null,
        s_downtimes);

    public static Histogram<double> DeviceLoad { get; } = s_meter.CreateHistogram(
        "tidemark.migration.device.load", "s", "From the last byte of state until it was loaded.", null, s_downtimes);
}
