using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text.Json.Nodes;
using Tidemark.Cli.Output;
using Tidemark.Machine.Description;
using Tidemark.Machine.Transport;

namespace Tidemark.Cli.Commands;

/// <summary>
/// Options that several commands share, each with its check, so that a wrong value is a usage error everywhere.
/// </summary>
internal static class SharedOptions
{
    public static Option<bool> Json() => new("--json") { Description = "One JSON object on standard output instead of text." };

    public static Option<string?> Kernel(string meaning)
    {
        var option = new Option<string?>("--kernel") { Description = meaning, HelpName = "soft|linux" };
        option.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<string?>() is { } value && value is not ("soft" or "linux"))
                result.AddError($"--kernel is \"{value}\"; it must be soft or linux.");
        });
        return option;
    }

    public static Option<int> Channels()
    {
        var option = new Option<int>("--channels")
        {
            Description = "Connections that carry pages, 1 to 64.", HelpName = "N", DefaultValueFactory = _ => 2,
        };
        option.Validators.Add(result => CheckRange(result, "--channels", 1, 64));
        return option;
    }

    public static Option<int> DowntimeLimit() =>
        Milliseconds("--downtime-limit", "How long the machine may stand still.", 300);

    public static Option<int> Milliseconds(string name, string meaning, int usual)
    {
        var option = new Option<int>(name) { Description = $"{meaning} In milliseconds (1 to 600000).", HelpName = "MS", DefaultValueFactory = _ => usual };
        option.Validators.Add(result => CheckRange(result, name, 1, 600_000));
        return option;
    }

    public static Option<int> Seconds(string name, string meaning, int usual, int maximum)
    {
        var option = new Option<int>(name) { Description = meaning, HelpName = "SECONDS", DefaultValueFactory = _ => usual };
        option.Validators.Add(result => CheckRange(result, name, 0, maximum));
        return option;
    }

    /// <summary>One of a few words.</summary>
    public static Option<string> Words(string name, string meaning, params string[] words)
    {
        var option = new Option<string>(name) { Description = meaning, HelpName = string.Join('|', words), DefaultValueFactory = _ => words[0] };
        option.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<string>() is { } value && !words.Contains(value))
                result.AddError($"{name} is \"{value}\"; it must be one of: {string.Join(", ", words)}.");
        });
        return option;
    }

    public static Option<string?> Tls() => new("--tls")
    {
        Description = "Encrypt, and show and check certificates: a folder with ca.pem, cert.pem and key.pem.", HelpName = "FOLDER",
    };

    public static Option<string?> TlsPeer(string meaning) => new("--tls-peer") { Description = meaning, HelpName = "NAME" };

    public static Option<string?> BandwidthLimit()
    {
        var option = new Option<string?>("--bandwidth-limit")
        {
            Description = "Most bytes a second over all connections together, as 100MiB.", HelpName = "RATE",
        };
        option.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<string?>() is { } text && ParseRate(text) is null)
                result.AddError($"--bandwidth-limit is \"{text}\"; it must be bytes a second, as 100MiB, and at least {ByteSize.Format(Machine.Transport.BandwidthLimit.Minimum)}.");
        });
        return option;
    }

    /// <summary>Null when it is no rate, or too small.</summary>
    public static ulong? ParseRate(string? text) =>
        ByteSize.TryParse(text, out ulong rate) && rate >= Machine.Transport.BandwidthLimit.Minimum ? rate : null;

    public static Option<string?> Report() => new("--report") { Description = "Write an HTML report with a heat map of dirty pages.", HelpName = "FILE" };

    public static Option<string?> Trace() => new("--trace") { Description = "Write every call to the kernel into this file, in strace's spelling.", HelpName = "FILE" };

    /// <summary>A report that fails is told, and changes nothing about how the migration ended.</summary>
    public static void WriteReport(string? path, JsonObject result, Terminal terminal)
    {
        if (path is null)
            return;
        try
        {
            HtmlReport.Write(path, result);
            terminal.Note($"Report: {path}");
        }
        catch (CommandFailure failure)
        {
            // The exit code is the migration's: a machine that moved must not look like one that did not.
            terminal.Error(failure.Message);
        }
    }

    public static Argument<string> MachineName() => new("machine") { Description = "The machine's name, as `tidemark list` shows it." };

    public static Argument<string> MachineFilePath() => new("MACHINE.json") { Description = "The machine file (docs/reference/machine-file.md)." };

    /// <exception cref="CommandFailure">The text is no address.</exception>
    public static MigrationAddress Address(string text) =>
        MigrationAddress.Parse(text, out string problem) ?? throw new CommandFailure(problem, ExitCode.Usage);

    /// <summary>
    /// Plain TCP lets anybody on the way read and change guest memory: only loopback without --tls or --insecure.
    /// </summary>
    /// <exception cref="CommandFailure">It would leave this machine.</exception>
    public static void RequireSafe(MigrationAddress address, string? tls, string? tlsPeer, bool insecure)
    {
        if (tls is not null && insecure)
            throw new CommandFailure("--tls and --insecure contradict each other: leave one of them out.", ExitCode.Usage);
        if (tlsPeer is not null && tls is null)
            throw new CommandFailure("--tls-peer is a name in a certificate, and without --tls there are none.", ExitCode.Usage);
        if (address is MigrationAddress.Tcp { IsLoopback: false } && tls is null && !insecure)
        {
            throw new CommandFailure(
                $"{address} is beyond this machine: without encryption anybody on the way could read or change the guest's memory. Say --tls FOLDER on both sides (`tidemark certificates` makes the folders), tunnel it (ssh -L) to a loopback address, or say --insecure on a network that you trust.",
                ExitCode.Usage);
        }
    }

    /// <exception cref="CommandFailure">The file has mistakes; all of them are in the message, a line each.</exception>
    public static MachineDescription ReadMachineFile(string path)
    {
        MachineDescription? description = MachineFile.Read(path, out IReadOnlyList<MachineFileProblem> problems);
        if (description is not null)
            return description;
        string list = string.Join("\n", problems.Select(problem => $"  {path}{(problem.Line > 0 ? $":{problem.Line}" : "")}: {problem.Text}"));
        throw new CommandFailure(
            $"The machine file has {(problems.Count == 1 ? "a mistake" : string.Create(CultureInfo.InvariantCulture, $"{problems.Count} mistakes"))}:\n{list}",
            ExitCode.Usage);
    }

    public static void CheckRange(OptionResult result, string name, int minimum, int maximum)
    {
        if (result.Errors.Any() || result.Tokens.Count == 0)
            return;
        if (!int.TryParse(result.Tokens[0].Value, NumberStyles.None, CultureInfo.InvariantCulture, out int value)
            || value < minimum || value > maximum)
            result.AddError($"{name} is \"{result.Tokens[0].Value}\"; it must be a whole number from {minimum} to {maximum}.");
    }
}
