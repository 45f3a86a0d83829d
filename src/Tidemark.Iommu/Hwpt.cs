using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Iommu;

/// <summary>What came of asking for a page table.</summary>
/// <param name="Hwpt">The page table, or null when this kernel or IOMMU can not make such a one.</param>
/// <param name="Refusal">
/// Without a page table: <see cref="Errno.EOPNOTSUPP"/> (the IOMMU can not) or <see cref="Errno.ENOTTY"/> (the kernel
/// is too old to be asked). Other errors are exceptions.
/// </param>
public readonly record struct HwptAllocation(Hwpt? Hwpt, Errno Refusal);

/// <summary>
/// A hardware page table over an address space: what an IOMMU walks for the devices attached to it, and the place where
/// it records which pages they wrote.
/// </summary>
/// <remarks>Dirty members are for one caller at a time.</remarks>
public sealed class Hwpt : IDirtyTable, IDisposable
{
    private bool _disposed;

    private Hwpt(Ioas ioas, uint id, IommuHwptAllocFlags flags)
    {
        Ioas = ioas;
        Id = id;
        Flags = flags;
    }

    /// <summary>Goes on with a page table that another process made and that does not track.</summary>
    public static Hwpt Adopt(Ioas ioas, uint id, IommuHwptAllocFlags flags)
    {
        ArgumentNullException.ThrowIfNull(ioas);
        return new Hwpt(ioas, id, flags);
    }

    public Ioas Ioas { get; }

    public uint Id { get; }

    /// <summary>What was asked for when it was made.</summary>
    public IommuHwptAllocFlags Flags { get; }

    /// <summary>Whether dirty bits can be had; then only devices whose IOMMU can set them may attach.</summary>
    public bool HasDirtyTracking => (Flags & IommuHwptAllocFlags.DirtyTracking) != 0;

    public string Name => $"HWPT {Id}";

    /// <inheritdoc/>
    public bool IsTracking { get; private set; }

    private Iommufd Iommufd => Ioas.Iommufd;

    /// <summary>Makes a page table for the IOMMU before a device. It is filled with every mapping of the address
    /// space.</summary>
    /// <exception cref="KernelException">The kernel failed for another reason than being unable; nothing was
    /// made.</exception>
    public static HwptAllocation Allocate(Ioas ioas, uint deviceId, IommuHwptAllocFlags flags)
    {
        ArgumentNullException.ThrowIfNull(ioas);
        IommuHwptAlloc argument = IommuHwptAlloc.Create(deviceId, flags, ioas.Id);
        SyscallResult result = ioas.Iommufd.Kernel.Ioctl(ioas.Iommufd.Fd, ref argument);
        if (StepEvents.Log.IsEnabled())
        {
            StepEvents.Log.HwptAllocated(
                deviceId, ioas.Id, flags.ToString(), result.Succeeded ? argument.OutHwptId : 0, StepEvents.Outcome(result));
        }

        if (result.Errno is Errno.EOPNOTSUPP or Errno.ENOTTY)
            return new HwptAllocation(null, result.Errno);
        if (!result.Succeeded)
        {
            throw new KernelException(
                $"Allocating a page table over IOAS {ioas.Id} for device id {deviceId} (flags {flags})", result.Errno,
                result.Errno == Errno.EADDRINUSE
                    ? "Something is mapped at an IOVA that this IOMMU can not use."
                    : null);
        }

        return new HwptAllocation(new Hwpt(ioas, argument.OutHwptId, flags), Errno.Success);
    }

    /// <inheritdoc/>
    /// <remarks>Switching on twice would make the kernel throw dirty bits away.</remarks>
    public void SetDirtyTracking(bool on)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (on == IsTracking)
            return;
        IsTracking = false;
        IommuHwptSetDirtyTracking argument = IommuHwptSetDirtyTracking.Create(
            Id, on ? IommuHwptSetDirtyTrackingFlags.Enable : IommuHwptSetDirtyTrackingFlags.None);
        SyscallResult result = Iommufd.Kernel.Ioctl(Iommufd.Fd, ref argument);
        StepEvents.Log.DirtyTrackingSet(Name, on, StepEvents.Outcome(result));
        result.ThrowIfFailed($"Switching dirty tracking of HWPT {Id} {(on ? "on" : "off")}");
        IsTracking = on;
    }

    /// <inheritdoc/>
    public void HarvestDirty(MappedArea area, DirtyBuffer buffer, PageBitmap pages) =>
        ReadDirty(area, buffer, pages, IommuHwptGetDirtyBitmapFlags.None);

    /// <summary>As <see cref="HarvestDirty"/>, but the bits stay set: for looking, and before unmapping.</summary>
    public void PeekDirty(MappedArea area, DirtyBuffer buffer, PageBitmap pages) =>
        ReadDirty(area, buffer, pages, IommuHwptGetDirtyBitmapFlags.NoClear);

    /// <summary>Destroys it. Devices must have been detached.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        IsTracking = false;
        Iommufd.Destroy(Id);
    }

    public override string ToString() => Name;

    private void ReadDirty(
        MappedArea area, DirtyBuffer buffer, PageBitmap pages, IommuHwptGetDirtyBitmapFlags flags)
    {
        ArgumentNullException.ThrowIfNull(area);
        ArgumentNullException.ThrowIfNull(buffer);
        ObjectDisposedException.ThrowIf(_disposed, this);
        DirtyHarvester.Read(area, buffer, pages, (chunk, bitmap) =>
        {
            IommuHwptGetDirtyBitmap argument = IommuHwptGetDirtyBitmap.Create(
                Id, chunk.First.Value, chunk.ByteLength, GuestPage.Size, bitmap.Value, flags);
            return Iommufd.Kernel.Ioctl(Iommufd.Fd, ref argument);
        }, flags == IommuHwptGetDirtyBitmapFlags.None ? $"Reading dirty bits of HWPT {Id}" : $"Looking at dirty bits of HWPT {Id}");
    }
}
