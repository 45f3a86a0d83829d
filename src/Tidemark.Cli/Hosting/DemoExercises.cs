using System.Globalization;
using System.Text.Json.Nodes;
using Tidemark.Cli.Output;
using Tidemark.Kernel;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Exercise;
using Tidemark.Machine.Nvme;

namespace Tidemark.Cli.Hosting;

/// <summary>The part of a demo that looks at its devices before, and says afterwards what was shown.</summary>
internal static class DemoExercises
{
    /// <summary>The same verdict as `tidemark check`, for each device.</summary>
    /// <exception cref="CommandFailure">One can not be used; the message says why.</exception>
    public static void Check(KernelChoice kernel, IReadOnlyList<string> addresses, Terminal terminal)
    {
        foreach (string address in addresses)
        {
            HostCheck check = HostCheck.Run(kernel.Kernel, kernel.Sysfs, [new DeviceDescription { Name = address, Host = address }]);
            foreach (DeviceCheck device in check.Devices.Where(device => device.Problem is null))
            {
                terminal.Note($"{address}: IOMMU dirty tracking: {(device.IommuTracks ? "yes" : "no")} ({Commands.CheckCommand.Evidence(device)})");
                terminal.Note($"{address}: would move {device.Handover}");
            }

            if (check.Verdict != HostVerdict.Ready)
            {
                string problem = check.Devices.FirstOrDefault(device => device.Problem is not null)?.Problem
                    ?? string.Join(" ", check.Blockers.Select(blocker => blocker.ToString()));
                throw new CommandFailure(
                    $"The demo can not use {address} (kernel={check.Kernel}): {check.Reason}.{(problem.Length > 0 ? $" {problem}" : "")}",
                    check.Verdict == HostVerdict.NotSupported ? ExitCode.NotSupported : ExitCode.Failed);
            }
        }
    }

    /// <summary>Tries everything on a device that nobody uses.</summary>
    public static JsonArray Run(KernelChoice kernel, string address, Terminal terminal)
    {
        terminal.Note($"exercising dirty tracking with {address} ...");
        IReadOnlyList<ExerciseResult> results;
        try
        {
            results = DirtyTrackingExercise.Run(kernel.Kernel, kernel.Sysfs, address);
        }
        catch (Exception failure) when (failure is NvmeException or KernelException)
        {
            // The device is closed, and so reset.
            throw new CommandFailure($"The exercise with {address} ended: {failure.Message}");
        }

        return [.. results.Select(result => (JsonNode)Item(result.Name, result.Outcome, result.Evidence))];
    }

    /// <summary>What the migration itself showed.</summary>
    public static void AddMigration(JsonArray exercised, JsonObject result)
    {
        bool lost = (string?)result["caughtBy"] == "memory-verification";
        JsonNode sources = result["dirtyBySource"]!;
        ulong cpu = sources["cpu"]!.GetValue<ulong>();
        ulong devices = sources["iommu"]!.GetValue<ulong>() + sources["deviceLog"]!.GetValue<ulong>() + sources["assumed"]!.GetValue<ulong>();
        exercised.Add(Item(
            "union", lost ? ExerciseOutcome.Failed : cpu > 0 && devices > 0 ? ExerciseOutcome.Shown : ExerciseOutcome.NotShown,
            string.Create(CultureInfo.InvariantCulture,
                $"during the migration the processor's source reported {cpu} pages and the devices' sources {devices}; {(lost ? "pages were lost all the same" : "their union was sent, and what was compared was equal")}")));
        foreach (JsonNode? table in result["reattached"]?.AsArray() ?? [])
        {
            exercised.Add((string?)table!["refusal"] is { } refusal
                ? Item("replace-during-migration", ExerciseOutcome.NotShown, refusal)
                : Item("replace-during-migration", lost ? ExerciseOutcome.NotShown : ExerciseOutcome.Shown,
                    $"in the middle of the migration {table["devices"]} went from HWPT {table["from"]} to HWPT {table["to"]}, both tracking; the old one still had {table["pagesFromOld"]} dirty pages, the new one reported {table["pagesFromNew"]}"
                    + (lost ? "; pages were lost in that migration, so nothing follows from it" : "")));
        }
    }

    public static void Show(Terminal terminal, JsonArray exercised)
    {
        foreach (JsonNode? item in exercised)
        {
            string outcome = (string)item!["result"]!;
            string coloured = outcome switch
            {
                "shown" => terminal.Good("shown"),
                "failed" => terminal.Bad("FAILED"),
                _ => "not shown",
            };
            terminal.Result($"{"exercised",-16}{item["name"]}: {coloured}: {item["evidence"]}");
        }
    }

    public static bool AnyFailed(JsonArray exercised) => exercised.Any(item => (string?)item!["result"] == "failed");

    private static JsonObject Item(string name, ExerciseOutcome outcome, string evidence) => new()
    {
        ["name"] = name,
        ["result"] = outcome switch
        {
            ExerciseOutcome.Shown => "shown",
            ExerciseOutcome.NotShown => "notShown",
            ExerciseOutcome.Failed => "failed",
            _ => throw new ArgumentOutOfRangeException(nameof(outcome)),
        },
        ["evidence"] = evidence,
    };
}
