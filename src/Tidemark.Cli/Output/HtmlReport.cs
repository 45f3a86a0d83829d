using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Output;

/// <summary>
/// A migration as one HTML file that needs nothing else: figures, passes, downtime by part, and a heat map of dirty
/// pages over passes, one row a pass, one column 1/256 of guest memory, coloured by source.
/// </summary>
internal static class HtmlReport
{
    private const int CellWidth = 4;
    private const int CellHeight = 18;

    private static readonly (string Word, string Name, string Colour)[] Sources =
    [
        ("cpu", "processors", "#2f6db3"),
        ("iommu", "IOMMU dirty bits", "#c8553d"),
        ("type1", "type1", "#b5838d"),
        ("deviceLog", "device log", "#588157"),
        ("assumed", "assumed", "#8d6a9f"),
        ("changes", "unmapped, joined, reset", "#6d6875"),
    ];

    /// <exception cref="CommandFailure">The file can not be written; nothing half written is left.</exception>
    public static void Write(string path, JsonObject result)
    {
        string temporary = path + ".part";
        try
        {
            if (IsWrittenInPlace(path))
            {
                File.WriteAllText(path, Render(result));
                return;
            }

            File.WriteAllText(temporary, Render(result));
            File.Move(temporary, path, overwrite: true);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException or ArgumentException)
        {
            // The old report, if there was one, is untouched.
            try
            {
                File.Delete(temporary);
            }
            catch (Exception second) when (second is IOException or UnauthorizedAccessException or ArgumentException)
            {
                // Whatever prevented the writing prevents this too; the message below names the place.
            }

            throw new CommandFailure($"The report {path} can not be written: {failure.Message}");
        }
    }

    /// <summary>Said before the long work, not after it.</summary>
    /// <exception cref="CommandFailure">There can be no file of that name.</exception>
    public static void RequireWritable(string? path)
    {
        if (path is null)
            return;
        string? problem = path.Length == 0 ? "its name is empty"
            : Directory.Exists(path) ? "it is a folder"
            : !Directory.Exists(Path.GetDirectoryName(Path.GetFullPath(path))) ? "its folder does not exist"
            : null;
        if (problem is not null)
            throw new CommandFailure($"The report {path} can not be written: {problem}.", ExitCode.Usage);
    }

    /// <summary>A device, a pipe or a link must not be replaced by an ordinary file.</summary>
    private static bool IsWrittenInPlace(string path) =>
        new FileInfo(path) is { Exists: true } file && (file.Length == 0 || file.LinkTarget is not null);

    public static string Render(JsonObject result)
    {
        var html = new StringBuilder();
        string outcome = (string)result["outcome"]!;
        html.Append("""
            <!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
            <title>Tidemark migration report</title><style>
            body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1120px;padding:0 1rem;color:#222;background:#fff}
            h1{font-size:1.5rem;margin-bottom:.2rem} h2{font-size:1.1rem;margin-top:2rem}
            table{border-collapse:collapse;font-variant-numeric:tabular-nums} th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}
            th:first-child,td:first-child{text-align:left} td.text{text-align:left}
            .good{color:#2a7d2e}.bad{color:#b3261e}.key span{display:inline-block;width:.9em;height:.9em;margin:0 .35em 0 1.1em;vertical-align:-.1em}
            svg{max-width:100%;height:auto} .scroll{overflow-x:auto} p.note{color:#555}
            </style></head><body>
            """);
        html.Append(CultureInfo.InvariantCulture, $"<h1>Migration <span class=\"{(outcome == "completed" ? "good" : "bad")}\">{Text(outcome)}</span></h1>");
        html.Append(CultureInfo.InvariantCulture, $"<p class=\"note\">kernel={Text(result["kernel"])} &middot; processor writes seen by {Text(result["cpuTracking"])} &middot; memory {Size(result["memoryBytes"])}</p>");
        if (result["cause"] is { } cause)
            html.Append(CultureInfo.InvariantCulture, $"<p class=\"bad\">{Text(cause)}</p>");
        AppendFigures(html, result);
        AppendHeatMap(html, result["passes"]?.AsArray() ?? []);
        AppendPasses(html, result["passes"]?.AsArray() ?? []);
        AppendDevices(html, result["devices"]?.AsArray() ?? []);
        html.Append("</body></html>\n");
        return html.ToString();
    }

    private static void AppendFigures(StringBuilder html, JsonObject result)
    {
        html.Append("<h2>Figures</h2><table>");
        Row(html, "Downtime", $"{Milliseconds(result["downtimeMilliseconds"])} ms");
        foreach (JsonNode? part in result["downtimeParts"]?.AsArray() ?? [])
            Row(html, $"&nbsp;&nbsp;{Text(part!["name"])}", $"{Milliseconds(part["milliseconds"])} ms");
        Row(html, "Verification (apart)", $"{Milliseconds(result["verifyMilliseconds"])} ms");
        Row(html, "Total", $"{Milliseconds(result["totalMilliseconds"])} ms");
        Row(html, "Sent", Size(result["bytesSent"]));
        Row(html, "Throughput", Size(result["throughputBytesPerSecond"]) + "/s");
        if (result["verified"] is JsonObject verified && verified["memoryEqual"] is { } equal)
        {
            bool good = equal.GetValue<bool>();
            Row(html, "Memory equal", $"<span class=\"{(good ? "good" : "bad")}\">{(good ? "yes" : "no")}, {Text(verified["lostPages"])} lost pages</span>");
            if (verified["readsAfterMove"] is { } reads)
                Row(html, "Reads after the move", $"{Text(reads)}, {Text(verified["dataErrors"])} data errors");
        }

        html.Append("</table>");
    }

    private static void AppendHeatMap(StringBuilder html, JsonArray passes)
    {
        List<JsonObject> rows = [.. passes.Select(pass => pass!.AsObject()).Where(pass => pass["heat"] is JsonObject { Count: > 0 })];
        html.Append("<h2>Dirty pages over passes</h2>");
        if (rows.Count == 0)
        {
            html.Append("<p class=\"note\">No pass after the full copy.</p>");
            return;
        }

        html.Append("<p class=\"key\">guest memory from left (0) to right (end); one row a pass and source; strength: share of pages dirty");
        foreach ((_, string name, string colour) in Sources)
            html.Append(CultureInfo.InvariantCulture, $"<span style=\"background:{colour}\"></span>{name}");
        html.Append("</p><div class=\"scroll\">");
        const int Left = 70;
        int width = Left + (256 * CellWidth);
        int stripes = rows.Sum(row => row["heat"]!.AsObject().Count);
        int height = (stripes * (CellHeight / 2)) + (rows.Count * 6);
        html.Append(CultureInfo.InvariantCulture, $"<svg role=\"img\" aria-label=\"heat map of dirty pages\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" xmlns=\"http://www.w3.org/2000/svg\">");
        int top = 0;
        foreach (JsonObject row in rows)
        {
            JsonObject heat = row["heat"]!.AsObject();
            int rowHeight = heat.Count * (CellHeight / 2);
            html.Append(CultureInfo.InvariantCulture, $"<text x=\"0\" y=\"{top + (rowHeight / 2) + 4}\" font-size=\"12\">pass {Text(row["index"])}</text>");
            html.Append(CultureInfo.InvariantCulture, $"<rect x=\"{Left}\" y=\"{top}\" width=\"{256 * CellWidth}\" height=\"{rowHeight}\" fill=\"#f4f4f2\"/>");
            foreach ((string word, _, string colour) in Sources)
            {
                if (heat[word] is not JsonArray buckets)
                    continue;
                AppendStripe(html, buckets, Left, top, colour);
                top += CellHeight / 2;
            }

            top += 6;
        }

        html.Append("</svg></div>");
    }

    private static void AppendStripe(StringBuilder html, JsonArray buckets, int left, int top, string colour)
    {
        double most = Math.Max(1, buckets.Max(bucket => Number(bucket)));
        for (int index = 0; index < buckets.Count; index++)
        {
            double value = Number(buckets[index]);
            if (value == 0)
                continue;
            // Even one dirty page must be visible: strength begins at a quarter.
            double strength = 0.25 + (0.75 * value / most);
            html.Append(CultureInfo.InvariantCulture, $"<rect x=\"{left + (index * CellWidth)}\" y=\"{top}\" width=\"{CellWidth}\" height=\"{CellHeight / 2}\" fill=\"{colour}\" fill-opacity=\"{strength:0.00}\"><title>{value:0} pages</title></rect>");
        }
    }

    private static void AppendPasses(StringBuilder html, JsonArray passes)
    {
        html.Append("<h2>Passes</h2><div class=\"scroll\"><table><tr><th>pass</th><th>dirty</th>");
        foreach ((_, string name, _) in Sources)
            html.Append(CultureInfo.InvariantCulture, $"<th>{name}</th>");
        html.Append("<th>sent</th><th>unchanged</th><th>zero</th><th>bytes</th><th>ms</th><th>predicted downtime</th></tr>");
        foreach (JsonNode? pass in passes)
        {
            string label = $"{Text(pass!["index"])}{(pass["final"]!.GetValue<bool>() ? " (final)" : "")}";
            html.Append(CultureInfo.InvariantCulture, $"<tr><td>{label}</td><td>{Text(pass["dirtyPages"])}</td>");
            foreach ((string word, _, _) in Sources)
                html.Append(CultureInfo.InvariantCulture, $"<td>{Text(pass["bySource"]![word])}</td>");
            string predicted = pass["predictedDowntimeMilliseconds"] is { } value ? Milliseconds(value) + " ms" : "";
            html.Append(CultureInfo.InvariantCulture, $"<td>{Text(pass["sentPages"])}</td><td>{Text(pass["unchangedPages"])}</td><td>{Text(pass["zeroPages"])}</td><td>{Size(pass["bytes"])}</td><td>{Milliseconds(pass["milliseconds"])}</td><td>{predicted}</td></tr>");
        }

        html.Append("</table></div>");
    }

    private static void AppendDevices(StringBuilder html, JsonArray devices)
    {
        html.Append("<h2>Devices</h2><div class=\"scroll\"><table><tr><th>device</th><th>tracked by</th><th>state</th><th class=\"text\">why</th></tr>");
        foreach (JsonNode? device in devices)
            html.Append(CultureInfo.InvariantCulture, $"<tr><td>{Text(device!["name"])}</td><td>{Text(device["tracker"])}</td><td>{Size(device["stateBytes"])}</td><td class=\"text\">{Text(device["reason"])}</td></tr>");
        html.Append("</table></div>");
    }

    private static void Row(StringBuilder html, string name, string value) =>
        html.Append(CultureInfo.InvariantCulture, $"<tr><td>{name}</td><td>{value}</td></tr>");

    private static string Text(JsonNode? node) => WebUtility.HtmlEncode(node?.ToString() ?? "");

    private static string Text(string text) => WebUtility.HtmlEncode(text);

    private static double Number(JsonNode? node) => node is null ? 0 : double.Parse(node.ToJsonString(), CultureInfo.InvariantCulture);

    private static string Size(JsonNode? node) => ByteSize.Format(Number(node));

    private static string Milliseconds(JsonNode? node) => Number(node).ToString("0.0", CultureInfo.InvariantCulture);
}
