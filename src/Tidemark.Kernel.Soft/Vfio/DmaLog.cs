using System.Numerics;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;

namespace Tidemark.Kernel.Soft.Vfio;

// A device's own record of the pages it writes (DMA_LOGGING_START, STOP, REPORT).
//
//   device:  TryWrite { mark the bit; translate; post the store }        one step under the port's lock
//   report:  take and clear the bits -> OR them into the caller's bitmap -> drain the port
//
// A write is marked before it is posted. So a bit that a report takes may belong to a store that is still in flight,
// and the report must not return before that store has landed: the caller reads the page next. The drain comes after
// the clearing, because it waits for the port's lock and then for everything posted: each write whose mark was taken is
// included. A write that marks after the clearing is in the next report.

/// <summary>The DMA log of one open device. Calls come from any thread.</summary>
internal sealed class DmaLog(IDmaPort port, IVfioHost kernel) : IVfioDmaLog, IDmaWriteObserver
{
    private const ulong MinimumPage = 4096;
    private const ulong MaximumPage = 2 * 1024 * 1024;

    /// <summary>LIMIT: bytes of address space under log at one time.</summary>
    private const ulong MaximumTracked = 64UL << 30;

    private readonly Lock _gate = new();

    /// <summary>Sorted by address; null while the log is stopped. Replaced as a whole.</summary>
    private volatile LoggedRange[]? _ranges;

    /// <summary>DMA_LOGGING_START. On success the page size is the one in use; on failure nothing changed.</summary>
    public Errno Start(ref VfioDeviceFeatureDmaLoggingControl control)
    {
        Errno errno = DmaLogRequest.ReadRanges(kernel, control, out List<VfioDeviceFeatureDmaLoggingRange> asked);
        if (errno != Errno.Success)
            return errno;
        lock (_gate)
        {
            if (_ranges is not null || !BitOperations.IsPow2(control.PageSize))
                return Errno.EINVAL;
            ulong pageSize = Math.Clamp(control.PageSize, MinimumPage, MaximumPage);
            UInt128 total = 0;
            foreach (VfioDeviceFeatureDmaLoggingRange range in asked)
            {
                if (range.Length == 0)
                    return Errno.EINVAL;
                total += range.Length;
            }

            if (total > MaximumTracked)
                return Errno.ENOMEM;
            var ranges = new LoggedRange[asked.Count];
            for (int index = 0; index < ranges.Length; index++)
                ranges[index] = new LoggedRange(asked[index].Iova, asked[index].Length, pageSize);
            Array.Sort(ranges, (left, right) => left.First.CompareTo(right.First));
            _ranges = ranges;
            port.WriteObserver = this;
            // ORDER: a store posted before the observer was there is in no report; it lands before START returns.
            port.Drain();
            control.PageSize = pageSize;
            return Errno.Success;
        }
    }

    /// <summary>DMA_LOGGING_STOP. Nothing when it is not started.</summary>
    public void Stop()
    {
        lock (_gate)
        {
            if (_ranges is null)
                return;
            port.WriteObserver = null;
            _ranges = null;
        }
    }

    /// <summary>
    /// DMA_LOGGING_REPORT: ORs the dirty pages into the caller's bitmap and forgets them. A page that the request
    /// covers only in part is reported and kept. On failure, pages that did not reach the caller are kept.
    /// </summary>
    public Errno Report(in VfioDeviceFeatureDmaLoggingReport report)
    {
        Errno errno = DmaLogRequest.Check(report);
        if (errno != Errno.Success)
            return errno;
        lock (_gate)
        {
            if (_ranges is not { } ranges)
                return Errno.EINVAL;
            if (report.Length == 0)
                return Errno.Success;
            var bitmap = new UserBitmap(
                kernel, report.Bitmap, report.Iova, report.Iova + (report.Length - 1), report.PageSize);
            bool delivered = true;
            foreach (LoggedRange range in ranges)
                delivered = delivered && range.Report(bitmap);
            port.Drain();
            // FIDELITY: Linux answers 0 and loses the bits when the bitmap can not be written; here they are kept.
            return delivered ? Errno.Success : Errno.EFAULT;
        }
    }

    public void OnWrite(ulong iova, ulong byteLength)
    {
        if (byteLength == 0 || _ranges is not { } ranges)
            return;
        ulong last = byteLength - 1 > ulong.MaxValue - iova ? ulong.MaxValue : iova + (byteLength - 1);
        int low = 0, high = ranges.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (ranges[middle].Last < iova)
                low = middle + 1;
            else
                high = middle;
        }

        for (; low < ranges.Length && ranges[low].First <= last; low++)
            ranges[low].Mark(iova, last);
    }
}
