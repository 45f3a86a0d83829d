using Tidemark.Abi;
using Tidemark.Kernel.Soft.Devices;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio.Legacy;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>A PCI function under vfio-pci or a variant of it: the model and its way to memory.</summary>
/// <param name="address">PCI address, <c>0000:01:00.0</c>.</param>
/// <param name="model">The device; owned from here on.</param>
internal sealed class PciVfioDevice(
    string address, SoftDeviceModel model, IDmaPort port, VfioAbilities abilities, IVfioHost kernel)
    : SoftVfioDevice(address, kernel)
{
    public SoftDeviceModel Model { get; } = model;

    public IDmaPort Port { get; } = port;

    public VfioAbilities Abilities { get; } = abilities;

    public override bool ChecksTokens => true;

    public override Errno Bind(IIommuBinder iommu, out IBoundDevice? bound) => iommu.Bind(Port, out bound);

    public override VfioDriver OpenDriver(IBoundDevice bound, VfioGroup? group) =>
        new VfioPciDriver(this, bound, group);

    protected override void DisposeHardware() => Model.Dispose();
}
