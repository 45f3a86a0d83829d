using Tidemark.Kernel.Recording;

namespace Tidemark.Conformance;

/// <summary>
/// Calls that the soft kernel knowingly answers otherwise than the recorded Linux, by case. docs/internals/divergences.md
/// has an entry for each reason.
/// </summary>
/// <remarks>
/// All are about what the devices are, not about what the kernel does with them: the recorded controllers are QEMU's.
/// </remarks>
public static class RecordedDifferences
{
    /// <summary>The request that answers otherwise, beginnings of the cases' names, and the reason.</summary>
    private static readonly (string Request, string Prefix, string Reason)[] s_known =
    [
        ("VFIO_DEVICE_GET_INFO", "vfio.info.", Reset),
        ("VFIO_DEVICE_GET_INFO", "vfio.bind.duplicate-keeps-bound", Reset),
        ("VFIO_DEVICE_GET_INFO", "iommufd.destroy.context-outlives-its-descriptor", Reset),
        ("VFIO_DEVICE_GET_INFO", "legacy.device.info", Reset),
        ("VFIO_DEVICE_GET_INFO", "legacy.group.get-device-fd.twice", Reset),
        ("VFIO_DEVICE_GET_INFO", "legacy.group.iommufd.", Reset),
        ("VFIO_DEVICE_GET_REGION_INFO", "legacy.device.", Regions),
        ("VFIO_DEVICE_GET_REGION_INFO", "vfio.region-info.", Regions),
        ("VFIO_DEVICE_GET_REGION_INFO", "vfio.region.", Regions),
        ("VFIO_DEVICE_GET_IRQ_INFO", "vfio.irq-info.accepted", Interrupts),
        ("VFIO_DEVICE_GET_IRQ_INFO", "vfio.irq-info.msix.", Interrupts),
    ];

    private const string Reset = "The lab's controllers but the last can not be reset; the soft ones can.";

    private const string Regions =
        "The lab's controllers are PCI Express with 16 KiB of registers; the soft ones are conventional PCI with 32 KiB.";

    private const string Interrupts = "The lab's controllers have 65 MSI-X vectors; the soft ones have 17.";

    /// <summary>Every reason.</summary>
    public static IReadOnlyList<string> Reasons { get; } = [Reset, Regions, Interrupts];

    /// <summary>Why a case may be answered differently at this call, or null: it must not.</summary>
    public static string? Find(ReplayMismatch mismatch)
    {
        ArgumentNullException.ThrowIfNull(mismatch);
        foreach ((string request, string prefix, string reason) in s_known)
        {
            if (mismatch.Case.StartsWith(prefix, StringComparison.Ordinal)
                && mismatch.Recorded.Contains($", {request},", StringComparison.Ordinal))
            {
                return reason;
            }
        }

        return null;
    }
}
