using System.Globalization;
using Tidemark.Machine.CpuTracking;
using Tidemark.Machine.Description;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine;

/// <summary>
/// Who should have seen the writes to pages that a verification found lost: by where they lie, because each writer of a
/// machine has places of its own.
/// </summary>
internal static class LostPageEvidence
{
    /// <summary>A sentence for each tracker that missed something; empty when nothing was lost.</summary>
    public static IReadOnlyList<string> Describe(
        IReadOnlyList<PageRun> lost, IReadOnlyList<GuestDevice> devices, MemoryLayout layout, CpuDirtyTracking processors)
    {
        ulong[] byDevice = new ulong[devices.Count];
        ulong byProcessor = 0;
        ulong others = 0;
        foreach (PageRun run in lost)
        {
            for (ulong page = run.FirstPage; page < run.FirstPage + run.Count; page++)
            {
                int device = FindDevice(page, devices, layout);
                if (device >= 0 && devices[device].IsWrittenByDevice(page))
                    byDevice[device]++;
                else if (device >= 0 || IsProcessors(page, layout))
                    byProcessor++;
                else
                    others++;
            }
        }

        var sentences = new List<string>();
        for (int index = 0; index < devices.Count; index++)
        {
            if (byDevice[index] > 0)
                sentences.Add(Text($"{Tracker(devices[index])} missed {Pages(byDevice[index])} that {devices[index].Name} wrote."));
        }

        if (byProcessor > 0)
            sentences.Add(Text($"The tracking of processor writes ({processors.Mechanism}) missed {Pages(byProcessor)}."));
        if (others > 0)
            sentences.Add(Text($"{Pages(others)} differ that no part of the machine is known to write."));
        return sentences;
    }

    private static string Tracker(GuestDevice device) => device.Tracker.Kind switch
    {
        TrackerKind.Iommu => $"The dirty bits of IOMMU {device.Iommu ?? $"before {device.HostAddress}"}",
        TrackerKind.DeviceLog => $"The DMA log of {device.Name}",
        TrackerKind.Type1 => $"The type1 container of {device.Name}",
        TrackerKind.Assumed => "Assuming everything written",
        _ => throw new ArgumentOutOfRangeException(nameof(device)),
    };

    private static int FindDevice(ulong page, IReadOnlyList<GuestDevice> devices, MemoryLayout layout)
    {
        for (int index = 0; index < devices.Count; index++)
        {
            if (IsIn(page, layout.Arenas[index]))
                return index;
        }

        return -1;
    }

    private static bool IsProcessors(ulong page, MemoryLayout layout) =>
        IsIn(page, layout.WorkingSet) || page == layout.Heartbeat.Page;

    private static bool IsIn(ulong page, (GuestPhysicalAddress Start, ulong ByteLength) range) =>
        page >= range.Start.Page && page < range.Start.Page + (range.ByteLength >> GuestPage.Shift);

    private static string Pages(ulong count) => Text($"{count} {(count == 1 ? "page" : "pages")}");

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
