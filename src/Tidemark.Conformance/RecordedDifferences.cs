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
        ("VFIO_DEVICE_GET_REGION_INFO", "vfio.region-info.", Registers),
    ];

    private const string Registers =
        "The registers of the lab's controllers can be mapped; the soft ones' are read and written by calls only.";

    /// <summary>Every reason.</summary>
    public static IReadOnlyList<string> Reasons { get; } = [Registers];

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
