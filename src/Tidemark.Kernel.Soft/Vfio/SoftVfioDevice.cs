using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A device of the soft host under its VFIO driver, and what the driver keeps about it between opens. Files of its cdev
/// come and go; at most one of them is bound.
/// </summary>
/// <remarks>
/// Lock order: <see cref="Gate"/>, then the DMA log's, then an interrupt line's; the iommufd's locks and the port's
/// come after all of these. The model's own thread takes none of the first two, so a call that waits for it can hold
/// them.
/// </remarks>
/// <param name="name">As sysfs has it: a PCI address, <c>0000:01:00.0</c>, or an mdev's UUID.</param>
internal abstract class SoftVfioDevice(string name, IVfioHost kernel) : IDisposable
{
    public string Name { get; } = name;

    public IVfioHost Kernel { get; } = kernel;

    /// <summary>Serialises calls to the hardware and guards what is bound.</summary>
    public Lock Gate { get; } = new();

    /// <summary>The file that has the device bound, or null. Under <see cref="Gate"/>.</summary>
    public VfioDeviceFile? BoundFile { get; set; }

    /// <summary>A new open file of the cdev, unbound.</summary>
    public SoftFile Open() => new VfioDeviceFile(this);

    /// <summary>The device is gone and can not be bound any more. Under <see cref="Gate"/>.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Whether the driver looks at the token of a bind; without that the flag itself is wrong.</summary>
    public abstract bool ChecksTokens { get; }

    /// <summary>Makes the device an object of an iommufd. Null exactly when it fails.</summary>
    public abstract Errno Bind(IIommuBinder iommu, out IBoundDevice? bound);

    /// <summary>The driver opens the device. Under <see cref="Gate"/>.</summary>
    public abstract VfioDriver OpenDriver(IBoundDevice bound);

    /// <summary>Ends the binding of <see cref="BoundFile"/>. Under <see cref="Gate"/>.</summary>
    public void EndBinding()
    {
        BoundFile = null;
        if (IsDisposed)
            DisposeHardware();
    }

    /// <summary>A file that a call in progress keeps open keeps the hardware too.</summary>
    public void Dispose()
    {
        lock (Gate)
        {
            IsDisposed = true;
            if (BoundFile is null)
                DisposeHardware();
        }
    }

    /// <summary>Nobody uses the device any more. Under <see cref="Gate"/>.</summary>
    protected abstract void DisposeHardware();
}
