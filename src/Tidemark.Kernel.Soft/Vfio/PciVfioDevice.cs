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
    : SoftVfioDevice(address, kernel), IPciFunction
{
    private readonly Dictionary<uint, ulong> _places = [];
    private readonly IReadOnlyList<IPciFunction>? _bus;

    public SoftDeviceModel Model { get; } = model;

    public IDmaPort Port { get; } = port;

    public VfioAbilities Abilities { get; } = abilities;

    /// <summary>The functions that a reset of the bus reaches, this one among them, in the host's order.</summary>
    public IReadOnlyList<IPciFunction> Bus
    {
        get => _bus ?? [this];
        init => _bus = value;
    }

    /// <summary>The driver while the device is open; or null. Under the gate.</summary>
    public VfioPciDriver? Driver { get; set; }

    PciVfioDevice IPciFunction.Device => this;

    /// <summary>
    /// Where a region lies in the physical address space: always at the same place. False: no room. Under the gate.
    /// </summary>
    public bool TryPlace(uint region, out ulong physical)
    {
        if (_places.TryGetValue(region, out physical))
            return true;
        if (Model.PeerOf(region) is not { } target || !Kernel.TryPlace(target, out physical))
            return false;
        _places.Add(region, physical);
        return true;
    }

    public override bool ChecksTokens => true;

    public override Errno Bind(IIommuBinder iommu, out IBoundDevice? bound) => iommu.Bind(Port, out bound);

    public override VfioDriver OpenDriver(IBoundDevice bound, VfioGroup? group) =>
        Driver = new VfioPciDriver(this, bound, group);

    protected override void DisposeHardware() => Model.Dispose();
}
