using System.CommandLine;
using System.Text.Json.Nodes;
using Tidemark.Cli.Hosting;
using Tidemark.Cli.Output;
using Tidemark.Machine.Description;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark demo</c>: the whole idea on real data, with nothing needed but this program.</summary>
internal static class DemoCommand
{
    private const ulong MiB = 1UL << 20;

    public static Command Create(CommandRunner runner)
    {
        var files = new Argument<string[]>("files")
        {
            Description = "Files to use as disks; they are only read. Without any, the demo makes its own.", HelpName = "FILE",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var memory = new Option<string>("--memory")
        {
            Description = "Guest memory, from 128MiB.", HelpName = "SIZE", DefaultValueFactory = _ => "1GiB",
        };
        Option<int> channels = SharedOptions.Channels();
        Option<int> limit = SharedOptions.DowntimeLimit();
        Option<bool> json = SharedOptions.Json();
        Option<string?> report = SharedOptions.Report();
        var plant = new Option<string?>("--plant")
        {
            Description = $"Plant a fault and show that a check catches it (exit code 5): {string.Join(", ", Plant.All.Select(plant => plant.Name))}.",
            HelpName = "NAME",
        };
        var command = new Command(
            "demo",
            """
            Move a running machine to another process and account for every byte.

            A machine with three NVMe controllers, on the soft kernel: one whose writes only its IOMMU sees, one with a
            DMA log of its own, one that nobody tracks. They read your files into guest memory all the time while the
            machine moves; afterwards all memory is compared and the reading goes on, on the other side.
            """)
        {
            files, memory, channels, limit, json, report, plant,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            if (!ByteSize.TryParse(parsed.GetRequiredValue(memory), out ulong memoryBytes))
                throw new CommandFailure($"--memory is \"{parsed.GetValue(memory)}\"; it must be a size such as 512MiB or 2GiB.", ExitCode.Usage);
            if (memoryBytes < 128 * MiB || memoryBytes % (2 * MiB) != 0 || memoryBytes > 1UL << 40)
                throw new CommandFailure($"--memory must be a multiple of 2 MiB from 128 MiB to 1 TiB; it is {parsed.GetValue(memory)}.", ExitCode.Usage);
            HtmlReport.RequireWritable(parsed.GetValue(report));
            var demo = new Demo(
                new DemoOptions(
                    parsed.GetValue(files) ?? [], memoryBytes, parsed.GetValue(channels), parsed.GetValue(limit),
                    Plant.Find(parsed.GetValue(plant))),
                terminal);
            JsonObject result = demo.Run(cancellation, out int exitCode);
            if (parsed.GetValue(json))
                terminal.Result(result.ToJsonString());
            else
                Show(terminal, result);
            SharedOptions.WriteReport(parsed.GetValue(report), result, terminal);
            return exitCode;
        });
        return command;
    }

    private static void Show(Terminal terminal, JsonObject result)
    {
        MigrationTable.ShowResult(terminal, result);
        if (result["plant"] is not JsonObject plant)
            return;
        string caught = (string?)plant["caughtBy"] is { } by
            ? terminal.Good($"caught by {by} in run {plant["runs"]}")
            : terminal.Bad($"NOT caught in {plant["runs"]} runs");
        terminal.Result($"{"planted",-16}{plant["name"]}: {caught}");
    }
}
