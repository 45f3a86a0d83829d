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

    [Fact]
    public void The_demo_moves_devices_without_migration_states_and_shows_all_that_dirty_tracking_offers()
    {
        using var scene = new Scene();
        JsonNode result = JsonNode.Parse(
            scene.Expect(0, "demo", "--driver-assisted", "--exercise", "--memory", "128MiB", "--json").Output)!;
        Assert.All(result["devices"]!.AsArray(), device => Assert.Equal("driver-assisted", (string?)device!["handover"]));
        Assert.Equal(
            ["harvest", "huge-pages-off", "peek-before-unmap", "replace-while-tracking", "huge-pages-on", "split-leaves", "union", "replace-during-migration"],
            result["exercised"]!.AsArray().Select(item => (string?)item!["name"]));
        Assert.All(result["exercised"]!.AsArray(), item => Assert.True((string?)item!["result"] == "shown", item.ToJsonString()));
        Assert.Empty(result["lostBy"]!.AsArray());
    }

    [Fact]
    public void Check_says_of_each_device_whether_its_IOMMU_tracks_and_how_it_would_move()
    {
        using var scene = new Scene();
        File.WriteAllText(Path.Combine(scene.Folder, "plain.json"), """
            {
              "name": "plain", "memory": { "size": "64MiB" },
              "devices": [ { "name": "a", "host": "0000:01:00.0", "arena": "4MiB" }, { "name": "b", "host": "0000:02:00.0", "arena": "4MiB" } ],
              "softHost": {
                "iommus": [ { "name": "yes" }, { "name": "no", "dirtyTracking": false } ],
                "devices": [
                  { "address": "0000:01:00.0", "iommu": "yes", "disk": "disk.img", "migration": false },
                  { "address": "0000:02:00.0", "iommu": "no", "disk": "disk.img" }
                ]
              }
            }
            """);
        string text = scene.Expect(0, "check", "plain.json").Output;
        Assert.Contains("IOMMU dirty tracking: yes (IOMMU_GET_HW_INFO reports", text, StringComparison.Ordinal);
        Assert.Contains("IOMMU dirty tracking: no (", text, StringComparison.Ordinal);
        Assert.Contains("driver-assisted: The workload is the driver of a", text, StringComparison.Ordinal);
        Assert.Contains("states: The VFIO driver of b", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Check_names_every_device_that_keeps_the_machine_with_reason_and_remedy()
    {
        using var scene = new Scene();
        string Describe(string ofA) => $$"""
            {
              "name": "stays", "memory": { "size": "64MiB" },
              "devices": [
                { "name": "a", "host": "0000:01:00.0", "arena": "4MiB"{{ofA}} },
                { "name": "b", "host": "0000:02:00.0", "arena": "4MiB", "handover": "states" }
              ],
              "softHost": {
                "iommus": [ { "name": "yes" } ],
                "devices": [
                  { "address": "0000:01:00.0", "iommu": "yes", "disk": "disk.img" },
                  { "address": "0000:02:00.0", "iommu": "yes", "disk": "disk.img", "p2p": false }
                ]
              }
            }
            """;
        string file = Path.Combine(scene.Folder, "stays.json");
        File.WriteAllText(file, Describe(", \"migration\": \"off\", \"deviceDirtyTracking\": \"on\""));
        string text = scene.Expect(1, "check", "stays.json").All;
        foreach (string part in (string[])["migration=off", "device-dirty-tracking=auto", "P2P"])
            Assert.Contains(part, text, StringComparison.Ordinal);
        // Judged by what is there: of the three reasons two were wishes.
        File.WriteAllText(file, Describe(""));
        text = scene.Expect(1, "check", "stays.json").All;
        Assert.DoesNotContain("migration=off", text, StringComparison.Ordinal);
        Assert.Contains("P2P", text, StringComparison.Ordinal);
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
