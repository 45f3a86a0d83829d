using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Devices.Mtty;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Paging;
using Tidemark.Kernel.Soft.Vfio;

namespace Tidemark.Kernel.Soft;

/// <summary>What of a soft kernel is in use. All zero when every user has cleaned up.</summary>
/// <param name="Descriptors">Soft descriptors, and host descriptors of memory objects.</param>
/// <param name="Mappings">Regions mapped through the kernel.</param>
/// <param name="IommufdObjects">Objects of every iommufd context, device objects included.</param>
/// <param name="PinnedPages">Pages of 4 KiB that are pinned, once for each range of pages that is.</param>
/// <param name="TablePages">Pages that page tables consist of.</param>
public readonly record struct SoftKernelUsage(
    int Descriptors, int Mappings, int IommufdObjects, long PinnedPages, long TablePages)
{
    public bool IsZero => this == default;
}

/// <summary>
/// An in-process twin of Linux's iommufd and VFIO over hardware that exists only in memory. Whatever it does not
/// emulate goes to the kernel below, with that kernel's descriptors.
/// </summary>
/// <remarks>
/// <code>
/// caller -- open/ioctl/... --> descriptor at or above 2^20: soft file -> iommufd context, VFIO device -> model
///                              below: the host's                             tables, pins         | DMA
/// caller's mapping --- memory object (memfd) --- the twin's own mapping --- DevicePort -----------+
/// </code>
/// Disposing closes all soft descriptors and stops the devices. What callers mapped stays mapped until they unmap it.
/// </remarks>
public sealed partial class SoftKernel : IKernel, IVfioHost, IDisposable
{
    private readonly IKernel _host;
    private readonly FdTable _files = new();
    private readonly Lock _contextsGate = new();
    private readonly List<IommufdContext> _contexts = [];
    private readonly List<DeviceSlot> _devices = [];
    private readonly List<MttyDevice> _mediated = [];
    private bool _disposed;

    /// <param name="host">Does what is not emulated. Not disposed.</param>
    /// <exception cref="ArgumentException">A device names an IOMMU that the host does not have, two devices share an
    /// address, or a device shares the group of one that is not before it behind the same IOMMU.</exception>
    public SoftKernel(IKernel host, SoftHost hardware, SoftKernelFaults faults = SoftKernelFaults.None)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(hardware);
        _host = host;
        Hardware = hardware;
        Faults = faults;
        HasTestDomain = hardware.TestDomain;
        Physical = new PhysicalMemory(host);
        User = new UserMemory(host);
        Process = new SoftProcess(
            new SoftUser(), hardware.LockedMemoryLimit ?? ulong.MaxValue, privileged: hardware.LockedMemoryLimit is null);
        foreach (SoftNvme device in hardware.Devices)
        {
            SoftIommuUnit? unit = device.IommuUnit is null
                ? null
                : hardware.Iommus.FirstOrDefault(candidate => candidate.Name == device.IommuUnit)
                    ?? throw new ArgumentException(
                        $"Device {device.Address} names IOMMU {device.IommuUnit}, which the host does not have.",
                        nameof(hardware));
            if (unit is not null && unit.AddressWidth is not (39 or 48 or 57))
            {
                throw new ArgumentException(
                    $"IOMMU {unit.Name} has an address width of {unit.AddressWidth}; it must be 39, 48 or 57.",
                    nameof(hardware));
            }

            if (_devices.Exists(other => other.Description.Address == device.Address))
                throw new ArgumentException($"Two devices have the address {device.Address}.", nameof(hardware));
            AddSlot(device, unit);
        }

        AddMediated(hardware.Mediated);
        Sysfs = new SoftSysfs(hardware);
    }

    public KernelIdentity Identity { get; } = new("soft", "7.3");

    /// <summary>The files that say which devices exist.</summary>
    public ISysfs Sysfs { get; }

    IKernel IVfioHost.Host => _host;

    internal SoftHost Hardware { get; }

    internal SoftKernelFaults Faults { get; }

    internal PhysicalMemory Physical { get; }

    internal UserMemory User { get; }

    /// <summary>What is in use, for tests that nothing leaks.</summary>
    public SoftKernelUsage CountOpen()
    {
        int objects = 0;
        lock (_contextsGate)
        {
            foreach (IommufdContext context in _contexts)
            {
                lock (context.Gate)
                    objects += context.Objects.Count;
            }
        }

        return new SoftKernelUsage(
            _files.Count + CountMemoryDescriptors(), User.Count, objects, Physical.PinnedPages, Physical.TablePages);
    }

    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _files.CloseAll();
        foreach (DeviceSlot slot in _devices)
            slot.Dispose();
        foreach (MttyDevice device in _mediated)
            device.Dispose();
        // Whatever is still bound can not reach memory any more.
        foreach (DeviceSlot slot in _devices)
            slot.Port.SetTable(null);
        Physical.Dispose();
        _entered.Dispose();
    }

    public SyscallResult Open(string path, OpenFlags flags)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (path == SoftSysfs.IommuNode)
            return SyscallResult.Ok(_files.Add(new IommufdFile(this, isContainer: false)));
        if (path.StartsWith($"{SoftSysfs.DeviceNodeFolder}/", StringComparison.Ordinal))
            return OpenDevice(path);
        if (path.StartsWith(SoftSysfs.GroupNodePrefix, StringComparison.Ordinal))
            return OpenLegacy(path);
        // The host's own devices are not part of this machine.
        if (path.StartsWith(SoftSysfs.VfioFolder, StringComparison.Ordinal))
            return SyscallResult.Fail(Errno.ENOENT);
        return _host.Open(path, flags);
    }

    public SyscallResult Close(int fd)
    {
        if (!FdTable.IsSoft(fd))
            return CloseHost(fd);
        return _files.TryClose(fd) ? SyscallResult.Ok() : SyscallResult.Fail(Errno.EBADF);
    }

    public SyscallResult Dup(int fd)
    {
        if (!FdTable.IsSoft(fd))
            return DupHost(fd);
        return _files.TryDuplicate(fd, out int duplicate)
            ? SyscallResult.Ok(duplicate)
            : SyscallResult.Fail(Errno.EBADF);
    }

    public SyscallResult Ioctl(int fd, uint request, Span<byte> argument)
    {
        if (!FdTable.IsSoft(fd))
            return _host.Ioctl(fd, request, argument);
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return SyscallResult.Fail(Errno.EBADF);
        try
        {
            return file.File.Ioctl(request, argument);
        }
        finally
        {
            _files.Drop(file);
        }
    }

    public SyscallResult IoctlValue(int fd, uint request, ulong argument)
    {
        if (!FdTable.IsSoft(fd))
            return _host.IoctlValue(fd, request, argument);
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return SyscallResult.Fail(Errno.EBADF);
        try
        {
            return file.File.IoctlValue(request, argument);
        }
        finally
        {
            _files.Drop(file);
        }
    }

    public SyscallResult Read(int fd, Span<byte> buffer)
    {
        if (!FdTable.IsSoft(fd))
            return _host.Read(fd, buffer);
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return SyscallResult.Fail(Errno.EBADF);
        try
        {
            return file.File.Read(buffer);
        }
        finally
        {
            _files.Drop(file);
        }
    }

    public SyscallResult Write(int fd, ReadOnlySpan<byte> buffer)
    {
        if (!FdTable.IsSoft(fd))
            return _host.Write(fd, buffer);
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return SyscallResult.Fail(Errno.EBADF);
        try
        {
            return file.File.Write(buffer);
        }
        finally
        {
            _files.Drop(file);
        }
    }

    public SyscallResult Pread(int fd, Span<byte> buffer, ulong offset)
    {
        if (!FdTable.IsSoft(fd))
            return _host.Pread(fd, buffer, offset);
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return SyscallResult.Fail(Errno.EBADF);
        try
        {
            return file.File.Pread(buffer, offset);
        }
        finally
        {
            _files.Drop(file);
        }
    }

    public SyscallResult Pwrite(int fd, ReadOnlySpan<byte> buffer, ulong offset)
    {
        if (!FdTable.IsSoft(fd))
            return _host.Pwrite(fd, buffer, offset);
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return SyscallResult.Fail(Errno.EBADF);
        try
        {
            return file.File.Pwrite(buffer, offset);
        }
        finally
        {
            _files.Drop(file);
        }
    }

    public SyscallResult Fsync(int fd) =>
        FdTable.IsSoft(fd) ? SyscallResult.Fail(IsOpen(fd) ? Errno.EINVAL : Errno.EBADF) : _host.Fsync(fd);

    // The twin has no file that is read or written in vectors, or that has holes: what it does not emulate is the host's.
    public SyscallResult Readv(int fd, ReadOnlySpan<IoVector> vectors) =>
        FdTable.IsSoft(fd) ? SyscallResult.Fail(IsOpen(fd) ? Errno.EINVAL : Errno.EBADF) : _host.Readv(fd, vectors);

    public SyscallResult Writev(int fd, ReadOnlySpan<IoVector> vectors) =>
        FdTable.IsSoft(fd) ? SyscallResult.Fail(IsOpen(fd) ? Errno.EINVAL : Errno.EBADF) : _host.Writev(fd, vectors);

    public SyscallResult Lseek(int fd, ulong offset, SeekWhence whence) =>
        FdTable.IsSoft(fd) ? SyscallResult.Fail(IsOpen(fd) ? Errno.ESPIPE : Errno.EBADF) : _host.Lseek(fd, offset, whence);

    public SyscallResult Eventfd(uint initialValue, EventfdFlags flags) => _host.Eventfd(initialValue, flags);

    public SyscallResult Userfaultfd(uint flags) => _host.Userfaultfd(flags);

    /// <summary>Another process has another soft kernel, or none: ours can not go there.</summary>
    public SyscallResult SendRights(int socket, ReadOnlySpan<byte> bytes, ReadOnlySpan<int> descriptors)
    {
        // FIDELITY: descriptors of the soft kernel can not be sent to another process (EOPNOTSUPP)
        foreach (int descriptor in descriptors)
        {
            if (FdTable.IsSoft(descriptor))
                return SyscallResult.Fail(IsOpen(descriptor) ? Errno.EOPNOTSUPP : Errno.EBADF);
        }

        return _host.SendRights(socket, bytes, descriptors);
    }

    public SyscallResult ReceiveRights(int socket, Span<byte> bytes, Span<int> descriptors) =>
        _host.ReceiveRights(socket, bytes, descriptors);

    /// <summary>Soft files say themselves what they are ready for, and are asked again every few milliseconds.</summary>
    public SyscallResult Poll(Span<PollDescriptor> descriptors, int timeoutMilliseconds)
    {
        const int Interval = 2;
        var hostSide = new PollDescriptor[descriptors.Length];
        bool asksSoft = false;
        while (true)
        {
            int ready = 0;
            for (int index = 0; index < descriptors.Length; index++)
            {
                ref PollDescriptor descriptor = ref descriptors[index];
                hostSide[index] = descriptor;
                if (!FdTable.IsSoft(descriptor.Fd))
                    continue;
                asksSoft = true;
                // A negative number is ignored by poll, and keeps the indices as they are.
                hostSide[index].Fd = -1;
                descriptor.Returned = FindReady(descriptor.Fd) is PollEvents found
                    ? descriptor.Events & found
                    : PollEvents.Invalid;
                if (descriptor.Returned != PollEvents.None)
                    ready++;
            }

            bool again = asksSoft && ready == 0 && (timeoutMilliseconds < 0 || timeoutMilliseconds > Interval);
            int wait = again ? Interval : ready == 0 ? timeoutMilliseconds : 0;
            SyscallResult result = _host.Poll(hostSide, wait);
            if (!result.Succeeded)
                return result;
            if (again && result.Value == 0)
            {
                timeoutMilliseconds -= timeoutMilliseconds < 0 ? 0 : Interval;
                continue;
            }

            for (int index = 0; index < descriptors.Length; index++)
            {
                if (!FdTable.IsSoft(descriptors[index].Fd))
                    descriptors[index].Returned = hostSide[index].Returned;
            }

            return SyscallResult.Ok(result.Value + ready);
        }
    }

    Errno IVfioHost.FindIommu(int descriptor, out IIommuBinder? iommu)
    {
        iommu = null;
        if (!_files.TryAcquire(descriptor, out OpenFile? file))
        {
            return !FdTable.IsSoft(descriptor) && IsOpenOnHost(descriptor) ? Errno.EBADFD : Errno.EBADF;
        }

        // The context outlives the file: binding to one that has ended is refused there.
        iommu = (file.File as IommufdFile)?.Context;
        _files.Drop(file);
        return iommu is null ? Errno.EBADFD : Errno.Success;
    }

    SyscallResult IVfioHost.Install(SoftFile file) => SyscallResult.Ok(_files.Add(file));

    bool IVfioHost.TryPlace(IPeerTarget region, out ulong physical) => Physical.TryAddPeer(region, out physical);

    bool IVfioHost.TryReadUser(ulong address, Span<byte> into) => User.TryCopyIn(address, into);

    bool IVfioHost.TryWriteUser(ulong address, ReadOnlySpan<byte> from) => User.TryCopyOut(address, from);

    internal IommufdContext CreateIommufd(bool isContainer)
    {
        var context = new IommufdContext(this, chargesProcess: isContainer);
        lock (_contextsGate)
            _contexts.Add(context);
        return context;
    }

    internal void Forget(IommufdContext context)
    {
        lock (_contextsGate)
            _contexts.Remove(context);
    }

    /// <summary>The way of a device to memory, for tests that play the device.</summary>
    internal DevicePort PortOf(string address) =>
        _devices.Find(slot => slot.Description.Address == address)?.Port
            ?? throw new ArgumentException($"There is no device {address}.", nameof(address));

    /// <summary>What a soft file is ready for; null: not open.</summary>
    private PollEvents? FindReady(int fd)
    {
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return null;
        PollEvents ready = file.File.Ready;
        _files.Drop(file);
        return ready;
    }

    private bool IsOpen(int fd)
    {
        if (!_files.TryAcquire(fd, out OpenFile? file))
            return false;
        _files.Drop(file);
        return true;
    }
}
