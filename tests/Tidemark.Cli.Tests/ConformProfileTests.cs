using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace Tidemark.Cli.Tests;

/// <summary>The soft kernel with the hardware of each profile keeps every promise that applies to it.</summary>
public sealed partial class ConformProfileTests
{
    private const string AllocationWithTracking = "iommufd.hwpt.alloc.dirty-tracking";
    private const string TestDomain = "testdomain.space.aperture";
    private const string AllocationRefused = "iommufd.hwpt.alloc.dirty-tracking-not-capable";

    [Theory]
    [InlineData("none", null, null)]
    [InlineData("mock", null, null)]
    [InlineData("mtty", null, null)]
    [InlineData("vtd", "vtd", false)]
    [InlineData("legacy", "vtd", false)]
    [InlineData("vtd-sm", "vtd", false)]
    [InlineData("vtd-fs", "vtd", false)]
    [InlineData("amd", "amd", false)]
    [InlineData("virtio", null, false)]
    [InlineData("vtd-dirty", "vtd", true)]
    [InlineData("amd-dirty", "amd", true)]
    [InlineData("smmuv3-dirty", "smmuv3", true)]
    public void A_profile_fails_no_case_and_has_what_its_name_says(string profile, string? family, bool? tracks)
    {
        using var scene = new Scene();
        JsonNode result = JsonNode.Parse(
            scene.Expect(0, "conform", "--kernel", "soft", "--profile", profile, "--json").Output)!;
        Dictionary<string, string> verdicts = result["cases"]!.AsArray().ToDictionary(
            entry => entry!["name"]!.GetValue<string>(), entry => entry!["result"]!.GetValue<string>());
        // Where the profile has no such device, one of the test domain stands in.
        Assert.Equal("passed", verdicts[AllocationWithTracking]);
        Assert.Equal("passed", verdicts[AllocationRefused]);
        Assert.Equal("passed", verdicts[TestDomain]);
        foreach (string candidate in (string[])["vtd", "amd", "smmuv3"])
        {
            Assert.Equal(candidate == family, verdicts[$"iommufd.reserved-region.{candidate}.is-a-hole"] == "passed");
            Assert.Equal(
                candidate == family && tracks == true,
                verdicts[$"iommufd.leaf-size.{candidate}.run-of-64-kib"] == "passed");
        }
    }

    [Fact]
    public void Every_profile_is_in_the_help_and_in_the_documents()
    {
        using var scene = new Scene();
        string help = Regex.Replace(scene.Expect(0, "conform", "--help").Output, @"\s+", " ");
        string document = File.ReadAllText(Path.Combine(CommandLine.Root, "docs/reference/cli.md"));
        string message = scene.Expect(64, "conform", "--kernel", "soft", "--profile", "bogus").Error;
        string[] names = [.. ProfileNames().Match(message).Groups[1].Value.Split(", ")];
        Assert.True(names.Length >= 8, message);
        Assert.All(names, name => Assert.Contains($"{name}:", help, StringComparison.Ordinal));
        Assert.All(names, name => Assert.Contains($"| `{name}` |", document, StringComparison.Ordinal));
    }

    [GeneratedRegex("there are (.*)\\.")]
    private static partial Regex ProfileNames();
}
