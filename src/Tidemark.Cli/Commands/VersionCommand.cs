using System.CommandLine;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Tidemark.Kernel.Linux;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark version</c>.</summary>
internal static class VersionCommand
{
    public static string Version { get; } =
        typeof(VersionCommand).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0] ?? "0";

    public static Command Create(CommandRunner runner)
    {
        Option<bool> json = SharedOptions.Json();
        var command = new Command("version", "Show the versions of tidemark, .NET and the kernel.") { json };
        runner.Attach(command, (parsed, terminal, _) =>
        {
            string kernel = new LinuxKernel().Identity.ToString();
            if (parsed.GetValue(json))
            {
                terminal.Result(new JsonObject
                {
                    ["version"] = Version, ["runtime"] = RuntimeInformation.FrameworkDescription, ["kernel"] = kernel,
                }.ToJsonString());
            }
            else
            {
                terminal.Result($"tidemark {Version} ({RuntimeInformation.FrameworkDescription}, kernel={kernel})");
            }

            return ExitCode.Done;
        });
        return command;
    }
}
