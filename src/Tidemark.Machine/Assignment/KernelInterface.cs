using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Machine.Description;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// The one of the kernel's two interfaces to devices that a machine uses: opened once, it makes containers. Dispose it
/// after them.
/// </summary>
public sealed class KernelInterface : IDisposable
{
    private readonly IKernel _kernel;
    private readonly Iommufd? _iommufd;

    private KernelInterface(IKernel kernel, Iommufd? iommufd)
    {
        _kernel = kernel;
        _iommufd = iommufd;
    }

    /// <summary>What was opened, in words.</summary>
    public string Description => _iommufd is null
        ? $"groups and type1 are used ({LegacyContainer.DefaultPath}): no IOMMU's dirty bits"
        : $"{Tidemark.Iommu.Iommufd.DefaultPath} can be opened";

    /// <summary>Whether it is iommufd.</summary>
    public bool IsIommufd => _iommufd is not null;

    /// <param name="wish">Auto takes iommufd where the kernel has it, else groups and type1.</param>
    /// <exception cref="KernelException">It is not there or may not be opened; the remedy says which.</exception>
    public static KernelInterface Open(IKernel kernel, ISysfs sysfs, DeviceBackend wish)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        bool isLegacy = wish switch
        {
            DeviceBackend.Legacy => true,
            DeviceBackend.Iommufd => false,
            DeviceBackend.Auto => !sysfs.Exists(Tidemark.Iommu.Iommufd.DefaultPath) && sysfs.Exists(LegacyContainer.DefaultPath),
            _ => false,
        };
        if (!isLegacy)
            return new KernelInterface(kernel, Tidemark.Iommu.Iommufd.Open(kernel));
        // Opened for a moment: whether there is one, and whether we may, is to be known now.
        LegacyContainer.Create(kernel).Dispose();
        return new KernelInterface(kernel, iommufd: null);
    }

    /// <summary>The iommufd, or null when groups and type1 are used.</summary>
    public Iommufd? Iommufd => _iommufd;

    /// <summary>Goes on with an iommufd that another process opened.</summary>
    public static KernelInterface Adopt(Iommufd iommufd)
    {
        ArgumentNullException.ThrowIfNull(iommufd);
        return new KernelInterface(iommufd.Kernel, iommufd);
    }

    /// <summary>An empty container; the caller's.</summary>
    /// <exception cref="KernelException">The kernel refused.</exception>
    public DmaContainer CreateContainer() =>
        _iommufd is null ? LegacyContainer.Create(_kernel) : IommufdContainer.Create(_iommufd);

    public void Dispose() => _iommufd?.Dispose();
}
