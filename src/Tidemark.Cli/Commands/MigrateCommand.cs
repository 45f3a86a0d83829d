using System.CommandLine;
using System.Text.Json.Nodes;
using Tidemark.Cli.Control;
using Tidemark.Cli.Output;
using Tidemark.Machine.Transport;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark migrate</c>: asks a running machine's process to move it, and shows how that goes.</summary>
internal static class MigrateCommand
{
    public static Command Create(CommandRunner runner)
    {
        Argument<string> name = SharedOptions.MachineName();
        var to = new Argument<string>("to") { Description = "Where `tidemark receive` waits: tcp:host:port, unix:path or fd:n-m.", HelpName = "ADDRESS" };
        Option<int> channels = SharedOptions.Channels();
        Option<int> limit = SharedOptions.DowntimeLimit();
        var verify = new Option<bool>("--verify") { Description = "Compare all memory of both sides after the stop, before the hand-over." };
        var insecure = new Option<bool>("--insecure") { Description = "Allow an unencrypted migration beyond this host." };
        Option<bool> json = SharedOptions.Json();
        Option<string?> report = SharedOptions.Report();
        var command = new Command("migrate", "Move a running machine to another process or host.\n\nCtrl-C cancels; before the hand-over the machine then goes on running here.")
        {
            name, to, channels, limit, verify, insecure, json, report,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            MigrationAddress address = SharedOptions.Address(parsed.GetRequiredValue(to));
            SharedOptions.RequireSafe(address, parsed.GetValue(insecure));
            HtmlReport.RequireWritable(parsed.GetValue(report));
            var request = new JsonObject
            {
                ["op"] = "migrate",
                // The machine's process connects, and it may stand in another folder.
                ["to"] = (address is MigrationAddress.Unix unix ? new MigrationAddress.Unix(Path.GetFullPath(unix.Path)) : address).ToString(),
                ["channels"] = parsed.GetValue(channels),
                ["downtimeLimitMilliseconds"] = parsed.GetValue(limit),
                ["verify"] = parsed.GetValue(verify),
            };
            JsonObject result = Run(parsed.GetRequiredValue(name), request, terminal, cancellation);
            if (parsed.GetValue(json))
                terminal.Result(result.ToJsonString());
            else
                MigrationTable.ShowResult(terminal, result);
            SharedOptions.WriteReport(parsed.GetValue(report), result, terminal);
            return result["exitCode"]!.GetValue<int>();
        });
        return command;
    }

    /// <summary>
    /// Sends the request and shows events until the result. A cancellation is passed on to the machine.
    /// </summary>
    /// <param name="show">Shows an event; null: as those of a migration.</param>
    public static JsonObject Run(
        string machine, JsonObject request, Terminal terminal, CancellationToken cancellation,
        Action<Terminal, JsonObject>? show = null)
    {
        using ControlClient client = ControlClient.Connect(machine);
        using CancellationTokenRegistration registration = cancellation.Register(() =>
        {
            using ControlClient? second = ControlClient.TryConnect(machine);
            try
            {
                second?.Request(new JsonObject { ["op"] = "cancel" });
            }
            catch (CommandFailure failure)
            {
                // Too late to cancel, or nothing to cancel any more: the result tells how it ended.
                terminal.Note(failure.Message);
            }
        });
        JsonObject answer = client.Request(request, happened => (show ?? MigrationTable.Show)(terminal, happened));
        terminal.EndProgress();
        return answer["result"]!.AsObject().DeepClone().AsObject();
    }
}
