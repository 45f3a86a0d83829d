using System.Text.Json.Nodes;
using Tidemark.Machine;
using Tidemark.Machine.Nvme;

namespace Tidemark.Cli.Hosting;

/// <summary>A machine's facts and counters as JSON.</summary>
internal static class MachineJson
{
    public static JsonObject Status(GuestMachine machine) => new()
    {
        ["kernel"] = machine.KernelIdentity.ToString(),
        ["memoryBytes"] = machine.Memory.ByteLength,
        ["cpuTracking"] = machine.CpuTracking.Mechanism,
        ["cpuTrackingReason"] = machine.CpuTracking.Reason,
        ["devices"] = new JsonArray([.. machine.Devices.Select(Device)]),
        ["pagesWritten"] = machine.Processor.PagesWritten,
        ["stalePages"] = machine.Processor.StalePages,
        ["blockers"] = new JsonArray([.. machine.Verdict.Blockers.Select(blocker => (JsonNode)blocker.ToString())]),
        ["failure"] = machine.WorkloadFailure,
    };

    /// <summary>Adds what the engine does not know to a migration's result.</summary>
    public static JsonObject Complete(JsonObject result, GuestMachine machine)
    {
        JsonObject stateBytes = result["stateBytes"]!.AsObject();
        result["kernel"] = machine.KernelIdentity.ToString();
        result["memoryBytes"] = machine.Memory.ByteLength;
        result["cpuTracking"] = machine.CpuTracking.Mechanism;
        result["devices"] = new JsonArray([.. machine.Devices.Select(device =>
        {
            JsonObject json = Device(device);
            json["stateBytes"] = stateBytes[device.Name]?.DeepClone() ?? 0;
            return json;
        })]);
        return result;
    }

    private static JsonObject Device(GuestDevice device)
    {
        NvmeWorkloadCounters counters = device.Workload.Counters;
        return new JsonObject
        {
            ["name"] = device.Name,
            ["host"] = device.HostAddress,
            ["tracker"] = TrackerWord(device.Tracker.Kind),
            ["reason"] = device.Tracker.Reason,
            ["reads"] = counters.Reads,
            ["readsHere"] = counters.ReadsHere,
            ["readBytes"] = counters.BytesRead,
            ["dataErrors"] = counters.DataErrors + counters.CommandErrors,
            ["firstError"] = counters.FirstError,
        };
    }

    private static string TrackerWord(Vfio.TrackerKind kind) => kind switch
    {
        Vfio.TrackerKind.DeviceLog => "deviceLog",
        Vfio.TrackerKind.Iommu => "iommu",
        Vfio.TrackerKind.Assumed => "assumed",
        _ => throw new ArgumentOutOfRangeException(nameof(kind)),
    };
}
