using System.CommandLine;
using Tidemark.Cli.Hosting;
using Tidemark.Cli.Output;
using Tidemark.Machine;
using Tidemark.Machine.Description;
using Tidemark.Machine.LiveUpdate;
using Tidemark.Machine.Transport;
using Tidemark.Migration;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark run</c> and <c>tidemark receive</c>: processes that hold a machine.</summary>
internal static class RunCommand
{
    internal const string KernelMeaning = "Which kernel to work on; without it: soft if the machine file has a softHost, else linux.";

    public static Command CreateRun(CommandRunner runner)
    {
        Argument<string> file = SharedOptions.MachineFilePath();
        Option<string?> name = NameOption();
        Option<string?> kernel = SharedOptions.Kernel(KernelMeaning);
        Option<string?> trace = SharedOptions.Trace();
        Option<string?> plant = PlantOption();
        Option<bool> tied = TiedOption();
        var exercise = new Option<bool>("--exercise")
        {
            Description = "For tests: in the middle of each migration, move devices to another page table.",
        };
        var takeOver = new Option<bool>("--take-over")
        {
            Description = "Live update: go on with the machine of this name that another process here runs, without its devices noticing.",
        };
        var dieAt = new Option<LiveUpdateStep?>("--die-at")
        {
            Description = "For tests: end as if killed at this step of a live update.", HelpName = "STEP",
        };
        var command = new Command("run", "Run a machine from its file, until it is stopped or has moved away.\n\nCtrl-C stops it in order. Move it with `tidemark migrate`.")
        {
            file, name, kernel, trace, plant, tied, exercise, takeOver, dieAt,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            var request = new HostRequest(
                parsed.GetRequiredValue(file), parsed.GetValue(name), parsed.GetValue(kernel), parsed.GetValue(plant),
                parsed.GetValue(trace), parsed.GetValue(tied))
            {
                Exercises = parsed.GetValue(exercise) ? GuestMachineExercises.Reattach : GuestMachineExercises.None,
                DieAt = parsed.GetValue(dieAt),
            };
            return parsed.GetValue(takeOver)
                ? TakeOver(request, terminal, cancellation)
                : Host(request, terminal, (process, token) => process.RunFresh(token), cancellation);
        });
        return command;
    }

    public static Command CreateReceive(CommandRunner runner)
    {
        Argument<string> file = SharedOptions.MachineFilePath();
        var listen = new Option<string>("--listen")
        {
            Description = "Where to wait: tcp:host:port (port 0: any free one), unix:path or fd:n-m.", HelpName = "ADDRESS",
            DefaultValueFactory = _ => "tcp:127.0.0.1:4711",
        };
        Option<int> waitForSource = SharedOptions.Seconds(
            "--wait-for-source", "How long to keep what has arrived when the connection is lost, in seconds (0 to 3600).", 60, 3600);
        Option<string?> tls = SharedOptions.Tls();
        Option<string?> tlsPeer = SharedOptions.TlsPeer("What the source's certificate must be for; without it any of the CA will do.");
        var insecure = new Option<bool>("--insecure") { Description = "Allow an unencrypted migration from beyond this host." };
        Option<string?> name = NameOption();
        Option<string?> kernel = SharedOptions.Kernel(KernelMeaning);
        Option<string?> trace = SharedOptions.Trace();
        Option<bool> tied = TiedOption();
        var command = new Command("receive", "Wait for a machine that matches the file, take it, and run it.\n\nTakes one machine. Ends with 1 when the migration fails: the machine then runs where it was.")
        {
            file, listen, waitForSource, tls, tlsPeer, insecure, name, kernel, trace, tied,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            MigrationAddress address = SharedOptions.Address(parsed.GetRequiredValue(listen));
            SharedOptions.RequireSafe(address, parsed.GetValue(tls), parsed.GetValue(tlsPeer), parsed.GetValue(insecure));
            using TlsCredentials? credentials = MigrationWire.LoadCredentials(parsed.GetValue(tls));
            return Host(
                new HostRequest(
                    parsed.GetRequiredValue(file), parsed.GetValue(name), parsed.GetValue(kernel), Plant: null,
                    parsed.GetValue(trace), parsed.GetValue(tied)),
                terminal,
                (process, token) =>
                {
                    using Lobby acceptor = MigrationWire.Listen(
                        address, credentials, parsed.GetValue(tlsPeer), process.Kernel, terminal.Note);
                    var options = new DestinationOptions
                    {
                        AwaitSourceFor = TimeSpan.FromSeconds(parsed.GetValue(waitForSource)),
                        Codec = MigrationRequest.FindCodec(),
                    };
                    return process.Receive(acceptor, options, token);
                },
                cancellation);
        });
        return command;
    }

    private static int TakeOver(HostRequest request, Terminal terminal, CancellationToken cancellation)
    {
        MachineDescription description = SharedOptions.ReadMachineFile(request.File);
        string name = NameOf(request, description);
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        if (request.Tied)
            EndWithStandardInput(end);
        using KernelChoice kernel = KernelChoice.Create(request.Kernel, description, request.Trace);
        using LiveUpdateSocket place = LiveUpdateSocket.Open(name);
        using System.Net.Sockets.Socket socket = place.Ask(out int oldProcess);
        using GuestMachine machine = TakeOver(
            description, kernel, socket, step => MachineProcess.Die(request.DieAt, step), out TimeSpan stoodStill);
        using var process = new MachineProcess(name, machine, kernel.Kernel, terminal, MigrationFaults.None);
        return process.RunTaken(stoodStill, oldProcess, end.Token);
    }

    private static GuestMachine TakeOver(
        MachineDescription description, KernelChoice kernel, System.Net.Sockets.Socket socket, Action<LiveUpdateStep> onStep,
        out TimeSpan stoodStill)
    {
        try
        {
            return LiveUpdateLink.TakeOver(description, kernel.Kernel, kernel.Sysfs, socket, out stoodStill, onStep);
        }
        catch (Exception failure) when (failure is InvalidDataException or Machine.Nvme.NvmeException)
        {
            // The machine runs on where it was.
            throw new CommandFailure(failure.Message);
        }
    }

    private static string NameOf(HostRequest request, MachineDescription description)
    {
        string name = request.Name ?? description.Name;
        return MachineName.IsValid(name)
            ? name
            : throw new CommandFailure($"\"{name}\" is not a name: 1 to 64 letters, digits, '-', '_' or '.'.", ExitCode.Usage);
    }

    internal static int Host(
        HostRequest request, Terminal terminal,
        Func<MachineProcess, CancellationToken, int> body, CancellationToken cancellation)
    {
        Plant plant = Plant.Find(request.Plant);
        MachineDescription description = SharedOptions.ReadMachineFile(request.File);
        string machineName = NameOf(request, description);
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        if (request.Tied)
            EndWithStandardInput(end);
        using KernelChoice kernel = KernelChoice.Create(request.Kernel, description, request.Trace, plant.Kernel);
        using GuestMachine machine = GuestMachine.Assemble(description, kernel.Kernel, kernel.Sysfs, plant.Machine, request.Exercises);
        using var process = new MachineProcess(machineName, machine, kernel.Kernel, terminal, plant.Engine) { DieAtStep = request.DieAt };
        return body(process, end.Token);
    }

    /// <summary>
    /// A machine that belongs to a test or demo ends with the process that started it, however that ends.
    /// </summary>
    private static void EndWithStandardInput(CancellationTokenSource end) =>
        new Thread(() =>
        {
            while (Console.In.Read() >= 0)
            {
                // What is written there means nothing; its end does.
            }

            try
            {
                end.Cancel();
            }
            catch (ObjectDisposedException)
            {
                // The command has ended already.
            }
        }) { IsBackground = true, Name = "tidemark tied" }.Start();

    /// <summary>What <c>run</c>, <c>receive</c> and <c>snapshot restore</c> have in common.</summary>
    internal sealed record HostRequest(string File, string? Name, string? Kernel, string? Plant, string? Trace, bool Tied)
    {
        public GuestMachineExercises Exercises { get; init; }

        public LiveUpdateStep? DieAt { get; init; }
    }

    internal static Option<string?> NameOption() => new("--name") { Description = "Another name than the file's.", HelpName = "NAME" };

    private static Option<string?> PlantOption() => new("--plant")
    {
        Description = $"For tests: plant a fault ({string.Join(", ", Plant.All.Select(plant => plant.Name))}).", HelpName = "NAME",
    };

    internal static Option<bool> TiedOption() => new("--tied") { Description = "For scripts: end when standard input ends." };
}
