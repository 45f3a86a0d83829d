using System.Globalization;
using System.Text.Json.Nodes;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Output;

/// <summary>
/// A migration's figures as text: lines while it runs and the table at its end. Reads the JSON of <see
/// cref="MigrationJson"/>.
/// </summary>
internal static class MigrationTable
{
    /// <summary>In the order of the columns; those in which a migration has nothing but zeros are left out.</summary>
    private static readonly (string Word, string Heading)[] s_sources =
    [
        ("cpu", "cpu"), ("iommu", "iommu"), ("type1", "type1"), ("deviceLog", "log"), ("assumed", "assumed"),
        ("changes", "changes"),
    ];

    /// <summary>Shows one event.</summary>
    public static void Show(Terminal terminal, JsonObject migrationEvent)
    {
        switch ((string?)migrationEvent["event"])
        {
            case "phase":
                terminal.Detail($"phase: {migrationEvent["phase"]}");
                break;
            case "progress":
                ulong done = Number(migrationEvent["pagesDone"]);
                ulong total = Math.Max(1, Number(migrationEvent["pagesTotal"]));
                terminal.Progress(string.Create(
                    CultureInfo.InvariantCulture,
                    $"pass {migrationEvent["pass"]}: {100.0 * done / total,5:0.0} % of {total} pages, {ByteSize.Format(Number(migrationEvent["bytes"]))} sent"));
                break;
            case "pass":
                terminal.Note(PassLine(migrationEvent["pass"]!.AsObject()));
                break;
            case "waitingForSwitchover":
                terminal.Progress("ready; the machine runs on until `tidemark switchover`");
                break;
            case "decided":
                terminal.Detail($"decision: {migrationEvent["text"]}");
                break;
        }
    }

    public static string PassLine(JsonObject pass)
    {
        bool final = pass["final"]!.GetValue<bool>();
        string sources = Number(pass["index"]) == 0
            ? "all memory"
            : string.Join(", ", s_sources
                .Select(source => (source.Word, Pages: Number(pass["bySource"]![source.Word])))
                .Where(source => source.Pages > 0)
                .Select(source => $"{source.Word} {source.Pages}"));
        string prediction = pass["predictedDowntimeMilliseconds"] is { } predicted
            ? string.Create(CultureInfo.InvariantCulture, $", downtime now {predicted.GetValue<double>():0} ms")
            : "";
        return string.Create(
            CultureInfo.InvariantCulture,
            $"pass {pass["index"],2}{(final ? " (final)" : "")}: {Number(pass["dirtyPages"])} dirty{(sources.Length > 0 ? $" ({sources})" : "")}; {Number(pass["sentPages"])} sent, {Number(pass["zeroPages"])} zero, {ByteSize.Format(Number(pass["bytes"]))} in {pass["milliseconds"]!.GetValue<double>():0} ms{prediction}");
    }

    /// <summary>The table at the end of a migration.</summary>
    public static void ShowResult(Terminal terminal, JsonObject result)
    {
        string outcome = (string)result["outcome"]!;
        terminal.Result("");
        terminal.Result($"{"outcome",-16}{(outcome == "completed" ? terminal.Good(outcome) : terminal.Bad(outcome))}   kernel={result["kernel"]}");
        if ((string?)result["cause"] is { } cause)
            terminal.Result($"{"cause",-16}{cause}");
        terminal.Result($"{"memory",-16}{ByteSize.Format(Number(result["memoryBytes"]))}, processor writes seen by {result["cpuTracking"]}");
        foreach (JsonNode? device in result["devices"]?.AsArray() ?? [])
        {
            terminal.Result($"{(string)device!["name"]!,-16}tracked by {device["tracker"],-10} {device["reason"]}; moves {((string?)device["handover"] == "driver-assisted" ? "driver-assisted" : "by states")}; {ByteSize.Format(Number(device["stateBytes"]))} of state");
        }

        foreach (JsonNode? refusal in result["leafRefusals"]?.AsArray() ?? [])
            terminal.Result($"{"large leaves",-16}{refusal} Pages are compared with what was sent instead.");
        ShowPasses(terminal, result);
        string parts = string.Join(", ", (result["downtimeParts"]?.AsArray() ?? []).Select(part =>
            string.Create(CultureInfo.InvariantCulture, $"{part!["name"]} {part["milliseconds"]!.GetValue<double>():0.0}")));
        terminal.Result(string.Create(
            CultureInfo.InvariantCulture,
            $"{"downtime",-16}{Double(result["downtimeMilliseconds"]):0.0} ms{(parts.Length > 0 ? $" ({parts})" : "")}; verification {Double(result["verifyMilliseconds"]):0} ms apart"));
        terminal.Result(string.Create(
            CultureInfo.InvariantCulture,
            $"{"total",-16}{Double(result["totalMilliseconds"]) / 1000:0.00} s, {ByteSize.Format(Number(result["bytesSent"]))} sent, {ByteSize.Format(Double(result["throughputBytesPerSecond"]))}/s"));
        ShowVerdict(terminal, result);
    }

    /// <summary>The result of a dry run.</summary>
    public static void ShowForecast(Terminal terminal, JsonObject forecast)
    {
        terminal.Result($"{"dry run",-16}nothing was sent; kernel={forecast["kernel"]}");
        terminal.Result($"{"bandwidth",-16}{ByteSize.Format(Double(forecast["bandwidthBytesPerSecond"]))}/s{(forecast["bandwidthIsAssumed"]!.GetValue<bool>() ? " assumed; say --bandwidth-limit for yours" : "")}");
        foreach (JsonNode? pass in forecast["passes"]!.AsArray())
        {
            terminal.Result(string.Create(
                CultureInfo.InvariantCulture,
                $"{$"pass {pass!["index"]}",-16}{Number(pass["dirtyPages"]),9} pages, {ByteSize.Format(Number(pass["bytes"]))}, {Double(pass["milliseconds"]):0} ms"));
        }

        terminal.Result(string.Create(
            CultureInfo.InvariantCulture,
            $"{"downtime",-16}{Double(forecast["downtimeMilliseconds"]):0.0} ms expected, {Double(forecast["promisedMilliseconds"]):0.0} ms at most; {Double(forecast["totalMilliseconds"]) / 1000:0.0} s and {ByteSize.Format(Number(forecast["bytesSent"]))} in all"));
        terminal.Result($"{"verdict",-16}{(forecast["converges"]!.GetValue<bool>() ? terminal.Good("converges") : terminal.Bad("does not converge"))}: {forecast["text"]}");
    }

    private static void ShowPasses(Terminal terminal, JsonObject result)
    {
        JsonArray passes = result["passes"]?.AsArray() ?? [];
        if (passes.Count == 0)
            return;
        terminal.Result("");
        (string Word, string Heading)[] shown = [.. s_sources
            .Where(source => passes.Any(pass => Number(pass!["bySource"]![source.Word]) > 0))];
        bool compares = passes.Any(pass => Number(pass!["unchangedPages"]) > 0);
        string headings = string.Concat(shown.Select(source => $"{source.Heading,9}"));
        terminal.Result(terminal.Bold(
            $"{"pass",-8}{"dirty",9}{headings}{"sent",9}{"zero",9}{(compares ? $"{"same",9}" : "")}{"bytes",11}{"ms",9}"));
        foreach (JsonNode? pass in passes)
        {
            string name = $"{pass!["index"]}{(pass["final"]!.GetValue<bool>() ? " final" : "")}";
            string sources = string.Concat(shown.Select(source => $"{Number(pass["bySource"]![source.Word]),9}"));
            string same = compares ? $"{Number(pass["unchangedPages"]),9}" : "";
            terminal.Result(string.Create(
                CultureInfo.InvariantCulture,
                $"{name,-8}{Number(pass["dirtyPages"]),9}{sources}{Number(pass["sentPages"]),9}{Number(pass["zeroPages"]),9}{same}{ByteSize.Format(Number(pass["bytes"])),11}{Double(pass["milliseconds"]),9:0.0}"));
        }

        terminal.Result("");
    }

    private static void ShowVerdict(Terminal terminal, JsonObject result)
    {
        if (result["verified"] is not JsonObject verified || verified["memoryEqual"] is not { } equal)
        {
            terminal.Result($"{"verified",-16}no (say --verify to compare all memory before the hand-over)");
            return;
        }

        string text = equal.GetValue<bool>()
            ? terminal.Good("memory equal on both sides, 0 lost pages")
            : terminal.Bad($"{verified["lostPages"]} lost pages");
        if (verified["readsAfterMove"] is { } reads)
            text += $", {verified["dataErrors"]} data errors, {reads} reads on the other side";
        terminal.Result($"{"verified",-16}{text}");
    }

    private static ulong Number(JsonNode? node) => node is null ? 0 : ulong.Parse(node.ToJsonString(), CultureInfo.InvariantCulture);

    private static double Double(JsonNode? node) => node is null ? 0 : double.Parse(node.ToJsonString(), CultureInfo.InvariantCulture);
}
