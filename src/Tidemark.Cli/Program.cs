using System.CommandLine;
using Tidemark.Cli.Commands;

namespace Tidemark.Cli;

/// <summary>
/// The composition root. A command builds, in this order and nowhere else: a kernel (Hosting/KernelChoice), a machine
/// over it (GuestMachine.Assemble), the machine's process (Hosting/MachineProcess) or a client of one
/// (Control/ControlClient).
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
            MachineCommands.Switchover(runner),
            ResolveCommand.Create(runner),
            DirtyRateCommand.Create(runner),
            SnapshotCommand.Create(runner),
            MachineCommands.List(runner),
            MachineCommands.Cancel(runner),
            MachineCommands.Stop(runner),
            CheckCommand.Create(runner),
            ConformCommand.Create(runner),
            ReplayCommand.Create(runner),
            CertificatesCommand.Create(runner),
            VersionCommand.Create(runner),
        };
        options.AddTo(root);
        ParseResult parsed = root.Parse(arguments.Length == 0 ? ["--help"] : arguments);
        string[] problems = FindProblems(parsed);
        if (problems.Length == 0)
            return parsed.Invoke();
        foreach (string problem in problems)
            Console.Error.WriteLine($"tidemark: {problem}");
        Command command = parsed.CommandResult.Command;
        Console.Error.WriteLine($"Try `{NameOf(command)} --help`.");
        return ExitCode.Usage;
    }

    /// <summary>With the commands that it is under: <c>tidemark snapshot save</c>.</summary>
    private static string NameOf(Symbol command) =>
        command is RootCommand || command.Parents.FirstOrDefault() is not { } parent ? "tidemark" : $"{NameOf(parent)} {command.Name}";

    /// <summary>
    /// What is wrong with the command line. The parser takes a misspelt option for an argument when a command takes any
    /// number of them, and an unknown command for a missing one.
    /// </summary>
    private static string[] FindProblems(ParseResult parsed)
    {
        if (parsed.CommandResult.Command is RootCommand && parsed.UnmatchedTokens is [string first, ..])
            return [$"There is no command or option \"{first}\"."];
        if (parsed.Errors.Count > 0)
            return [.. parsed.Errors.Select(error => error.Message)];
        return [.. parsed.CommandResult.Tokens
            .Where(token => token.Value.Length == 0 || token.Value[0] == '-')
            .Select(token => token.Value.Length == 0
                ? "An argument is empty."
                : $"There is no option \"{token.Value}\". If it is the name of a file, write ./{token.Value}.")];
    }
}
