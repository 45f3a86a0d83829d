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

    /// <summary>Types, members and source files that a document names and that are not, or not any more, in the code.</summary>
    /// <param name="words">Every word of the sources.</param>
    /// <param name="files">The names of source files, without their folders.</param>
    public static IEnumerable<string> FindStaleNames(string path, string text, IReadOnlySet<string> words, IReadOnlySet<string> files)
    {
        foreach (string code in Code().Matches(Fence().Replace(text, "")).Select(match => match.Groups[1].Value))
        {
            bool isThere = SourceName().IsMatch(code)
                ? files.Contains(Path.GetFileName(code))
                : !CodeName().IsMatch(code) || code.Split('.').All(words.Contains);
            if (!isThere)
                yield return $"{path} names {code}, which is not in the code.";
        }
    }

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

    /// <summary>
    /// docs/internals/divergences.md: a row for each FIDELITY comment of the soft kernel, by file, each naming a test.
    /// </summary>
    public static IEnumerable<string> FindUnlistedDivergences(
        string document, IEnumerable<SourceFile> sources, IReadOnlySet<string> testNames)
    {
        const string Folder = "src/Tidemark.Kernel.Soft/";
        var rows = document.Split('\n').Where(line => Divergence().IsMatch(line)).ToList();
        var listed = rows.GroupBy(line => Divergence().Match(line).Groups[1].Value)
            .ToDictionary(group => group.Key, group => group.Count());
        foreach (SourceFile source in sources.Where(source => source.Path.StartsWith(Folder, StringComparison.Ordinal)))
        {
            string name = source.Path[Folder.Length..];
            int comments = source.Text.Split("FIDELITY:").Length - 1;
            listed.Remove(name, out int entries);
            if (comments != entries)
                yield return $"{name} has {comments} FIDELITY comments, and divergences.md {entries} entries for it.";
        }

        foreach (string stale in listed.Keys)
            yield return $"divergences.md has an entry for {stale}, which does not exist.";
        foreach (string line in document.Split('\n').Where(line => line.StartsWith("| ", StringComparison.Ordinal)))
        {
            var tests = TestName().Matches(line).Select(match => match.Groups[1].Value).ToList();
            bool isHead = line.Contains("| test |", StringComparison.Ordinal) || line.StartsWith("| ---", StringComparison.Ordinal);
            if (!isHead && !tests.Exists(testNames.Contains))
                yield return $"An entry of divergences.md names no test that exists: {line}";
        }
    }

    /// <summary>docs/internals/defects.md: rows numbered from 1 to <paramref name="count"/>, each naming a test.</summary>
    public static IEnumerable<string> FindUntestedDefects(string document, int count, IReadOnlySet<string> testNames)
    {
        string[] rows = [.. document.Split('\n').Where(line => Promise().IsMatch(line))];
        for (int number = 1; number <= count; number++)
        {
            string? row = Array.Find(rows, line => line.StartsWith($"| {number} |", StringComparison.Ordinal));
            if (row is null)
                yield return $"defects.md has no row for number {number}.";
            else if (!TestName().Matches(row).Any(match => testNames.Contains(match.Groups[1].Value)))
                yield return $"Number {number} of defects.md names no test that exists.";
        }

        if (rows.Length != count)
            yield return $"defects.md has {rows.Length} rows with a number, not {count}.";
    }

    public static IEnumerable<string> WordsIn(string source) => Word().Matches(source).Select(match => match.Value);

    public static IEnumerable<string> TestNamesIn(string source) => TestMethod().Matches(source).Select(match => match.Groups[1].Value);

    [GeneratedRegex(@"\]\(([^)\s]+)\)")]
    private static partial Regex Link();

    [GeneratedRegex(@"^```.*?^```", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Fence();

    [GeneratedRegex(@"`([^`\n]+)`")]
    private static partial Regex Code();

    [GeneratedRegex(@"^[\w./-]+\.cs$")]
    private static partial Regex SourceName();

    [GeneratedRegex(@"\w+")]
    private static partial Regex Word();

    /// <summary>As types are named here, and members of them; words of one letter case are commands and fields.</summary>
    [GeneratedRegex(@"^[A-Z]\w*[a-z]\w*(\.[A-Z]\w+)*$")]
    private static partial Regex CodeName();

    [GeneratedRegex(@"^\| *\d+ *\|")]
    private static partial Regex Promise();

    [GeneratedRegex(@"`(\w+_\w+)`")]
    private static partial Regex TestName();

    [GeneratedRegex(@"^\| `([\w./]+\.cs)` \|")]
    private static partial Regex Divergence();

    [GeneratedRegex(@"public (?:async )?(?:void|Task) (\w+)\(")]
    private static partial Regex TestMethod();
}
