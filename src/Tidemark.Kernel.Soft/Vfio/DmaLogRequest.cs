using System.Numerics;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>What VFIO's core checks of DMA_LOGGING_START and REPORT before any driver sees them.</summary>
internal static class DmaLogRequest
{
    /// <summary>The kernel's limit for the list of ranges: a page of them.</summary>
    private const uint MaximumRanges = 256;

    private const ulong MinimumPage = 4096;

    public static Errno Check(in VfioDeviceFeatureDmaLoggingReport report)
    {
        if (report.PageSize < MinimumPage || !BitOperations.IsPow2(report.PageSize))
            return Errno.EINVAL;
        return report.Length > ulong.MaxValue - report.Iova ? Errno.EOVERFLOW : Errno.Success;
    }

    public static Errno ReadRanges(
        IVfioHost kernel, in VfioDeviceFeatureDmaLoggingControl control, out List<VfioDeviceFeatureDmaLoggingRange> ranges)
    {
        ranges = [];
        if (control.NumRanges == 0)
            return Errno.EINVAL;
        if (control.NumRanges > MaximumRanges)
            return Errno.E2BIG;
        ulong mask = unchecked(control.PageSize - 1);
        for (uint index = 0; index < control.NumRanges; index++)
        {
            ulong address = unchecked(control.Ranges + (index * 16UL));
            if (!VfioArgument.TryReadUser(kernel, address, out VfioDeviceFeatureDmaLoggingRange range))
                return Errno.EFAULT;
            if (((range.Iova | range.Length) & mask) != 0)
                return Errno.EINVAL;
            if (range.Length > ulong.MaxValue - range.Iova)
                return Errno.EOVERFLOW;
            // An empty range at 0 counts as all of the address space here, as it does in Linux.
            ulong last = unchecked(range.Iova + range.Length - 1);
            foreach (VfioDeviceFeatureDmaLoggingRange other in ranges)
            {
                if (other.Iova <= last && unchecked(other.Iova + other.Length - 1) >= range.Iova)
                    return Errno.EINVAL;
            }

            ranges.Add(range);
        }

        return Errno.Success;
    }
}
