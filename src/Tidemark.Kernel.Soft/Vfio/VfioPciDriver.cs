using System.Buffers.Binary;
using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio.Legacy;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// vfio-pci, or a variant of it that adds migration, on an open PCI function: everything that the last close undoes.
/// </summary>
internal sealed class VfioPciDriver : VfioDriver
{
    private const int HotResetHeader = (int)VfioPciHotResetInfo.StructSize;
    private const int HotResetEntry = 8;
    private const uint DmaBufPayload = 16;

    private readonly PciVfioDevice _device;
    private readonly IBoundDevice _bound;
    private readonly VfioGroup? _group;
    private readonly VfioRegions _regions;
    private readonly VfioInterrupts _interrupts;
    private readonly MigrationStateMachine? _migration;
    private readonly DmaLog? _log;
    private readonly InterruptLine _wakeup;
    private readonly EventfdWatcher _watcher;
    private readonly VfioIoeventfds _ioeventfds;
    private readonly VfioDmaBufs _dmaBufs;
    private bool _lowPower;

    /// <param name="group">Through which the device was opened; null: through its cdev.</param>
    public VfioPciDriver(PciVfioDevice device, IBoundDevice bound, VfioGroup? group)
    {
        _device = device;
        _bound = bound;
        _group = group;
        _regions = new VfioRegions(device.Model);
        _watcher = new EventfdWatcher(device.Kernel.Host, device.Gate, device.Name);
        _wakeup = new InterruptLine(device.Kernel.Host);
        _interrupts = new VfioInterrupts(device.Model, device.Kernel.Host, _watcher);
        _ioeventfds = new VfioIoeventfds(device.Model, _watcher);
        _dmaBufs = new VfioDmaBufs(device);
        if (device.Abilities.Migration != VfioMigrationFlags.None)
            _migration = new MigrationStateMachine(device.Model, device.Abilities.Migration, device.Gate);
        if (device.Abilities.DmaLogging)
            _log = new DmaLog(device.Port, device.Kernel);
    }

    public override IVfioMigration? Migration => _migration;

    public override IVfioDmaLog? Log => _log;

    public override Errno Ioctl(uint request, Span<byte> argument)
    {
        if (request == VfioRequests.DeviceGetInfo.Value)
            return GetInfo(argument);
        if (request == VfioRequests.DeviceGetIrqInfo.Value)
            return _interrupts.GetInfo(argument);
        if (request == VfioRequests.DeviceSetIrqs.Value)
        {
            lock (_device.Gate)
                return _interrupts.Set(argument);
        }

        if (request == VfioRequests.DeviceReset.Value)
            return _device.Abilities.Resettable ? Reset() : Errno.EINVAL;
        if (request == VfioRequests.DeviceGetPciHotResetInfo.Value)
            return GetHotResetInfo(argument);
        if (request == VfioRequests.DeviceIoeventfd.Value)
        {
            lock (_device.Gate)
                return _ioeventfds.Set(argument);
        }

        return request == VfioRequests.DevicePciHotReset.Value ? HotReset(argument) : Errno.ENOTTY;
    }

    public override Errno GetRegionInfo(Span<byte> argument) => _regions.GetInfo(argument);

    public override SyscallResult Feature(VfioFeatureCall call)
    {
        Errno errno;
        switch (call.Index)
        {
            case VfioDeviceFeatureIndex.LowPowerEntry:
                if (call.IsToCarry(VfioDeviceFeatureFlags.Set, payloadLength: 0, out errno))
                    errno = EnterLowPower(wakeup: null);
                break;
            case VfioDeviceFeatureIndex.LowPowerEntryWithWakeup:
                if (call.IsToCarry(VfioDeviceFeatureFlags.Set, payloadLength: 8, out errno))
                    errno = EnterLowPower(BinaryPrimitives.ReadInt32LittleEndian(call.Payload));
                break;
            case VfioDeviceFeatureIndex.LowPowerExit:
                if (call.IsToCarry(VfioDeviceFeatureFlags.Set, payloadLength: 0, out errno))
                {
                    lock (_device.Gate)
                    {
                        LeaveLowPower();
                        _dmaBufs.Restore();
                    }
                }

                break;
            case VfioDeviceFeatureIndex.DmaBuf:
                if (call.IsToCarry(VfioDeviceFeatureFlags.Get, DmaBufPayload, out errno))
                {
                    lock (_device.Gate)
                        return _dmaBufs.Export(call.Payload);
                }

                break;
            default:
                // LIMIT: no VF tokens, no BUS_MASTER (as vfio-pci).
                errno = Errno.ENOTTY;
                break;
        }

        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }

    public override SyscallResult Read(Span<byte> buffer, ulong offset)
    {
        lock (_device.Gate)
        {
            Wake();
            return _regions.Read(buffer, offset);
        }
    }

    public override SyscallResult Write(ReadOnlySpan<byte> buffer, ulong offset)
    {
        lock (_device.Gate)
        {
            Wake();
            SyscallResult written = _regions.Write(buffer, offset);
            if (written.Succeeded && offset >= VfioRegions.OffsetOf(VfioPciRegionIndex.Config))
                FollowConfig(buffer, offset - VfioRegions.OffsetOf(VfioPciRegionIndex.Config));
            return written;
        }
    }

    public override void Resume()
    {
        lock (_device.Gate)
            Wake();
    }

    public override SyscallResult ResolveMmap(
        ulong byteLength, ulong offset, out int hostFd, out ulong hostOffset) =>
        _regions.ResolveMmap(byteLength, offset, out hostFd, out hostOffset);

    /// <summary>The device is reset and silent.</summary>
    public override void Dispose()
    {
        _dmaBufs.End();
        _interrupts.DisableAll();
        _watcher.Dispose();
        _wakeup.Set(-1);
        _device.Model.Reset(keepsConfig: false);
        _migration?.Reset();
        _log?.Stop();
        _device.Driver = null;
    }

    private Errno GetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioDeviceInfo.MinimumSize, out VfioDeviceInfo info))
            return Errno.EFAULT;
        if (info.Argsz < VfioDeviceInfo.MinimumSize)
            return Errno.EINVAL;
        int answered = (int)Math.Min(info.Argsz, VfioDeviceInfo.StructSize);
        if (argument.Length < answered)
            return Errno.EFAULT;
        info.Flags = VfioDeviceFlags.Pci | (_device.Abilities.Resettable ? VfioDeviceFlags.Reset : 0);
        info.NumRegions = (uint)VfioPciRegionIndex.Count;
        info.NumIrqs = (uint)VfioPciIrqIndex.Count;
        VfioArgument.Write(argument, info, answered);
        return Errno.Success;
    }

    private Errno Reset()
    {
        lock (_device.Gate)
            ResetFunction();
        return Errno.Success;
    }

    /// <summary>Under the gate.</summary>
    private void ResetFunction()
    {
        _dmaBufs.Revoke();
        _device.Model.Reset(keepsConfig: true);
        _migration?.Reset();
        _interrupts.Restore();
        _dmaBufs.Restore();
    }

    /// <summary>What a write of configuration space means for what lies outside of it.</summary>
    private void FollowConfig(ReadOnlySpan<byte> written, ulong offset)
    {
        if (StartsFunctionReset(written, offset))
            ResetFunction();
        if (offset >= NvmePci.StatusOffset || offset + (ulong)written.Length <= NvmePci.CommandOffset)
            return;
        if (_device.Model.AnswersMemory)
            _dmaBufs.Restore();
        else
            _dmaBufs.Revoke();
    }

    /// <summary>Whether a write of configuration space sets the bit that resets a PCI Express function.</summary>
    private bool StartsFunctionReset(ReadOnlySpan<byte> written, ulong offset)
    {
        if (!_device.Abilities.Resettable || _device.Model.FunctionResetByte is not { } at)
            return false;
        return offset <= at && at - offset < (ulong)written.Length
            && (written[(int)(at - offset)] & ExpressCapability.ControlReset >> 8) != 0;
    }

    /// <summary>The devices that a bus reset touches: all that are on the bus, whatever group they are in.</summary>
    private Errno GetHotResetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, HotResetHeader, out VfioPciHotResetInfo info))
            return Errno.EFAULT;
        if (info.Argsz < HotResetHeader)
            return Errno.EINVAL;
        IReadOnlyList<IPciFunction> functions = _device.Bus;
        bool fits = (info.Argsz - HotResetHeader) / HotResetEntry >= functions.Count;
        info.Flags = fits && _group is null
            ? VfioPciHotResetFlags.DevId | VfioPciHotResetFlags.DevIdOwned
            : VfioPciHotResetFlags.None;
        info.Count = (uint)functions.Count;
        if (fits && argument.Length < HotResetHeader + (HotResetEntry * functions.Count))
            return Errno.EFAULT;
        for (int index = 0; fits && index < functions.Count; index++)
        {
            if (!TryIdentify(functions[index], out VfioPciDependentDevice entry))
                return Errno.EPERM;
            if (_group is null && entry.Devid == VfioPciDependentDevice.DevidNotOwned)
                info.Flags &= ~VfioPciHotResetFlags.DevIdOwned;
            VfioArgument.Write(argument[(HotResetHeader + (HotResetEntry * index))..], entry, HotResetEntry);
        }

        VfioArgument.Write(argument, info, HotResetHeader);
        return fits ? Errno.Success : Errno.ENOSPC;
    }

    /// <summary>False: groups are asked for, and the function is in none.</summary>
    private bool TryIdentify(IPciFunction function, out VfioPciDependentDevice entry)
    {
        entry = default;
        if (_group is not null && function.Group is null)
            return false;
        // One field: the device's id in the caller's iommufd, or its group.
        entry.Devid = _group is null ? _bound.DeviceIdOf(function.Port) : (uint)function.Group!.Number;
        string[] parts = function.Name.Split(':', '.');
        if (parts.Length == 4
            && ushort.TryParse(parts[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ushort segment)
            && byte.TryParse(parts[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte bus)
            && byte.TryParse(parts[2], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte slot)
            && byte.TryParse(parts[3], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte number))
        {
            entry.Segment = segment;
            entry.Bus = bus;
            entry.Devfn = (byte)(((slot & 0x1F) << 3) | (number & 7));
        }

        return true;
    }

    private Errno HotReset(ReadOnlySpan<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioPciHotReset.MinimumSize, out VfioPciHotReset reset))
            return Errno.EFAULT;
        // What a cdev's file owns is proven by its iommufd, what a group's file owns by a list of groups.
        if (reset.Argsz < VfioPciHotReset.MinimumSize || reset.Flags != 0 || (reset.Count == 0) != (_group is null))
            return Errno.EINVAL;
        IReadOnlyList<IPciFunction> functions = _device.Bus;
        Errno errno = _group?.CheckHotReset(
            argument[(int)VfioPciHotReset.MinimumSize..], reset.Count, functions) ?? Errno.Success;
        return errno == Errno.Success ? ResetBus(functions) : errno;
    }

    /// <summary>EINVAL: the iommufd does not own all of them.</summary>
    private Errno ResetBus(IReadOnlyList<IPciFunction> functions)
    {
        PciVfioDevice[] devices = [.. functions.Select(function => function.Device).OfType<PciVfioDevice>()];
        int held = 0;
        try
        {
            // ORDER: gates of several devices are taken in the host's order, here only. With them nobody opens or closes
            // one between the check and the reset.
            for (; held < devices.Length; held++)
                devices[held].Gate.Enter();
            if (_group is null && functions.Any(
                function => _bound.DeviceIdOf(function.Port) == VfioPciDependentDevice.DevidNotOwned))
                return Errno.EINVAL;
            // What is not open was reset when it was closed.
            foreach (PciVfioDevice device in devices)
                device.Driver?.ResetFunction();
            return Errno.Success;
        }
        finally
        {
            while (held > 0)
                devices[--held].Gate.Exit();
        }
    }

    /// <summary>Whoever asked to be told of it is, and then the device is awake for good.</summary>
    private void Wake()
    {
        if (!_lowPower || !_wakeup.IsSet)
            return;
        _wakeup.Raise();
        LeaveLowPower();
    }

    private void LeaveLowPower()
    {
        _lowPower = false;
        _wakeup.Set(-1);
    }

    /// <summary>
    /// Low power is a note in the driver only: nothing sleeps, and any call would wake the device for its time. With a
    /// wakeup eventfd the next call wakes it for good.
    /// FIDELITY: Linux lets a device sleep some time later, and not every one; a call before that wakes nobody.
    /// LIMIT: mappings of a BAR stay usable; Linux answers SIGBUS.
    /// </summary>
    private Errno EnterLowPower(int? wakeup)
    {
        if (wakeup < 0)
            return Errno.EINVAL;
        KernelFd? eventfd = null;
        Errno errno = wakeup is int descriptor
            ? InterruptLine.Duplicate(_device.Kernel.Host, descriptor, out eventfd)
            : Errno.Success;
        if (errno != Errno.Success)
            return errno;
        using (eventfd)
        {
            lock (_device.Gate)
            {
                // ORDER: revoked whether or not the device is in low power already.
                _dmaBufs.Revoke();
                if (_lowPower)
                    return Errno.EINVAL;
                _lowPower = true;
                return _wakeup.Set(eventfd?.Number ?? -1);
            }
        }
    }
}
