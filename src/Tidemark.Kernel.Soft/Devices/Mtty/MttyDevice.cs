using Tidemark.Abi;
using Tidemark.Kernel.Soft.Iommufd;
using Tidemark.Kernel.Soft.Vfio;
using Tidemark.Kernel.Soft.Vfio.Legacy;

namespace Tidemark.Kernel.Soft.Devices.Mtty;

/// <summary>
/// A mediated serial card: what mtty keeps about it from its creation on. Registers and migration state outlive every
/// open.
/// </summary>
internal sealed class MttyDevice : SoftVfioDevice, IIoasAccessOwner
{
    public MttyDevice(SoftMtty description, IVfioHost kernel)
        : base(description.Uuid, kernel)
    {
        Ports = description.Ports;
        Interrupts = new MttyInterrupts(kernel.Host);
        Config = new MttyConfig(description.Ports);
        // A card of one port has the second port's registers all the same; they do not migrate.
        Serial = [new SerialPort(Interrupts.Raise), new SerialPort(Interrupts.Raise)];
        Migration = new MttyMigration(Serial[..Ports], Gate);
    }

    public int Ports { get; }

    public SerialPort[] Serial { get; }

    public MttyConfig Config { get; }

    public MttyInterrupts Interrupts { get; }

    public MttyMigration Migration { get; }

    public override bool ChecksTokens => false;

    public override Errno Bind(IIommuBinder iommu, out IBoundDevice? bound)
    {
        Errno errno = iommu.BindAccess(this, pinsPages: true, out IoasAccess? access);
        bound = access is null ? null : new AccessDevice(access);
        return errno;
    }

    public override VfioDriver OpenDriver(IBoundDevice bound, VfioGroup? group) => new MttyDriver(this);

    /// <summary>Nothing is pinned, so there is nothing to let go.</summary>
    public void OnUnmap(ulong iova, ulong byteLength)
    {
    }

    protected override void DisposeHardware()
    {
    }
}
