using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// VFIO_DEVICE_FEATURE of an open device: migration and DMA logging are the core's, everything else is the driver's.
/// </summary>
internal sealed class VfioFeatures(SoftVfioDevice device, VfioDriver driver)
{
    private const VfioDeviceFeatureFlags Known = Mask | Get | Set | Probe;
    private const int Header = (int)VfioDeviceFeature.StructSize;

    private readonly IVfioMigration? _migration = driver.Migration;
    private readonly IVfioDmaLog? _log = driver.Log;

    public SyscallResult Handle(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, Header, out VfioDeviceFeature feature))
            return SyscallResult.Fail(Errno.EFAULT);
        if (feature.Argsz < VfioDeviceFeature.MinimumSize || (feature.Flags & ~Known) != 0
            || (feature.Flags & (Get | Set | Probe)) == (Get | Set))
            return SyscallResult.Fail(Errno.EINVAL);
        var call = new VfioFeatureCall(feature.Flags, feature.Argsz, argument[Header..]);
        Errno errno;
        switch (call.Index)
        {
            case VfioDeviceFeatureIndex.Migration:
            case VfioDeviceFeatureIndex.MigDeviceState:
            case VfioDeviceFeatureIndex.MigDataSize:
                errno = _migration is null ? Errno.ENOTTY : Migrate(call, _migration);
                break;
            case VfioDeviceFeatureIndex.MigPrecopyInfoV2:
                errno = EnablePrecopyFlags(call);
                break;
            case VfioDeviceFeatureIndex.DmaLoggingStart:
            case VfioDeviceFeatureIndex.DmaLoggingStop:
            case VfioDeviceFeatureIndex.DmaLoggingReport:
                errno = _log is null ? Errno.ENOTTY : LogDma(call, _log);
                break;
            default:
                return driver.Feature(call);
        }

        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }

    private Errno Migrate(VfioFeatureCall call, IVfioMigration migration)
    {
        bool hasState = call.Index == VfioDeviceFeatureIndex.MigDeviceState;
        if (!call.IsToCarry(hasState ? Get | Set : Get, payloadLength: 8, out Errno errno))
            return errno;
        Span<byte> payload = call.Payload[..8];
        switch (call.Index)
        {
            case VfioDeviceFeatureIndex.Migration:
                BinaryPrimitives.WriteUInt64LittleEndian(payload, (ulong)migration.Flags);
                return Errno.Success;
            case VfioDeviceFeatureIndex.MigDataSize:
                lock (device.Gate)
                    BinaryPrimitives.WriteUInt64LittleEndian(payload, migration.DataSize);
                return Errno.Success;
            default:
                return call.IsGet ? GetState(payload, migration) : SetState(payload, migration);
        }
    }

    private Errno EnablePrecopyFlags(VfioFeatureCall call)
    {
        // ORDER: the one feature whose absence is EINVAL, for a probe too.
        if (_migration?.Flags.HasFlag(VfioMigrationFlags.PreCopy) != true)
            return Errno.EINVAL;
        if (!call.IsToCarry(Set, payloadLength: 0, out Errno errno))
            return errno;
        lock (device.Gate)
            _migration.PrecopyInfoHasFlags = true;
        return Errno.Success;
    }

    private static Errno LogDma(VfioFeatureCall call, IVfioDmaLog log)
    {
        Errno errno;
        switch (call.Index)
        {
            case VfioDeviceFeatureIndex.DmaLoggingStart:
                if (!call.IsToCarry(Set, payloadLength: 24, out errno))
                    return errno;
                VfioArgument.TryRead(call.Payload, 24, out VfioDeviceFeatureDmaLoggingControl control);
                errno = log.Start(ref control);
                if (errno == Errno.Success)
                    VfioArgument.Write(call.Payload, control, 24);
                return errno;
            case VfioDeviceFeatureIndex.DmaLoggingStop:
                if (!call.IsToCarry(Set, payloadLength: 0, out errno))
                    return errno;
                log.Stop();
                return Errno.Success;
            default:
                if (!call.IsToCarry(Get, payloadLength: 32, out errno))
                    return errno;
                VfioArgument.TryRead(call.Payload, 32, out VfioDeviceFeatureDmaLoggingReport report);
                return log.Report(report);
        }
    }

    private Errno GetState(Span<byte> payload, IVfioMigration migration)
    {
        lock (device.Gate)
            WriteState(payload, migration.State, dataFd: -1);
        return Errno.Success;
    }

    private Errno SetState(Span<byte> payload, IVfioMigration migration)
    {
        VfioArgument.TryRead(payload, payload.Length, out VfioDeviceFeatureMigState state);
        Errno errno;
        SoftFile? opened;
        lock (device.Gate)
            errno = migration.Request(state.DeviceState, out opened);
        int dataFd = -1;
        if (errno == Errno.Success && opened is not null)
        {
            // ORDER: the state changed already; without a descriptor the stream is gone and the state stays.
            SyscallResult installed = device.Kernel.Install(opened);
            if (installed.Succeeded)
                dataFd = (int)installed.Value;
            else
                opened.Release();
            errno = installed.Errno;
        }

        // Also a failed request writes its payload back.
        WriteState(payload, state.DeviceState, dataFd);
        return errno;
    }

    private static void WriteState(Span<byte> payload, VfioDeviceMigState state, int dataFd)
    {
        var answer = new VfioDeviceFeatureMigState { DeviceState = state, DataFd = dataFd };
        VfioArgument.Write(payload, answer, payload.Length);
    }
}
