using System.CommandLine;
using System.Text.Json.Nodes;
using Tidemark.Cli.Hosting;
using Tidemark.Cli.Output;
using Tidemark.Conformance;
using Tidemark.Kernel.Recording;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark replay</c>: does this kernel answer recorded calls as the recorded kernel did.</summary>
internal static class ReplayCommand
{
    /// <summary>The name of recordings of the host that <c>conform --kernel soft</c> has without a profile.</summary>
    private const string Everything = "everything";

    public static Command Create(CommandRunner runner)
    {
        var path = new Argument<string>("FILE|FOLDER")
        {
            Description = "A file that conform --record wrote, or a folder of such files.",
        };
        Option<string?> kernel = SharedOptions.Kernel("Which kernel to ask; without it: soft.");
        Option<string?> profile = ConformCommand.Profile();
        profile.Description = "The hardware of the soft kernel; without it that of the recording's profile.";
        var device = new Option<string[]>("--device")
        {
            Description = "A device that stands for a recorded one, in the recorded order; for the soft kernel those of the profile.",
            HelpName = "DEVICE",
        };
        Option<string?> trace = SharedOptions.Trace();
        Option<bool> json = SharedOptions.Json();
        var command = new Command(
            "replay",
            "Make recorded calls on this kernel and compare every answer with the recorded one.\n\nA real kernel does to the devices what the recorded program did to its own: replay there only what you trust.\nExit code 0 all answers are equal, or differ as docs/internals/divergences.md lists, 1 some are not.")
        {
            path, kernel, profile, device, trace, json,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            var files = RecordingFiles.Read(parsed.GetValue(path)!);
            var results = new List<(string File, string Case, ReplayMismatch? Mismatch)>();
            foreach (var (file, recording) in files)
            {
                string asked = parsed.GetValue(kernel) ?? "soft";
                string? name = parsed.GetValue(profile) ?? (asked == "soft" ? recording.Profile : null);
                using ConformHost host = ConformHost.Create(
                    asked, parsed.GetValue(device) ?? [], parsed.GetValue(trace),
                    ConformCommand.FindProfile(name == Everything ? null : name, asked));
                Play(host, file, recording, results, cancellation);
            }

            Show(terminal, results, parsed.GetValue(json));
            return results.Any(result => result.Mismatch is not null && Known(result.Mismatch) is null)
                ? ExitCode.Failed : ExitCode.Done;
        });
        return command;
    }

    private static void Play(
        ConformHost host, string file, CallRecording recording,
        List<(string File, string Case, ReplayMismatch? Mismatch)> results, CancellationToken cancellation)
    {
        ConformanceContext context = ConformanceContext.Create(host.Kernel, host.Sysfs, host.Devices);
        List<RecordedDevice> devices = ConformanceRecorder.NodesOf(context.Devices);
        if (devices.Count < recording.Devices.Count)
        {
            throw new CommandFailure(
                $"{file} was recorded with {recording.Devices.Count} devices; here are {devices.Count}. Name as many with --device.",
                ExitCode.Usage);
        }

        var replay = new TraceReplay(host.Kernel, recording, devices);
        foreach (RecordedCase recorded in recording.Cases)
        {
            cancellation.ThrowIfCancellationRequested();
            try
            {
                results.Add((file, recorded.Name, replay.Play(recorded)));
            }
            catch (FormatException failure)
            {
                // A recording that no run of the cases makes.
                throw new CommandFailure($"{file} can not be replayed. {failure.Message}", ExitCode.Usage);
            }
        }
    }

    private static string? Known(ReplayMismatch? mismatch) =>
        mismatch is null ? null : RecordedDifferences.Find(mismatch);

    private static void Show(
        Terminal terminal, List<(string File, string Case, ReplayMismatch? Mismatch)> results, bool json)
    {
        if (json)
        {
            terminal.Result(new JsonObject
            {
                ["equal"] = results.Count(result => result.Mismatch is null),
                ["different"] = results.Count(result => result.Mismatch is not null),
                ["cases"] = new JsonArray([.. results.Select(result => new JsonObject
                {
                    ["file"] = result.File,
                    ["name"] = result.Case,
                    ["result"] = result.Mismatch is null ? "equal" : "different",
                    ["call"] = result.Mismatch?.Step,
                    ["recorded"] = result.Mismatch?.Recorded,
                    ["answered"] = result.Mismatch?.Answered,
                    ["known"] = Known(result.Mismatch),
                })]),
            }.ToJsonString());
            return;
        }

        foreach ((string file, string name, ReplayMismatch? mismatch) in results)
        {
            if (mismatch is null)
                continue;
            string? known = Known(mismatch);
            terminal.Result($"{(known is null ? terminal.Bad("different") : "listed difference")} {terminal.Bold(name)} ({file}), call {mismatch.Step}");
            terminal.Result($"  recorded: {mismatch.Recorded}");
            terminal.Result($"  answered: {mismatch.Answered}");
            if (known is not null)
                terminal.Result($"  {known}");
        }

        int listed = results.Count(result => Known(result.Mismatch) is not null);
        int different = results.Count(result => result.Mismatch is not null) - listed;
        string summary =
            $"{results.Count - different - listed} cases answered equally, {different} differently, {listed} differently as listed";
        terminal.Result(different == 0 ? terminal.Good(summary) : terminal.Bad(summary));
    }
}
