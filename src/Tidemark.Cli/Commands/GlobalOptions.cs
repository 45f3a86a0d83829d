using System.CommandLine;
using Tidemark.Cli.Output;

namespace Tidemark.Cli.Commands;

/// <summary>Options that every command takes.</summary>
internal sealed class GlobalOptions
{
    public Option<bool> Quiet { get; } = new("--quiet", "-q") { Description = "Only results and errors.", Recursive = true };

    public Option<bool> Verbose { get; } = new("--verbose", "-v") { Description = "Also phases, decisions and their numbers.", Recursive = true };

    public Option<string?> Log { get; } = new("--log") { Description = "Append everything said to this file, with times.", HelpName = "FILE", Recursive = true };

    public void AddTo(RootCommand root)
    {
        root.Options.Add(Quiet);
        root.Options.Add(Verbose);
        root.Options.Add(Log);
    }

    public void Apply(ParseResult parsed, Terminal terminal)
    {
        terminal.Quiet = parsed.GetValue(Quiet);
        terminal.Verbose = parsed.GetValue(Verbose);
        if (parsed.GetValue(Log) is { } path)
            terminal.LogTo(path);
    }

    /// <summary>The same options for a child process.</summary>
    public IEnumerable<string> Forward(ParseResult parsed)
    {
        if (parsed.GetValue(Verbose))
            yield return "--verbose";
    }
}
