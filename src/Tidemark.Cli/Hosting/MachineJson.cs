using System.Text.Json.Nodes;
using Tidemark.Cli.Output;
using Tidemark.Machine;
using Tidemark.Machine.Assignment;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Nvme;
using Tidemark.Migration;

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

    /// <param name="during">What the tracking was for: <c>measurement</c> or <c>migration</c>.</param>
    public static JsonObject Describe(DirtyRate rate, GuestMachine machine, string during) => new()
    {
        ["kernel"] = machine.KernelIdentity.ToString(),
        ["during"] = during,
        ["seconds"] = rate.Duration.TotalSeconds,
        ["pages"] = rate.Pages,
        ["bytesPerSecond"] = rate.BytesPerSecond,
        ["sources"] = new JsonArray([.. rate.Sources.Select(source => new JsonObject
        {
            ["name"] = source.Source,
            ["kind"] = MigrationJson.Word(source.Kind),
            ["pages"] = source.PageCount,
            ["bytesPerSecond"] = rate.ToRate(source.PageCount),
        })]),
    };

    /// <summary>Adds what the engine does not know to a migration's result.</summary>
    public static JsonObject Complete(JsonObject result, GuestMachine machine, MigrationReport report)
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
        IReadOnlyList<string> lostBy = machine.ExplainLost(report);
        result["lostBy"] = new JsonArray([.. lostBy.Select(text => (JsonNode)text)]);
        if (lostBy.Count > 0)
            result["cause"] = $"{result["cause"]} {string.Join(" ", lostBy)}";
        result["leafRefusals"] = new JsonArray([.. machine.LeafRefusals.Select(text => (JsonNode)text)]);
        AddReattachments(result, machine);
        return result;
    }

    private static void AddReattachments(JsonObject result, GuestMachine machine)
    {
        ReattachingDirtySource[] tables = [.. machine.DeviceTracking.Find<ReattachingDirtySource>()];
        if (tables.Length == 0)
            return;
        result["reattached"] = new JsonArray([.. tables.Select(table => new JsonObject
        {
            ["devices"] = table.Name,
            ["from"] = table.Done?.From,
            ["to"] = table.Done?.To,
            ["pagesFromOld"] = table.Done?.PagesFromOld,
            ["pagesFromNew"] = table.Done?.PagesFromNew,
            ["refusal"] = table.Done is null ? table.Refusal ?? "the migration ended before it could be tried" : null,
        })]);
    }

    private static JsonObject Device(GuestDevice device)
    {
        NvmeWorkloadCounters counters = device.HasWorkload
            ? device.Workload.Counters
            : new NvmeWorkloadCounters(0, 0, 0, 0, 0, 0, 0, null);
        return new JsonObject
        {
            ["name"] = device.Name,
            ["host"] = device.HostAddress,
            ["tracker"] = TrackerWord(device.Tracker.Kind),
            ["reason"] = device.Tracker.Reason,
            ["handover"] = device.Assigned.Handover.Kind == HandoverKind.DriverAssisted ? "driver-assisted" : "states",
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
        Vfio.TrackerKind.Type1 => "type1",
        Vfio.TrackerKind.Assumed => "assumed",
        _ => throw new ArgumentOutOfRangeException(nameof(kind)),
    };
}
