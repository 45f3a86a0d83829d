using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio;

/// <summary>What a device's variant driver offers beyond vfio-pci.</summary>
/// <param name="Migration">The optional states; None: no migration at all. StopCopy is part of every other
/// value.</param>
/// <param name="DmaLogging">Whether the device can log its own DMA.</param>
/// <param name="Resettable">Whether the host can reset the function.</param>
internal readonly record struct VfioAbilities(VfioMigrationFlags Migration, bool DmaLogging, bool Resettable = true)
{
    public static VfioAbilities Of(SoftNvme device)
    {
        if (!device.Migration)
            return new VfioAbilities(VfioMigrationFlags.None, device.DmaLogging, device.Resettable);
        VfioMigrationFlags flags = VfioMigrationFlags.StopCopy;
        if (device.P2P)
            flags |= VfioMigrationFlags.P2P;
        if (device.PreCopy)
            flags |= VfioMigrationFlags.PreCopy;
        return new VfioAbilities(flags, device.DmaLogging, device.Resettable);
    }
}
