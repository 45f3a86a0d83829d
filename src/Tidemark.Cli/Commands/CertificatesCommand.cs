using System.CommandLine;
using Tidemark.Machine.Transport;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark certificates</c>: a CA and a TLS folder for each host, for those who have no CA.</summary>
internal static class CertificatesCommand
{
    public static Command Create(CommandRunner runner)
    {
        var folder = new Argument<string>("FOLDER") { Description = "Where to make the folders; a CA that is there already signs for more hosts." };
        var hosts = new Option<string[]>("--host")
        {
            Description = "A host name or IP address, as --tls checks it; may be given again.", HelpName = "NAME", Required = true,
            AllowMultipleArgumentsPerToken = true,
        };
        var days = new Option<int>("--days") { Description = "How long the hosts' certificates are valid, 1 to 3650.", HelpName = "N", DefaultValueFactory = _ => 730 };
        days.Validators.Add(result => SharedOptions.CheckRange(result, "--days", 1, 3650));
        var command = new Command("certificates", "Make the certificates with which migrations are encrypted.\n\nFOLDER/ca has the CA with its key: keep it off the hosts. FOLDER/NAME is for the host NAME: copy it there,\nand give it to `tidemark receive` and `tidemark migrate` with --tls.")
        {
            folder, hosts, days,
        };
        runner.Attach(command, (parsed, terminal, _) =>
        {
            IReadOnlyList<string> made = CertificateFolders.Make(
                parsed.GetRequiredValue(folder), parsed.GetRequiredValue(hosts), TimeSpan.FromDays(parsed.GetValue(days)), TimeProvider.System);
            foreach (string path in made)
                terminal.Result(path);
            terminal.Note($"Keep {Path.Combine(parsed.GetRequiredValue(folder), CertificateFolders.AuthorityFolder)} off the hosts; whoever has its key can take and give machines.");
            return ExitCode.Done;
        });
        return command;
    }
}
