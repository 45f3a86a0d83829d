using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Migration;
using Tidemark.Nvme;
using Tidemark.Vfio;

namespace Tidemark.Machine.Assignment;

/// <summary>
/// A device's configuration space, which goes beside its migration states: a VFIO driver saves what is in the device, and what
/// a guest wrote to the header (whether the device may do DMA and answers at its BARs, and where) is the machine's to carry.
/// </summary>
/// <remarks>
/// The header as PCI Local Bus Specification 3.0 section 6.1 has it. What identifies the function is compared, what a guest
/// writes is written again, the command register last. MSI and MSI-X are switched by VFIO_DEVICE_SET_IRQS when the driver's
/// eventfds are connected, and are in the device's own state otherwise.
/// </remarks>
public sealed class PciConfigPart : IMigratable
{
    private const uint Mark = 0x4643_4D54; // "TMCF"
    private const ushort Version = 1;
    private const int HeaderLength = 64;

    /// <summary>The low byte is a revision, which may differ.</summary>
    private const uint ClassMask = 0xffff_ff00;

    private const int LatencyOffset = NvmePci.CacheLineOffset + 1;
    private const int HeaderTypeOffset = NvmePci.CacheLineOffset + 2;
    private const int Bars = 6;

    private readonly string _device;
    private readonly VfioRegion _config;
    private readonly PartStateBuffer _state = new();
    private bool _stopped;

    private PciConfigPart(string device, VfioRegion config)
    {
        _device = device;
        _config = config;
    }

    public string Name => $"{_device} configuration";

    /// <summary>Null for a device without a configuration space of its own.</summary>
    /// <exception cref="KernelException">The device does not answer.</exception>
    public static PciConfigPart? Find(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        VfioRegion config = device.GetRegion(VfioPciRegionIndex.Config);
        return config.ByteLength < HeaderLength || !config.CanRead || !config.CanWrite ? null : new PciConfigPart(device.Name, config);
    }

    public void BeginSave()
    {
        _stopped = false;
        _state.Clear();
    }

    public StateEstimate Estimate() => new(0, 0, _state.Left ?? HeaderLength + 10);

    public int ReadState(Span<byte> buffer) => _stopped ? _state.Read(buffer, Save) : 0;

    public void EnterP2P()
    {
        // It has no DMA.
    }

    public void Stop() => _stopped = true;

    public void EndSave() => _state.Clear();

    public void Recover()
    {
        _stopped = false;
        _state.Clear();
    }

    public void BeginLoad() => _state.Clear();

    public void WriteState(ReadOnlySpan<byte> bytes) => _state.Write(bytes, HeaderLength + 10, $"The configuration space of {_device}");

    /// <exception cref="InvalidDataException">It is damaged, or of another kind of device; nothing was written.</exception>
    /// <exception cref="KernelException">The device refused a register.</exception>
    public void EndLoad()
    {
        var reader = new PartStateReader(_state.Arrived, Mark, Version);
        ReadOnlySpan<byte> there = reader.Block();
        if (!reader.IsComplete || there.Length != HeaderLength)
            throw new InvalidDataException($"The configuration space of {_device} arrived damaged.");
        byte[] here = ReadHeader();
        CheckSame("vendor and device", there, here, NvmePci.VendorOffset, uint.MaxValue);
        CheckSame("class", there, here, NvmePci.RevisionOffset, ClassMask);
        // Bit 7 says that there are more functions, which is the slot's affair.
        CheckSame("kind of header", there, here, HeaderTypeOffset & ~3, 0x7fu << (8 * (HeaderTypeOffset & 3)));
        if ((there[HeaderTypeOffset] & 0x7f) == 0)
        {
            for (int bar = 0; bar < Bars; bar++)
                Write(there, NvmePci.Bar0Offset + (4 * bar), 4);
        }

        Write(there, NvmePci.CacheLineOffset, 1);
        Write(there, LatencyOffset, 1);
        Write(there, NvmePci.InterruptLineOffset, 1);
        // ORDER: last, when the BARs are where the guest left them.
        Write(there, NvmePci.CommandOffset, 2);
    }

    public void PrepareStart()
    {
        // It has no DMA that a peer could wait for.
    }

    public void Start() => _stopped = false;

    private byte[] Save()
    {
        using var writer = new PartStateWriter(Mark, Version);
        writer.Block(ReadHeader());
        return writer.ToArray();
    }

    private byte[] ReadHeader()
    {
        var header = new byte[HeaderLength];
        for (int offset = 0; offset < HeaderLength; offset += 4)
            BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(offset), _config.Read32((ulong)offset));
        return header;
    }

    private void Write(ReadOnlySpan<byte> header, int offset, int length) => _config.Write((ulong)offset, header.Slice(offset, length));

    private void CheckSame(string what, ReadOnlySpan<byte> there, ReadOnlySpan<byte> here, int offset, uint mask)
    {
        uint wanted = BinaryPrimitives.ReadUInt32LittleEndian(there[offset..]) & mask;
        uint found = BinaryPrimitives.ReadUInt32LittleEndian(here[offset..]) & mask;
        if (wanted != found)
            throw new InvalidDataException($"{_device} is another kind of device: its {what} is 0x{wanted:x8} there and 0x{found:x8} here.");
    }
}
