using System.CommandLine;
using System.Text.Json.Nodes;
using Tidemark.Cli.Control;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark resolve</c>: ends the state in which nobody knows where a machine runs.</summary>
internal static class ResolveCommand
{
    public static Command Create(CommandRunner runner)
    {
        Argument<string> name = SharedOptions.MachineName();
        var runHere = new Option<bool>("--run-here") { Description = "When the destination does not answer: I have made sure that it does not run there and can not." };
        var moved = new Option<bool>("--moved") { Description = "When the destination does not answer: I have seen it run there." };
        Option<bool> json = SharedOptions.Json();
        var command = new Command(
            "resolve",
            """
            End the state in which nobody knows where a machine runs.

            When the answer to the hand-over is lost, the source stands still. This asks the destination: if the machine runs
            there, it is let go here; if it never ran there, it runs here again, and never there. Only when nobody answers
            you decide, with --run-here or --moved; neither is done against the destination's word.
            """)
        {
            name, runHere, moved, json,
        };
        command.Validators.Add(result =>
        {
            if (result.GetValue(runHere) && result.GetValue(moved))
                result.AddError("--run-here and --moved can not both be true.");
        });
        runner.Attach(command, (parsed, terminal, _) =>
        {
            string machine = parsed.GetRequiredValue(name);
            using ControlClient client = ControlClient.Connect(machine);
            JsonObject answer = client.Request(new JsonObject
            {
                ["op"] = "resolve",
                ["decision"] = parsed.GetValue(runHere) ? "run-here" : parsed.GetValue(moved) ? "moved" : "ask",
            });
            answer.Remove("done");
            if (parsed.GetValue(json))
                terminal.Result(answer.ToJsonString());
            else
                terminal.Note((string?)answer["state"] == "running" ? $"{machine} runs here again." : $"{machine} runs at the destination; it is let go here.");
            return ExitCode.Done;
        });
        return command;
    }
}
