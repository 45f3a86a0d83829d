using Tidemark.Abi;
using Tidemark.Kernel;

namespace Tidemark.Iommu;

/// <summary>
/// One iommufd context: the descriptor that owns address spaces, page tables and bound devices. Closing it frees what
/// is left, as soon as the last bound device is closed too.
/// </summary>
public sealed class Iommufd : IDisposable
{
    /// <summary>The device node of the kernel's iommufd.</summary>
    public const string DefaultPath = "/dev/iommu";

    private int _failedDestroyCount;

    private Iommufd(KernelFd fd)
    {
        Fd = fd;
    }

    /// <summary>The descriptor; valid until <see cref="Dispose"/>.</summary>
    public KernelFd Fd { get; }

    public IKernel Kernel => Fd.Kernel;

    /// <summary>
    /// Objects that could not be destroyed (they live until the descriptor is closed). Anything but 0 is a leak of
    /// ours: something was destroyed while it was in use.
    /// </summary>
    public int FailedDestroyCount => Volatile.Read(ref _failedDestroyCount);

    /// <summary>Opens the iommufd device node.</summary>
    /// <exception cref="KernelException">It is not there or may not be opened; the remedy says which.</exception>
    public static Iommufd Open(IKernel kernel, string path = DefaultPath)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        SyscallResult result = kernel.Open(path, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (!result.Succeeded)
        {
            string? remedy = result.Errno switch
            {
                Errno.ENOENT => "The kernel has no iommufd: it needs CONFIG_IOMMUFD (Linux 6.2 or later).",
                Errno.EACCES or Errno.EPERM => "Run as a user who may open it, or pass an open descriptor.",
                Errno.ENODEV => "The iommufd module is not loaded: modprobe iommufd.",
                _ => null,
            };
            throw new KernelException($"Opening {path}", result.Errno, remedy);
        }

        StepEvents.Log.IommufdOpened(path, (int)result.Value);
        return new Iommufd(new KernelFd(kernel, checked((int)result.Value)));
    }

    /// <summary>Uses a descriptor that somebody else opened; it is closed with this object only if the handle owns
    /// it.</summary>
    public static Iommufd FromFd(KernelFd fd)
    {
        ArgumentNullException.ThrowIfNull(fd);
        StepEvents.Log.IommufdOpened("handed in", fd.Number);
        return new Iommufd(fd);
    }

    /// <summary>Creates an empty address space.</summary>
    /// <exception cref="KernelException">The kernel refused; nothing was created.</exception>
    public Ioas AllocateIoas()
    {
        IommuIoasAlloc argument = IommuIoasAlloc.Create();
        Kernel.Ioctl(Fd, ref argument).ThrowIfFailed("Allocating an IOAS");
        StepEvents.Log.IoasAllocated(Fd.Number, argument.OutIoasId);
        return new Ioas(this, argument.OutIoasId);
    }

    /// <summary>Asks about the IOMMU before a bound device.</summary>
    /// <returns>
    /// <see cref="HostIommuCaps.Unknown"/> when the kernel has nothing to say (it predates the question, or the device
    /// has no IOMMU): an absence of knowledge, not a failure.
    /// </returns>
    /// <exception cref="KernelException">The device id is wrong, or the kernel failed.</exception>
    public HostIommuCaps GetHwInfo(uint deviceId)
    {
        using Mapping vendorData = Mapping.CreateAnonymous(Kernel, HostIommuCaps.MaximumVendorDataLength);
        IommuHwInfo argument = IommuHwInfo.Create(
            deviceId, vendorData.Address.Value, HostIommuCaps.MaximumVendorDataLength);
        SyscallResult result = Kernel.Ioctl(Fd, ref argument);
        if (StepEvents.Log.IsEnabled())
        {
            StepEvents.Log.HardwareDescribed(
                deviceId, argument.OutDataType.ToString(), (ulong)argument.OutCapabilities, argument.OutMaxPasidLog2,
                StepEvents.Outcome(result));
        }

        if (result.Errno is Errno.ENOTTY or Errno.EOPNOTSUPP)
            return HostIommuCaps.Unknown;
        result.ThrowIfFailed($"Asking about the IOMMU before device id {deviceId}");
        int length = (int)Math.Min(argument.DataLen, HostIommuCaps.MaximumVendorDataLength);
        return new HostIommuCaps(
            argument.OutDataType, argument.OutCapabilities, argument.OutMaxPasidLog2,
            vendorData.Bytes(0, length).ToArray());
    }

    /// <summary>
    /// Makes the calling process the one that is charged for the pinned pages of every address space of this iommufd.
    /// Nothing is unmapped, and devices do not notice.
    /// </summary>
    /// <exception cref="KernelException">Refused; nothing changed. The remedy says what stands in the way.</exception>
    public void ChangeProcess()
    {
        IommuIoasChangeProcess argument = IommuIoasChangeProcess.Create();
        SyscallResult result = Kernel.Ioctl(Fd, ref argument);
        StepEvents.Log.ProcessChanged(Fd.Number, StepEvents.Outcome(result));
        if (result.Succeeded)
            return;
        throw new KernelException("Moving the iommufd's pinned pages to this process", result.Errno, result.Errno switch
        {
            Errno.EINVAL => "Memory is mapped that is no file's, as everything is before Linux 6.13: only IOMMU_IOAS_MAP_FILE "
                + "outlives a process.",
            Errno.ENOMEM => "This process may not pin that much: raise its limit of locked memory (RLIMIT_MEMLOCK).",
            Errno.ENOTTY => "The kernel predates IOMMU_IOAS_CHANGE_PROCESS (Linux 6.13).",
            _ => null,
        });
    }

    /// <summary>Closes the descriptor. Objects of this context that still exist go with it.</summary>
    public void Dispose() => Fd.Dispose();

    /// <summary>Destroys an object; a failure is counted, because an owner that goes away has nobody to tell.</summary>
    internal void Destroy(uint id)
    {
        if (Fd.IsClosed)
            return;
        IommuDestroy argument = IommuDestroy.Create(id);
        SyscallResult result = Kernel.Ioctl(Fd, ref argument);
        StepEvents.Log.ObjectDestroyed(id, StepEvents.Outcome(result));
        if (!result.Succeeded)
            Interlocked.Increment(ref _failedDestroyCount);
    }
}
