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

    /// <summary>Starts logging. The log begins empty or with anything the device likes to report.</summary>
    /// <param name="ranges">Any order; adjacent ones are joined, and if there are too many the smallest gaps are logged
    /// too.</param>
    /// <param name="pageSize">The wanted granularity in bytes, a power of two.</param>
    /// <exception cref="KernelException">The device refused; it does not log.</exception>
    public void Start(IReadOnlyList<IovaRange> ranges, ulong pageSize = GuestPage.Size)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        ArgumentOutOfRangeException.ThrowIfZero(ranges.Count);
        if (IsStarted)
            throw new InvalidOperationException($"{Device.Name} logs its DMA already.");
        IReadOnlyList<IovaRange> merged = LoggedRanges.Fit(ranges, pageSize, MaximumRanges, out ulong excess);
        string operation = $"Starting the DMA log of {Device.Name} over {merged.Count} ranges "
            + $"({merged[0].First}-{merged[^1].Last})";
        if (merged[^1].Last.Value == ulong.MaxValue)
        {
            throw new KernelException(
                operation, Errno.EOVERFLOW, "A range can not end at the top of the 64-bit space.");
        }

        using Mapping list = Mapping.CreateAnonymous(Device.Kernel, (ulong)merged.Count * RangeLength);
        Span<byte> bytes = list.Bytes(0, merged.Count * RangeLength);
        for (int index = 0; index < merged.Count; index++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[(index * RangeLength)..], merged[index].First.Value);
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[((index * RangeLength) + 8)..], merged[index].ByteLength);
        }

        VfioDeviceFeatureDmaLoggingControl control = VfioDeviceFeatureDmaLoggingControl.Create(
            pageSize, (uint)merged.Count, list.Address.Value);
        Device.Set(ref control).ThrowIfFailed(operation);
        IsStarted = true;
        ExcessBytes = excess;
        DevicePageSize = control.PageSize;
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
        Device.Set(VfioDeviceFeatureIndex.DmaLoggingStop).ThrowIfFailed($"Stopping the DMA log of {Device.Name}");
    }
}
