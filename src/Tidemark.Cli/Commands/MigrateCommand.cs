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
        var to = new Argument<string>("ADDRESS") { Description = "Where `tidemark receive` waits: tcp:host:port, unix:path or fd:n-m." };
        Option<int> channels = SharedOptions.Channels();
        Option<int> limit = SharedOptions.DowntimeLimit();
        var verify = new Option<bool>("--verify") { Description = "Compare all memory of both sides after the stop, before the hand-over." };
        Option<string> whenStuck = SharedOptions.Words(
            "--when-stuck", "What to do when the machine writes faster than it can be moved.",
            "give-up", "wait", "raise-limit", "throttle", "switch-over");
        Option<int> ceiling = SharedOptions.Milliseconds("--limit-ceiling", "For raise-limit: never a longer downtime than this.", 3000);
        Option<int> timeout = SharedOptions.Seconds("--timeout", "Longest time before the stop, in seconds; 0: no limit.", 0, 7 * 24 * 3600);
        Option<int> retry = SharedOptions.Seconds("--retry", "How long a lost connection is tried again, in seconds; 0: not at all.", 15, 3600);
        Option<string> compress = SharedOptions.Words("--compress", "Compress pages with zstd: not, where it pays, or always.", "off", "auto", "always");
        var pause = new Option<bool>("--pause-before-switchover") { Description = "Keep the machine running and up to date until `tidemark switchover`." };
        var dryRun = new Option<bool>("--dry-run") { Description = "Send nothing, connect to nobody: watch what the machine writes and predict rounds, bytes and downtime." };
        Option<string?> tls = SharedOptions.Tls();
        Option<string?> tlsPeer = SharedOptions.TlsPeer("What the destination's certificate must be for; without it: the address's host.");
        Option<string?> rate = SharedOptions.BandwidthLimit();
        var insecure = new Option<bool>("--insecure") { Description = "Allow an unencrypted migration beyond this host." };
        Option<bool> json = SharedOptions.Json();
        Option<string?> report = SharedOptions.Report();
        var command = new Command("migrate", "Move a running machine to another process or host.\n\nCtrl-C cancels; before the hand-over the machine then goes on running here.")
        {
            name, to, channels, limit, whenStuck, ceiling, timeout, retry, rate, compress, verify, pause, dryRun, tls, tlsPeer, insecure,
            json, report,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            MigrationAddress address = SharedOptions.Address(parsed.GetRequiredValue(to));
            SharedOptions.RequireSafe(address, parsed.GetValue(tls), parsed.GetValue(tlsPeer), parsed.GetValue(insecure));
            HtmlReport.RequireWritable(parsed.GetValue(report));
            var request = new JsonObject
            {
                ["op"] = "migrate",
                // The machine's process connects, and it may stand in another folder.
                ["to"] = (address is MigrationAddress.Unix unix ? new MigrationAddress.Unix(Path.GetFullPath(unix.Path)) : address).ToString(),
                ["channels"] = parsed.GetValue(channels),
                ["downtimeLimitMilliseconds"] = parsed.GetValue(limit),
                ["verify"] = parsed.GetValue(verify),
                ["whenStuck"] = parsed.GetValue(whenStuck),
                ["limitCeilingMilliseconds"] = parsed.GetValue(ceiling),
                ["timeoutMilliseconds"] = parsed.GetValue(timeout) is > 0 and int seconds ? seconds * 1000L : null,
                ["retryMilliseconds"] = parsed.GetValue(retry) * 1000L,
                ["compress"] = parsed.GetValue(compress),
                ["pauseBeforeSwitchover"] = parsed.GetValue(pause),
                // The machine's process opens the files, so that a key goes to nobody else.
                ["tls"] = parsed.GetValue(tls) is { } folder ? Path.GetFullPath(folder) : null,
                ["tlsPeer"] = parsed.GetValue(tlsPeer),
                ["bandwidthLimit"] = SharedOptions.ParseRate(parsed.GetValue(rate)),
            };
            if (parsed.GetValue(dryRun))
                return Forecast(parsed.GetRequiredValue(name), request, parsed.GetValue(json), terminal);
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

    private static int Forecast(string machine, JsonObject request, bool json, Terminal terminal)
    {
        request["op"] = "forecast";
        using ControlClient client = ControlClient.Connect(machine);
        JsonObject forecast = client.Request(request);
        forecast.Remove("done");
        if (json)
            terminal.Result(forecast.ToJsonString());
        else
            MigrationTable.ShowForecast(terminal, forecast);
        return forecast["converges"]!.GetValue<bool>() ? ExitCode.Done : ExitCode.Failed;
    }

    /// <summary>
    /// Sends the request and shows events until the result. A cancellation is passed on to the machine.
    /// </summary>
    /// <param name="show">Shows an event; null: as those of a migration.</param>
    public static JsonObject Run(
        string machine, JsonObject request, Terminal terminal, CancellationToken cancellation,
        Action<Terminal, JsonObject>? show = null)
    {
        // What nobody will see need not be put into words there, while the machine stands still.
        request["events"] = terminal.ShowsNotes;
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
