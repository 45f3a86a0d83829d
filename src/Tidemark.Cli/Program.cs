using System.CommandLine;
using System.CommandLine.Parsing;
using Tidemark.Cli.Commands;

namespace Tidemark.Cli;

/// <summary>
/// The composition root. A command builds, in this order and nowhere else: a kernel (Hosting/KernelChoice), a machine over
/// it (GuestMachine.Assemble), the machine's process (Hosting/MachineProcess) or a client of one (Control/ControlClient).
/// </summary>
internal static class Program
{
    public static int Main(string[] arguments)
    {
        var options = new GlobalOptions();
        var runner = new CommandRunner(options);
        var root = new RootCommand(
            """
            Live migration of machines that own real devices.

            Try `tidemark demo`: a machine whose devices write into its memory all the time moves to another process.
            Exit codes: 0 done, 1 failed (the machine runs where it was), 2 could not tell, 3 not supported here,
            4 state unknown (an operator decides), 5 a planted fault was caught, 64 usage.
            """)
        {
            DemoCommand.Create(runner),
            RunCommand.CreateRun(runner),
            RunCommand.CreateReceive(runner),
            MigrateCommand.Create(runner),
            MachineCommands.Status(runner),
            MachineCommands.List(runner),
            MachineCommands.Cancel(runner),
            MachineCommands.Stop(runner),
            CheckCommand.Create(runner),
            ConformCommand.Create(runner),
            VersionCommand.Create(runner),
        };
        options.AddTo(root);
        ParseResult parsed = root.Parse(arguments.Length == 0 ? ["--help"] : arguments);
        if (parsed.Errors.Count == 0)
            return parsed.Invoke();
        foreach (ParseError error in parsed.Errors)
            Console.Error.WriteLine($"tidemark: {error.Message}");
        Command command = parsed.CommandResult.Command;
        Console.Error.WriteLine(command is RootCommand ? "Try `tidemark --help`." : $"Try `tidemark {command.Name} --help`.");
        return ExitCode.Usage;
    }
}
