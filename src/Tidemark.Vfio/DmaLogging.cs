using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>
/// A device's own log of what it wrote: started over ranges of IOVAs, read and cleared mapping by mapping, stopped.
/// </summary>
/// <remarks>Independent of the device's migration state; a reset ends it. One caller at a time.</remarks>
public sealed class DmaLogging(VfioDevice device)
{
    /// <summary>LIMIT: ranges in one start. UAPI: vfio.h promises as many as fit into a page; 4096 / 16
    /// bytes.</summary>
    public const int MaximumRanges = GuestPage.Size / RangeLength;

    private const int RangeLength = 16;

    public VfioDevice Device { get; } = device;

    /// <summary>Whether the device logs, as far as this object knows.</summary>
    public bool IsStarted { get; private set; }

    /// <summary>Bytes that are logged although nobody asked, because ranges had to be merged; 0 before a
    /// start.</summary>
    public ulong ExcessBytes { get; private set; }

    /// <summary>Bytes for which the device keeps one bit, as it decided at the start; 0 before.</summary>
    public ulong DevicePageSize { get; private set; }

    /// <summary>What is logged: ascending, disjoint; empty before a start and after a stop.</summary>
    public IReadOnlyList<IovaRange> Ranges { get; private set; } = [];

    /// <summary>Whether all of a range is logged.</summary>
    public bool Covers(IovaRange range) => Ranges.Any(logged => logged.Contains(range));

    /// <summary>Starts logging. The log begins empty or with anything the device likes to report.</summary>
    /// <param name="ranges">
    /// Any order. Adjacent ones are joined, and if there are more than the device accepts, the smallest gaps are logged
    /// too (<see cref="ExcessBytes"/>).
    /// </param>
    /// <param name="apart">Windows of other devices that are mapped too; ranges are not joined across one while others
    /// can be.</param>
    /// <param name="pageSize">The wanted granularity in bytes, a power of two.</param>
    /// <exception cref="KernelException">The device refused, also fewer ranges; it does not log.</exception>
    public void Start(
        IReadOnlyList<IovaRange> ranges, IReadOnlyList<IovaRange>? apart = null, ulong pageSize = GuestPage.Size)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        ArgumentOutOfRangeException.ThrowIfZero(ranges.Count);
        if (IsStarted)
            throw new InvalidOperationException($"{Device.Name} logs its DMA already.");
        int maximum = MaximumRanges;
        while (true)
        {
            IReadOnlyList<IovaRange> merged = LoggedRanges.Fit(ranges, pageSize, maximum, out ulong excess, apart);
            string operation = $"Starting the DMA log of {Device.Name} over {merged.Count} ranges "
                + $"({merged[0].First}-{merged[^1].Last})";
            SyscallResult result = TryStart(merged, pageSize, operation);
            if (StepEvents.Log.IsEnabled())
            {
                StepEvents.Log.DmaLogStarted(
                    Device.Name, merged.Count, string.Join(", ", merged), result.Succeeded ? DevicePageSize : pageSize, excess,
                    StepEvents.Outcome(result));
            }

            if (result.Succeeded)
            {
                ExcessBytes = excess;
                return;
            }

            // UAPI: how many ranges a device can watch is its own affair, and no question asks for it. Fewer and wider
            // ones are tried, down to one.
            bool mayBeTooMany = result.Errno is Errno.E2BIG or Errno.ENOSPC or Errno.ENOMEM or Errno.EOPNOTSUPP;
            if (!mayBeTooMany || merged.Count == 1)
                result.ThrowIfFailed(operation);
            maximum = (merged.Count + 1) / 2;
        }
    }

    /// <summary>
    /// Reads and clears the log of one mapping and adds its bits to <paramref name="pages"/> by guest page number.
    /// </summary>
    /// <param name="area">A mapping of guest memory inside the logged ranges.</param>
    /// <exception cref="KernelException">The device failed; what it reported until then is in
    /// <paramref name="pages"/>.</exception>
    public void Report(MappedArea area, DirtyBuffer buffer, PageBitmap pages)
    {
        DirtyHarvester.Read(area, buffer, pages, (chunk, bitmap) =>
        {
            VfioDeviceFeatureDmaLoggingReport report = VfioDeviceFeatureDmaLoggingReport.Create(
                chunk.First.Value, chunk.ByteLength, GuestPage.Size, bitmap.Value);
            return Device.Get(ref report);
        }, $"Reading the DMA log of {Device.Name}");
    }

    /// <summary>Stops logging; what was not read is gone. Idempotent. A failure counts as stopped.</summary>
    /// <exception cref="KernelException">The device refused.</exception>
    public void Stop()
    {
        if (!IsStarted)
            return;
        IsStarted = false;
        Ranges = [];
        SyscallResult result = Device.Set(VfioDeviceFeatureIndex.DmaLoggingStop);
        StepEvents.Log.DmaLogStopped(Device.Name, StepEvents.Outcome(result));
        result.ThrowIfFailed($"Stopping the DMA log of {Device.Name}");
    }

    private SyscallResult TryStart(IReadOnlyList<IovaRange> ranges, ulong pageSize, string operation)
    {
        if (ranges[^1].Last.Value == ulong.MaxValue)
        {
            throw new KernelException(
                operation, Errno.EOVERFLOW, "A range can not end at the top of the 64-bit space.");
        }

        using Mapping list = Mapping.CreateAnonymous(Device.Kernel, (ulong)ranges.Count * RangeLength);
        Span<byte> bytes = list.Bytes(0, ranges.Count * RangeLength);
        for (int index = 0; index < ranges.Count; index++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[(index * RangeLength)..], ranges[index].First.Value);
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[((index * RangeLength) + 8)..], ranges[index].ByteLength);
        }

        VfioDeviceFeatureDmaLoggingControl control = VfioDeviceFeatureDmaLoggingControl.Create(
            pageSize, (uint)ranges.Count, list.Address.Value);
        SyscallResult result = Device.Set(ref control);
        if (!result.Succeeded)
            return result;
        IsStarted = true;
        Ranges = ranges;
        DevicePageSize = control.PageSize;
        return result;
    }
}
