using System.CommandLine;
using System.Text.Json.Nodes;
using Tidemark.Cli.Hosting;
using Tidemark.Cli.Output;
using Tidemark.Machine.Description;
using Tidemark.Vfio;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark demo</c>: the whole idea on real data, with nothing needed but this program.</summary>
internal static class DemoCommand
{
    private const ulong MiB = 1UL << 20;

    public static Command Create(CommandRunner runner)
    {
        var files = new Argument<string[]>("FILE")
        {
            Description = "Files to use as disks; they are only read. Without any, the demo makes its own.",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var memory = new Option<string?>("--memory")
        {
            Description = "Guest memory; without it 1GiB, with --kernel linux 64MiB.", HelpName = "SIZE",
        };
        Option<string?> kernel = SharedOptions.Kernel("Which kernel to work on: soft (the default), or linux with two --device.");
        var devices = new Option<string[]>("--device")
        {
            Description = "With --kernel linux: the source's NVMe controller, then the destination's (a PCI address each, bound to vfio-pci, disks of equal content, which are only read).",
            HelpName = "PCI",
        };
        var assisted = new Option<bool>("--driver-assisted")
        {
            Description = "On the soft kernel: controllers without migration states, which move with the help of their driver.",
        };
        var exercise = new Option<bool>("--exercise")
        {
            Description = "Also try everything that dirty tracking offers, and change the page table during the migration; always with --kernel linux.",
        };
        Option<int> channels = SharedOptions.Channels();
        Option<int> limit = SharedOptions.DowntimeLimit();
        limit.DefaultValueFactory = _ => 0;
        limit.Description = "How long the machine may stand still, in milliseconds (1 to 600000); without it 300, with --kernel linux 5000.";
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

            With --kernel linux the same on real hardware (or a guest's): one NVMe controller for each side, moved with
            the help of its driver. Their disks are never written.
            """)
        {
            files, memory, kernel, devices, assisted, exercise, channels, limit, json, report, plant,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            bool linux = parsed.GetValue(kernel) == "linux";
            var options = new DemoOptions(
                parsed.GetValue(files) ?? [], ReadMemory(parsed.GetValue(memory), linux), parsed.GetValue(channels),
                parsed.GetValue(limit) is > 0 and int given ? given : linux ? 5000 : 300, Plant.Find(parsed.GetValue(plant)))
            {
                Devices = parsed.GetValue(devices) ?? [],
                DriverAssisted = parsed.GetValue(assisted),
                Exercise = linux || parsed.GetValue(exercise),
            };
            CheckKernel(options, linux);
            HtmlReport.RequireWritable(parsed.GetValue(report));
            var demo = new Demo(options, terminal);
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

    private static ulong ReadMemory(string? text, bool linux)
    {
        text ??= linux ? "64MiB" : "1GiB";
        ulong least = linux ? 32 * MiB : 128 * MiB;
        if (!ByteSize.TryParse(text, out ulong memoryBytes))
            throw new CommandFailure($"--memory is \"{text}\"; it must be a size such as 512MiB or 2GiB.", ExitCode.Usage);
        if (memoryBytes < least || memoryBytes % (2 * MiB) != 0 || memoryBytes > 1UL << 40)
            throw new CommandFailure($"--memory must be a multiple of 2 MiB from {least / MiB} MiB to 1 TiB; it is {text}.", ExitCode.Usage);
        return memoryBytes;
    }

    /// <summary>What goes with which kernel.</summary>
    private static void CheckKernel(DemoOptions options, bool linux)
    {
        if (!linux && options.Devices.Count > 0)
            throw new CommandFailure("--device is for --kernel linux; the soft kernel has devices of its own.", ExitCode.Usage);
        if (!linux)
            return;
        if (options.Devices.Count != 2 || options.Devices[0] == options.Devices[1])
            throw new CommandFailure("--kernel linux needs two different --device: the source's controller, then the destination's.", ExitCode.Usage);
        if (options.Devices.FirstOrDefault(address => !VfioDiscovery.IsPciAddress(address)) is { } wrong)
            throw new CommandFailure($"--device is \"{wrong}\"; a PCI address looks like 0000:01:00.0.", ExitCode.Usage);
        if (options.Files.Count > 0)
            throw new CommandFailure("Files serve as disks on the soft kernel only; with --kernel linux the devices have their own.", ExitCode.Usage);
        if (options.Plant.Kernel != default)
            throw new CommandFailure($"The plant \"{options.Plant.Name}\" is a fault of the soft kernel; it can not be planted in a real one.", ExitCode.Usage);
    }

    private static void Show(Terminal terminal, JsonObject result)
    {
        MigrationTable.ShowResult(terminal, result);
        if (result["exercised"] is JsonArray exercised)
            DemoExercises.Show(terminal, exercised);
        if (result["plant"] is not JsonObject plant)
            return;
        string caught = (string?)plant["caughtBy"] is { } by
            ? terminal.Good($"caught by {by} in run {plant["runs"]}")
            : terminal.Bad($"NOT caught in {plant["runs"]} runs");
        terminal.Result($"{"planted",-16}{plant["name"]}: {caught}");
    }
}
