using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Files;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>
/// A device of the soft host under its VFIO driver: the model, its way to memory, and what the driver keeps about it
/// between opens. Files of its cdev come and go; at most one of them is bound.
/// </summary>
/// <remarks>
/// Lock order: <see cref="Gate"/>, then the DMA log's, then an interrupt line's; the iommufd's locks and the port's
/// come after all of these. The model's own thread takes none of the first two, so a call that waits for it can hold
/// them.
/// </remarks>
internal sealed class SoftVfioDevice : IDisposable
{
    /// <param name="address">PCI address, <c>0000:01:00.0</c>.</param>
    /// <param name="model">The device; owned from here on.</param>
    public SoftVfioDevice(
        string address, SoftDeviceModel model, IDmaPort port, VfioAbilities abilities, IVfioHost kernel)
    {
        Address = address;
        Model = model;
        Port = port;
        Abilities = abilities;
        Kernel = kernel;
    }

    public string Address { get; }

    public SoftDeviceModel Model { get; }

    public IDmaPort Port { get; }

    public VfioAbilities Abilities { get; }

    public IVfioHost Kernel { get; }

    /// <summary>Serialises calls to the model and guards what is bound.</summary>
    public Lock Gate { get; } = new();

    /// <summary>The file that has the device bound, or null. Under <see cref="Gate"/>.</summary>
    public VfioDeviceFile? BoundFile { get; set; }

    /// <summary>A new open file of the cdev, unbound.</summary>
    public SoftFile Open() => new VfioDeviceFile(this);

    /// <summary>The device is gone and can not be bound any more. Under <see cref="Gate"/>.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Ends the binding of <see cref="BoundFile"/>. Under <see cref="Gate"/>.</summary>
    public void EndBinding()
    {
        BoundFile = null;
        if (IsDisposed)
            Model.Dispose();
    }

    /// <summary>A file that a call in progress keeps open keeps the model too.</summary>
    public void Dispose()
    {
        lock (Gate)
        {
            IsDisposed = true;
            if (BoundFile is null)
                Model.Dispose();
        }
    }
}
