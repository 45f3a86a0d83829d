using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Tidemark.Cli.Control;
using Tidemark.Cli.Output;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark dirty-rate</c>: how fast a running machine writes its memory, by source and by device.</summary>
internal static class DirtyRateCommand
{
    /// <summary>LIMIT: longer than a minute nobody waits for one figure.</summary>
    private const int MaximumSeconds = 60;

    public static Command Create(CommandRunner runner)
    {
        Argument<string> name = SharedOptions.MachineName();
        var seconds = new Option<double>("--seconds")
        {
            Description = $"How long to look, 0.1 to {MaximumSeconds}.",
            DefaultValueFactory = _ => 1,
        };
        seconds.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<double>() is not (>= 0.1 and <= MaximumSeconds))
                result.AddError($"--seconds must be between 0.1 and {MaximumSeconds}.");
        });
        Option<bool> json = SharedOptions.Json();
        var command = new Command(
            "dirty-rate",
            "Show how fast a machine writes its memory, by processors and by DMA.\n\n"
            + "The machine is tracked for a while and goes on as before. While it is being migrated, the figures are "
            + "those of the migration's last pass, which is not disturbed.")
        {
            name, seconds, json,
        };
        runner.Attach(command, (parsed, terminal, _) =>
        {
            using ControlClient client = ControlClient.Connect(parsed.GetRequiredValue(name));
            JsonObject answer = client.Request(new JsonObject
            {
                ["op"] = "dirty-rate",
                ["milliseconds"] = (int)(parsed.GetValue(seconds) * 1000),
            });
            answer.Remove("done");
            if (parsed.GetValue(json))
                terminal.Result(answer.ToJsonString());
            else
                Show(terminal, answer);
            return ExitCode.Done;
        });
        return command;
    }

    private static void Show(Terminal terminal, JsonObject answer)
    {
        foreach (JsonNode? source in answer["sources"]!.AsArray())
        {
            terminal.Result(string.Create(CultureInfo.InvariantCulture,
                $"{(string)source!["name"]!,-32}{ByteSize.Format(source["bytesPerSecond"]!.GetValue<double>())}/s ({source["pages"]} pages)"));
        }

        terminal.Result(string.Create(CultureInfo.InvariantCulture,
            $"{"together",-32}{ByteSize.Format(answer["bytesPerSecond"]!.GetValue<double>())}/s ({answer["pages"]} pages in {answer["seconds"]!.GetValue<double>():0.00} s, kernel={answer["kernel"]})"));
        if (answer["during"]!.GetValue<string>() == "migration")
            terminal.Note("A migration is under way: these are the figures of its last pass.");
    }
}
