using System.Buffers.Binary;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>
/// The controller's PCI configuration space: 256 bytes, of which software may change the bits of a mask.
/// </summary>
internal sealed class NvmePciConfig
{
    public const int ByteLength = 256;

    /// <summary>Where the MSI-X capability lies.</summary>
    public const int MsixOffset = 0x40;

    private readonly byte[] _bytes = new byte[ByteLength];
    private readonly byte[] _writable = new byte[ByteLength];
    private readonly uint _vectors;

    public NvmePciConfig(uint vectors, uint barByteLength)
    {
        _vectors = vectors;
        const ushort Command = NvmePci.CommandMemory | NvmePci.CommandBusMaster | NvmePci.CommandInterruptDisable;
        BinaryPrimitives.WriteUInt16LittleEndian(_writable.AsSpan(NvmePci.CommandOffset), Command);
        _writable[NvmePci.CacheLineOffset] = 0xff;
        BinaryPrimitives.WriteUInt32LittleEndian(_writable.AsSpan(NvmePci.Bar0Offset), ~(barByteLength - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(_writable.AsSpan(NvmePci.Bar0Offset + 4), uint.MaxValue);
        _writable[NvmePci.InterruptLineOffset] = 0xff;
        BinaryPrimitives.WriteUInt16LittleEndian(
            _writable.AsSpan(MsixOffset + MsixCapability.ControlOffset),
            MsixCapability.ControlEnable | MsixCapability.ControlFunctionMask);
        Reset();
    }

    /// <summary>The BARs answer.</summary>
    public bool MemoryEnabled => (_bytes[NvmePci.CommandOffset] & NvmePci.CommandMemory) != 0;

    /// <summary>The function may not hold its interrupt pin.</summary>
    public bool InterruptDisable =>
        (BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(NvmePci.CommandOffset))
            & NvmePci.CommandInterruptDisable) != 0;

    /// <summary>The function may start DMA.</summary>
    public bool BusMaster => (_bytes[NvmePci.CommandOffset] & NvmePci.CommandBusMaster) != 0;

    public ReadOnlySpan<byte> Bytes => _bytes;

    public void Reset()
    {
        Array.Clear(_bytes);
        Span<byte> bytes = _bytes;
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[NvmePci.VendorOffset..], NvmePci.SoftVendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[(NvmePci.VendorOffset + 2)..], NvmePci.SoftDeviceId);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[NvmePci.StatusOffset..], NvmePci.StatusCapabilities);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[NvmePci.RevisionOffset..], NvmePci.ClassCode << 8 | 1);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[NvmePci.Bar0Offset..], NvmePci.Bar64Bit);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[NvmePci.SubsystemOffset..], NvmePci.SoftVendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[(NvmePci.SubsystemOffset + 2)..], NvmePci.SoftDeviceId);
        bytes[NvmePci.CapabilitiesOffset] = MsixOffset;
        bytes[NvmePci.InterruptPinOffset] = NvmePci.InterruptPinA;
        Span<byte> msix = bytes[MsixOffset..];
        msix[0] = MsixCapability.Id;
        BinaryPrimitives.WriteUInt16LittleEndian(msix[MsixCapability.ControlOffset..], (ushort)(_vectors - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(msix[MsixCapability.TableOffset..], (uint)NvmeBar.MsixTable);
        BinaryPrimitives.WriteUInt32LittleEndian(msix[MsixCapability.PendingOffset..], (uint)NvmeBar.MsixPending);
    }

    public void Read(int offset, Span<byte> into) => _bytes.AsSpan(offset, into.Length).CopyTo(into);

    public void Write(int offset, ReadOnlySpan<byte> from)
    {
        for (int index = 0; index < from.Length; index++)
        {
            byte mask = _writable[offset + index];
            _bytes[offset + index] = (byte)(_bytes[offset + index] & ~mask | from[index] & mask);
        }
    }

    /// <summary>Whether another space differs from this one only in bits that software may change.</summary>
    public bool CanLoad(ReadOnlySpan<byte> other)
    {
        if (other.Length != ByteLength)
            return false;
        for (int index = 0; index < ByteLength; index++)
        {
            if (((other[index] ^ _bytes[index]) & ~_writable[index] & 0xff) != 0)
                return false;
        }

        return true;
    }

    public void Load(ReadOnlySpan<byte> other) => other.CopyTo(_bytes);
}

/// <summary>
/// What lies where in BAR0. The controller memory buffer is alone in its pages: it is plain memory and may be mapped;
/// the
/// doorbells are not, because nobody in this process can trap a store to them.
/// </summary>
internal static class NvmeBar
{
    public const ulong ByteLength = 0x8000;
    public const ulong Doorbells = 0x1000;
    public const ulong MsixTable = 0x2000;
    public const ulong MsixPending = 0x3000;
    public const ulong ControllerMemory = 0x4000;
    public const ulong ControllerMemoryByteLength = 0x4000;
}
