using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.CpuTracking;
using Tidemark.Memory;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// The dirty sources that cover the DMA of a machine's devices: every device is covered by exactly the tracker chosen
/// for it, whatever its neighbours have.
/// </summary>
/// <remarks>
/// One source for each page table that a device relies on, one for each device log, one for each writer nobody tracks.
/// Make it after the memory is mapped. Dispose it after the last harvest; the sources are unusable then.
/// </remarks>
public sealed class AssignmentTracking : IDisposable
{
    private readonly DirtyBuffer _buffer;

    private AssignmentTracking(DirtyBuffer buffer, IReadOnlyList<IDirtySource> sources)
    {
        _buffer = buffer;
        Sources = sources;
    }

    /// <summary>In the order IOMMU, device logs, assumed.</summary>
    public IReadOnlyList<IDirtySource> Sources { get; }

    /// <exception cref="KernelException">There is no memory for the buffer.</exception>
    /// <param name="reattach">Move devices to another page table in the middle of a migration, to show that it can be
    /// done.</param>
    public static AssignmentTracking Create(IKernel kernel, IReadOnlyList<AssignedDevice> devices, bool reattach = false)
    {
        ArgumentNullException.ThrowIfNull(devices);
        DirtyBuffer buffer = DirtyBuffer.Create(kernel);
        IEnumerable<IDirtySource> tables = devices
            .Where(device => device.Tracker.Kind == TrackerKind.Iommu)
            .GroupBy(device => device.Attachment.Entry!)
            .Select(IDirtySource (group) => reattach
                ? new ReattachingDirtySource(group.First().Container, group.Key, [.. group.Select(device => device.Name)], buffer)
                : new HwptDirtySource(group.Key.Hwpt, [.. group.Select(device => device.Name)], buffer));
        IEnumerable<IDirtySource> logs = devices
            .Where(device => device.Tracker.Kind == TrackerKind.DeviceLog)
            .Select(device => new DeviceLogDirtySource(
                device.Name, new DmaLogging(device.Device), device.Container.Ioas, buffer));
        IEnumerable<IDirtySource> assumed = devices
            .Where(device => device.Tracker.Kind == TrackerKind.Assumed)
            .Select(device => new AssumedDirtySource($"{device.Name} (assumed)", device.ReachablePages));
        return new AssignmentTracking(buffer, [.. tables, .. logs, .. assumed]);
    }

    public void Dispose() => _buffer.Dispose();
}
