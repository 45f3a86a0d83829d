using System.CommandLine;
using System.Text.Json.Nodes;
using Tidemark.Cli.Hosting;
using Tidemark.Cli.Output;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;

namespace Tidemark.Cli.Commands;

/// <summary><c>tidemark check</c>: can this host, and this machine on it, migrate live; if not, exactly why.</summary>
internal static class CheckCommand
{
    public static Command Create(CommandRunner runner)
    {
        var file = new Argument<string?>("MACHINE.json")
        {
            Description = "A machine file; without one, every device here that is bound to a VFIO driver.",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Option<string?> kernel = SharedOptions.Kernel("Which kernel to look at; without it: soft if the machine file has a softHost, else linux.");
        Option<string?> trace = SharedOptions.Trace();
        Option<bool> json = SharedOptions.Json();
        var command = new Command(
            "check",
            "Tell whether this host and its devices can migrate live, and if not, exactly why and what to change.\n\nOpens, binds and attaches each device for a moment: devices in use elsewhere are reported as such.\nExit code 0 ready, 1 not ready, 3 the kernel has neither iommufd nor, where that is asked for, VFIO containers.")
        {
            file, kernel, trace, json,
        };
        runner.Attach(command, (parsed, terminal, _) =>
        {
            string? path = parsed.GetValue(file);
            MachineDescription? machine = path is null ? null : SharedOptions.ReadMachineFile(path);
            using KernelChoice choice = KernelChoice.Create(parsed.GetValue(kernel), machine, parsed.GetValue(trace));
            HostCheck check = HostCheck.Run(
                choice.Kernel, choice.Sysfs, machine?.Devices, machine?.Backend ?? DeviceBackend.Auto);
            if (parsed.GetValue(json))
                terminal.Result(ToJson(check).ToJsonString());
            else
                Show(terminal, check);
            return check.Verdict switch
            {
                HostVerdict.Ready => ExitCode.Done,
                HostVerdict.NotSupported => ExitCode.NotSupported,
                _ => ExitCode.Failed,
            };
        });
        return command;
    }

    private static void Show(Terminal terminal, HostCheck check)
    {
        terminal.Result($"{"kernel",-24}{check.Kernel}");
        terminal.Result($"{"processor writes",-24}{check.CpuTracking}: {check.CpuTrackingReason}");
        terminal.Result($"{"iommufd",-24}{check.IommufdReason}");
        foreach (DeviceCheck device in check.Devices)
        {
            terminal.Result($"{terminal.Bold($"{device.Name,-24}")}{device.Host}, driver {device.Driver ?? "none"}");
            if (device.Problem is not null)
            {
                terminal.Result($"  {terminal.Bad("problem"),-22}{device.Problem}");
                continue;
            }

            terminal.Result($"  IOMMU dirty tracking: {(device.IommuTracks ? terminal.Good("yes") : "no")} ({Evidence(device)})");
            terminal.Result($"  {"device's own log",-22}{(device.HasDeviceLog ? terminal.Good("yes") : "no")}");
            terminal.Result($"  {"migration states",-22}{device.Abilities}");
            terminal.Result($"  {"would move",-22}{device.Handover}");
            terminal.Result($"  {"tracked by",-22}{device.Tracker!.Kind}: {device.Tracker.Reason}");
        }

        foreach (MigrationBlocker blocker in check.Blockers)
            terminal.Result($"{terminal.Bad("blocker"),-24}{blocker}");
        foreach (StatedCost cost in check.Costs)
            terminal.Result($"{"cost",-24}{cost}");
        string verdict = check.Verdict switch
        {
            HostVerdict.Ready => terminal.Good("ready"),
            HostVerdict.NotReady => terminal.Bad("not ready"),
            _ => terminal.Bad("not supported here"),
        };
        terminal.Result($"{"verdict",-24}{verdict}: {check.Reason}");
    }

    /// <summary>Why the IOMMU before a device is said to track, or not to.</summary>
    public static string Evidence(DeviceCheck device)
    {
        string iommu = device.Iommu is null ? "" : $"{device.Iommu}: ";
        return device.IommuTracks
            ? $"{iommu}IOMMU_GET_HW_INFO reports IOMMU_HW_CAP_DIRTY_TRACKING, and the device is attached to a page table that was made with it"
            : iommu + device.IommuReason!.Replace("no IOMMU tracking: ", "", StringComparison.Ordinal);
    }

    private static JsonObject ToJson(HostCheck check) => new()
    {
        ["kernel"] = check.Kernel,
        ["iommufd"] = new JsonObject { ["available"] = check.HasIommufd, ["reason"] = check.IommufdReason },
        ["cpuTracking"] = check.CpuTracking,
        ["cpuTrackingReason"] = check.CpuTrackingReason,
        ["devices"] = new JsonArray([.. check.Devices.Select(device => new JsonObject
        {
            ["name"] = device.Name,
            ["host"] = device.Host,
            ["driver"] = device.Driver,
            ["problem"] = device.Problem,
            ["iommu"] = device.Iommu,
            ["iommuDirtyTracking"] = device.IommuTracks,
            ["iommuReason"] = device.IommuReason,
            ["handover"] = device.Handover?.Kind switch
            {
                HandoverKind.States => "states",
                HandoverKind.DriverAssisted => "driver-assisted",
                _ => null,
            },
            ["handoverReason"] = device.Handover?.Reason,
            ["deviceLog"] = device.HasDeviceLog,
            ["migrationStates"] = device.Abilities,
            ["tracker"] = device.Tracker?.Kind.ToString(),
            ["reason"] = device.Tracker?.Reason,
        })]),
        ["blockers"] = new JsonArray([.. check.Blockers.Select(blocker => new JsonObject
        {
            ["device"] = blocker.Device, ["kind"] = blocker.Kind.ToString(), ["cause"] = blocker.Cause,
            ["evidence"] = blocker.Evidence, ["remedy"] = blocker.Remedy,
        })]),
        ["costs"] = new JsonArray([.. check.Costs.Select(cost => new JsonObject
        {
            ["device"] = cost.Device, ["bytesPerPass"] = cost.BytesPerPass, ["reason"] = cost.Reason,
        })]),
        ["verdict"] = check.Verdict switch
        {
            HostVerdict.Ready => "ready",
            HostVerdict.NotReady => "notReady",
            _ => "notSupported",
        },
        ["reason"] = check.Reason,
    };
}
