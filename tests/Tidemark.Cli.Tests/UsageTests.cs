using System.Text.RegularExpressions;

namespace Tidemark.Cli.Tests;

public sealed partial class UsageTests
{
    [Theory]
    [InlineData("There is no command or option \"bogus\"", "bogus")]
    [InlineData("There is no option \"--bogus\"", "demo", "--bogus")]
    [InlineData("There is no plant \"bogus\"", "demo", "--plant", "bogus")]
    [InlineData("--memory must be", "demo", "--memory", "1")]
    [InlineData("--memory is \"99999999TiB\"", "demo", "--memory", "99999999TiB")]
    [InlineData("--channels is \"65\"", "demo", "--channels", "65")]
    [InlineData("The demo takes at most 8 files", "demo", "1", "2", "3", "4", "5", "6", "7", "8", "9")]
    [InlineData("its folder does not exist", "demo", "--report", "none/report.html")]
    [InlineData("needs two different --device", "demo", "--kernel", "linux", "--device", "0000:01:00.0")]
    [InlineData("needs two different --device", "demo", "--kernel", "linux", "--device", "0000:01:00.0", "--device", "0000:01:00.0")]
    [InlineData("a PCI address looks like", "demo", "--kernel", "linux", "--device", "nvme0", "--device", "0000:01:00.0")]
    [InlineData("--device is for --kernel linux", "demo", "--device", "0000:01:00.0")]
    [InlineData("is a fault of the soft kernel", "demo", "--kernel", "linux", "--device", "0000:01:00.0", "--device", "0000:02:00.0", "--plant", "skip-iotlb-drain")]
    [InlineData("There is no such file", "run", "none.json")]
    [InlineData("empty or no ordinary file", "run", "/dev/zero")]
    [InlineData("beyond this machine", "receive", "quiet.json", "--listen", "tcp:0.0.0.0:0")]
    [InlineData("Say --tls FOLDER on both sides", "migrate", "quiet", "tcp:192.0.2.1:4711")]
    [InlineData("contradict each other", "migrate", "quiet", "tcp:192.0.2.1:4711", "--tls", "pki", "--insecure")]
    [InlineData("without --tls there are none", "receive", "quiet.json", "--tls-peer", "hosta")]
    [InlineData("The TLS folder none does not exist", "receive", "quiet.json", "--listen", "tcp:0.0.0.0:0", "--tls", "none")]
    [InlineData("--bandwidth-limit is \"1KiB\"", "migrate", "quiet", "unix:s", "--bandwidth-limit", "1KiB")]
    [InlineData("--days is \"0\"", "certificates", "pki", "--host", "hosta", "--days", "0")]
    [InlineData("is not an address", "migrate", "quiet", "nowhere")]
    [InlineData("tidemark snapshot save", "migrate", "quiet", "file:a.tms")]
    [InlineData("add --kernel soft", "conform", "--profile", "vtd")]
    [InlineData("--direct is \"maybe\"", "snapshot", "save", "quiet", "a.tms", "--direct", "maybe")]
    [InlineData("Try `tidemark snapshot info --help`", "snapshot", "info")]
    [InlineData("There is no such file", "snapshot", "restore", "a.tms", "none.json")]
    [InlineData("There is no profile \"bogus\"", "conform", "--kernel", "soft", "--profile", "bogus")]
    public void A_wrong_command_line_is_told_and_ends_with_64(string message, params string[] arguments)
    {
        using var scene = new Scene();
        CommandLine process = scene.Expect(64, arguments);
        Assert.Contains(message, process.Error, StringComparison.Ordinal);
        Assert.Empty(process.Output);
    }

    [Fact]
    public void All_mistakes_of_a_machine_file_are_told_with_their_lines()
    {
        using var scene = new Scene();
        File.WriteAllText(Path.Combine(scene.Folder, "bad.json"), """
            {
              "name": "two words",
              "memory": { "size": "5MiB" },
              "name": "twice",
              "devices": [
                { "name": "nvme0", "host": "zz" },
                3
              ],
              "bogus": true
            }
            """);
        string error = scene.Expect(64, "run", "bad.json").Error;
        Assert.Contains("6 mistakes", error, StringComparison.Ordinal);
        foreach (int line in new[] { 2, 3, 4, 6, 7, 9 })
            Assert.Contains($"bad.json:{line}: ", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("[]")]
    [InlineData("{\"kernel\": \"linux\"")]
    [InlineData("{\"kernel\": 3, \"cases\": []}")]
    [InlineData("{\"kernel\": \"linux\", \"cases\": [3]}")]
    [InlineData("{\"kernel\": \"linux\", \"cases\": [{\"name\": \"a\", \"result\": \"maybe\"}]}")]
    public void Results_to_compare_with_that_are_none_are_told(string text)
    {
        using var scene = new Scene();
        File.WriteAllText(Path.Combine(scene.Folder, "other.json"), text);
        string error = scene.Expect(64, "conform", "--kernel", "soft", "--against", "other.json").Error;
        Assert.Contains("other.json is not what tidemark conform --json writes", error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_fifo_is_refused_as_machine_file_and_as_disk_instead_of_being_waited_for()
    {
        using var scene = new Scene();
        using (var make = System.Diagnostics.Process.Start("mkfifo", [Path.Combine(scene.Folder, "fifo")]))
            make.WaitForExit();
        scene.Expect(64, "run", "fifo");
        scene.Expect(1, "demo", "fifo");
    }

    [Fact]
    public void A_machine_larger_than_the_host_is_refused_before_it_starts()
    {
        using var scene = new Scene();
        string file = scene.WriteMachine("large", "1TiB", "4MiB", "0");
        string path = Path.Combine(scene.Folder, file);
        File.WriteAllText(path, File.ReadAllText(path).Replace("\"16MiB\"", "\"1000GiB\"", StringComparison.Ordinal));
        Assert.Contains("available", scene.Expect(1, "run", file).Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Usage_calls_arguments_as_the_list_below_it_does()
    {
        using var scene = new Scene();
        int count = 0;
        foreach (string help in HelpOfEach(scene))
        {
            string usage = help.Split('\n').First(line => line.StartsWith("  tidemark ", StringComparison.Ordinal));
            foreach (Match argument in ArgumentName().Matches(usage))
            {
                count++;
                Assert.Contains($"\n  {argument.Value}  ", help, StringComparison.Ordinal);
            }
        }

        Assert.True(count >= 8, "No arguments were found.");
    }

    [Fact]
    public void Every_option_in_the_documents_exists()
    {
        using var scene = new Scene();
        string help = string.Concat(HelpOfEach(scene));
        string[] documents =
        [
            "README.md", "docs/start.md", "docs/reference/cli.md", "docs/reference/json.md", "docs/guide/security.md",
            "docs/guide/snapshots.md", "docs/guide/moving.md", "SECURITY.md",
        ];
        int count = 0;
        foreach (string document in documents)
        {
            // Fenced and inline code that calls tidemark, and options standing alone in backquotes.
            foreach (string line in File.ReadLines(Path.Combine(CommandLine.Root, document)).Where(line => !line.Contains("ulimit", StringComparison.Ordinal)))
            {
                foreach (Match option in OptionName().Matches(line))
                {
                    count++;
                    Assert.True(help.Contains(option.Value, StringComparison.Ordinal), $"{document}: {option.Value}");
                }
            }
        }

        Assert.True(count >= 8, "The documents were not read.");
    }

    [Fact]
    public void Every_key_of_a_migration_is_in_its_document()
    {
        string document = File.ReadAllText(Path.Combine(CommandLine.Root, "docs", "reference", "json.md"));
        string[] keys =
        [
            .. ((string[])["Output/MigrationJson.cs", "Hosting/MachineProcess.Handover.cs"])
                .SelectMany(file => Key().Matches(File.ReadAllText(Path.Combine(CommandLine.Root, "src", "Tidemark.Cli", file))))
                .Select(match => match.Groups[1].Value).Distinct(),
        ];
        Assert.Contains("promisedMilliseconds", keys);
        Assert.All(keys, key => Assert.True(
            document.Contains($"`{key}", StringComparison.Ordinal) || document.Contains($".{key}`", StringComparison.Ordinal), key));
    }

    /// <summary>What <c>--help</c> of each command says.</summary>
    private static IEnumerable<string> HelpOfEach(Scene scene)
    {
        string[] commands =
        [
            "demo", "run", "receive", "migrate", "status", "cancel", "list", "stop", "check", "conform", "replay", "dirty-rate",
            "certificates", "resolve", "switchover", "version", "snapshot save", "snapshot restore", "snapshot info",
        ];
        return commands.Select(command => scene.Expect(0, [.. command.Split(' '), "--help"]).Output);
    }

    [GeneratedRegex("\\[\"(\\w+)\"\\] = ")]
    private static partial Regex Key();

    [GeneratedRegex(@"<[^>]+>")]
    private static partial Regex ArgumentName();

    [GeneratedRegex("(?<![-\\w])--[a-z][a-z-]+")]
    private static partial Regex OptionName();
}
