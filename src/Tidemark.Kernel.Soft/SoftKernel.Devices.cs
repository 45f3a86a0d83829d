using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Devices.Mtty;
using Tidemark.Kernel.Soft.Devices.Nvme;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Vfio;
using Tidemark.Kernel.Soft.Vfio.Legacy;

namespace Tidemark.Kernel.Soft;

/// <summary>The devices: built when their node is first opened.</summary>
public sealed partial class SoftKernel
{
    private SyscallResult OpenDevice(string path)
    {
        if (!Sysfs.Exists(path))
            return SyscallResult.Fail(Errno.ENOENT);
        int index = int.Parse(
            path.AsSpan(path.LastIndexOf('o') + 1), NumberStyles.None, CultureInfo.InvariantCulture);

        if (index >= _devices.Count)
            return SyscallResult.Ok(_files.Add(_mediated[index - _devices.Count].Open()));

        // CAP_SYS_RAWIO: nothing keeps such a device from any memory.
        if (_devices[index].Description.IommuUnit is null && !Caller.IsPrivileged)
            return SyscallResult.Fail(Errno.EPERM);
        Errno errno = _devices[index].TryOpen(this, out SoftFile? file);
        return file is null ? SyscallResult.Fail(errno) : SyscallResult.Ok(_files.Add(file));
    }

    private void AddMediated(IReadOnlyList<SoftMtty> descriptions)
    {
        foreach (SoftMtty description in descriptions)
        {
            if (!Guid.TryParseExact(description.Uuid, "D", out _))
                throw new ArgumentException($"{description.Uuid} is not a UUID.", nameof(descriptions));
            if (description.Ports is not (1 or 2))
            {
                throw new ArgumentException(
                    $"Device {description.Uuid} has {description.Ports} ports; it can have 1 or 2.",
                    nameof(descriptions));
            }

            if (_mediated.Exists(other => other.Name == description.Uuid))
                throw new ArgumentException($"Two devices have the UUID {description.Uuid}.", nameof(descriptions));
            var group = new VfioGroup(this, _devices.Count + _mediated.Count, iommu: null);
            var device = new MttyDevice(description, this) { Group = group };
            group.Add(description.Uuid, (out SoftVfioDevice? found) =>
            {
                found = device;
                return Errno.Success;
            });
            _mediated.Add(device);
        }
    }

    /// <summary>A device of the description, and the thing itself once somebody opened it.</summary>
    private sealed class DeviceSlot(SoftNvme description, DevicePort port, VfioGroup group)
        : IDisposable, IPciFunction
    {
        private readonly Lock _gate = new();
        private PciVfioDevice? _device;
        private bool _disposed;

        public SoftNvme Description { get; } = description;

        public DevicePort Port { get; } = port;

        /// <summary>The device's IOMMU group, which others may share.</summary>
        public VfioGroup Group { get; } = group;

        string IPciFunction.Name => Description.Address;

        IDmaPort IPciFunction.Port => Port;

        VfioGroup? IPciFunction.Group => Description.IommuUnit is null ? null : Group;

        PciVfioDevice? IPciFunction.Device
        {
            get
            {
                lock (_gate)
                    return _device;
            }
        }

        /// <summary>The bus in the address: what is before the slot.</summary>
        private string BusName => Description.Address[..(Description.Address.LastIndexOf(':') + 1)];

        /// <summary>A new open file. Otherwise the errno with which the device could not be built.</summary>
        public Errno TryOpen(SoftKernel kernel, out SoftFile? file)
        {
            Errno errno = TryGetDevice(kernel, out SoftVfioDevice? device);
            file = device?.Open();
            return errno;
        }

        /// <summary>The device, built now if it was not. Otherwise the errno with which it could not be.</summary>
        public Errno TryGetDevice(SoftKernel kernel, out SoftVfioDevice? device)
        {
            device = null;
            lock (_gate)
            {
                // The kernel is gone: a device built now would have a thread that nobody ends.
                if (_disposed)
                    return Errno.ENODEV;
                try
                {
                    _device ??= Build(kernel);
                }
                catch (KernelException failure)
                {
                    // Nothing was built; the next open tries again.
                    return failure.Errno;
                }

                device = _device;
                return Errno.Success;
            }
        }

        public void Dispose()
        {
            lock (_gate)
            {
                _disposed = true;
                _device?.Dispose();
                _device = null;
            }
        }

        private PciVfioDevice Build(SoftKernel kernel)
        {
            var model = new NvmeController(Description, kernel._host, Port);
            return new PciVfioDevice(Description.Address, model, Port, VfioAbilities.Of(Description), kernel)
            {
                // FIDELITY: no group of a device without IOMMU, as in a kernel without CONFIG_VFIO_GROUP.
                Group = Description.IommuUnit is null ? null : Group,
                Bus = kernel._devices.FindAll(other => other.BusName == BusName),
            };
        }
    }
}
