using System.Buffers.Binary;
using Tidemark.Abi;
using static Tidemark.Abi.VfioDeviceFeatureFlags;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>VFIO_DEVICE_FEATURE of an open device.</summary>
internal sealed class VfioFeatures(SoftVfioDevice device, MigrationStateMachine? migration, DmaLog? log)
{
    private const VfioDeviceFeatureFlags Known = Mask | Get | Set | Probe;
    private const int Header = (int)VfioDeviceFeature.StructSize;

    private bool _lowPower;

    public Errno Handle(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, Header, out VfioDeviceFeature feature))
            return Errno.EFAULT;
        if (feature.Argsz < VfioDeviceFeature.MinimumSize || (feature.Flags & ~Known) != 0)
            return Errno.EINVAL;
        VfioDeviceFeatureFlags operation = feature.Flags & (Get | Set);
        bool probe = feature.Flags.HasFlag(Probe);
        if (operation == (Get | Set) && !probe)
            return Errno.EINVAL;
        var index = (VfioDeviceFeatureIndex)(feature.Flags & Mask);
        // ORDER: the one feature whose absence is EINVAL, for a probe too.
        if (index == VfioDeviceFeatureIndex.MigPrecopyInfoV2
            && migration?.Flags.HasFlag(VfioMigrationFlags.PreCopy) != true)
            return Errno.EINVAL;
        VfioDeviceFeatureFlags offered = Operations(index);
        if (offered == None)
            return Errno.ENOTTY;
        if ((operation & ~offered) != 0)
            return Errno.EINVAL;
        if (probe)
            return Errno.Success;
        uint payloadLength = PayloadLength(index);
        if (operation == None || feature.Argsz - VfioDeviceFeature.StructSize < payloadLength)
            return Errno.EINVAL;
        Span<byte> payload = argument[Header..];
        return payload.Length < payloadLength ? Errno.EFAULT : Carry(index, operation, payload[..(int)payloadLength]);
    }

    /// <summary>What a feature can be asked; None: the device does not have it.</summary>
    private VfioDeviceFeatureFlags Operations(VfioDeviceFeatureIndex index)
    {
        switch (index)
        {
            case VfioDeviceFeatureIndex.Migration:
            case VfioDeviceFeatureIndex.MigDataSize:
                return migration is null ? None : Get;
            case VfioDeviceFeatureIndex.MigDeviceState:
                return migration is null ? None : Get | Set;
            case VfioDeviceFeatureIndex.MigPrecopyInfoV2:
            case VfioDeviceFeatureIndex.LowPowerEntry:
            case VfioDeviceFeatureIndex.LowPowerEntryWithWakeup:
            case VfioDeviceFeatureIndex.LowPowerExit:
                return Set;
            case VfioDeviceFeatureIndex.DmaLoggingStart:
            case VfioDeviceFeatureIndex.DmaLoggingStop:
                return log is null ? None : Set;
            case VfioDeviceFeatureIndex.DmaLoggingReport:
                return log is null ? None : Get;
            default:
                // LIMIT: no VF tokens, no BUS_MASTER (as vfio-pci), no DMA_BUF (as a kernel without peer-to-peer DMA).
                return None;
        }
    }

    private static uint PayloadLength(VfioDeviceFeatureIndex index) => index switch
    {
        VfioDeviceFeatureIndex.Migration => 8,
        VfioDeviceFeatureIndex.MigDeviceState => 8,
        VfioDeviceFeatureIndex.LowPowerEntryWithWakeup => 8,
        VfioDeviceFeatureIndex.DmaLoggingStart => 24,
        VfioDeviceFeatureIndex.DmaLoggingReport => 32,
        VfioDeviceFeatureIndex.MigDataSize => 8,
        _ => 0,
    };

    private Errno Carry(VfioDeviceFeatureIndex index, VfioDeviceFeatureFlags operation, Span<byte> payload)
    {
        switch (index)
        {
            case VfioDeviceFeatureIndex.Migration:
                BinaryPrimitives.WriteUInt64LittleEndian(payload, (ulong)migration!.Flags);
                return Errno.Success;
            case VfioDeviceFeatureIndex.MigDeviceState:
                return operation == Get ? GetState(payload) : SetState(payload);
            case VfioDeviceFeatureIndex.MigDataSize:
                lock (device.Gate)
                    BinaryPrimitives.WriteUInt64LittleEndian(payload, device.Model.FinalStateSize);
                return Errno.Success;
            case VfioDeviceFeatureIndex.MigPrecopyInfoV2:
                lock (device.Gate)
                    migration!.PrecopyInfoHasFlags = true;
                return Errno.Success;
            case VfioDeviceFeatureIndex.DmaLoggingStart:
                return StartLog(payload);
            case VfioDeviceFeatureIndex.DmaLoggingStop:
                log!.Stop();
                return Errno.Success;
            case VfioDeviceFeatureIndex.DmaLoggingReport:
                VfioArgument.TryRead(payload, payload.Length, out VfioDeviceFeatureDmaLoggingReport report);
                return log!.Report(report);
            case VfioDeviceFeatureIndex.LowPowerEntryWithWakeup:
                return EnterLowPower(wakeup: BinaryPrimitives.ReadInt32LittleEndian(payload));
            case VfioDeviceFeatureIndex.LowPowerEntry:
                return EnterLowPower(wakeup: null);
            default:
                lock (device.Gate)
                    _lowPower = false;
                return Errno.Success;
        }
    }

    private Errno GetState(Span<byte> payload)
    {
        lock (device.Gate)
            WriteState(payload, migration!.State, dataFd: -1);
        return Errno.Success;
    }

    private Errno SetState(Span<byte> payload)
    {
        VfioArgument.TryRead(payload, payload.Length, out VfioDeviceFeatureMigState state);
        Errno errno;
        MigrationDataFile? opened;
        lock (device.Gate)
            errno = migration!.Request(state.DeviceState, out opened);
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

    private Errno StartLog(Span<byte> payload)
    {
        VfioArgument.TryRead(payload, payload.Length, out VfioDeviceFeatureDmaLoggingControl control);
        Errno errno = log!.Start(ref control);
        if (errno == Errno.Success)
            VfioArgument.Write(payload, control, payload.Length);
        return errno;
    }

    /// <summary>Low power is a note in the driver only: nothing sleeps, and any call wakes the device.</summary>
    private Errno EnterLowPower(int? wakeup)
    {
        if (wakeup is { } eventfd)
        {
            if (eventfd < 0)
                return Errno.EINVAL;
            // The device never wakes by itself, so the eventfd is checked and not kept.
            var line = new InterruptLine(device.Kernel.Host);
            Errno errno = line.Set(eventfd);
            if (errno != Errno.Success)
                return errno;
            line.Set(-1);
        }

        lock (device.Gate)
        {
            if (_lowPower)
                return Errno.EINVAL;
            _lowPower = true;
            return Errno.Success;
        }
    }
}
