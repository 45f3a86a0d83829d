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
    /// <summary>Beginnings of names, with the reason.</summary>
    private static readonly (string Prefix, string Reason)[] s_known =
    [
        ("vfio.info.", Reset),
        ("vfio.bind.duplicate-keeps-bound", Reset),
        ("iommufd.destroy.context-outlives-its-descriptor", Reset),
        ("legacy.device.info", Reset),
        ("legacy.group.get-device-fd.twice", Reset),
        ("legacy.group.iommufd.opens-devices", Reset),
        ("legacy.group.iommufd.unset-with-device-open", Reset),
        ("legacy.device.", Regions),
        ("vfio.region-info.", Regions),
        ("vfio.region.", Regions),
        ("vfio.irq-info.", Interrupts),
    ];

    private const string Reset = "The lab's controllers but the last can not be reset; the soft ones can.";

    private const string Regions =
        "The lab's controllers are PCI Express with 16 KiB of registers; the soft ones are conventional PCI with 32 KiB.";

    private const string Interrupts = "The lab's controllers have INTx and 65 vectors; the soft ones have 17 vectors only.";

    /// <summary>Every reason.</summary>
    public static IReadOnlyList<string> Reasons { get; } = [Reset, Regions, Interrupts];

    /// <summary>Why a case may be answered differently, or null: it must not.</summary>
    public static string? Find(string name)
    {
        foreach ((string prefix, string reason) in s_known)
        {
            if (name.StartsWith(prefix, StringComparison.Ordinal))
                return reason;
        }

        return null;
    }
}
