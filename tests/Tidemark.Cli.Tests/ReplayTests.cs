using System.Text.Json.Nodes;

namespace Tidemark.Cli.Tests;

/// <summary>What a real Linux answered, asked of the soft kernel.</summary>
public sealed class ReplayTests
{
    /// <summary>Cases in the repository's recordings, at least.</summary>
    private const int RecordedCases = 3200;

    private static readonly string s_recordings =
        Path.Combine(CommandLine.Root, "tests/Tidemark.Conformance.Tests/Recordings");

    [Fact]
    public void The_soft_kernel_answers_every_recorded_call_as_Linux_did()
    {
        using var scene = new Scene();
        JsonNode result = JsonNode.Parse(scene.Expect(0, "replay", s_recordings, "--json").Output)!;
        Assert.True((int)result["equal"]! > RecordedCases, $"{result["equal"]} cases");
        Assert.Empty(result["cases"]!.AsArray()
            .Where(entry => (string?)entry!["result"] != "equal" && entry["known"] is null)
            .Select(entry => $"{entry!["name"]}: {entry["recorded"]} answered {entry["answered"]}"));
    }

    [Fact]
    public void Every_listed_difference_of_a_recording_is_still_one()
    {
        using var scene = new Scene();
        JsonNode result = JsonNode.Parse(scene.Expect(0, "replay", s_recordings, "--json").Output)!;
        string[] reasons = [.. result["cases"]!.AsArray().Select(entry => (string?)entry!["known"]).OfType<string>().Distinct()];
        Assert.Single(reasons);
        string document = File.ReadAllText(Path.Combine(CommandLine.Root, "docs/internals/divergences.md"));
        Assert.All(reasons, reason => Assert.Contains(reason, document, StringComparison.Ordinal));
    }

    [Fact]
    public void Every_recording_is_of_a_real_kernel_and_small()
    {
        string[] files = Directory.GetFiles(s_recordings, "*.txt", SearchOption.AllDirectories);
        Assert.All(files, file => Assert.Contains(
            File.ReadLines(file).Take(2), line => line.StartsWith("kernel linux 7.3", StringComparison.Ordinal)));
        Assert.True(files.Sum(file => new FileInfo(file).Length) < 1536 << 10);
    }

    [Theory]
    [InlineData(" = -1 22\n", " = -1 14\n")]
    [InlineData("out=0c(7)01(3)", "out=0c(7)03(3)")]
    [InlineData("\nwrote 0x", "\nclose 12345 = -1 9\nwrote 0x")]
    public void An_answer_that_differs_in_an_errno_a_bit_or_memory_is_told(string recorded, string changed)
    {
        using var scene = new Scene();
        string text = File.ReadAllText(Path.Combine(s_recordings, "vtd-dirty/ioas.txt"));
        int at = text.IndexOf(recorded, StringComparison.Ordinal);
        Assert.True(at > 0);
        string planted = text[..at] + changed + text[(at + recorded.Length)..];
        int start = planted.LastIndexOf("\ncase ", at, StringComparison.Ordinal) + "\ncase ".Length;
        string name = planted[start..planted.IndexOf('\n', start)];
        File.WriteAllText(Path.Combine(scene.Folder, "planted.txt"), planted);
        string output = scene.Expect(1, "replay", "planted.txt").Output;
        Assert.Contains($"different {name} (planted.txt)", output, StringComparison.Ordinal);
        Assert.Contains(", 1 differently", output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", "Line 1 of the recording is malformed")]
    [InlineData("tidemark recording 1\nkernel soft 1\nprofile bogus\n", "There is no profile \"bogus\"")]
    [InlineData("tidemark recording 1\nkernel soft 1\nprofile mock\ncase a\n", "the file ends inside the case a")]
    [InlineData("tidemark recording 1\nkernel soft 1\nprofile mock\ncase a\nopen 0 text=/etc/passwd = 3\nend\n",
        "only nodes of VFIO and /dev/iommu")]
    [InlineData("tidemark recording 1\nkernel soft 1\nprofile mock\ndevice a b c\n", "was recorded with 1 devices")]
    public void A_file_that_can_not_be_replayed_is_told(string text, string message)
    {
        using var scene = new Scene();
        File.WriteAllText(Path.Combine(scene.Folder, "bad.txt"), text);
        Assert.Contains(message, scene.Expect(64, "replay", "bad.txt").Error, StringComparison.Ordinal);
        scene.Expect(64, "replay", "absent.txt");
    }

    [Fact]
    public void What_conform_records_can_be_replayed()
    {
        using var scene = new Scene();
        scene.Expect(
            0, "conform", "--kernel", "soft", "--profile", "vtd", "--filter", "ioas-map", "--record", "recorded/vtd");
        Assert.Contains(", 0 differently", scene.Expect(0, "replay", "recorded").Output, StringComparison.Ordinal);
    }
}
