using System.CommandLine;
using System.Diagnostics;
using System.Text.Json.Nodes;
using Tidemark.Cli.Hosting;
using Tidemark.Cli.Output;
using Tidemark.Conformance;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark conform</c>: does this kernel keep the promises of the uAPI.</summary>
internal static class ConformCommand
{
    private static readonly TimeSpan ProgressAfter = TimeSpan.FromSeconds(2);

    public static Command Create(CommandRunner runner)
    {
        Option<string?> kernel = SharedOptions.Kernel("Which kernel to judge; without it: linux.");
        var device = new Option<string[]>("--device")
        {
            Description = "A device bound to a VFIO driver that the cases may use: PCI address, UUID of an mdev, or path of its VFIO device node; can be given several times. It is opened, reset and driven: nobody else may use it.",
            HelpName = "DEVICE",
        };
        var filter = new Option<string?>("--filter")
        {
            Description = "Only cases whose name or area contains this.", HelpName = "TEXT",
        };
        var against = new Option<string?>("--against")
        {
            Description = "Results of another kernel, as --json wrote them: says which cases the two answer differently. A difference that docs/internals/divergences.md does not list makes the exit code 1.",
            HelpName = "FILE",
        };
        Option<string?> profile = Profile();
        var record = new Option<string?>("--record")
        {
            Description = "Write the calls of every case that passes, a file an area, into this folder, which has the name of the profile; `tidemark replay` makes them on another kernel.",
            HelpName = "FOLDER",
        };
        Option<string?> trace = SharedOptions.Trace();
        Option<bool> json = SharedOptions.Json();
        var command = new Command(
            "conform",
            "Check, case by case, whether this kernel keeps the promises of iommufd and VFIO.\n\nUses objects of its own and the devices named with --device, and nothing else. The soft kernel without --device gets a host of its own with a device of every kind.\nExit code 0 no case failed, 1 some did, 3 the kernel has no iommufd.")
        {
            kernel, profile, device, filter, against, record, trace, json,
        };
        runner.Attach(command, (parsed, terminal, cancellation) =>
        {
            ForeignResults? other = parsed.GetValue(against) is string file ? ForeignResults.Read(file) : null;
            using ConformHost host = ConformHost.Create(
                parsed.GetValue(kernel), parsed.GetValue(device) ?? [], parsed.GetValue(trace),
                FindProfile(parsed.GetValue(profile), parsed.GetValue(kernel)));
            string? wanted = parsed.GetValue(filter);
            List<ConformanceCase> cases = [.. ConformanceSuite.Cases.Where(candidate => wanted is null
                || candidate.Name.Contains(wanted, StringComparison.OrdinalIgnoreCase)
                || candidate.Area.Contains(wanted, StringComparison.OrdinalIgnoreCase))];
            if (cases.Count == 0)
                throw new CommandFailure($"No case has \"{wanted}\" in its name or area.", ExitCode.Usage);
            string? recordings = parsed.GetValue(record);
            ConformanceRecorder? recorder = recordings is null ? null : new ConformanceRecorder(host.Kernel);
            ConformanceContext context =
                ConformanceContext.Create(recorder?.Kernel ?? host.Kernel, host.Sysfs, host.Devices);
            foreach (DeviceProfile profile in context.Devices.Where(profile => profile.Problem is not null))
                terminal.Note($"{profile.Address} can not be used: {profile.Problem}");
            IReadOnlyList<ConformanceResult> results = Run(context, cases, recorder, terminal, cancellation);
            if (recorder is not null)
            {
                RecordingFiles.Write(
                    recordings!, recorder.ToRecordings(RecordingFiles.ProfileOf(recordings!), context.Devices));
                terminal.Note($"{recorder.CaseCount} cases recorded in {recordings}, {recorder.SkippedCount} are different each time");
            }

            ConformanceComparison? comparison =
                other is null ? null : ConformanceComparison.Of(results, other.Cases);
            if (parsed.GetValue(json))
            {
                JsonObject result = ToJson(context, results);
                if (comparison is not null)
                    result["against"] = ToJson(other!, comparison);
                terminal.Result(result.ToJsonString());
            }
            else
            {
                Show(terminal, context, results);
                if (comparison is not null)
                    Show(terminal, other!, comparison);
            }

            if (!context.HasIommufd)
                return ExitCode.NotSupported;
            bool failed = results.Any(result => result.Verdict == ConformanceVerdict.Failed)
                || comparison?.Differences.Any(difference => difference.Known is null) == true;
            return failed ? ExitCode.Failed : ExitCode.Done;
        });
        return command;
    }

    internal static Option<string?> Profile()
    {
        string names = string.Join(
            "; ", ConformProfiles.All.Select(profile => $"{profile.Name}: {profile.Summary}"));
        return new Option<string?>("--profile")
        {
            Description = $"The hardware of the soft kernel: {names}. Without it: a device of every kind.",
            HelpName = "NAME",
        };
    }

    /// <exception cref="CommandFailure">There is no such profile, or the kernel is not the soft one.</exception>
    internal static ConformProfile? FindProfile(string? name, string? kernel)
    {
        if (name is null)
            return null;
        if (kernel != "soft")
            throw new CommandFailure("--profile is the soft kernel's hardware: add --kernel soft.", ExitCode.Usage);
        return ConformProfiles.All.FirstOrDefault(profile => profile.Name == name) ?? throw new CommandFailure(
            $"There is no profile \"{name}\"; there are {string.Join(", ", ConformProfiles.All.Select(profile => profile.Name))}.",
            ExitCode.Usage);
    }

    private static IReadOnlyList<ConformanceResult> Run(
        ConformanceContext context, List<ConformanceCase> cases, ConformanceRecorder? recorder, Terminal terminal,
        CancellationToken cancellation)
    {
        long began = Stopwatch.GetTimestamp();
        int number = 0;
        IReadOnlyList<ConformanceResult> results = ConformanceSuite.Run(
            context, cases,
            started =>
            {
                recorder?.Start(started);
                number++;
                terminal.Detail(started.Name);
                if (Stopwatch.GetElapsedTime(began) > ProgressAfter)
                    terminal.Progress($"{number}/{cases.Count} {started.Name}");
            },
            ended => recorder?.End(ended), cancellation);
        terminal.EndProgress();
        return results;
    }

    private static void Show(Terminal terminal, ConformanceContext context, IReadOnlyList<ConformanceResult> results)
    {
        terminal.Result($"{"kernel",-24}{context.Kernel.Identity}");
        foreach (ConformanceResult result in results.Where(result => result.Verdict == ConformanceVerdict.Failed))
        {
            terminal.Result($"{terminal.Bad("failed")} {terminal.Bold(result.Case.Name)}");
            terminal.Result($"  {result.Reason}");
            terminal.Result($"  {result.Case.Source}.");
        }

        terminal.Result($"{terminal.Bold($"{"area",-24}")}{"passed",8}{"failed",8}{"not applicable",16}");
        foreach (IGrouping<string, ConformanceResult> area in results.GroupBy(result => result.Case.Area))
        {
            terminal.Result(
                $"{area.Key,-24}{Count(area, ConformanceVerdict.Passed),8}{Count(area, ConformanceVerdict.Failed),8}{Count(area, ConformanceVerdict.NotApplicable),16}");
        }

        foreach (IGrouping<string, ConformanceResult> reason in results
            .Where(result => result.Verdict == ConformanceVerdict.NotApplicable)
            .GroupBy(result => result.Reason!).OrderByDescending(reason => reason.Count()))
            terminal.Result($"not applicable {reason.Count(),5}: {reason.Key}");
        int failed = Count(results, ConformanceVerdict.Failed);
        string summary =
            $"{Count(results, ConformanceVerdict.Passed)} passed, {failed} failed, {Count(results, ConformanceVerdict.NotApplicable)} not applicable (kernel={context.Kernel.Identity})";
        terminal.Result(failed == 0 ? terminal.Good(summary) : terminal.Bad(summary));
    }

    private static void Show(Terminal terminal, ForeignResults other, ConformanceComparison comparison)
    {
        foreach (ConformanceDifference difference in comparison.Differences)
        {
            bool known = difference.Known is not null;
            terminal.Result(
                $"{(known ? "listed difference" : terminal.Bad("difference"))} {terminal.Bold(difference.Here.Case.Name)}");
            terminal.Result($"  here: {difference.Here.Reason ?? "passed"}");
            terminal.Result($"  {other.Kernel}: {difference.There.Reason ?? "passed"}");
            if (known)
                terminal.Result($"  {difference.Known}");
        }

        int unlisted = comparison.Differences.Count(difference => difference.Known is null);
        string summary =
            $"against {other.Kernel}: {comparison.Agree} agree, {unlisted} differ, {comparison.Differences.Count - unlisted} differ as listed; only here {comparison.OnlyHere.Count}, only there {comparison.OnlyThere.Count}";
        terminal.Result(unlisted == 0 ? terminal.Good(summary) : terminal.Bad(summary));
    }

    private static JsonObject ToJson(ForeignResults other, ConformanceComparison comparison) => new()
    {
        ["kernel"] = other.Kernel,
        ["agree"] = comparison.Agree,
        ["differences"] = new JsonArray([.. comparison.Differences.Select(difference => new JsonObject
        {
            ["name"] = difference.Here.Case.Name,
            ["here"] = difference.Here.Reason ?? "passed",
            ["there"] = difference.There.Reason ?? "passed",
            ["known"] = difference.Known,
        })]),
        ["onlyHere"] = new JsonArray([.. comparison.OnlyHere.Select(name => (JsonNode)name)]),
        ["onlyThere"] = new JsonArray([.. comparison.OnlyThere.Select(name => (JsonNode)name)]),
    };

    private static int Count(IEnumerable<ConformanceResult> results, ConformanceVerdict verdict) =>
        results.Count(result => result.Verdict == verdict);

    private static JsonObject ToJson(ConformanceContext context, IReadOnlyList<ConformanceResult> results) => new()
    {
        ["kernel"] = context.Kernel.Identity.ToString(),
        ["passed"] = Count(results, ConformanceVerdict.Passed),
        ["failed"] = Count(results, ConformanceVerdict.Failed),
        ["notApplicable"] = Count(results, ConformanceVerdict.NotApplicable),
        ["cases"] = new JsonArray([.. results.Select(result => new JsonObject
        {
            ["name"] = result.Case.Name,
            ["area"] = result.Case.Area,
            ["result"] = result.Verdict switch
            {
                ConformanceVerdict.Passed => "passed",
                ConformanceVerdict.Failed => "failed",
                _ => "notApplicable",
            },
            ["reason"] = result.Reason,
            ["source"] = result.Case.Source,
        })]),
    };
}
