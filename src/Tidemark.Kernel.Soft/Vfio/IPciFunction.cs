using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Vfio.Legacy;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>A PCI function as those on its bus see it, whether or not anybody opened it.</summary>
internal interface IPciFunction
{
    /// <summary>PCI address, <c>0000:01:00.0</c>.</summary>
    string Name { get; }

    IDmaPort Port { get; }

    /// <summary>Null: it is in none.</summary>
    VfioGroup? Group { get; }

    /// <summary>Null: nobody has opened it yet, so there is nothing to reset. Not under a device's gate.</summary>
    PciVfioDevice? Device { get; }
}
