using System.Text.Json.Nodes;

namespace Tidemark.Cli.Tests;

public sealed class DemoTests
{
    [Fact]
    public void The_demo_moves_a_machine_and_accounts_for_every_byte()
    {
        using var scene = new Scene();
        string file = Path.Combine(scene.Folder, "disk.img");
        byte[] before = File.ReadAllBytes(file);
        DateTime written = File.GetLastWriteTimeUtc(file);

        CommandLine demo = scene.Expect(0, "demo", "disk.img", "--memory", "128MiB", "--json", "--quiet", "--report", "report.html");

        Assert.Empty(demo.Error);
        JsonObject result = JsonNode.Parse(demo.Output)!.AsObject();
        string[] keys =
        [
            "outcome", "kernel", "memoryBytes", "passes", "dirtyBySource", "devices", "cpuTracking", "downtimeMilliseconds",
            "verifyMilliseconds", "totalMilliseconds", "throughputBytesPerSecond", "verified",
        ];
        Assert.All(keys, key => Assert.True(result[key] is not null, key));
        Assert.All(
            new[] { "index", "dirtyPages", "sentPages", "zeroPages", "bytes", "milliseconds" },
            key => Assert.All(result["passes"]!.AsArray(), pass => Assert.True(pass![key] is not null, key)));
        Assert.All(
            new[] { "name", "tracker", "reason", "stateBytes" },
            key => Assert.All(result["devices"]!.AsArray(), device => Assert.True(device![key] is not null, key)));
        Assert.Equal("completed", (string?)result["outcome"]);
        Assert.Equal("soft", (string?)result["kernel"]);
        Assert.All(
            new[] { "cpu", "iommu", "deviceLog", "assumed" },
            source => Assert.True((long)result["dirtyBySource"]![source]! > 0, source));
        JsonNode verified = result["verified"]!;
        Assert.True((bool)verified["memoryEqual"]!);
        Assert.Equal(0, (long)verified["lostPages"]!);
        Assert.Equal(0, (long)verified["dataErrors"]!);
        Assert.True((long)verified["readsAfterMove"]! > 0);

        Assert.StartsWith("<!doctype html>", File.ReadAllText(Path.Combine(scene.Folder, "report.html")), StringComparison.Ordinal);
        Assert.Equal(before, File.ReadAllBytes(file));
        Assert.Equal(written, File.GetLastWriteTimeUtc(file));
        Assert.Empty(Directory.GetDirectories(scene.Folder, "tidemark-demo-*"));
    }

    [Fact]
    public void Small_files_serve_as_disks_and_too_small_ones_are_refused()
    {
        using var scene = new Scene();
        File.WriteAllBytes(Path.Combine(scene.Folder, "small"), new byte[12_813]);
        File.WriteAllBytes(Path.Combine(scene.Folder, "tiny"), new byte[1]);
        scene.Expect(0, "demo", "small", "disk.img", "--memory", "128MiB", "--quiet");
        Assert.Contains("4096 or more", scene.Expect(1, "demo", "tiny").Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("skip-iotlb-drain", "memory-verification")]
    [InlineData("drop-source-iommu", "memory-verification")]
    [InlineData("drop-source-cpu", "memory-verification")]
    [InlineData("forget-last-word", "memory-verification")]
    [InlineData("early-final-harvest", "memory-verification")]
    [InlineData("resume-before-commit", "stopped-before-commit")]
    public void A_planted_fault_is_caught(string plant, string caughtBy)
    {
        using var scene = new Scene();
        CommandLine demo = scene.Expect(5, "demo", "--memory", "128MiB", "--json", "--plant", plant);
        JsonNode result = JsonNode.Parse(demo.Output)!;
        Assert.Equal(plant, (string?)result["plant"]!["name"]);
        Assert.Equal(caughtBy, (string?)result["plant"]!["caughtBy"]);
        Assert.InRange((int)result["plant"]!["runs"]!, 1, 5);
        Assert.Equal("failed", (string?)result["outcome"]);
    }
}
