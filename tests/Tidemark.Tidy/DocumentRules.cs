using System.Text.RegularExpressions;

namespace Tidemark.Tidy;

/// <summary>Rules over the documents.</summary>
internal static partial class DocumentRules
{
    /// <summary>Relative links that lead nowhere.</summary>
    public static IEnumerable<string> FindDeadLinks(string path, string text, Func<string, bool> exists) =>
        Link().Matches(text).Select(match => match.Groups[1].Value.Split('#')[0])
            .Where(target => target.Length > 0 && !target.Contains("://", StringComparison.Ordinal))
            .Where(target => !exists(Path.GetFullPath(Path.Combine("/", Path.GetDirectoryName(path) ?? "", target))[1..]))
            .Select(target => $"{path} links to {target}, which does not exist.");

    /// <summary>Promises of SPECIFICATION.md: numbered lines, each naming its test.</summary>
    public static IEnumerable<string> FindUntestedPromises(string specification, IReadOnlySet<string> testNames)
    {
        foreach (string line in specification.Split('\n').Where(line => Promise().IsMatch(line)))
        {
            var tests = TestName().Matches(line).Select(match => match.Groups[1].Value).ToList();
            if (tests.Count == 0)
                yield return $"A promise names no test: {line.Trim()}";
            foreach (string test in tests.Where(test => !testNames.Contains(test)))
                yield return $"A promise names the test {test}, which does not exist.";
        }
    }

    public static IEnumerable<string> TestNamesIn(string source) => TestMethod().Matches(source).Select(match => match.Groups[1].Value);

    [GeneratedRegex(@"\]\(([^)\s]+)\)")]
    private static partial Regex Link();

    [GeneratedRegex(@"^\| *\d+ *\|")]
    private static partial Regex Promise();

    [GeneratedRegex(@"`(\w+_\w+)`")]
    private static partial Regex TestName();

    [GeneratedRegex(@"public (?:async )?(?:void|Task) (\w+)\(")]
    private static partial Regex TestMethod();
}
