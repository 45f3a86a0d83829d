using System.CommandLine;
using System.Text.Json.Nodes;
using Tidemark.Cli.Hosting;
using Tidemark.Cli.Output;
using Tidemark.Machine.Snapshot;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark snapshot</c>: a machine to a file, from a file, and what a file is.</summary>
internal static class SnapshotCommand
{
    private const string NotDisks =
        "A snapshot is of a machine, not of its disks: memory and device state are in the file, disks are not. Restore it "
        + "with disks as they were when it was saved.";

    /// <summary>Threads that check a file; the disk is what takes the time.</summary>
    private const int VerifyThreads = 2;

    public static Command Create(CommandRunner runner) => new(
        "snapshot", $"Save a running machine to a file, run one from a file, look at a file.\n\n{NotDisks}")
    {
        CreateSave(runner), CreateRestore(runner), CreateInfo(runner),
    };

    /// <exception cref="CommandFailure">The word is none of the three.</exception>
    public static DirectIO ParseDirect(string word) => word switch
    {
        "auto" => DirectIO.Auto,
        "on" => DirectIO.On,
        "off" => DirectIO.Off,
        _ => throw new CommandFailure($"--direct is \"{word}\"; it must be auto, on or off.", ExitCode.Usage),
    };

    private static Command CreateSave(CommandRunner runner)
    {
        Argument<string> name = SharedOptions.MachineName();
        Argument<string> file = FileArgument("The file to make. A snapshot that has the name is replaced when the new one is complete; no other file is.");
        var stop = new Option<bool>("--stop")
        {
            Description = "End the machine when the file is complete; without it, the machine runs on.",
        };
        Option<string> direct = DirectOption();
        Option<bool> json = SharedOptions.Json();
        var command = new Command(
            "save",
            "Save a running machine to a file.\n\nMemory is written while the machine runs; it stands still for the last pages and "
            + "the devices' state only. Whatever goes wrong (a full disk, Ctrl-C), the machine runs on, and no half file is left. "
            + NotDisks + " With --stop they can be copied when the command is done.")
        {
            name, file, stop, direct, json,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            var request = new JsonObject
            {
                ["op"] = "snapshot-save",
                // The machine's process writes it, and it may stand in another folder.
                ["file"] = Path.GetFullPath(parsed.GetRequiredValue(file)),
                ["stop"] = parsed.GetValue(stop),
                ["direct"] = parsed.GetRequiredValue(direct),
            };
            JsonObject result = MigrateCommand.Run(
                parsed.GetRequiredValue(name), request, terminal, cancellation, SnapshotTable.Show);
            if (parsed.GetValue(json))
                terminal.Result(result.ToJsonString());
            else
                SnapshotTable.ShowResult(terminal, result);
            return result["exitCode"]!.GetValue<int>();
        });
        return command;
    }

    private static Command CreateRestore(CommandRunner runner)
    {
        Argument<string> file = FileArgument("The file that `tidemark snapshot save` made.");
        var machineFile = new Argument<string>("MACHINE.json")
        {
            Description = "The machine file; memory, workload and devices as when it was saved.",
        };
        Option<string?> name = RunCommand.NameOption();
        Option<string?> kernel = SharedOptions.Kernel(RunCommand.KernelMeaning);
        Option<string?> trace = SharedOptions.Trace();
        Option<bool> tied = RunCommand.TiedOption();
        Option<string> direct = DirectOption();
        Option<bool> json = SharedOptions.Json();
        var command = new Command(
            "restore",
            "Run a machine from a snapshot, until it is stopped or has moved away.\n\nEvery difference between the snapshot and "
            + "the machine file is told before memory is read. Each page is checked, and the disks are taken, before the machine "
            + "runs. " + NotDisks)
        {
            file, machineFile, name, kernel, trace, tied, direct, json,
        };
        runner.Attach(command, (parsed, terminal, cancellation) => RunCommand.Host(
            new RunCommand.HostRequest(
                parsed.GetRequiredValue(machineFile), parsed.GetValue(name), parsed.GetValue(kernel), Plant: null,
                parsed.GetValue(trace), parsed.GetValue(tied)),
            terminal,
            (process, token) => process.Restore(
                Path.GetFullPath(parsed.GetRequiredValue(file)), ParseDirect(parsed.GetRequiredValue(direct)),
                parsed.GetValue(json), token),
            cancellation));
        return command;
    }

    private static Command CreateInfo(CommandRunner runner)
    {
        Argument<string> file = FileArgument("The file to look at.");
        var verify = new Option<bool>("--verify") { Description = "Read all of it and check every checksum." };
        Option<bool> json = SharedOptions.Json();
        var command = new Command("info", "Say what a snapshot is of, and whether it is complete and intact.\n\nNothing is changed.")
        {
            file, verify, json,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            string path = Path.GetFullPath(parsed.GetRequiredValue(file));
            JsonObject result;
            int exitCode = ExitCode.Done;
            try
            {
                result = Look(path, parsed.GetValue(verify), terminal, cancellation);
            }
            catch (Exception failure) when (failure is SnapshotFileException or IOException && !cancellation.IsCancellationRequested)
            {
                // The file is not what it should be, which is the answer that was asked for.
                string problem = failure.Message + DescribePartial(path);
                exitCode = ExitCode.Failed;
                if (!parsed.GetValue(json))
                    throw new CommandFailure(problem);
                result = new JsonObject { ["file"] = path, ["problem"] = problem };
            }

            if (parsed.GetValue(json))
                terminal.Result(result.ToJsonString());
            else
                SnapshotTable.ShowContents(terminal, result);
            return exitCode;
        });
        return command;
    }

    private static JsonObject Look(string path, bool verify, Terminal terminal, CancellationToken cancellation)
    {
        using KernelChoice kernel = KernelChoice.Create("linux", machine: null);
        using SnapshotFile file = SnapshotFile.OpenRead(kernel.Kernel, path, DirectIO.Off);
        SnapshotContents contents = SnapshotContents.Open(file);
        if (verify)
        {
            contents.Verify(VerifyThreads, new ProgressObserver(terminal), cancellation);
            terminal.EndProgress();
        }

        return SnapshotJson.Contents(contents, path, verify ? true : null);
    }

    /// <summary>What lies beside the file, in sentences.</summary>
    private static string DescribePartial(string path) => string.Concat(NewSnapshotFile.FindPartial(path).Select(partial => partial.IsInUse
        ? $" A save to it is under way ({partial.Path})."
        : $" A save to it was broken off and left {partial.Path}; the next save to the same file removes it."));

    private static Argument<string> FileArgument(string meaning) => new("FILE") { Description = meaning };

    private static Option<string> DirectOption()
    {
        var option = new Option<string>("--direct")
        {
            Description = "Read and write memory past the page cache: auto (where the file system takes it), on or off.",
            HelpName = "auto|on|off", DefaultValueFactory = _ => "auto",
        };
        option.Validators.Add(result =>
        {
            if (result.Tokens is [{ Value: not ("auto" or "on" or "off") } token, ..])
                result.AddError($"--direct is \"{token.Value}\"; it must be auto, on or off.");
        });
        return option;
    }

    private sealed class ProgressObserver(Terminal terminal) : ISnapshotObserver
    {
        public void OnEvent(SnapshotEvent snapshotEvent) => SnapshotTable.Show(terminal, SnapshotJson.Event(snapshotEvent));
    }
}
