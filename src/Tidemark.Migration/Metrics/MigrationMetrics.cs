using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Globalization;
using System.Runtime.CompilerServices;
using Tidemark.Memory;

namespace Tidemark.Migration;

/// <summary>Which side of a migration speaks.</summary>
public enum MigrationRole
{
    Source,
    Destination,
}

/// <summary>
/// Feeds the meter and the activity source <c>Tidemark</c> from what a migration tells its observer and from its
/// outcome.
/// </summary>
/// <remarks>
/// <code>
/// migration    |--------------------------------------------------------|    from Connect, at a destination Negotiate
/// precopy.pass     |-- 0 --||- 1 -||- 2 -|
/// switchover                              |-----------------------------|    the pass after the stop is in it
/// device.state                              |---- one for each part ---|
/// </code>
/// Whoever listens runs in the middle of a migration: what it throws ends here. The outcome says who may run, and
/// nothing may get between it and its reader.
/// </remarks>
public sealed class MigrationMetrics : IMigrationObserver
{
    private readonly IMigrationObserver _next;
    private readonly TimeProvider _time;
    private readonly KeyValuePair<string, object?> _role;
    private readonly KeyValuePair<string, object?> _kernel;
    private readonly bool _isSource;
    private Activity? _migration;
    private Activity? _switchover;
    private DateTimeOffset _switchoverBegan;
    private ActivityContext _switchoverContext;
    private long? _began;

    private MigrationMetrics(MigrationRole role, string kernel, IMigrationObserver next, TimeProvider time)
    {
        _next = next;
        _time = time;
        _isSource = role == MigrationRole.Source;
        _role = new("tidemark.role", _isSource ? "source" : "destination");
        _kernel = new("tidemark.kernel", kernel);
    }

    /// <summary>
    /// Creates the instruments, and calls what records them on others that nobody knows: the first migration would wait for
    /// 30 methods to be compiled. Nothing is recorded.
    /// </summary>
    public static void Prepare()
    {
        RuntimeHelpers.RunClassConstructor(typeof(MigrationInstruments).TypeHandle);
        using var meter = new Meter("Tidemark.Prepare");
        var tag = new KeyValuePair<string, object?>("prepare", null);
        Counter<long> counter = meter.CreateCounter<long>("prepare");
        counter.Add(0, tag, tag);
        counter.Add(0, tag, tag, tag);
        counter.Add(0, [tag, tag, tag, tag]);
        Histogram<double> seconds = meter.CreateHistogram<double>("prepare.seconds");
        seconds.Record(0, tag, tag);
        seconds.Record(0, tag, tag, tag);
        meter.CreateHistogram<long>("prepare.bytes").Record(0, tag, tag, tag);
    }

    /// <summary>Runs a migration and measures it.</summary>
    /// <param name="kernel">What the machine runs on, as results name it.</param>
    /// <param name="observer">Gets every event as well.</param>
    /// <param name="run">Runs the migration with the observer that it is given.</param>
    public static MigrationOutcome Watch(
        MigrationRole role, string kernel, IMigrationObserver observer, TimeProvider time,
        Func<IMigrationObserver, MigrationOutcome> run)
    {
        ArgumentNullException.ThrowIfNull(observer);
        ArgumentNullException.ThrowIfNull(time);
        ArgumentNullException.ThrowIfNull(run);
        var metrics = new MigrationMetrics(role, kernel, observer, time);
        MigrationOutcome? outcome = null;
        try
        {
            outcome = run(metrics);
            return outcome;
        }
        finally
        {
            Guard(() => metrics.End(outcome));
        }
    }

    public void OnEvent(MigrationEvent migrationEvent)
    {
        Guard(() => Take(migrationEvent));
        _next.OnEvent(migrationEvent);
    }

    private static void Guard(Action action)
    {
        try
        {
            action();
        }
        catch (Exception)
        {
            // Somebody who listens to figures failed; nothing of the migration is affected.
        }
    }

    private void Take(MigrationEvent migrationEvent)
    {
        switch (migrationEvent)
        {
            case MigrationEvent.PhaseBegan began:
                BeginPhase(began);
                break;
            case MigrationEvent.PassEnded ended:
                Count(ended.Pass);
                Trace(ended.Pass);
                break;
            default:
                break;
        }
    }

    private void BeginPhase(MigrationEvent.PhaseBegan began)
    {
        if (began.Phase == MigrationPhase.Connect)
        {
            // A lost connection: the machine runs again, and what was to be the switchover was none.
            EndSwitchover("The connection was lost.");
        }

        // A destination listens for as long as it takes; its migration begins with a source. One that was turned away
        // is over. A source that connects again goes on with the same migration.
        MigrationPhase first = _isSource ? MigrationPhase.Connect : MigrationPhase.Negotiate;
        if (began.Phase == first && (_began is null || !_isSource))
        {
            EndMigration("Turned away.");
            _began = _time.GetTimestamp();
            _migration = MigrationInstruments.Activities.StartActivity("migration");
            _migration?.SetTag(_role.Key, _role.Value).SetTag(_kernel.Key, _kernel.Value);
        }

        if (began.MigrationId is { } id)
            _migration?.SetTag("tidemark.migration.id", id);
        if (began.Phase != MigrationPhase.Switchover)
            return;
        EndSwitchover("It began again.");
        _switchoverBegan = _time.GetUtcNow();
        _switchover = Start("switchover", _migration?.Context ?? default, _switchoverBegan);
        _switchoverContext = _switchover?.Context ?? default;
    }

    private void Count(PassReport pass)
    {
        MigrationInstruments.Passes.Add(1, _role, _kernel);
        foreach ((string kind, ulong pages) in ((string, ulong)[])[
            ("sent", pass.SentPages), ("zero", pass.ZeroPages), ("unchanged", pass.UnchangedPages),
            ("repeated", pass.RepeatedPages), ("skipped", pass.SkippedPages)])
            MigrationInstruments.Pages.Add(ToSigned(pages), _role, _kernel, new("kind", kind));
        foreach (DirtyCount source in pass.Sources)
        {
            MigrationInstruments.DirtyPages.Add(
                ToSigned(source.PageCount),
                new TagList([_role, _kernel, new("source", source.Source), new("kind", WordOf(source.Kind))]));
        }

        foreach (TimeSpan harvest in pass.Harvests)
            MigrationInstruments.HarvestDuration.Record(harvest.TotalSeconds, _role, _kernel);
        if (pass.PredictedDowntime is { } predicted)
            MigrationInstruments.PredictedDowntime.Record(predicted.TotalSeconds, _role, _kernel);
    }

    /// <summary>A pass is told of when it has ended, so its activity is made then, as long as the pass was.</summary>
    private void Trace(PassReport pass)
    {
        DateTimeOffset end = _time.GetUtcNow();
        using Activity? activity = Start(
            "precopy.pass", (pass.Final ? _switchover : _migration)?.Context ?? default, end - pass.Duration);
        activity?.SetTag("tidemark.pass.index", pass.Index).SetTag("tidemark.pass.final", pass.Final)
            .SetTag("tidemark.pass.dirty_pages", ToSigned(pass.DirtyPages))
            .SetTag("tidemark.pass.bytes", ToSigned(pass.Bytes))
            .SetEndTime(end.UtcDateTime);
    }

    private void End(MigrationOutcome? outcome)
    {
        string result = outcome is null ? "failed" : WordOf(outcome.Result);
        string? problem = outcome?.Result == MigrationResult.Completed
            ? null : outcome?.Cause ?? "It ended without an outcome.";
        EndSwitchover(problem);
        if (outcome is not null)
            Count(outcome, result);
        _migration?.SetTag("tidemark.migration.result", result);
        EndMigration(problem);
    }

    private void Count(MigrationOutcome outcome, string result)
    {
        MigrationReport report = outcome.Report;
        MigrationInstruments.Outcomes.Add(1, _role, _kernel, new("result", result));
        if (_began is { } began)
        {
            MigrationInstruments.Duration.Record(
                _time.GetElapsedTime(began).TotalSeconds, _role, _kernel, new("result", result));
        }

        MigrationInstruments.Retries.Add(report.Retries, _role, _kernel);
        foreach (ChannelReport channel in report.Channels)
        {
            (_isSource ? MigrationInstruments.Sent : MigrationInstruments.Received).Add(
                ToSigned(channel.Bytes), _role, _kernel, new("channel", channel.Number));
        }

        bool completed = outcome.Result == MigrationResult.Completed;
        if (completed && _isSource)
            MigrationInstruments.Downtime.Record(report.Downtime.TotalSeconds, _role, _kernel);
        if (!completed)
            return;
        foreach (PartReport part in report.Parts)
            Count(part, report);
    }

    private void Count(PartReport part, MigrationReport report)
    {
        var device = new KeyValuePair<string, object?>("device", part.Name);
        MigrationInstruments.DeviceState.Record(ToSigned(part.StateBytes), _role, _kernel, device);
        if (_isSource)
            MigrationInstruments.DeviceSave.Record(part.SaveTime.TotalSeconds, _role, _kernel, device);
        else
            MigrationInstruments.DeviceLoad.Record(part.LoadTime.TotalSeconds, _role, _kernel, device);
        if (_switchoverContext == default)
            return;
        // Saving follows the stop of workload and devices; when a part began to load is not told.
        TimeSpan stop = report.DowntimeParts.Take(2).Aggregate(TimeSpan.Zero, (sum, lap) => sum + lap.Duration);
        DateTimeOffset begin = _isSource ? _switchoverBegan + stop : _switchoverBegan;
        using Activity? activity = Start("device.state", _switchoverContext, begin);
        activity?.SetTag("tidemark.device", part.Name).SetTag("tidemark.device.state_bytes", ToSigned(part.StateBytes))
            .SetEndTime((begin + (_isSource ? part.SaveTime : part.LoadTime)).UtcDateTime);
    }

    private Activity? Start(string name, ActivityContext parent, DateTimeOffset begin)
    {
        Activity? activity = MigrationInstruments.Activities.StartActivity(
            name, ActivityKind.Internal, parent, startTime: begin);
        activity?.SetTag(_role.Key, _role.Value).SetTag(_kernel.Key, _kernel.Value)
            .SetTag("tidemark.migration.id", _migration?.GetTagItem("tidemark.migration.id"));
        return activity;
    }

    private void EndSwitchover(string? problem) => End(ref _switchover, problem);

    private void EndMigration(string? problem) => End(ref _migration, problem);

    private static void End(ref Activity? activity, string? problem)
    {
        if (problem is not null)
            activity?.SetStatus(ActivityStatusCode.Error, problem);
        activity?.Dispose();
        activity = null;
    }

    private static long ToSigned(ulong value) => (long)Math.Min(value, long.MaxValue);

    private static string WordOf(Enum value)
    {
        string name = value.ToString();
        return string.Create(CultureInfo.InvariantCulture, $"{char.ToLowerInvariant(name[0])}{name[1..]}");
    }
}
