using System.Text.Json;
using System.Text.Json.Nodes;
using Tidemark.Machine;
using Tidemark.Memory;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Cli.Output;

/// <summary>
/// Saves, restores and files as JSON: over control sockets, with --json, and for the text. Documented in
/// docs/reference/json.md.
/// </summary>
internal static class SnapshotJson
{
    public static JsonObject Event(SnapshotEvent snapshotEvent) => snapshotEvent switch
    {
        SnapshotEvent.PhaseBegan began => new JsonObject
        {
            ["event"] = "phase", ["phase"] = began.Phase.ToString().ToLowerInvariant(),
        },
        SnapshotEvent.Progress progress => new JsonObject
        {
            ["event"] = "progress", ["pass"] = progress.Pass, ["pagesDone"] = progress.PagesDone,
            ["pagesTotal"] = progress.PagesTotal,
        },
        SnapshotEvent.PassEnded ended => new JsonObject { ["event"] = "pass", ["pass"] = Pass(ended.Pass) },
        SnapshotEvent.Decided decided => new JsonObject { ["event"] = "decided", ["text"] = decided.Text },
        _ => new JsonObject { ["event"] = "other" },
    };

    public static JsonObject Outcome(SnapshotOutcome outcome, string name, string path, GuestMachine machine)
    {
        SnapshotReport report = outcome.Report;
        double seconds = report.TransferTime.TotalSeconds;
        return new JsonObject
        {
            ["outcome"] = outcome.Result.ToString().ToLowerInvariant(),
            ["phase"] = outcome.Phase.ToString().ToLowerInvariant(),
            ["cause"] = outcome.Cause,
            ["machine"] = name,
            ["machineRuns"] = outcome.MachineRuns,
            ["file"] = path,
            ["fileIsComplete"] = outcome.FileIsComplete,
            ["kernel"] = machine.KernelIdentity.ToString(),
            ["memoryBytes"] = machine.Memory.ByteLength,
            ["fileBytes"] = report.FileBytes,
            ["presentBytes"] = report.PresentPages * GuestPage.Size,
            ["passes"] = new JsonArray([.. report.Passes.Select(Pass)]),
            ["stateBytes"] = new JsonObject(report.Parts.Select(part =>
                KeyValuePair.Create<string, JsonNode?>(part.Name, part.StateBytes))),
            ["downtimeMilliseconds"] = MigrationJson.Milliseconds(report.Downtime),
            ["downtimeParts"] = new JsonArray([.. report.DowntimeParts.Select(part => new JsonObject
            {
                ["name"] = part.Name, ["milliseconds"] = MigrationJson.Milliseconds(part.Duration),
            })]),
            ["totalMilliseconds"] = MigrationJson.Milliseconds(report.TotalTime),
            ["memoryBytesMoved"] = report.MemoryBytesMoved,
            ["throughputBytesPerSecond"] = seconds > 0 ? Math.Round(report.MemoryBytesMoved / seconds) : 0,
            ["threads"] = report.Threads,
            ["directIO"] = report.Lane?.Direct,
            ["directIOReason"] = report.Lane?.Reason,
            ["exitCode"] = outcome.Result == SnapshotResult.Completed ? ExitCode.Done : ExitCode.Failed,
        };
    }

    /// <param name="verified">Whether every byte that counts was checked; null: only what <c>info</c> reads.</param>
    public static JsonObject Contents(SnapshotContents contents, string path, bool? verified) => new()
    {
        ["file"] = path,
        ["problem"] = null,
        ["savedAt"] = contents.SavedAt.ToString("O"),
        ["fileBytes"] = contents.FileBytes,
        ["memoryBytes"] = contents.MemoryBytes,
        ["presentBytes"] = contents.PresentPages * GuestPage.Size,
        ["slots"] = new JsonArray([.. contents.Slots.Select(slot => new JsonObject
        {
            ["address"] = slot.FirstPage << GuestPage.Shift, ["bytes"] = slot.Count << GuestPage.Shift,
        })]),
        ["stateBytes"] = new JsonObject(contents.Parts.Select(part =>
            KeyValuePair.Create<string, JsonNode?>(part.Name, part.StateBytes))),
        ["machine"] = ParseDescription(contents),
        ["verified"] = verified,
    };

    private static JsonObject Pass(SnapshotPass pass) => new()
    {
        ["index"] = pass.Index,
        ["dirtyPages"] = pass.DirtyPages,
        ["writtenPages"] = pass.WrittenPages,
        ["zeroPages"] = pass.ZeroPages,
        ["milliseconds"] = MigrationJson.Milliseconds(pass.Duration),
        ["final"] = pass.Final,
    };

    private static JsonNode? ParseDescription(SnapshotContents contents)
    {
        try
        {
            return JsonNode.Parse(contents.Description.Span, documentOptions: new JsonDocumentOptions { MaxDepth = 8 });
        }
        catch (JsonException)
        {
            // Its checksum is right, so another program wrote it: a restore says so, here it is left out.
            return null;
        }
    }
}
