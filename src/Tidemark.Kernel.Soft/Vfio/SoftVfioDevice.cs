using Tidemark.Abi;
using Tidemark.Kernel.Soft.Files;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio.Legacy;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A device of the soft host under its VFIO driver, and what the driver keeps about it between opens. Files of its cdev
/// come and go; at most one of them is bound, and none while its group is in use.
/// </summary>
/// <remarks>
/// Lock order: the group's, <see cref="Gate"/>, then the DMA log's, then an interrupt line's; the iommufd's locks, the
/// container's and the port's come after all of these. The model's own thread takes none of the first two, so a call that waits for it can hold
/// them.
/// </remarks>
/// <param name="name">As sysfs has it: a PCI address, <c>0000:01:00.0</c>, or an mdev's UUID.</param>
internal abstract class SoftVfioDevice(string name, IVfioHost kernel) : IDisposable
{
    /// <summary>Files that share <see cref="Opened"/>: one of the cdev, or any number of the group.</summary>
    private int _users;

    public string Name { get; } = name;

    public IVfioHost Kernel { get; } = kernel;

    /// <summary>Serialises calls to the hardware and guards what is bound.</summary>
    public Lock Gate { get; } = new();

    /// <summary>The group that the device belongs to, which its cdev and the group's file share; null: none.</summary>
    public VfioGroup? Group { get; init; }

    /// <summary>The device while it is open, through its cdev or its group; or null. Under <see cref="Gate"/>.</summary>
    public VfioOpenDevice? Opened { get; private set; }

    /// <summary>A new open file of the cdev, unbound.</summary>
    public SoftFile Open() => new VfioDeviceFile(this);

    /// <summary>The device is gone and can not be bound any more. Under <see cref="Gate"/>.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Whether the driver looks at the token of a bind; without that the flag itself is wrong.</summary>
    public abstract bool ChecksTokens { get; }

    /// <summary>Makes the device an object of an iommufd. Null exactly when it fails.</summary>
    public abstract Errno Bind(IIommuBinder iommu, out IBoundDevice? bound);

    /// <summary>The driver opens the device. Under <see cref="Gate"/>.</summary>
    /// <param name="group">Through which it is opened; null: through its cdev.</param>
    public abstract VfioDriver OpenDriver(IBoundDevice bound, VfioGroup? group);

    /// <summary>The first file to use the device has bound it. Under <see cref="Gate"/>.</summary>
    /// <param name="throughGroup">The file is of the group, not of the cdev.</param>
    public VfioOpenDevice Begin(IBoundDevice bound, bool throughGroup)
    {
        Opened = new VfioOpenDevice(this, bound, throughGroup ? Group : null);
        _users = 1;
        return Opened;
    }

    /// <summary>A further file of the group uses the open device. Under <see cref="Gate"/>.</summary>
    public VfioOpenDevice Share()
    {
        _users++;
        return Opened!;
    }

    /// <summary>A file no longer uses the device; the last one closes it. Under <see cref="Gate"/>.</summary>
    public void End()
    {
        if (--_users != 0)
            return;
        Opened?.Close();
        Opened = null;
        if (IsDisposed)
            DisposeHardware();
    }

    /// <summary>A file that a call in progress keeps open keeps the hardware too.</summary>
    public void Dispose()
    {
        lock (Gate)
        {
            IsDisposed = true;
            if (Opened is null)
                DisposeHardware();
        }
    }

    /// <summary>Nobody uses the device any more. Under <see cref="Gate"/>.</summary>
    protected abstract void DisposeHardware();
}
