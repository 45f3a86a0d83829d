using System.Text.Json.Nodes;
using Tidemark.Memory;
using Tidemark.Migration;

namespace Tidemark.Cli.Output;

/// <summary>
/// The figures of a migration as JSON: the one form in which events and results travel over control sockets, appear
/// with
/// --json, and feed the table and the report. Documented in docs/reference/json.md.
/// </summary>
internal static class MigrationJson
{
    public static string Word(DirtySourceKind kind) => kind switch
    {
        DirtySourceKind.Cpu => "cpu",
        DirtySourceKind.Iommu => "iommu",
        DirtySourceKind.Type1 => "type1",
        DirtySourceKind.DeviceLog => "deviceLog",
        DirtySourceKind.Assumed => "assumed",
        DirtySourceKind.Changes => "changes",
        _ => throw new ArgumentOutOfRangeException(nameof(kind)),
    };

    public static string Word(MigrationResult result) => result switch
    {
        MigrationResult.Completed => "completed",
        MigrationResult.Cancelled => "cancelled",
        MigrationResult.Failed => "failed",
        MigrationResult.StateUnknown => "stateUnknown",
        _ => throw new ArgumentOutOfRangeException(nameof(result)),
    };

    public static JsonObject Event(MigrationEvent migrationEvent) => migrationEvent switch
    {
        MigrationEvent.PhaseBegan began => new JsonObject
        {
            ["event"] = "phase", ["phase"] = began.Phase.ToString().ToLowerInvariant(),
        },
        MigrationEvent.PassProgress progress => new JsonObject
        {
            ["event"] = "progress", ["pass"] = progress.Index, ["pagesDone"] = progress.PagesDone,
            ["pagesTotal"] = progress.PagesTotal, ["bytes"] = progress.Bytes,
        },
        MigrationEvent.PassEnded ended => new JsonObject { ["event"] = "pass", ["pass"] = Pass(ended.Pass) },
        MigrationEvent.Convergence convergence => Convergence(convergence),
        MigrationEvent.WaitingForSwitchover => new JsonObject { ["event"] = "waitingForSwitchover" },
        MigrationEvent.Decided decided => new JsonObject { ["event"] = "decided", ["text"] = decided.Text },
        _ => new JsonObject { ["event"] = "other" },
    };

    private static JsonObject Convergence(MigrationEvent.Convergence convergence)
    {
        ConvergenceDecision decision = convergence.Decision;
        return new JsonObject
        {
            ["event"] = "convergence",
            ["pass"] = convergence.Pass,
            ["step"] = Camel(decision.Step.ToString()),
            ["verdict"] = Camel(decision.Verdict.ToString()),
            ["limitMilliseconds"] = Milliseconds(decision.Limit),
            ["predictedMilliseconds"] = Milliseconds(decision.Predicted.Total),
            ["promisedMilliseconds"] = Milliseconds(decision.Predicted.Promised),
            ["predictedParts"] = Parts(decision.Predicted.Parts),
            ["afterNextPassMilliseconds"] = decision.AfterNextPass is { } next ? Milliseconds(next) : null,
            ["reachableMilliseconds"] = decision.Reachable is { } reachable ? Milliseconds(reachable) : null,
            ["bytesPerSecond"] = Finite(decision.BytesPerSecond),
            ["dirtyBytesPerSecond"] = Finite(decision.DirtyBytesPerSecond),
            ["holdsBackHotPages"] = decision.HoldBackHot,
            ["throttlePercent"] = decision.ThrottlePercent,
            ["text"] = decision.Reason,
        };
    }

    /// <summary>What <c>migrate --dry-run</c> answers.</summary>
    public static JsonObject Forecast(MigrationForecast forecast) => new()
    {
        ["dryRun"] = true,
        ["converges"] = forecast.Converges,
        ["downtimeMilliseconds"] = Milliseconds(forecast.Downtime.Total),
        ["promisedMilliseconds"] = Milliseconds(forecast.Downtime.Promised),
        ["predictedParts"] = Parts(forecast.Downtime.Parts),
        ["totalMilliseconds"] = Milliseconds(forecast.Duration),
        ["bytesSent"] = forecast.Bytes,
        ["needsBytesPerSecond"] = forecast.NeedsBytesPerSecond is { } rate ? Finite(rate) : null,
        ["passes"] = new JsonArray([.. forecast.Passes.Select(pass => new JsonObject
        {
            ["index"] = pass.Index, ["dirtyPages"] = pass.DirtyPages, ["bytes"] = pass.Bytes,
            ["milliseconds"] = Milliseconds(pass.Duration),
        })]),
        ["text"] = forecast.Reason,
    };

    private static string Camel(string word) => char.ToLowerInvariant(word[0]) + word[1..];

    private static double? Finite(double value) => double.IsFinite(value) ? Math.Round(value) : null;

    public static JsonObject Pass(PassReport pass)
    {
        var json = new JsonObject
        {
            ["index"] = pass.Index,
            ["dirtyPages"] = pass.DirtyPages,
            ["sentPages"] = pass.SentPages,
            ["unchangedPages"] = pass.UnchangedPages,
            ["repeatedPages"] = pass.RepeatedPages,
            ["skippedPages"] = pass.SkippedPages,
            ["zeroPages"] = pass.ZeroPages,
            ["bytes"] = pass.Bytes,
            ["milliseconds"] = Milliseconds(pass.Duration),
            ["final"] = pass.Final,
            ["predictedDowntimeMilliseconds"] = pass.PredictedDowntime is { } predicted ? Milliseconds(predicted) : null,
            ["bySource"] = SumBySource(pass.Sources),
        };
        var heat = new JsonObject();
        foreach (var kind in pass.Sources.GroupBy(source => source.Kind))
        {
            uint[] buckets = new uint[DirtyCount.BucketCount];
            foreach (DirtyCount count in kind)
            {
                for (int index = 0; index < buckets.Length; index++)
                    buckets[index] += count.Buckets[index];
            }

            heat[Word(kind.Key)] = new JsonArray([.. buckets.Select(value => (JsonNode)value)]);
        }

        json["heat"] = heat;
        return json;
    }

    public static JsonObject Outcome(MigrationOutcome outcome)
    {
        MigrationReport report = outcome.Report;
        double seconds = report.TotalTime.TotalSeconds;
        var json = new JsonObject
        {
            ["outcome"] = Word(outcome.Result),
            ["phase"] = outcome.Phase.ToString().ToLowerInvariant(),
            ["cause"] = outcome.Cause,
            ["caughtBy"] = outcome.CaughtBy,
            ["passes"] = new JsonArray([.. report.Passes.Select(Pass)]),
            ["dirtyBySource"] = SumBySource(report.Passes.SelectMany(pass => pass.Sources)),
            ["stateBytes"] = new JsonObject(report.Parts.Select(part =>
                KeyValuePair.Create<string, JsonNode?>(part.Name, part.StateBytes))),
            ["downtimeMilliseconds"] = Milliseconds(report.Downtime),
            ["downtimeParts"] = Parts(report.DowntimeParts),
            ["destinationParts"] = Parts(report.DestinationTimes),
            ["deviceTimes"] = new JsonArray([.. report.Parts.Select(part => new JsonObject
            {
                ["name"] = part.Name, ["saveMilliseconds"] = Milliseconds(part.SaveTime),
                ["loadMilliseconds"] = Milliseconds(part.LoadTime),
            })]),
            ["verifyMilliseconds"] = Milliseconds(report.VerifyTime),
            ["totalMilliseconds"] = Milliseconds(report.TotalTime),
            ["bytesSent"] = report.BytesSent,
            ["throughputBytesPerSecond"] = Throughput(report),
            ["verified"] = new JsonObject
            {
                ["memoryEqual"] = report.LostPages is { } lost ? lost == 0 : null,
                ["lostPages"] = report.LostPages,
            },
        };
        return json;
    }

    private static JsonArray Parts(IEnumerable<DowntimePart> parts) => new([.. parts.Select(part => new JsonObject
    {
        ["name"] = part.Name, ["milliseconds"] = Milliseconds(part.Duration),
    })]);

    public static int ExitCodeOf(MigrationOutcome outcome) => outcome.Result switch
    {
        MigrationResult.Completed => ExitCode.Done,
        MigrationResult.StateUnknown => ExitCode.StateUnknown,
        _ => ExitCode.Failed,
    };

    public static double Milliseconds(TimeSpan duration) => Math.Round(duration.TotalMilliseconds, 3);

    /// <summary>Bytes a second over the passes before the stop: what the wire and both ends made together.</summary>
    private static double Throughput(MigrationReport report)
    {
        double seconds = report.Passes.Sum(pass => pass.Duration.TotalSeconds);
        return seconds > 0 ? Math.Round(report.Passes.Sum(pass => (double)pass.Bytes) / seconds) : 0;
    }

    private static JsonObject SumBySource(IEnumerable<DirtyCount> counts)
    {
        var json = new JsonObject();
        foreach (DirtySourceKind kind in Enum.GetValues<DirtySourceKind>())
            json[Word(kind)] = 0UL;
        foreach (DirtyCount count in counts)
            json[Word(count.Kind)] = json[Word(count.Kind)]!.GetValue<ulong>() + count.PageCount;
        return json;
    }
}
