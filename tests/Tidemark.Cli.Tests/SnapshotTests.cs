using System.Text.Json.Nodes;

namespace Tidemark.Cli.Tests;

public sealed class SnapshotTests
{
    [Fact]
    public void A_machine_is_saved_runs_on_ends_on_request_and_runs_again_from_its_file()
    {
        using var scene = new Scene();
        CommandLine machine = scene.StartMachine("quiet.json");
        JsonNode saved = JsonNode.Parse(scene.Expect(0, "snapshot", "save", "quiet", "a.tms", "--json").Output)!;
        Assert.Equal("completed", (string?)saved["outcome"]);
        Assert.True((bool)saved["machineRuns"]!);
        Assert.Equal("running", (string?)scene.Status("quiet")["state"]);
        // Over the one that is there; and then the machine ends.
        scene.Expect(0, "snapshot", "save", "quiet", "a.tms", "--stop", "--direct", "off");
        Assert.Equal(0, machine.WaitForEnd());
        Assert.Equal(["a.tms"], Directory.GetFiles(scene.Folder, "a.tms*").Select(Path.GetFileName));

        JsonNode info = JsonNode.Parse(scene.Expect(0, "snapshot", "info", "a.tms", "--verify", "--json").Output)!;
        Assert.True((bool)info["verified"]!);
        Assert.Equal(64UL << 20, (ulong)info["memoryBytes"]!);
        Assert.InRange((ulong)info["presentBytes"]!, 16UL << 20, 40UL << 20);
        Assert.Contains("every page", scene.Expect(0, "snapshot", "info", "a.tms", "--verify").Output, StringComparison.Ordinal);

        CommandLine restored = scene.Start("snapshot", "restore", "a.tms", "quiet.json", "--name", "back");
        Scene.WaitFor(restored, () => restored.Output.Contains("back runs here now", StringComparison.Ordinal));
        JsonNode status = scene.Status("back");
        Assert.Equal("running", (string?)status["state"]);
        Assert.Equal(0UL, (ulong)status["stalePages"]!);
        Assert.All(status["devices"]!.AsArray(), device => Assert.Equal(0UL, (ulong)device!["dataErrors"]!));
        scene.Expect(0, "stop", "back");
        Assert.Equal(0, restored.WaitForEnd());
    }

    [Fact]
    public void A_file_that_is_no_snapshot_a_torn_one_or_one_of_another_machine_is_told_in_one_sentence()
    {
        using var scene = new Scene();
        scene.StartMachine("quiet.json");
        scene.Expect(0, "snapshot", "save", "quiet", "a.tms");
        string path = Path.Combine(scene.Folder, "a.tms");
        Assert.Contains("is not a snapshot, so it is not replaced", scene.Expect(1, "snapshot", "save", "quiet", "disk.img").Output, StringComparison.Ordinal);
        Assert.Equal("running", (string?)scene.Status("quiet")["state"]);
        Assert.Contains("is not a snapshot", scene.Expect(1, "snapshot", "info", "disk.img").Error, StringComparison.Ordinal);
        Assert.Contains("There is no such file", scene.Expect(1, "snapshot", "info", "none.tms").Error, StringComparison.Ordinal);

        scene.WriteMachine("other", "128MiB", "4MiB", "4MiB");
        string error = scene.Expect(1, "snapshot", "restore", "a.tms", "other.json").Error;
        Assert.Contains("machine.memoryBytes is 67108864 in the snapshot and 134217728 here", error, StringComparison.Ordinal);

        using (FileStream file = File.OpenWrite(path))
            file.SetLength(file.Length - 1);
        Assert.Contains("was cut short", scene.Expect(1, "snapshot", "info", "a.tms").Error, StringComparison.Ordinal);
        Assert.Contains("was cut short", scene.Expect(1, "snapshot", "restore", "a.tms", "quiet.json", "--name", "b").Error, StringComparison.Ordinal);
        Assert.Contains("was cut short", (string?)JsonNode.Parse(scene.Expect(1, "snapshot", "info", "a.tms", "--json").Output)!["problem"], StringComparison.Ordinal);
    }

    [Fact]
    public void A_save_that_is_interrupted_or_whose_machine_is_killed_leaves_no_file_of_that_name()
    {
        using var scene = new Scene();
        CommandLine machine = scene.StartMachine("busy.json");
        CommandLine save = scene.Start("snapshot", "save", "busy", "a.tms", "--direct", "off");
        Scene.WaitFor(save, () => Directory.GetFiles(scene.Folder, "a.tms*").Length > 0);
        save.Terminate();
        int code = save.WaitForEnd();
        // On a fast day the save was done before it could be cancelled.
        Assert.Equal(code == 0, File.Exists(Path.Combine(scene.Folder, "a.tms")));
        Assert.Empty(Directory.GetFiles(scene.Folder, "a.tms.partial-*"));
        Assert.Equal("running", (string?)scene.Status("busy")["state"]);

        File.Delete(Path.Combine(scene.Folder, "a.tms"));
        save = scene.Start("snapshot", "save", "busy", "a.tms", "--direct", "off");
        Scene.WaitFor(save, () => Directory.GetFiles(scene.Folder, "a.tms*").Length > 0);
        machine.Kill();
        code = save.WaitForEnd();
        Assert.Equal(code == 0, File.Exists(Path.Combine(scene.Folder, "a.tms")));
        if (code == 0)
            return;
        string partial = Assert.Single(Directory.GetFiles(scene.Folder, "a.tms.partial-*"));
        Assert.Contains("was broken off and left", scene.Expect(1, "snapshot", "info", "a.tms").Error, StringComparison.Ordinal);
        scene.Expect(1, "snapshot", "info", partial);
        scene.StartMachine("quiet.json");
        scene.Expect(0, "snapshot", "save", "quiet", "a.tms");
        Assert.False(File.Exists(partial));
    }
}
