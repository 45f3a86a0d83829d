using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Vfio;

/// <summary>
/// The migration interface of one device: its states, and the stream that carries its state away or brings it in.
/// </summary>
/// <remarks>
/// <code><![CDATA[
///                 +---------------- PRE_COPY <--> PRE_COPY_P2P      reading: state while the device runs
///                 v                                |  ^
///   reset --> RUNNING <--> RUNNING_P2P <-----------+  |
///                            ^    |  |                |
///                            |    |  +----------------+
///                            |    v
///               RESUMING <--> STOP <--> STOP_COPY                   reading: the rest, to the end
///               writing                    ^
///                                          +---- PRE_COPY_P2P       (the same stream goes on)
///   any --failed change--> somewhere on the way, or ERROR --reset--> RUNNING
/// ]]></code>
/// One request names the wanted state; the kernel walks the arcs, leaving out states that the device lacks. The
/// stream's descriptor comes with the change that begins it and is dead when the state leaves the group; this object
/// owns it.
/// One caller at a time.
/// </remarks>
public sealed class VfioMigration : IDisposable
{
    private readonly VfioDevice _device;
    private KernelFd? _stream;
    private VfioDeviceMigState? _lastState;

    private VfioMigration(VfioDevice device, VfioMigrationFlags abilities)
    {
        _device = device;
        Abilities = abilities;
    }

    public VfioMigrationFlags Abilities { get; }

    /// <summary>The device can promise not to begin DMA to peers while it still answers theirs.</summary>
    public bool HasP2P => (Abilities & VfioMigrationFlags.P2P) != 0;

    /// <summary>State can be read while the device runs.</summary>
    public bool HasPreCopy => (Abilities & VfioMigrationFlags.PreCopy) != 0;

    /// <summary>Whether a stream is open for reading or writing.</summary>
    public bool HasStream => _stream is not null;

    /// <summary>Finds out what a bound device can do.</summary>
    /// <param name="lack">When the answer is null: what is missing, for users.</param>
    /// <exception cref="KernelException">The device failed to answer.</exception>
    public static VfioMigration? Create(VfioDevice device, out string? lack)
    {
        ArgumentNullException.ThrowIfNull(device);
        var feature = default(VfioDeviceFeatureMigration);
        SyscallResult result = device.Get(ref feature);
        if (result.Errno == Errno.ENOTTY)
        {
            lack = "its driver has no migration support (VFIO_DEVICE_FEATURE_MIGRATION answers ENOTTY)";
            return null;
        }

        result.ThrowIfFailed($"Asking {device.Name} what it can do for migration");
        if ((feature.Flags & VfioMigrationFlags.StopCopy) == 0)
        {
            lack = $"its driver can not save a stopped device (no STOP_COPY among the abilities {feature.Flags})";
            return null;
        }

        lack = null;
        // A device may begin anew while it is saved (new initial bytes), and says so only to who has asked for it. A
        // kernel that does not know the question never does so.
        if ((feature.Flags & VfioMigrationFlags.PreCopy) != 0)
            device.Set(VfioDeviceFeatureIndex.MigPrecopyInfoV2);
        return new VfioMigration(device, feature.Flags);
    }

    /// <summary>The state the device is in.</summary>
    /// <exception cref="KernelException">The device did not answer.</exception>
    public VfioDeviceMigState GetState()
    {
        VfioDeviceFeatureMigState argument = VfioDeviceFeatureMigState.Create(VfioDeviceMigState.Error);
        _device.Get(ref argument).ThrowIfFailed($"Asking {_device.Name} for its migration state");
        return argument.DeviceState;
    }

    /// <summary>
    /// Asks for a state once, without recovery. After a failure the device is wherever the kernel left it.
    /// </summary>
    public SyscallResult TrySetState(VfioDeviceMigState target) => TrySetState(target, recovers: false);

    private SyscallResult TrySetState(VfioDeviceMigState target, bool recovers)
    {
        VfioDeviceFeatureMigState argument = VfioDeviceFeatureMigState.Create(target);
        SyscallResult result = _device.Set(ref argument);
        if (StepEvents.Log.IsEnabled())
        {
            StepEvents.Log.MigrationStateSet(
                _device.Name, target.ToString(), recovers, result.Succeeded ? argument.DataFd : -1, StepEvents.Outcome(result));
        }

        _lastState = result.Succeeded ? target : null;
        if (!result.Succeeded)
            return result;
        if (argument.DataFd >= 0)
            ReplaceStream(new KernelFd(_device.Kernel, argument.DataFd));
        else if (!IsStreaming(target))
            ReplaceStream(null);
        return result;
    }

    /// <summary>Changes the state, and on failure brings the device into a state that the caller names.</summary>
    /// <param name="recovery">
    /// Where a failed change shall end. Null: reset at once, for changes after which no state of the device can be
    /// trusted.
    /// </param>
    /// <remarks>
    /// A failed change leaves the device on the way, possibly in ERROR, from which only a reset leads out. Whoever
    /// asked knows which state is harmless (the source: RUNNING; the destination: STOP), so it is tried first because
    /// it keeps
    /// what the device was doing; a reset loses that, but always ends in RUNNING with nothing in flight.
    /// </remarks>
    /// <exception cref="KernelException">
    /// The change failed. The message says where the device is now: in the recovery state, reset, or lost.
    /// </exception>
    public void SetState(VfioDeviceMigState target, VfioDeviceMigState? recovery)
    {
        SyscallResult result = TrySetState(target);
        if (result.Succeeded)
            return;
        string operation = $"Moving {_device.Name} to migration state {target}";
        if (recovery is { } wanted && TrySetState(wanted, recovers: true).Succeeded)
            throw new KernelException(operation, result.Errno, $"It was brought to {wanted}.");
        try
        {
            Reset();
        }
        catch (KernelException second)
        {
            throw new KernelException(
                operation, result.Errno,
                $"It could not be reset either ({second.Errno}): its state is unknown, do not use it.", second);
        }

        throw new KernelException(operation, result.Errno, "It was reset: what it was doing is lost.");
    }

    /// <summary>Resets the device: RUNNING, nothing in flight, no stream.</summary>
    /// <exception cref="KernelException">It could not be reset.</exception>
    public void Reset()
    {
        ReplaceStream(null);
        _lastState = null;
        _device.Reset();
    }

    /// <summary>Reads the next bytes of the device's state.</summary>
    /// <returns>
    /// Bytes read; 0 while it runs: nothing at this moment (drivers say so by ENOMSG or by 0); 0 when it is stopped:
    /// the end.
    /// </returns>
    /// <exception cref="KernelException">The device failed, or no stream is open.</exception>
    public int Read(Span<byte> buffer)
    {
        KernelFd stream = RequireStream();
        SyscallResult result;
        do
        {
            result = _device.Kernel.Read(stream.Number, buffer);
        }
        while (result.Errno == Errno.EINTR);
        StepEvents.Log.StateRead(_device.Name, result.Succeeded ? result.Value : 0, StepEvents.Outcome(result));
        // Only a running device has nothing at this moment; taken for the end, it would cut the state off.
        if (result.Errno == Errno.ENOMSG && _lastState != VfioDeviceMigState.StopCopy)
            return 0;
        result.ThrowIfFailed($"Reading the state of {_device.Name}");
        return checked((int)result.Value);
    }

    /// <summary>Writes the next bytes of a state that is to be resumed.</summary>
    /// <exception cref="KernelException">The device refused them; nothing more can be written.</exception>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        KernelFd stream = RequireStream();
        while (!bytes.IsEmpty)
        {
            SyscallResult result = _device.Kernel.Write(stream.Number, bytes);
            if (result.Errno == Errno.EINTR)
                continue;
            StepEvents.Log.StateWritten(_device.Name, result.Succeeded ? result.Value : 0, StepEvents.Outcome(result));
            result.ThrowIfFailed($"Writing {bytes.Length} bytes of state to {_device.Name}");
            if (result.Value <= 0)
            {
                throw new KernelException(
                    $"Writing {bytes.Length} bytes of state to {_device.Name} (none taken)", Errno.EIO);
            }

            bytes = bytes[checked((int)result.Value)..];
        }
    }

    /// <summary>
    /// What is left to read while the device runs, in bytes; null when it can not tell (now). Initial bytes can go up
    /// again: VFIO_PRECOPY_INFO_REINIT.
    /// </summary>
    public PrecopyEstimate? GetPrecopyEstimate()
    {
        if (_stream is null)
            return null;
        VfioPrecopyInfo argument = VfioPrecopyInfo.Create();
        SyscallResult result = _device.Kernel.Ioctl(_stream, ref argument);
        StepEvents.Log.PrecopyEstimated(
            _device.Name, argument.InitialBytes, argument.DirtyBytes, StepEvents.Outcome(result));
        return result.Succeeded
            ? new PrecopyEstimate(argument.InitialBytes, argument.DirtyBytes)
            : null;
    }

    /// <summary>An estimate of what a stopped device will give, in bytes; null when it can not tell.</summary>
    public ulong? GetDataSize()
    {
        var argument = default(VfioDeviceFeatureMigDataSize);
        SyscallResult result = _device.Get(ref argument);
        StepEvents.Log.DataSizeEstimated(_device.Name, argument.StopCopyLength, StepEvents.Outcome(result));
        return result.Succeeded ? argument.StopCopyLength : null;
    }

    /// <summary>Closes the stream. The device's state is left as it is.</summary>
    public void Dispose() => ReplaceStream(null);

    private static bool IsStreaming(VfioDeviceMigState state) => state is VfioDeviceMigState.PreCopy
        or VfioDeviceMigState.PreCopyP2P or VfioDeviceMigState.StopCopy or VfioDeviceMigState.Resuming;

    private KernelFd RequireStream() =>
        _stream ?? throw new InvalidOperationException($"No state stream of {_device.Name} is open.");

    private void ReplaceStream(KernelFd? stream)
    {
        _stream?.Dispose();
        _stream = stream;
    }
}

/// <summary>What a running device has to say before it is stopped.</summary>
/// <param name="InitialBytes">Should be read to 0 before the stop.</param>
/// <param name="DirtyBytes">Changed since it was read; may grow.</param>
public readonly record struct PrecopyEstimate(ulong InitialBytes, ulong DirtyBytes);
