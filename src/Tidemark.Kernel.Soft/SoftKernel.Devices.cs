using System.Globalization;
using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices.Nvme;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft;

/// <summary>The devices: built when their node is first opened.</summary>
public sealed partial class SoftKernel
{
    private SyscallResult OpenDevice(string path)
    {
        string number = path[SoftSysfs.DeviceNodePrefix.Length..];
        if (!int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int index)
            || index >= _devices.Count)
        {
            return SyscallResult.Fail(Errno.ENOENT);
        }

        Errno errno = _devices[index].TryOpen(this, out SoftFile? file);
        return file is null ? SyscallResult.Fail(errno) : SyscallResult.Ok(_files.Add(file));
    }

    /// <summary>A device of the description, and the thing itself once somebody opened it.</summary>
    private sealed class DeviceSlot(SoftNvme description, DevicePort port) : IDisposable
    {
        private readonly Lock _gate = new();
        private SoftVfioDevice? _device;
        private bool _disposed;

        public SoftNvme Description { get; } = description;

        public DevicePort Port { get; } = port;

        /// <summary>A new open file. Otherwise the errno with which the device could not be built.</summary>
        public Errno TryOpen(SoftKernel kernel, out SoftFile? file)
        {
            file = null;
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

                file = _device.Open();
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

        private SoftVfioDevice Build(SoftKernel kernel)
        {
            var model = new NvmeController(Description, kernel._host, Port);
            return new SoftVfioDevice(Description.Address, model, Port, VfioAbilities.Of(Description), kernel);
        }
    }
}
