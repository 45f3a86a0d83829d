using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Tidemark.Cli.Control;
using Tidemark.Cli.Output;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Commands;

/// <summary>Commands that ask a running machine something small: status, list, cancel, stop.</summary>
internal static class MachineCommands
{
    public static Command Status(CommandRunner runner)
    {
        Argument<string> name = SharedOptions.MachineName();
        Option<bool> json = SharedOptions.Json();
        var command = new Command("status", "Show a machine: its state, devices, trackers and a migration under way.") { name, json };
        runner.Attach(command, (parsed, terminal, _) =>
        {
            using ControlClient client = ControlClient.Connect(parsed.GetRequiredValue(name));
            JsonObject status = client.Request(new JsonObject { ["op"] = "status" });
            status.Remove("done");
            if (parsed.GetValue(json))
                terminal.Result(status.ToJsonString());
            else
                ShowStatus(terminal, status);
            return ExitCode.Done;
        });
        return command;
    }

    public static Command List(CommandRunner runner)
    {
        Option<bool> json = SharedOptions.Json();
        var command = new Command("list", "List the machines of this user on this host.") { json };
        runner.Attach(command, (parsed, terminal, _) =>
        {
            var machines = new JsonArray();
            foreach (string name in RuntimeFolder.Names())
            {
                using ControlClient? client = ControlClient.TryConnect(name);
                if (client is null)
                {
                    terminal.Detail($"{name}: nobody answers; its process was probably killed");
                    continue;
                }

                JsonObject status;
                try
                {
                    status = client.Request(new JsonObject { ["op"] = "status" });
                }
                catch (CommandFailure failure)
                {
                    // One that just ends, or hangs, must not hide the others.
                    terminal.Note($"{name}: {failure.Message}");
                    continue;
                }

                machines.Add(new JsonObject
                {
                    ["name"] = name,
                    ["state"] = status["state"]?.DeepClone(),
                    ["kernel"] = status["kernel"]?.DeepClone(),
                    ["memoryBytes"] = status["memoryBytes"]?.DeepClone(),
                    ["processId"] = status["processId"]?.DeepClone(),
                });
            }

            if (parsed.GetValue(json))
            {
                terminal.Result(new JsonObject { ["machines"] = machines }.ToJsonString());
                return ExitCode.Done;
            }

            if (machines.Count == 0)
                terminal.Note($"No machine runs here ({RuntimeFolder.Path}).");
            foreach (JsonNode? machine in machines)
                terminal.Result($"{(string)machine!["name"]!,-24} {(string)machine["state"]!,-12} kernel={machine["kernel"]}  {ByteSize.Format(machine["memoryBytes"]!.GetValue<double>())}  pid {machine["processId"]}");
            return ExitCode.Done;
        });
        return command;
    }

    public static Command Cancel(CommandRunner runner) => Simple(
        runner, "cancel", "Cancel a machine's migration or save; the machine goes on running where it is.", "cancel",
        name => $"Cancelled; {name} goes on running here.");

    public static Command Switchover(CommandRunner runner) => Simple(
        runner, "switchover", "Let a migration with --pause-before-switchover stop the machine as soon as it fits.", "switchover",
        name => $"{name} is handed over as soon as it fits the limit.");

    public static Command Stop(CommandRunner runner) => Simple(
        runner, "stop", "Stop a machine and end its process.", "stop", name => $"{name} is stopped.");

    private static Command Simple(CommandRunner runner, string verb, string description, string operation, Func<string, string> done)
    {
        Argument<string> name = SharedOptions.MachineName();
        var command = new Command(verb, description) { name };
        runner.Attach(command, (parsed, terminal, _) =>
        {
            string machine = parsed.GetRequiredValue(name);
            using ControlClient client = ControlClient.Connect(machine);
            client.Request(new JsonObject { ["op"] = operation });
            terminal.Note(done(machine));
            return ExitCode.Done;
        });
        return command;
    }

    private static void ShowStatus(Terminal terminal, JsonObject status)
    {
        terminal.Result($"{"machine",-16}{status["name"]} ({status["state"]}), pid {status["processId"]}, kernel={status["kernel"]}");
        terminal.Result($"{"memory",-16}{ByteSize.Format(status["memoryBytes"]!.GetValue<double>())}; processor writes seen by {status["cpuTracking"]}: {status["cpuTrackingReason"]}");
        if ((string?)status["listening"] is { } address)
            terminal.Result($"{"receives at",-16}{address}");
        foreach (JsonNode? device in status["devices"]!.AsArray())
        {
            terminal.Result($"{(string)device!["name"]!,-16}{device["host"]}, tracked by {device["tracker"]}: {device["reason"]}");
            terminal.Result(string.Create(CultureInfo.InvariantCulture, $"{"",-16}{device["reads"]} reads, {ByteSize.Format(device["readBytes"]!.GetValue<double>())}, {device["dataErrors"]} data errors"));
        }

        terminal.Result($"{"processor",-16}{status["pagesWritten"]} pages written, {status["stalePages"]} found stale");
        foreach (JsonNode? blocker in status["blockers"]?.AsArray() ?? [])
            terminal.Result($"{"can not move",-16}{blocker}");
        if (status["migration"] is JsonObject migration)
            terminal.Result($"{"migration",-16}{migration["phase"]}, pass {migration["pass"]}");
        if (status["snapshot"] is JsonObject snapshot)
            terminal.Result($"{"snapshot",-16}{snapshot["phase"]}, {snapshot["pagesDone"]} of {snapshot["pagesTotal"]} pages");
    }
}
