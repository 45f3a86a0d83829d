using System.Buffers;
using System.Text.Json;
using Tidemark.Machine.Description;
using Tidemark.Machine.Handover;
using Tidemark.Machine.Nvme;

namespace Tidemark.Machine.Hosting;

/// <summary>What is known of a device beyond its description.</summary>
/// <param name="DiskBytes">Size of a soft disk's file, or null.</param>
/// <param name="Facts">What its driver says it is; empty when it moves by states, or is not known yet.</param>
public sealed record DeviceIdentity(
    HandoverKind Handover, ulong? DiskBytes, IReadOnlyList<KeyValuePair<string, string>> Facts);

/// <summary>
/// What both sides of a migration must agree on, as JSON: memory layout, workload and devices. Where a device lies on
/// its host, how it is tracked and where its disk's file is may differ.
/// </summary>
public static class MachineIdentity
{
    public const string AtTheSource = "at the source";

    private const int Version = 2;

    /// <summary>LIMIT: a machine that differs everywhere is another machine; a dozen examples say so.</summary>
    private const int MaximumDifferences = 12;

    public static ReadOnlyMemory<byte> Describe(MachineDescription machine, IReadOnlyList<DeviceIdentity> identities)
    {
        ArgumentNullException.ThrowIfNull(machine);
        ArgumentNullException.ThrowIfNull(identities);
        var buffer = new ArrayBufferWriter<byte>();
        using var json = new Utf8JsonWriter(buffer);
        json.WriteStartObject();
        json.WriteNumber("version", Version);
        json.WriteNumber("memoryBytes", machine.MemoryBytes);
        json.WriteNumber("cpuWorkingSetBytes", machine.Workload.CpuWorkingSetBytes);
        json.WriteStartArray("devices");
        for (int index = 0; index < machine.Devices.Count; index++)
        {
            DeviceDescription device = machine.Devices[index];
            json.WriteStartObject();
            json.WriteString("name", device.Name);
            json.WriteString("kind", "nvme");
            json.WriteNumber("arenaBytes", device.ArenaBytes);
            json.WriteNumber("blockBytes", device.BlockBytes);
            json.WriteNumber("queueDepth", device.QueueDepth);
            json.WriteBoolean("isolated", device.Isolated);
            json.WriteString("viommu", MachineName.ToWord(device.Viommu.ToString()));
            WriteIdentity(json, device, identities[index]);
            json.WriteEndObject();
        }

        json.WriteEndArray();
        json.WriteEndObject();
        json.Flush();
        return buffer.WrittenMemory;
    }

    /// <summary>How the source's description differs from ours; sentences for users, empty when equal.</summary>
    /// <param name="where">Where theirs is from: <c>at the source</c>.</param>
    public static IReadOnlyList<string> FindDifferences(
        ReadOnlyMemory<byte> ours, ReadOnlyMemory<byte> theirs, string where = AtTheSource)
    {
        var differences = new List<string>();
        using JsonDocument here = JsonDocument.Parse(ours);
        try
        {
            using JsonDocument source = JsonDocument.Parse(theirs, new JsonDocumentOptions { MaxDepth = 8 });
            Compare("machine", here.RootElement, source.RootElement, where, differences);
            return differences;
        }
        catch (Exception failure) when (failure is JsonException or InvalidOperationException)
        {
            // A peer that sends this (not JSON, or texts that are no Unicode) is no Tidemark of ours.
            return [$"The machine description {where} is not readable."];
        }
    }

    private static void WriteIdentity(Utf8JsonWriter json, DeviceDescription device, DeviceIdentity identity)
    {
        json.WriteString("handover", identity.Handover == HandoverKind.DriverAssisted ? "driver-assisted" : "states");
        if (identity.DiskBytes is { } bytes)
            json.WriteNumber("diskBytes", bytes);
        if (identity.Handover != HandoverKind.DriverAssisted)
            return;
        json.WriteString("sameDisk", device.SameDisk == DiskMatch.Copy ? "copy" : "serial");
        json.WriteStartObject("disk");
        foreach ((string name, string value) in identity.Facts)
            json.WriteString(name, value);
        json.WriteEndObject();
    }

    private static void Compare(string path, JsonElement here, JsonElement there, string where, List<string> differences)
    {
        if (differences.Count >= MaximumDifferences)
            return;
        if (here.ValueKind != there.ValueKind)
        {
            differences.Add($"{path} is of another kind {where}.");
            return;
        }

        switch (here.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (JsonProperty property in here.EnumerateObject())
                {
                    if (there.TryGetProperty(property.Name, out JsonElement other))
                        Compare($"{path}.{property.Name}", property.Value, other, where, differences);
                    else
                        differences.Add($"{path}.{property.Name} is missing {where}.");
                }

                foreach (JsonProperty property in there.EnumerateObject()
                    .Where(property => !here.TryGetProperty(property.Name, out _))
                    .Take(Math.Max(0, MaximumDifferences - differences.Count)))
                    differences.Add($"{path}.{Shorten(property.Name)} is not known here.");
                break;
            case JsonValueKind.Array:
                if (here.GetArrayLength() != there.GetArrayLength())
                {
                    differences.Add($"{path}: {there.GetArrayLength()} {where}, {here.GetArrayLength()} here.");
                    return;
                }

                for (int index = 0; index < here.GetArrayLength(); index++)
                    Compare($"{path}[{index}]", here[index], there[index], where, differences);
                break;
            default:
                if (here.GetRawText() != there.GetRawText())
                    differences.Add($"{path} is {Shorten(there.GetRawText())} {where} and {Shorten(here.GetRawText())} here.");
                break;
        }
    }

    private static string Shorten(string text) => text.Length <= 40 ? text : text[..37] + "...";
}
