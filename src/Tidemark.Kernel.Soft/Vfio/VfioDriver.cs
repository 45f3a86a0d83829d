using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A VFIO driver's side of an open device, from its open to its last close: what VFIO's core asks of it. Calls come from
/// any thread; a driver takes its device's gate where it needs it.
/// </summary>
internal abstract class VfioDriver : IDisposable
{
    /// <summary>The migration states; null: the device does not have them.</summary>
    public abstract IVfioMigration? Migration { get; }

    /// <summary>The device's record of its own DMA; null: it keeps none.</summary>
    public abstract IVfioDmaLog? Log { get; }

    /// <summary>A request begins: the device must not sleep.</summary>
    public virtual void Resume()
    {
    }

    /// <summary>Every request that the core does not answer itself. ENOTTY: unknown.</summary>
    public abstract Errno Ioctl(uint request, Span<byte> argument);

    public abstract Errno GetRegionInfo(Span<byte> argument);

    /// <summary>A feature that the core does not answer itself. ENOTTY: unknown.</summary>
    /// <returns>The result of the whole call.</returns>
    public abstract SyscallResult Feature(VfioFeatureCall call);

    public abstract SyscallResult Read(Span<byte> buffer, ulong offset);

    public abstract SyscallResult Write(ReadOnlySpan<byte> buffer, ulong offset);

    public abstract SyscallResult ResolveMmap(ulong byteLength, ulong offset, out int hostFd, out ulong hostOffset);

    /// <summary>The last close. Under the gate.</summary>
    public abstract void Dispose();
}

/// <summary>A device's migration states, as a driver offers them. All but <see cref="Flags"/> under the gate.</summary>
internal interface IVfioMigration
{
    /// <summary>The abilities; contains StopCopy.</summary>
    VfioMigrationFlags Flags { get; }

    VfioDeviceMigState State { get; }

    /// <summary>What MIG_DATA_SIZE tells, in bytes.</summary>
    ulong DataSize { get; }

    /// <summary>MIG_PRECOPY_INFOv2 was enabled: the flags of precopy info are an output.</summary>
    bool PrecopyInfoHasFlags { get; set; }

    /// <summary>
    /// Walks to <paramref name="target"/>. On failure the device is where it got to, see <see cref="State"/>.
    /// </summary>
    /// <param name="opened">The data stream that the last arc opened, or null: also when an open one goes on.</param>
    Errno Request(VfioDeviceMigState target, out SoftFile? opened);
}

/// <summary>DMA_LOGGING_* as a driver offers it.</summary>
internal interface IVfioDmaLog
{
    /// <summary>On success the page size is the one in use; on failure nothing changed.</summary>
    Errno Start(ref VfioDeviceFeatureDmaLoggingControl control);

    void Stop();

    Errno Report(in VfioDeviceFeatureDmaLoggingReport report);
}
