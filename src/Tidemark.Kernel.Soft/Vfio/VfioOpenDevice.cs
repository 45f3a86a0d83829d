using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A device from bind to close: its place in an iommufd and everything that its last close undoes. Calls come from any
/// thread.
/// </summary>
internal sealed class VfioOpenDevice
{
    private const int HotResetHeader = (int)VfioPciHotResetInfo.StructSize;
    private const int HotResetEntry = 8;

    private readonly SoftVfioDevice _device;
    private readonly IBoundDevice _bound;
    private readonly VfioRegions _regions;
    private readonly VfioInterrupts _interrupts;
    private readonly MigrationStateMachine? _migration;
    private readonly DmaLog? _log;
    private readonly VfioFeatures _features;

    public VfioOpenDevice(SoftVfioDevice device, IBoundDevice bound)
    {
        _device = device;
        _bound = bound;
        _regions = new VfioRegions(device.Model);
        _interrupts = new VfioInterrupts(device.Model, device.Kernel.Host);
        if (device.Abilities.Migration != VfioMigrationFlags.None)
            _migration = new MigrationStateMachine(device.Model, device.Abilities.Migration, device.Gate);
        if (device.Abilities.DmaLogging)
            _log = new DmaLog(device.Port, device.Kernel);
        _features = new VfioFeatures(device, _migration, _log);
    }

    public uint DeviceId => _bound.DeviceId;

    public Errno Ioctl(uint request, Span<byte> argument)
    {
        if (request == VfioRequests.DeviceAttachIommufdPt.Value)
            return Attach(argument);
        if (request == VfioRequests.DeviceDetachIommufdPt.Value)
            return Detach(argument);
        if (request == VfioRequests.DeviceFeature.Value)
            return _features.Handle(argument);
        if (request == VfioRequests.DeviceGetInfo.Value)
            return GetInfo(argument);
        if (request == VfioRequests.DeviceGetRegionInfo.Value)
            return _regions.GetInfo(argument);
        if (request == VfioRequests.DeviceGetIrqInfo.Value)
            return _interrupts.GetInfo(argument);
        if (request == VfioRequests.DeviceSetIrqs.Value)
        {
            lock (_device.Gate)
                return _interrupts.Set(argument);
        }

        if (request == VfioRequests.DeviceReset.Value)
            return Reset();
        if (request == VfioRequests.DeviceGetPciHotResetInfo.Value)
            return GetHotResetInfo(argument);
        // LIMIT: no ioeventfds; graphics is not a matter of this device.
        return request == VfioRequests.DevicePciHotReset.Value ? HotReset(argument) : Errno.ENOTTY;
    }

    public SyscallResult Read(Span<byte> buffer, ulong offset)
    {
        lock (_device.Gate)
            return _regions.Read(buffer, offset);
    }

    public SyscallResult Write(ReadOnlySpan<byte> buffer, ulong offset)
    {
        lock (_device.Gate)
            return _regions.Write(buffer, offset);
    }

    public SyscallResult ResolveMmap(ulong byteLength, ulong offset, out int hostFd, out ulong hostOffset) =>
        _regions.ResolveMmap(byteLength, offset, out hostFd, out hostOffset);

    /// <summary>The last close: the device is reset, silent, and out of the iommufd. Under the gate.</summary>
    public void Close()
    {
        _interrupts.DisableAll();
        _device.Model.Reset();
        _migration?.Reset();
        _log?.Stop();
        _bound.Detach();
        _bound.Unbind();
    }

    private static Errno GetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioDeviceInfo.MinimumSize, out VfioDeviceInfo info))
            return Errno.EFAULT;
        if (info.Argsz < VfioDeviceInfo.MinimumSize)
            return Errno.EINVAL;
        int answered = (int)Math.Min(info.Argsz, VfioDeviceInfo.StructSize);
        if (argument.Length < answered)
            return Errno.EFAULT;
        info.Flags = VfioDeviceFlags.Reset | VfioDeviceFlags.Pci;
        info.NumRegions = (uint)VfioPciRegionIndex.Count;
        info.NumIrqs = (uint)VfioPciIrqIndex.Count;
        VfioArgument.Write(argument, info, answered);
        return Errno.Success;
    }

    private Errno Attach(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(
            argument, (int)VfioDeviceAttachIommufdPt.MinimumSize, out VfioDeviceAttachIommufdPt attach))
            return Errno.EFAULT;
        if (attach.Argsz < VfioDeviceAttachIommufdPt.MinimumSize || (attach.Flags & ~VfioDeviceAttachFlags.Pasid) != 0)
            return Errno.EINVAL;
        // LIMIT: no PASIDs.
        if (attach.Flags != VfioDeviceAttachFlags.None)
            return Errno.EOPNOTSUPP;
        uint pageTable = attach.PtId;
        lock (_device.Gate)
        {
            Errno errno = _bound.Attach(ref pageTable);
            if (errno != Errno.Success)
                return errno;
        }

        attach.PtId = pageTable;
        VfioArgument.Write(argument, attach, (int)VfioDeviceAttachIommufdPt.MinimumSize);
        return Errno.Success;
    }

    private Errno Detach(ReadOnlySpan<byte> argument)
    {
        if (!VfioArgument.TryRead(
            argument, (int)VfioDeviceDetachIommufdPt.MinimumSize, out VfioDeviceDetachIommufdPt detach))
            return Errno.EFAULT;
        if (detach.Argsz < VfioDeviceDetachIommufdPt.MinimumSize || (detach.Flags & ~VfioDeviceDetachFlags.Pasid) != 0)
            return Errno.EINVAL;
        if (detach.Flags != VfioDeviceDetachFlags.None)
            return Errno.EOPNOTSUPP;
        lock (_device.Gate)
            _bound.Detach();
        return Errno.Success;
    }

    private Errno Reset()
    {
        lock (_device.Gate)
        {
            _device.Model.Reset();
            _migration?.Reset();
            _interrupts.Restore();
        }

        return Errno.Success;
    }

    /// <summary>The devices that a bus reset touches: this one, alone in its group and on its bus.</summary>
    private Errno GetHotResetInfo(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, HotResetHeader, out VfioPciHotResetInfo info))
            return Errno.EFAULT;
        if (info.Argsz < HotResetHeader)
            return Errno.EINVAL;
        info.Flags = VfioPciHotResetFlags.DevId | VfioPciHotResetFlags.DevIdOwned;
        info.Count = 1;
        bool fits = info.Argsz - HotResetHeader >= HotResetEntry;
        if (fits && argument.Length < HotResetHeader + HotResetEntry)
            return Errno.EFAULT;
        VfioArgument.Write(argument, info, HotResetHeader);
        if (!fits)
            return Errno.ENOSPC;
        VfioArgument.Write(argument[HotResetHeader..], ThisDevice(), HotResetEntry);
        return Errno.Success;
    }

    private VfioPciDependentDevice ThisDevice()
    {
        var entry = new VfioPciDependentDevice { Devid = DeviceId };
        string[] parts = _device.Address.Split(':', '.');
        if (parts.Length == 4
            && ushort.TryParse(parts[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ushort segment)
            && byte.TryParse(parts[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte bus)
            && byte.TryParse(parts[2], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte slot)
            && byte.TryParse(parts[3], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out byte function))
        {
            entry.Segment = segment;
            entry.Bus = bus;
            entry.Devfn = (byte)(((slot & 0x1F) << 3) | (function & 7));
        }

        return entry;
    }

    private Errno HotReset(ReadOnlySpan<byte> argument)
    {
        if (!VfioArgument.TryRead(argument, (int)VfioPciHotReset.MinimumSize, out VfioPciHotReset reset))
            return Errno.EFAULT;
        // A device file proves what it owns by its iommufd: a list of groups has no place here.
        if (reset.Argsz < VfioPciHotReset.MinimumSize || reset.Flags != 0 || reset.Count != 0)
            return Errno.EINVAL;
        return Reset();
    }
}
