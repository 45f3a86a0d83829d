using System.Text.RegularExpressions;

namespace Tidemark.Tidy;

/// <summary>Rules over source text. Each returns one sentence for each breach, with file and line.</summary>
internal static partial class SourceRules
{
    private static readonly string[] UnsafeProjects =
        ["Tidemark.Memory", "Tidemark.Kernel", "Tidemark.Kernel.Linux", "Tidemark.Kernel.Soft"];

    /// <summary>Unsafe code only in *.Unsafe.cs of four projects, and each such file says why it is sound.</summary>
    public static IEnumerable<string> FindStrayUnsafe(SourceFile file)
    {
        bool isUnsafeFile = file.Name.EndsWith(".Unsafe.cs", StringComparison.Ordinal);
        var uses = file.Lines.Where(line => UnsafeUse().IsMatch(WithoutComment(line.Text))).ToList();
        if (uses.Count == 0)
            return isUnsafeFile ? [$"{file.Path}: nothing in it is unsafe; drop .Unsafe from its name."] : [];
        if (!isUnsafeFile)
            return uses.Select(use => $"{file.Path}:{use.Number}: unsafe code belongs into a *.Unsafe.cs file.");
        if (!UnsafeProjects.Contains(file.Project))
            return [$"{file.Path}: {file.Project} may hold no unsafe code."];
        return file.Text.Contains("// SAFETY:", StringComparison.Ordinal) ? [] : [$"{file.Path}: no SAFETY: comment says why it is sound."];
    }

    /// <summary>System calls only in Kernel.Linux.</summary>
    public static IEnumerable<string> FindStrayImports(SourceFile file) =>
        file.Project == "Tidemark.Kernel.Linux" ? [] : file.Lines.Where(line => Import().IsMatch(WithoutComment(line.Text)))
            .Select(line => $"{file.Path}:{line.Number}: system calls are made in Tidemark.Kernel.Linux only.");

    public static IEnumerable<string> FindTooLong(SourceFile file, int maximum)
    {
        int count = file.Lines.Count();
        return count <= maximum ? [] : [$"{file.Path} has {count} lines; {maximum} is the most."];
    }

    /// <summary>Names that say nothing.</summary>
    public static IEnumerable<string> FindEmptyNames(SourceFile file) =>
        TypeName().Matches(file.Text).Select(match => match.Groups[1].Value).Where(name => EmptyWord().IsMatch(name))
            .Select(name => $"{file.Path}: the type name {name} holds a word that says nothing.");

    /// <summary>Marks of unfinished work, and comment tags that nobody greps for.</summary>
    public static IEnumerable<string> FindOpenMarks(SourceFile file) =>
        file.Lines.Where(line => OpenMark().IsMatch(line.Text)).Select(line => $"{file.Path}:{line.Number}: unfinished: {line.Text.Trim()}");

    /// <summary>Paths of one machine.</summary>
    public static IEnumerable<string> FindMachinePaths(SourceFile file) =>
        file.Lines.Where(line => MachinePath().IsMatch(line.Text)).Select(line => $"{file.Path}:{line.Number}: a path of one machine: {line.Text.Trim()}");

    private static string WithoutComment(string line)
    {
        int comment = line.IndexOf("//", StringComparison.Ordinal);
        return comment < 0 ? line : line[..comment];
    }

    [GeneratedRegex(@"\bunsafe\b|\bMemoryMarshal\.|\bMarshal\.|\bUnsafe\.[A-Z]|\bNativeMemory\.")]
    private static partial Regex UnsafeUse();

    [GeneratedRegex(@"\[(LibraryImport|DllImport)\b")]
    private static partial Regex Import();

    [GeneratedRegex(@"\b(?:class|struct|record|interface|enum)\s+(?:struct\s+|class\s+)?([A-Z]\w+)")]
    private static partial Regex TypeName();

    [GeneratedRegex(@"(Util|Helper|Common|Manager|Misc|Mock)|Base$")]
    private static partial Regex EmptyWord();

    [GeneratedRegex(@"\bTO" + @"DO\b|\bFIX" + @"ME\b|\bHA" + @"CK\b|\bXX" + @"X\b|NotImplemented" + "Exception")]
    private static partial Regex OpenMark();

    [GeneratedRegex(@"(?<![\w$}])/(work|farm|home|root)/[a-z.]")]
    private static partial Regex MachinePath();
}
