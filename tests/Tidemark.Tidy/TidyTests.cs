namespace Tidemark.Tidy;

/// <summary>
/// Style as tests. Each rule is first shown to fire on a planted breach, then applied to the repository.
/// </summary>
public sealed class TidyTests
{
    private const int MaximumLines = 600;

    [Fact]
    public void References_follow_the_layer_table()
    {
        var allowed = LayerRules.Parse(Repository.Read("eng/layers.txt"));
        Assert.NotEmpty(LayerRules.FindViolations(
            allowed, "Tidemark.Migration", "<ProjectReference Include=\"../Tidemark.Kernel/Tidemark.Kernel.csproj\" />"));
        Assert.NotEmpty(LayerRules.FindViolations(allowed, "Tidemark.Unknown", ""));

        var projects = Directory.EnumerateFiles(Path.Combine(Repository.Root, "src"), "*.csproj", SearchOption.AllDirectories).ToList();
        Assert.NotEmpty(projects);
        Assert.Empty(projects.SelectMany(path =>
            LayerRules.FindViolations(allowed, Path.GetFileNameWithoutExtension(path), File.ReadAllText(path))));
        Assert.Empty(allowed.Keys.Except(projects.Select(path => Path.GetFileNameWithoutExtension(path)!)));
    }

    [Fact]
    public void Unsafe_code_stands_only_where_it_may_and_says_why()
    {
        Assert.NotEmpty(SourceRules.FindStrayUnsafe(new("src/Tidemark.Vfio/A.cs", "unsafe { }")));
        Assert.NotEmpty(SourceRules.FindStrayUnsafe(new("src/Tidemark.Vfio/A.Unsafe.cs", "unsafe { } // SAFETY: none")));
        Assert.NotEmpty(SourceRules.FindStrayUnsafe(new("src/Tidemark.Memory/A.Unsafe.cs", "unsafe { }")));
        Assert.Empty(SourceRules.FindStrayUnsafe(new("src/Tidemark.Memory/A.Unsafe.cs", "unsafe { } // SAFETY: proven")));
        Assert.Empty(Repository.Sources("src").SelectMany(SourceRules.FindStrayUnsafe));
    }

    [Fact]
    public void System_calls_are_made_in_one_project()
    {
        Assert.NotEmpty(SourceRules.FindStrayImports(new("src/Tidemark.Vfio/A.cs", "[LibraryImport(\"libc\")]")));
        Assert.Empty(Repository.Sources("src").SelectMany(SourceRules.FindStrayImports));
    }

    [Fact]
    public void Files_are_short_enough_to_read()
    {
        Assert.NotEmpty(SourceRules.FindTooLong(new("src/a/A.cs", new string('\n', MaximumLines + 1)), MaximumLines));
        Assert.Empty(Repository.Sources("src").Concat(Repository.Sources("tests"))
            .SelectMany(file => SourceRules.FindTooLong(file, MaximumLines)));
    }

    [Fact]
    public void Names_say_something()
    {
        Assert.NotEmpty(SourceRules.FindEmptyNames(new("src/a/A.cs", "internal sealed class StringHelper")));
        Assert.Empty(Repository.Sources("src").SelectMany(SourceRules.FindEmptyNames));
    }

    [Fact]
    public void Nothing_is_marked_unfinished()
    {
        Assert.NotEmpty(SourceRules.FindOpenMarks(new("src/a/A.cs", "// TO" + "DO: later")));
        Assert.Empty(Repository.Sources("src").Concat(Repository.Sources("tests"))
            .Where(file => file.Project != "Tidemark.Tidy").SelectMany(SourceRules.FindOpenMarks));
    }

    [Fact]
    public void No_path_of_one_machine_is_written_down()
    {
        Assert.NotEmpty(SourceRules.FindMachinePaths(new("src/a/A.cs", "\"/wo" + "rk/main\"")));
        Assert.Empty(Repository.Sources("src").Concat(Repository.Sources("tests"))
            .Where(file => file.Project != "Tidemark.Tidy").SelectMany(SourceRules.FindMachinePaths));
    }

    [Fact]
    public void Links_between_documents_resolve()
    {
        Assert.NotEmpty(DocumentRules.FindDeadLinks("docs/a.md", "[x](nowhere.md)", _ => false));
        Assert.Empty(Documents().SelectMany(path => DocumentRules.FindDeadLinks(
            path, Repository.Read(path),
            target => Path.Exists(Path.Combine(Repository.Root, target)))));
    }

    [Fact]
    public void What_documents_name_is_in_the_code()
    {
        var words = new HashSet<string> { "PageFramer", "Add" };
        var files = new HashSet<string> { "PageFramer.cs" };
        // In pieces, or this file would have the name among its words.
        const string Stale = "Page" + "Sender";
        string[] good = ["`PageFramer` and `PageFramer.Add`", "`src/a/PageFramer.cs`", "`--help`", "`CAP_SYS`", $"```\n`{Stale}`\n```"];
        Assert.All(good, text => Assert.Empty(DocumentRules.FindStaleNames("docs/a.md", text, words, files)));
        string[] stale = [$"`{Stale}`", "`PageFramer.Remove`", $"`src/a/{Stale}.cs`"];
        Assert.All(stale, text => Assert.Single(DocumentRules.FindStaleNames("docs/a.md", text, words, files)));

        SourceFile[] sources = [.. new[] { "src", "tests", "bench" }.SelectMany(Repository.Sources)];
        words = [.. sources.SelectMany(file => DocumentRules.WordsIn(file.Text))];
        files = [.. sources.Select(file => file.Name)];
        // The log of changes names what was there then.
        Assert.Empty(Documents().Where(path => path != "CHANGELOG.md")
            .SelectMany(path => DocumentRules.FindStaleNames(path, Repository.Read(path), words, files)));
    }

    [Fact]
    public void Every_promise_names_a_test_that_exists()
    {
        var none = new HashSet<string>();
        Assert.NotEmpty(DocumentRules.FindUntestedPromises("| 1 | it works | |", none));
        Assert.NotEmpty(DocumentRules.FindUntestedPromises("| 1 | it works | `Some_test` |", none));
        var tests = Repository.Sources("tests").SelectMany(file => DocumentRules.TestNamesIn(file.Text)).ToHashSet();
        Assert.Empty(DocumentRules.FindUntestedPromises(Repository.Read("SPECIFICATION.md"), tests));
    }

    [Fact]
    public void Every_divergence_of_the_soft_kernel_is_listed_and_names_a_test_that_exists()
    {
        var none = new HashSet<string>();
        SourceFile[] source = [new("src/Tidemark.Kernel.Soft/A.cs", "// FIDELITY: otherwise")];
        Assert.NotEmpty(DocumentRules.FindUnlistedDivergences("", source, none));
        Assert.NotEmpty(DocumentRules.FindUnlistedDivergences("| `A.cs` | a | b | `Some_test` |", source, none));
        Assert.NotEmpty(DocumentRules.FindUnlistedDivergences("| `B.cs` | a | b | `Some_test` |", [], new HashSet<string> { "Some_test" }));
        Assert.Empty(DocumentRules.FindUnlistedDivergences("| `A.cs` | a | b | `Some_test` |", source, new HashSet<string> { "Some_test" }));
        var tests = Repository.Sources("tests").SelectMany(file => DocumentRules.TestNamesIn(file.Text)).ToHashSet();
        Assert.Empty(DocumentRules.FindUnlistedDivergences(
            Repository.Read("docs/internals/divergences.md"), Repository.Sources("src"), tests));
    }

    [Fact]
    public void Every_known_defect_of_the_reference_implementation_names_its_test()
    {
        var tests = new HashSet<string> { "Some_test" };
        Assert.Empty(DocumentRules.FindUntestedDefects("| 1 | a | b | `Some_test` |", 1, tests));
        Assert.NotEmpty(DocumentRules.FindUntestedDefects("| 1 | a | b | `No_test` |", 1, tests));
        Assert.NotEmpty(DocumentRules.FindUntestedDefects("", 1, tests));
        Assert.NotEmpty(DocumentRules.FindUntestedDefects("| 1 | a | b | `Some_test` |\n| 3 | a | b | `Some_test` |", 1, tests));
        Assert.Empty(DocumentRules.FindUntestedDefects(
            Repository.Read("docs/internals/defects.md"), 11,
            Repository.Sources("tests").SelectMany(file => DocumentRules.TestNamesIn(file.Text)).ToHashSet()));
    }

    private static IEnumerable<string> Documents() =>
        Directory.EnumerateFiles(Repository.Root, "*.md")
            .Concat(Directory.EnumerateFiles(Path.Combine(Repository.Root, "docs"), "*.md", SearchOption.AllDirectories))
            .Concat(Directory.EnumerateFiles(Path.Combine(Repository.Root, "src"), "*.md", SearchOption.AllDirectories)
                .Where(path => !path.Contains("/obj/", StringComparison.Ordinal)))
            .Select(path => Path.GetRelativePath(Repository.Root, path));
}
