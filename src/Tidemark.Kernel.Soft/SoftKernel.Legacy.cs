using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Vfio.Legacy;

namespace Tidemark.Kernel.Soft;

/// <summary>The nodes of VFIO's older interface: the container's and one for each group.</summary>
public sealed partial class SoftKernel
{
    /// <summary>
    /// An open file by descriptor, kept open until <see cref="Drop"/>; null for one of the host. EBADF: not open.
    /// </summary>
    internal Errno TryHold(int descriptor, out OpenFile? file)
    {
        if (_files.TryAcquire(descriptor, out file))
            return Errno.Success;
        return !FdTable.IsSoft(descriptor) && IsOpenOnHost(descriptor) ? Errno.Success : Errno.EBADF;
    }

    internal void Drop(OpenFile? file)
    {
        if (file is not null)
            _files.Drop(file);
    }

    /// <exception cref="ArgumentException">It can not be in the group that it asks for.</exception>
    private void AddSlot(SoftNvme device, SoftIommuUnit? unit)
    {
        DeviceSlot? other = device.GroupWith is null ? null : FindGroupOf(device);
        var port = new DevicePort(unit, Physical, other?.Port.Group);
        VfioGroup group = other?.Group ?? new VfioGroup(this, _devices.Count, port.Group);
        var slot = new DeviceSlot(device, port, group);
        group.Add(device.Address, (out found) => slot.TryGetDevice(this, out found));
        _devices.Add(slot);
    }

    private DeviceSlot FindGroupOf(SoftNvme device)
    {
        if (_devices.Find(slot => slot.Description.Address == device.GroupWith) is not { } other)
        {
            throw new ArgumentException(
                $"Device {device.Address} shares the group of {device.GroupWith}, which is no device before it.");
        }

        return device.IommuUnit is not null && other.Description.IommuUnit == device.IommuUnit
            ? other
            : throw new ArgumentException(
                $"Device {device.Address} shares the group of {device.GroupWith}, which must be behind the same IOMMU.");
    }

    private SyscallResult OpenLegacy(string path)
    {
        string name = path[SoftSysfs.GroupNodePrefix.Length..];
        if (name == SoftSysfs.ContainerName)
        {
            return SyscallResult.Ok(_files.Add(Hardware.IommufdContainer
                ? new IommufdFile(this, isContainer: true)
                : new VfioContainerFile(this)));
        }

        // As written in the folder, and no other way.
        if (!int.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out int number)
            || number >= _devices.Count + _mediated.Count || name != number.ToString(CultureInfo.InvariantCulture)
            || !Sysfs.Exists(path))
        {
            return SyscallResult.Fail(Errno.ENOENT);
        }

        VfioGroup group = number < _devices.Count
            ? _devices[number].Group
            : _mediated[number - _devices.Count].Group!;
        Errno errno = group.TryOpen(out SoftFile? file);
        return file is null ? SyscallResult.Fail(errno) : SyscallResult.Ok(_files.Add(file));
    }
}
