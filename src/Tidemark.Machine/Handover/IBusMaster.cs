using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Nvme;
using Tidemark.Vfio;

namespace Tidemark.Machine.Handover;

/// <summary>Whether a device may start DMA.</summary>
public interface IBusMaster
{
    bool IsOn { get; }

    /// <summary>The device starts no DMA and no message interrupt from here on. Idempotent.</summary>
    /// <exception cref="KernelException">The device did not take it.</exception>
    void TurnOff();
}

/// <summary>Bit 2 of the PCI command register. PCI Local Bus Specification 3.0 section 6.2.2.</summary>
public sealed class PciBusMaster : IBusMaster
{
    private readonly VfioDevice _device;
    private readonly VfioRegion _config;

    /// <exception cref="KernelException">The device has no configuration space.</exception>
    public PciBusMaster(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        _device = device;
        _config = device.GetRegion(VfioPciRegionIndex.Config);
    }

    public bool IsOn => (ReadCommand() & NvmePci.CommandBusMaster) != 0;

    public void TurnOff()
    {
        ushort command = ReadCommand();
        if ((command & NvmePci.CommandBusMaster) == 0)
            return;
        Span<byte> bytes = stackalloc byte[sizeof(ushort)];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, (ushort)(command & ~NvmePci.CommandBusMaster));
        _config.Write(NvmePci.CommandOffset, bytes);
        if (IsOn)
        {
            throw new KernelException(
                $"Switching the bus master of {_device.Name} off", Errno.EIO, "The bit stays set: the device can not be moved.");
        }
    }

    private ushort ReadCommand()
    {
        Span<byte> bytes = stackalloc byte[sizeof(ushort)];
        _config.Read(NvmePci.CommandOffset, bytes);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    }
}
