using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio.Legacy;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A device from bind to close: its place in an iommufd, and its driver. Calls come from any thread.
/// </summary>
internal sealed class VfioOpenDevice
{
    private readonly SoftVfioDevice _device;
    private readonly IBoundDevice _bound;

    /// <summary>PASIDs that were attached through this file. Under the device's gate.</summary>
    private readonly HashSet<uint> _pasids = [];
    private readonly bool _isOfGroup;
    private readonly VfioDriver _driver;
    private readonly VfioFeatures _features;

    /// <param name="group">Through which it was opened; null: through its cdev.</param>
    public VfioOpenDevice(SoftVfioDevice device, IBoundDevice bound, VfioGroup? group)
    {
        _device = device;
        _bound = bound;
        _isOfGroup = group is not null;
        _driver = device.OpenDriver(bound, group);
        _features = new VfioFeatures(device, _driver);
    }

    public uint DeviceId => _bound.DeviceId;

    /// <summary>Value: 0, or the descriptor that a feature made.</summary>
    public SyscallResult Ioctl(uint request, Span<byte> argument)
    {
        _driver.Resume();
        if (request == VfioRequests.DeviceFeature.Value)
            return _features.Handle(argument);
        Errno errno;
        // Through a group the attachment is the container's, and these requests are the driver's to refuse.
        if (request == VfioRequests.DeviceAttachIommufdPt.Value && !_isOfGroup)
            errno = Attach(argument);
        else if (request == VfioRequests.DeviceDetachIommufdPt.Value && !_isOfGroup)
            errno = Detach(argument);
        else if (request == VfioRequests.DeviceGetRegionInfo.Value)
            errno = _driver.GetRegionInfo(argument);
        else
            errno = _driver.Ioctl(request, argument);
        return errno == Errno.Success ? SyscallResult.Ok() : SyscallResult.Fail(errno);
    }

    public SyscallResult Read(Span<byte> buffer, ulong offset) => _driver.Read(buffer, offset);

    public SyscallResult Write(ReadOnlySpan<byte> buffer, ulong offset) => _driver.Write(buffer, offset);

    public SyscallResult ResolveMmap(ulong byteLength, ulong offset, out int hostFd, out ulong hostOffset) =>
        _driver.ResolveMmap(byteLength, offset, out hostFd, out hostOffset);

    /// <summary>The last close: the driver lets go, and the device is out of the iommufd. Under the gate.</summary>
    public void Close()
    {
        _driver.Dispose();
        if (_driver.Migration is { } migration)
            migration.PrecopyInfoHasFlags = false;
        _bound.Detach();
        _bound.Unbind();
    }

    private Errno Attach(Span<byte> argument)
    {
        if (!VfioArgument.TryRead(
            argument, (int)VfioDeviceAttachIommufdPt.MinimumSize, out VfioDeviceAttachIommufdPt attach))
            return Errno.EFAULT;
        if (attach.Argsz < VfioDeviceAttachIommufdPt.MinimumSize || (attach.Flags & ~VfioDeviceAttachFlags.Pasid) != 0)
            return Errno.EINVAL;
        bool hasPasid = attach.Flags != VfioDeviceAttachFlags.None;
        if (hasPasid)
        {
            if (!_bound.HasPasids)
                return Errno.EOPNOTSUPP;
            if (attach.Argsz < VfioDeviceAttachIommufdPt.StructSize)
                return Errno.EINVAL;
            if (!VfioArgument.TryRead(argument, (int)VfioDeviceAttachIommufdPt.StructSize, out attach))
                return Errno.EFAULT;
        }

        uint pageTable = attach.PtId;
        lock (_device.Gate)
        {
            Errno errno = hasPasid ? AttachPasid(attach.Pasid, ref pageTable) : _bound.Attach(ref pageTable);
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
        bool hasPasid = detach.Flags != VfioDeviceDetachFlags.None;
        if (hasPasid)
        {
            if (!_bound.HasPasids)
                return Errno.EOPNOTSUPP;
            if (detach.Argsz < VfioDeviceDetachIommufdPt.StructSize)
                return Errno.EINVAL;
            if (!VfioArgument.TryRead(argument, (int)VfioDeviceDetachIommufdPt.StructSize, out detach))
                return Errno.EFAULT;
        }

        lock (_device.Gate)
        {
            if (!hasPasid)
                _bound.Detach();
            else if (_pasids.Remove(detach.Pasid))
                _bound.DetachPasid(detach.Pasid);
        }

        return Errno.Success;
    }

    /// <summary>What the driver remembers decides between attaching and replacing, not what is attached.</summary>
    private Errno AttachPasid(uint pasid, ref uint pageTable)
    {
        bool replace = _pasids.Contains(pasid);
        if (pasid > int.MaxValue)
            return Errno.ENOSPC;
        Errno errno = _bound.TryAttachPasid(pasid, ref pageTable, replace);
        if (errno == Errno.Success)
            _pasids.Add(pasid);
        return errno;
    }
}
