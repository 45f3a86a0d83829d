using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Text.RegularExpressions;

namespace Tidemark.Migration.Tests;

/// <summary>What docs/reference/metrics.md promises, over migrations of the fakes.</summary>
public sealed partial class MetricsTests : IDisposable
{
    private readonly Lock _gate = new();
    private readonly MeterListener _meters = new();
    private readonly ActivityListener _activities;
    private readonly List<(Instrument Instrument, double Value, Dictionary<string, object?> Tags)> _measured = [];
    private readonly List<Activity> _ended = [];

    public MetricsTests()
    {
        _meters.InstrumentPublished = (instrument, listener) =>
        {
            if (instrument.Meter.Name == "Tidemark")
                listener.EnableMeasurementEvents(instrument);
        };
        _meters.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Note(instrument, value, tags));
        _meters.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Note(instrument, value, tags));
        _meters.Start();
        _activities = new ActivityListener
        {
            ShouldListenTo = source => source.Name == "Tidemark",
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData,
            ActivityStopped = activity =>
            {
                lock (_gate)
                    _ended.Add(activity);
            },
        };
        ActivitySource.AddActivityListener(_activities);
    }

    public void Dispose()
    {
        _meters.Dispose();
        _activities.Dispose();
    }

    [Fact]
    public void Preparing_makes_the_instruments_and_records_nothing()
    {
        MigrationMetrics.Prepare();
        _meters.RecordObservableInstruments();
        Assert.Empty(_measured);
    }

    [Fact]
    public void The_document_lists_exactly_the_instruments_that_exist_with_their_tags()
    {
        using var world = new World();
        Assert.Equal(MigrationResult.Completed, Run(world).Result);
        var documented = Row().Matches(File.ReadAllText(
            Path.Combine(StreamFormatTests.Root, "docs", "reference", "metrics.md")))
            .Select(row => string.Join(" | ", row.Groups.Values.Skip(1).Select(group => group.Value.Trim())))
            .Order(StringComparer.Ordinal);
        var existing = _measured.GroupBy(entry => entry.Instrument).Select(entries =>
        {
            string[] tags = [.. entries.SelectMany(entry => entry.Tags.Keys).Distinct()];
            Assert.All(entries, entry => Assert.Equal(tags.Length, entry.Tags.Count));
            string own = string.Join(", ", tags.Where(tag => !tag.StartsWith("tidemark.", StringComparison.Ordinal))
                .Select(tag => $"`{tag}`"));
            Assert.Equal(
                ["tidemark.kernel", "tidemark.role"], tags.Where(tag => tag.Contains('.', StringComparison.Ordinal)).Order());
            string[] roles = [.. entries.Select(entry => (string)entry.Tags["tidemark.role"]!).Distinct()];
            string kind = entries.Key.GetType().Name.Split('`')[0].ToLowerInvariant();
            return $"{entries.Key.Name} | {kind} | {entries.Key.Unit} | {entries.Key.Description} | "
                + $"{(roles.Length == 2 ? "both" : roles[0])} | {own}";
        }).Order(StringComparer.Ordinal);
        Assert.Equal(existing, documented);
    }

    [Fact]
    public void The_figures_are_those_of_the_report()
    {
        using var world = new World();
        world.Source.HotPages = [3, 101];
        world.Source.StartWriting();
        world.Options = world.Options with { Channels = 2 };
        MigrationOutcome outcome = Run(world);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        MigrationReport report = outcome.Report;
        Assert.Equal(report.Passes.Count, Sum("tidemark.migration.passes"));
        Assert.Equal(
            report.Passes.Sum(pass => (double)pass.SentPages), Sum("tidemark.migration.pages", ("kind", "sent")));
        Assert.Equal(
            report.Passes.Sum(pass => (double)pass.ZeroPages), Sum("tidemark.migration.pages", ("kind", "zero")));
        Assert.Equal(
            report.Passes.SelectMany(pass => pass.Sources).Sum(source => (double)source.PageCount),
            Sum("tidemark.dirty.pages", ("source", "cpu (fake)"), ("kind", "cpu")));
        Assert.Equal(
            report.Passes.Sum(pass => pass.Harvests.Count), Count("tidemark.dirty.harvest.duration"));
        Assert.Equal(world.Source.Dirty.Harvests, Count("tidemark.dirty.harvest.duration"));
        Assert.Equal(report.Passes.Count - 1, Count("tidemark.migration.predicted_downtime"));
        Assert.Equal(report.Downtime.TotalSeconds, Sum("tidemark.migration.downtime"));
        foreach (string role in (string[])["source", "destination"])
            Assert.Equal(8000, Sum("tidemark.migration.device.state", ("device", "nvme0"), ("tidemark.role", role)));
        Assert.Equal(2, Count("tidemark.migration.outcomes", ("result", "completed"), ("tidemark.kernel", "soft")));
        Assert.Equal((double)report.BytesSent, Sum("tidemark.migration.sent"));
        for (int channel = 1; channel <= 2; channel++)
        {
            double sent = Sum("tidemark.migration.sent", ("channel", channel));
            Assert.Equal((double)report.Channels[channel].Bytes, sent);
            Assert.True(sent > 0);
            Assert.Equal(sent, Sum("tidemark.migration.received", ("channel", channel)));
        }
    }

    [Fact]
    public void Activities_of_both_sides_have_one_id_and_passes_lie_in_their_migration()
    {
        using var world = new World();
        MigrationOutcome outcome = Run(world);
        Assert.Equal(MigrationResult.Completed, outcome.Result);
        Assert.Single(_ended.Select(activity => (string?)activity.GetTagItem("tidemark.migration.id")).Distinct());
        Assert.Matches("^[0-9a-f]{16}$", (string)_ended[0].GetTagItem("tidemark.migration.id")!);
        foreach (string role in (string[])["source", "destination"])
        {
            Activity[] ours = [.. _ended.Where(activity => (string?)activity.GetTagItem("tidemark.role") == role)];
            Activity migration = Assert.Single(ours, activity => activity.OperationName == "migration");
            Activity switchover = Assert.Single(ours, activity => activity.OperationName == "switchover");
            Assert.Equal(migration.SpanId, switchover.ParentSpanId);
            Assert.Equal("completed", migration.GetTagItem("tidemark.migration.result"));
            Activity[] states = [.. ours.Where(activity => activity.OperationName == "device.state")];
            Assert.Equal(
                ["nvme0", "workload"], states.Select(activity => (string?)activity.GetTagItem("tidemark.device")).Order());
            Assert.All(states, activity => Assert.Equal(switchover.SpanId, activity.ParentSpanId));
            Activity[] passes = [.. ours.Where(activity => activity.OperationName == "precopy.pass")];
            Assert.Equal(role == "source" ? outcome.Report.Passes.Count : 0, passes.Length);
            foreach ((Activity pass, PassReport report) in passes.Zip(outcome.Report.Passes))
            {
                Assert.Equal((report.Final ? switchover : migration).SpanId, pass.ParentSpanId);
                Assert.InRange((pass.Duration - report.Duration).TotalMilliseconds, -1, 1);
                Assert.True(pass.StartTimeUtc >= migration.StartTimeUtc);
            }
        }

        Assert.Null(Activity.Current);
    }

    [Fact]
    public void A_lost_connection_is_counted_and_ends_a_switchover_with_an_error()
    {
        using var world = new World();
        world.Options = world.Options with { RetryFor = TimeSpan.FromSeconds(10) };
        bool cut = false;
        world.OnSourceEvent = migrationEvent =>
        {
            if (cut || migrationEvent is not MigrationEvent.PhaseBegan { Phase: MigrationPhase.Verify })
                return;
            cut = true;
            foreach (var made in world.Network.Made)
                made.Source.Abort();
        };
        MigrationOutcome outcome = Run(world);
        Assert.True(outcome.Result == MigrationResult.Completed, outcome.Cause);
        Assert.Equal(1, outcome.Report.Retries);
        Assert.Equal(2, Sum("tidemark.migration.retries"));
        Activity[] switchovers = [.. _ended.Where(activity =>
            activity.OperationName == "switchover" && (string?)activity.GetTagItem("tidemark.role") == "source")];
        Assert.Equal(
            [ActivityStatusCode.Error, ActivityStatusCode.Unset], switchovers.Select(activity => activity.Status));
        Assert.Equal(2, _ended.Count(activity => activity.OperationName == "migration"));
    }

    [Fact]
    public void A_migration_that_fails_has_an_outcome_and_no_downtime()
    {
        using var world = new World();
        world.Destination.Device.FailAt = nameof(IMigratable.EndLoad);
        MigrationOutcome outcome = Run(world);
        Assert.Equal(MigrationResult.Failed, outcome.Result);
        Assert.Equal(2, Count("tidemark.migration.outcomes", ("result", "failed")));
        Assert.Equal(0, Count("tidemark.migration.downtime"));
        Activity migration = Assert.Single(_ended, activity =>
            activity.OperationName == "migration" && (string?)activity.GetTagItem("tidemark.role") == "source");
        Assert.Equal((ActivityStatusCode.Error, outcome.Cause), (migration.Status, migration.StatusDescription));
    }

    [Fact]
    public void A_listener_that_throws_takes_nothing_from_a_migration()
    {
        using var broken = new MeterListener
        {
            InstrumentPublished = (instrument, listener) =>
            {
                if (instrument.Meter.Name == "Tidemark")
                    listener.EnableMeasurementEvents(instrument);
            },
        };
        broken.SetMeasurementEventCallback<long>((_, _, _, _) => throw new InvalidOperationException("as planned"));
        broken.SetMeasurementEventCallback<double>((_, _, _, _) => throw new InvalidOperationException("as planned"));
        broken.Start();
        using var world = new World();
        MigrationOutcome outcome = Run(world);
        Assert.Equal(MigrationResult.Completed, outcome.Result);
        Assert.Contains(world.SourceEvents, happened => happened is MigrationEvent.PassEnded { Pass.Final: true });
        world.CheckRunners(outcome);
    }

    private static MigrationOutcome Run(World world) => world.Run((role, observer, run) =>
        MigrationMetrics.Watch(role, "soft", observer, TimeProvider.System, run));

    private void Note(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        var kept = new Dictionary<string, object?>();
        foreach (KeyValuePair<string, object?> tag in tags)
            kept.Add(tag.Key, tag.Value);
        lock (_gate)
            _measured.Add((instrument, value, kept));
    }

    private double Sum(string name, params (string Tag, object Value)[] tags) => Matching(name, tags).Sum();

    private int Count(string name, params (string Tag, object Value)[] tags) => Matching(name, tags).Count();

    private IEnumerable<double> Matching(string name, (string Tag, object Value)[] tags) => _measured
        .Where(entry => entry.Instrument.Name == name && tags.All(tag => tag.Value.Equals(entry.Tags[tag.Tag])))
        .Select(entry => entry.Value);

    [GeneratedRegex(
        @"^\| `(tidemark\.[\w.]+)` \| (\w+) \| `([^`]+)` \| ([^|]+) \| (\w+) \|([^|]*)\|$", RegexOptions.Multiline)]
    private static partial Regex Row();
}
