using System.Text.RegularExpressions;

namespace Tidemark.Tidy;

/// <summary>eng/layers.txt against the project files.</summary>
internal static partial class LayerRules
{
    public static IReadOnlyDictionary<string, HashSet<string>> Parse(string table) =>
        table.Split('\n').Select(line => line.Trim()).Where(line => line.Length > 0 && line[0] != '#')
            .ToDictionary(
                line => line[..line.IndexOf(':', StringComparison.Ordinal)],
                line => line[(line.IndexOf(':', StringComparison.Ordinal) + 1)..]
                    .Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(name => "Tidemark." + name).ToHashSet(StringComparer.Ordinal));

    /// <summary>
    /// One sentence for each reference that the table does not allow, and for each project it does not know.
    /// </summary>
    public static IEnumerable<string> FindViolations(IReadOnlyDictionary<string, HashSet<string>> allowed, string project, string projectFile)
    {
        if (!allowed.TryGetValue(project, out HashSet<string>? names))
            return [$"{project} is not in eng/layers.txt."];
        return Reference().Matches(projectFile).Select(match => match.Groups[1].Value)
            .Where(name => !names.Contains(name))
            .Select(name => $"{project} references {name}, which eng/layers.txt does not allow.");
    }

    [GeneratedRegex("<ProjectReference[^>]*Include=\"[^\"]*?([^/\"]+)\\.csproj\"")]
    private static partial Regex Reference();
}
