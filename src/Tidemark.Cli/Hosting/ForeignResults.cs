using System.Text.Json;
using System.Text.Json.Nodes;
using Tidemark.Conformance;

namespace Tidemark.Cli.Hosting;

/// <summary>What <c>tidemark conform --json</c> wrote on another kernel.</summary>
/// <param name="Kernel">Which kernel it was.</param>
internal sealed record ForeignResults(string Kernel, IReadOnlyList<ForeignResult> Cases)
{
    private const long MaximumBytes = 64 << 20;

    /// <exception cref="CommandFailure">The file can not be read, or holds something else.</exception>
    public static ForeignResults Read(string path)
    {
        try
        {
            var file = new FileInfo(path);
            if (file.Exists && file.Length > MaximumBytes)
                throw NotResults(path, $"it has {file.Length} bytes");
            JsonNode root = JsonNode.Parse(File.ReadAllText(path)) ?? throw NotResults(path, "it holds null");
            string kernel = (string?)root["kernel"] ?? throw NotResults(path, "it names no kernel");
            JsonArray cases = root["cases"] as JsonArray ?? throw NotResults(path, "it has no cases");
            return new ForeignResults(kernel, [.. cases.Select(item => ReadCase(path, item))]);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // The file is what the user named; nothing was judged yet.
            throw new CommandFailure($"Reading {path} failed: {failure.Message}", ExitCode.Usage);
        }
        catch (Exception failure) when (failure is JsonException or InvalidOperationException or FormatException)
        {
            // A file of another kind.
            throw NotResults(path, failure.Message);
        }
    }

    private static ForeignResult ReadCase(string path, JsonNode? item)
    {
        string name = (string?)item?["name"] ?? throw NotResults(path, "a case has no name");
        ConformanceVerdict verdict = (string?)item!["result"] switch
        {
            "passed" => ConformanceVerdict.Passed,
            "failed" => ConformanceVerdict.Failed,
            "notApplicable" => ConformanceVerdict.NotApplicable,
            var other => throw NotResults(path, $"the result of {name} is \"{other}\""),
        };
        return new ForeignResult(name, verdict, (string?)item["reason"]);
    }

    private static CommandFailure NotResults(string path, string why) =>
        new($"{path} is not what tidemark conform --json writes: {why}.", ExitCode.Usage);
}
