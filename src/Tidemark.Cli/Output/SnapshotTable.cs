using System.Globalization;
using System.Text.Json.Nodes;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Output;

/// <summary>Saves, restores and files as text. Reads the JSON of <see cref="SnapshotJson"/>.</summary>
internal static class SnapshotTable
{
    /// <summary>Shows one event.</summary>
    public static void Show(Terminal terminal, JsonObject snapshotEvent)
    {
        switch ((string?)snapshotEvent["event"])
        {
            case "phase":
                terminal.Detail($"phase: {snapshotEvent["phase"]}");
                // What was written through the page cache goes to the disk now, which can take as long as all before.
                if ((string?)snapshotEvent["phase"] == "finish")
                    terminal.Progress("putting the file into stable storage");
                break;
            case "progress":
                ulong done = Number(snapshotEvent["pagesDone"]);
                ulong total = Math.Max(1, Number(snapshotEvent["pagesTotal"]));
                string what = snapshotEvent["pass"]!.GetValue<int>() is var pass and >= 0 ? $"pass {pass}" : "reading";
                terminal.Progress(string.Create(
                    CultureInfo.InvariantCulture, $"{what}: {100.0 * done / total,5:0.0} % of {total} pages"));
                break;
            case "pass":
                terminal.Note(PassLine(snapshotEvent["pass"]!.AsObject()));
                break;
            case "decided":
                terminal.Detail($"decision: {snapshotEvent["text"]}");
                break;
        }
    }

    /// <summary>How a save or a restore ended.</summary>
    public static void ShowResult(Terminal terminal, JsonObject result)
    {
        string outcome = (string)result["outcome"]!;
        terminal.Result($"{"outcome",-16}{(outcome == "completed" ? terminal.Good(outcome) : terminal.Bad(outcome))}   kernel={result["kernel"]}");
        if ((string?)result["cause"] is { } cause)
            terminal.Result($"{"cause",-16}{cause}");
        if (!result["fileIsComplete"]!.GetValue<bool>())
            return;
        terminal.Result($"{"file",-16}{result["file"]}, {Size(result["fileBytes"])} long, {Size(result["presentBytes"])} of {Size(result["memoryBytes"])} of memory in it, the rest is zero");
        string state = string.Join(", ", result["stateBytes"]!.AsObject().Select(part => $"{part.Key} {Size(part.Value)}"));
        terminal.Result($"{"state",-16}{(state.Length > 0 ? state : "none")}");
        JsonArray parts = result["downtimeParts"]!.AsArray();
        if (parts.Count > 0)
        {
            string list = string.Join(", ", parts.Select(part =>
                string.Create(CultureInfo.InvariantCulture, $"{part!["name"]} {part["milliseconds"]!.GetValue<double>():0.0}")));
            terminal.Result(string.Create(
                CultureInfo.InvariantCulture, $"{"downtime",-16}{result["downtimeMilliseconds"]!.GetValue<double>():0.0} ms ({list})"));
        }

        terminal.Result(string.Create(
            CultureInfo.InvariantCulture,
            $"{"total",-16}{result["totalMilliseconds"]!.GetValue<double>() / 1000:0.00} s, {Size(result["memoryBytesMoved"])} of memory, {Size(result["throughputBytesPerSecond"])}/s, {result["threads"]} threads"));
        terminal.Result($"{"direct I/O",-16}{(result["directIO"]?.GetValue<bool>() == true ? "yes" : "no")}: {result["directIOReason"]}");
    }

    /// <summary>What a file is.</summary>
    public static void ShowContents(Terminal terminal, JsonObject contents)
    {
        terminal.Result($"{"snapshot",-16}{contents["file"]}, saved at {contents["savedAt"]}, {Size(contents["fileBytes"])} long");
        terminal.Result($"{"memory",-16}{Size(contents["memoryBytes"])} in {contents["slots"]!.AsArray().Count} slots; {Size(contents["presentBytes"])} in the file, the rest is zero");
        foreach ((string part, JsonNode? bytes) in contents["stateBytes"]!.AsObject())
            terminal.Result($"{part,-16}{Size(bytes)} of state");
        terminal.Result($"{"machine",-16}{contents["machine"]?.ToJsonString() ?? "(its description is not readable)"}");
        terminal.Result($"{"checked",-16}{(contents["verified"] is null
            ? "header, trailer and description (say --verify to check every page)"
            : terminal.Good("every page, every table and all state match their checksums"))}");
    }

    private static string PassLine(JsonObject pass) => string.Create(
        CultureInfo.InvariantCulture,
        $"pass {pass["index"],2}{(pass["final"]!.GetValue<bool>() ? " (final)" : "")}: {Number(pass["dirtyPages"])} dirty; {Number(pass["writtenPages"])} written, {Number(pass["zeroPages"])} zero in {pass["milliseconds"]!.GetValue<double>():0} ms");

    private static string Size(JsonNode? node) =>
        ByteSize.Format(node is null ? 0 : double.Parse(node.ToJsonString(), CultureInfo.InvariantCulture));

    private static ulong Number(JsonNode? node) =>
        node is null ? 0 : ulong.Parse(node.ToJsonString(), CultureInfo.InvariantCulture);
}
