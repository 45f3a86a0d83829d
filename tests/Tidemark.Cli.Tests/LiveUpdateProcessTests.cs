using System.Text.Json.Nodes;

namespace Tidemark.Cli.Tests;

/// <summary>
/// Live update between real processes, either of which is killed (SIGKILL) at a chosen step. The machine has no devices, so
/// that it needs no kernel with iommufd: with devices, <c>./lab/run machines</c> does the same.
/// </summary>
public sealed class LiveUpdateProcessTests
{
    private const int Killed = 128 + 9;

    [Fact]
    public void A_machine_goes_on_in_a_new_process_and_the_old_one_ends()
    {
        using var scene = new Scene();
        CommandLine old = Start(scene);
        CommandLine next = TakeOver(scene);
        Assert.Equal(0, old.WaitForEnd());
        Runs(scene, next);
        scene.Expect(0, "stop", "bare");
        Assert.Equal(0, next.WaitForEnd());
    }

    [Theory]
    [InlineData("Adopted")]
    [InlineData("Charged")]
    public void A_machine_whose_new_process_is_killed_before_it_runs_it_runs_on_in_the_old_one(string step)
    {
        using var scene = new Scene();
        CommandLine old = Start(scene);
        scene.Expect(Killed, "run", "bare.json", "--take-over", "--die-at", step);
        Scene.WaitFor(old, () => old.Error.Contains("runs on here", StringComparison.Ordinal));
        Runs(scene, old);
        // And it can be taken over by one that lives.
        CommandLine next = TakeOver(scene);
        Assert.Equal(0, old.WaitForEnd());
        Runs(scene, next);
    }

    [Fact]
    public void A_machine_whose_old_process_is_killed_while_it_is_offered_runs_in_the_new_one()
    {
        using var scene = new Scene();
        CommandLine old = Start(scene, "--die-at", "Offered");
        CommandLine next = TakeOver(scene);
        Assert.Equal(Killed, old.WaitForEnd());
        Runs(scene, next);
        scene.Expect(0, "stop", "bare");
        Assert.Equal(0, next.WaitForEnd());
    }

    /// <summary>The one death that a machine does not survive is that of the process that runs it, and no second one runs it
    /// then.</summary>
    [Fact]
    public void A_machine_whose_new_process_is_killed_when_it_has_said_that_it_runs_it_runs_nowhere()
    {
        using var scene = new Scene();
        CommandLine old = Start(scene);
        scene.Expect(Killed, "run", "bare.json", "--take-over", "--die-at", "Said");
        Assert.Equal(0, old.WaitForEnd());
        scene.Expect(1, "status", "bare");
    }

    private static CommandLine Start(Scene scene, params string[] more)
    {
        File.WriteAllText(Path.Combine(scene.Folder, "bare.json"), """
            {
              "name": "bare",
              "memory": { "size": "32MiB" },
              "workload": { "fill": "8MiB", "cpuWorkingSet": "4MiB", "cpuBytesPerSecond": "8MiB" }
            }
            """);
        CommandLine process = scene.Start(["run", "bare.json", .. more]);
        Scene.WaitFor(process, () => process.Output.Contains(" runs (kernel=linux", StringComparison.Ordinal));
        return process;
    }

    private static CommandLine TakeOver(Scene scene)
    {
        CommandLine next = scene.Start("run", "bare.json", "--take-over");
        Scene.WaitFor(next, () => next.Output.Contains(" runs here now ", StringComparison.Ordinal));
        return next;
    }

    /// <summary>It is this process's, and writes, and nothing that it wrote before is lost.</summary>
    private static void Runs(Scene scene, CommandLine process)
    {
        JsonObject before = scene.Status("bare");
        Assert.Equal("running", (string?)before["state"]);
        Assert.Equal(process.Id, (int)before["processId"]!);
        JsonObject after = before;
        Scene.WaitFor(process, () =>
        {
            after = scene.Status("bare");
            return (ulong)after["pagesWritten"]! > (ulong)before["pagesWritten"]!;
        });
        Assert.Equal(0UL, (ulong)after["stalePages"]!);
        Assert.Null((string?)after["failure"]);
    }
}
