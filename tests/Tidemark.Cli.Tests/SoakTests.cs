using System.Diagnostics;
using System.Text.Json.Nodes;

namespace Tidemark.Cli.Tests;

/// <summary>`bench/soak` for half a minute, and that it finds what it is there to find.</summary>
public sealed class SoakTests
{
    /// <summary>Until it counts as hung; each of its own waits is bounded by less.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(5);

    private static string Program { get; } = Path.Combine(
        CommandLine.Root, "artifacts", "bin", "Tidemark.Bench", Path.GetFileName(AppContext.BaseDirectory.TrimEnd('/')), "Tidemark.Bench.dll");

    [Fact]
    public void Machines_survive_half_a_minute_of_cuts_kills_and_cancels()
    {
        JsonNode result = Run(0, "--minutes", "0.4", "--seed", "1");
        Assert.True((int)result["rounds"]! >= 2, $"{result}");
        Assert.Equal(0, (int)result["lostPages"]!);
        Assert.Empty(result["violations"]!.AsArray());
    }

    [Fact]
    public void A_soak_of_machines_that_forget_dirty_pages_says_how_many_were_lost()
    {
        using var scene = new Scene();
        JsonNode result = RunIn(scene.Folder, 1, "--seed", "2", "--round", "0", "--plant", "forget-last-word");
        Assert.True((int)result["lostPages"]! > 0, $"{result}");
        Assert.Contains("--seed 2 --round 0", (string?)Assert.Single(result["violations"]!.AsArray()), StringComparison.Ordinal);
    }

    [Fact]
    public void Either_side_killed_in_each_phase_leaves_one_machine_where_it_must_be()
    {
        JsonNode result = Run(0, "--phases");
        Assert.Equal(16, (int)result["rounds"]!);
        // Commit and its acknowledgement were on their way when the destination died.
        Assert.Equal(2, (int)result["resolved"]!);
    }

    private static JsonNode Run(int exitCode, params string[] arguments) => RunIn(Path.GetTempPath(), exitCode, arguments);

    /// <param name="folder">For its own folder, which stays behind when it found something.</param>
    private static JsonNode RunIn(string folder, int exitCode, params string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet") { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (string argument in (string[])["exec", Program, "soak", "--json", .. arguments])
            start.ArgumentList.Add(argument);
        start.Environment["TMPDIR"] = folder;
        using Process process = Process.Start(start)!;
        try
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
            Task<string> said = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
            Assert.True(process.WaitForExit(Limit), "The soak does not end.");
            process.WaitForExit();
            Assert.True(process.ExitCode == exitCode, $"exit code {process.ExitCode}\n{said.Result}");
            return JsonNode.Parse(output.Result)!;
        }
        finally
        {
            // Its machines end with it.
            if (!process.HasExited)
                process.Kill(entireProcessTree: true);
        }
    }
}
