using System.Diagnostics.CodeAnalysis;
using System.Diagnostics.Tracing;
using System.Globalization;
using Tidemark.Abi;

namespace Tidemark.Kernel;

/// <summary>
/// What Tidemark does with a kernel, step by step, with the values of each: event source <c>Tidemark</c>, for
/// dotnet-trace, an <see cref="EventListener"/>, or an ILogger by way of Tidemark.Logging.
/// </summary>
/// <remarks>
/// Costs a test of a flag for each step while nobody listens. An outcome is <c>ok</c> or the name of the errno. Names,
/// numbers and order of an event's values do not change; new events get new numbers.
/// </remarks>
[EventSource(Name = SourceName)]
public sealed class StepEvents : EventSource
{
    /// <summary>The name to listen for.</summary>
    public const string SourceName = "Tidemark";

    private StepEvents()
    {
    }

    public static StepEvents Log { get; } = new();

    /// <summary>How a result is spelled in an event.</summary>
    [NonEvent]
    public static string Outcome(SyscallResult result) => result.Succeeded ? "ok" : Outcome(result.Errno);

    /// <inheritdoc cref="Outcome(SyscallResult)"/>
    [NonEvent]
    public static string Outcome(Errno errno) => errno == Errno.Success ? "ok" : errno.ToString();

    /// <summary>An event in words, for people: addresses and lengths are in hexadecimal.</summary>
    [NonEvent]
    public static string Describe(EventWrittenEventArgs step)
    {
        ArgumentNullException.ThrowIfNull(step);
        object?[] values = step.Payload is { } payload ? [.. payload] : [];
        for (int index = 0; index < values.Length; index++)
        {
            if (values[index] is ulong number && IsHexadecimal(step.PayloadNames![index]))
                values[index] = string.Create(CultureInfo.InvariantCulture, $"0x{number:x}");
        }

        return step.Message is { } message
            ? string.Format(CultureInfo.InvariantCulture, message, values)
            : $"{step.EventName}({string.Join(", ", values)})";
    }

    [NonEvent]
    private static bool IsHexadecimal(string name) =>
        name is "iova" or "length" or "offset" or "address" or "capabilities" or "guestPage";

    [Event(1, Message = "iommufd: {0} is fd {1}")]
    public void IommufdOpened(string path, int fd)
    {
        if (IsEnabled())
            Write(1, path, fd);
    }

    [Event(2, Message = "iommufd: IOAS {1} allocated on fd {0}")]
    public void IoasAllocated(int iommufd, uint ioas)
    {
        if (IsEnabled())
            Write(2, iommufd, ioas);
    }

    /// <param name="source">An address, or descriptor and offset of a file.</param>
    [Event(3, Message = "iommufd: IOAS {0} map iova {1} length {2} of {3} for {4}: {5}")]
    public void AreaMapped(uint ioas, ulong iova, ulong length, string source, string access, string outcome)
    {
        if (IsEnabled())
            Write(3, ioas, iova, length, source, access, outcome);
    }

    /// <param name="unmapped">Bytes that were mapped; 0 with ok: the kernel had nothing there.</param>
    [Event(4, Message = "iommufd: IOAS {0} unmap iova {1} length {2}: {4}, {3} bytes were mapped")]
    public void AreaUnmapped(uint ioas, ulong iova, ulong length, ulong unmapped, string outcome)
    {
        if (IsEnabled())
            Write(4, ioas, iova, length, unmapped, outcome);
    }

    [Event(5, Message = "iommufd: IOAS {1} copied iova {2} length {3} from IOAS {0}: {4}")]
    public void AreaCopied(uint from, uint to, ulong iova, ulong length, string outcome)
    {
        if (IsEnabled())
            Write(5, from, to, iova, length, outcome);
    }

    [Event(6, Message = "iommufd: HWPT {3} allocated over {1} for device {0}, flags {2}: {4}")]
    public void HwptAllocated(uint deviceId, uint parent, string flags, uint hwpt, string outcome)
    {
        if (IsEnabled())
            Write(6, deviceId, parent, flags, hwpt, outcome);
    }

    [Event(7, Message = "iommufd: object {0} destroyed: {1}")]
    public void ObjectDestroyed(uint id, string outcome)
    {
        if (IsEnabled())
            Write(7, id, outcome);
    }

    [Event(8, Message = "{0}: dirty tracking {1}: {2}")]
    public void DirtyTrackingSet(string table, bool on, string outcome)
    {
        if (IsEnabled())
            Write(8, table, on, outcome);
    }

    /// <param name="what">Table or device log, and whether it was only looked at.</param>
    /// <param name="bitmapBytes">Size of the bitmap that was read.</param>
    /// <param name="guestPage">The page of the first bit.</param>
    /// <param name="dirtyPages">Bits that were set.</param>
    [Event(9, Message = "{0}: iova {1} length {2}, bitmap of {3} bytes for guest page {4}: {5} dirty pages, {6}")]
    public void DirtyPagesRead(
        string what, ulong iova, ulong length, ulong bitmapBytes, ulong guestPage, ulong dirtyPages, string outcome)
    {
        if (IsEnabled())
            Write(9, what, iova, length, bitmapBytes, guestPage, dirtyPages, outcome);
    }

    [Event(10, Message = "iommufd: pinned pages of fd {0} moved to this process: {1}")]
    public void ProcessChanged(int iommufd, string outcome)
    {
        if (IsEnabled())
            Write(10, iommufd, outcome);
    }

    [Event(11, Message = "iommufd: IOAS {0} large leaves {1}: {2}")]
    public void HugePagesSet(uint ioas, bool allowed, string outcome)
    {
        if (IsEnabled())
            Write(11, ioas, allowed, outcome);
    }

    [Event(12, Message = "iommufd: device {0} has IOMMU type {1}, capabilities {2}, PASIDs of {3} bits: {4}")]
    public void HardwareDescribed(uint deviceId, string type, ulong capabilities, uint pasidBits, string outcome)
    {
        if (IsEnabled())
            Write(12, deviceId, type, capabilities, pasidBits, outcome);
    }

    [Event(20, Message = "{0}: opened {1}, fd {2}")]
    public void DeviceOpened(string device, string path, int fd)
    {
        if (IsEnabled())
            Write(20, device, path, fd);
    }

    [Event(21, Message = "{0}: fd {2} bound to iommufd {1} as device {3}: {4}")]
    public void DeviceBound(string device, int iommufd, int fd, uint deviceId, string outcome)
    {
        if (IsEnabled())
            Write(21, device, iommufd, fd, deviceId, outcome);
    }

    /// <param name="used">The page table in use; for an address space that was asked for, what the kernel chose.</param>
    [Event(22, Message = "{0}: attach to {1}: {3}, on {2}")]
    public void DeviceAttached(string device, uint asked, uint used, string outcome)
    {
        if (IsEnabled())
            Write(22, device, asked, used, outcome);
    }

    [Event(23, Message = "{0}: detached: {1}")]
    public void DeviceDetached(string device, string outcome)
    {
        if (IsEnabled())
            Write(23, device, outcome);
    }

    [Event(24, Message = "{0}: {1} regions, {2} interrupt indexes, flags {3}")]
    public void DeviceDescribed(string device, uint regions, uint interrupts, string flags)
    {
        if (IsEnabled())
            Write(24, device, regions, interrupts, flags);
    }

    [Event(25, Message = "{0}: reset: {1}")]
    public void DeviceWasReset(string device, string outcome)
    {
        if (IsEnabled())
            Write(25, device, outcome);
    }

    [Event(26, Message = "{0}: region {1} has {2} bytes at offset {3}, flags {4}")]
    public void RegionDescribed(string device, uint index, ulong length, ulong offset, string flags)
    {
        if (IsEnabled())
            Write(26, device, index, length, offset, flags);
    }

    [Event(27, Message = "{0}: its writes are seen by {1}: {2}")]
    public void TrackerChosen(string device, string tracker, string reason)
    {
        if (IsEnabled())
            Write(27, device, tracker, reason);
    }

    /// <param name="ranges">First and last IOVA of each.</param>
    /// <param name="excessBytes">Logged although nobody asked, because ranges were merged.</param>
    [Event(30, Message = "{0}: DMA log of {1} ranges ({2}) in pages of {3} bytes, {4} bytes too many: {5}")]
    public void DmaLogStarted(string device, int count, string ranges, ulong pageSize, ulong excessBytes, string outcome)
    {
        if (IsEnabled())
            Write(30, device, count, ranges, pageSize, excessBytes, outcome);
    }

    [Event(31, Message = "{0}: DMA log stopped: {1}")]
    public void DmaLogStopped(string device, string outcome)
    {
        if (IsEnabled())
            Write(31, device, outcome);
    }

    /// <param name="recovers">It is asked for because another change failed.</param>
    /// <param name="stream">The descriptor that came with it, or -1.</param>
    [Event(40, Message = "{0}: migration state {1} (recovery: {2}): {4}, data fd {3}")]
    public void MigrationStateSet(string device, string state, bool recovers, int stream, string outcome)
    {
        if (IsEnabled())
            Write(40, device, state, recovers, stream, outcome);
    }

    [Event(41, Message = "{0}: {1} initial and {2} dirty bytes before the stop: {3}")]
    public void PrecopyEstimated(string device, ulong initialBytes, ulong dirtyBytes, string outcome)
    {
        if (IsEnabled())
            Write(41, device, initialBytes, dirtyBytes, outcome);
    }

    [Event(42, Message = "{0}: {1} bytes of state when stopped: {2}")]
    public void DataSizeEstimated(string device, ulong bytes, string outcome)
    {
        if (IsEnabled())
            Write(42, device, bytes, outcome);
    }

    [Event(43, Message = "{0}: {1} bytes of state read: {2}")]
    public void StateRead(string device, long bytes, string outcome)
    {
        if (IsEnabled())
            Write(43, device, bytes, outcome);
    }

    [Event(44, Message = "{0}: {1} bytes of state written: {2}")]
    public void StateWritten(string device, long bytes, string outcome)
    {
        if (IsEnabled())
            Write(44, device, bytes, outcome);
    }

    [Event(50, Message = "type1: group {0} in the container: {1}")]
    public void GroupJoined(uint group, string outcome)
    {
        if (IsEnabled())
            Write(50, group, outcome);
    }

    [Event(51, Message = "type1: map iova {0} length {1} at {2} for {3}: {4}")]
    public void Type1Mapped(ulong iova, ulong length, ulong address, string access, string outcome)
    {
        if (IsEnabled())
            Write(51, iova, length, address, access, outcome);
    }

    [Event(52, Message = "type1: unmap iova {0} length {1}, with its bitmap: {2}: {3}")]
    public void Type1Unmapped(ulong iova, ulong length, bool withBitmap, string outcome)
    {
        if (IsEnabled())
            Write(52, iova, length, withBitmap, outcome);
    }

    [NonEvent]
    [UnconditionalSuppressMessage(
        "Trimming", "IL2026", Justification = "Values are strings and numbers, which need no reflection.")]
    private void Write(int number, params object[] values) => WriteEvent(number, values);
}
