using System.Buffers.Binary;
using Tidemark.Nvme;

namespace Tidemark.Kernel.Soft.Devices.Nvme;

/// <summary>
/// The controller's PCI Express configuration space: 4096 bytes, of which software may change the bits of a mask.
/// </summary>
/// <remarks>
/// <code>
/// 0x00 header | 0x40 MSI-X -> 0x80 PCI Express: an endpoint integrated in the root complex, without a link
/// 0x100 no extended capabilities: zeros
/// </code>
/// </remarks>
internal sealed class NvmePciConfig
{
    public const int ByteLength = 4096;

    /// <summary>Where the MSI-X capability lies.</summary>
    public const int MsixOffset = 0x40;

    /// <summary>Where the PCI Express capability lies.</summary>
    public const int ExpressOffset = 0x80;

    private const int MsixSwitch = MsixOffset + MsixCapability.ControlOffset + 1;

    private readonly byte[] _bytes = new byte[ByteLength];
    private readonly byte[] _writable = new byte[ByteLength];
    private readonly uint _vectors;
    private readonly SoftNvme _description;

    public NvmePciConfig(uint vectors, SoftNvme description)
    {
        _vectors = vectors;
        _description = description;
        const ushort Command = NvmePci.CommandInitial | NvmePci.CommandBusMaster | NvmePci.CommandInterruptDisable;
        BinaryPrimitives.WriteUInt16LittleEndian(_writable.AsSpan(NvmePci.CommandOffset), Command);
        _writable[NvmePci.CacheLineOffset] = 0xff;
        LetWriteBar(0, NvmeBar.ByteLength);
        if (description.ControllerMemory)
            LetWriteBar(NvmeBar.ControllerMemoryRegion, NvmeBar.ControllerMemoryByteLength);
        _writable[NvmePci.InterruptLineOffset] = 0xff;
        BinaryPrimitives.WriteUInt16LittleEndian(
            _writable.AsSpan(ExpressOffset + ExpressCapability.ControlOffset), ExpressCapability.ControlWritable);
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

    /// <summary>The host's kernel switches MSI-X on and off; software that writes the bit changes nothing.</summary>
    public bool MsixEnabled
    {
        get => (_bytes[MsixSwitch] & MsixCapability.ControlEnable >> 8) != 0;
        set => _bytes[MsixSwitch] = (byte)(_bytes[MsixSwitch] & ~(MsixCapability.ControlEnable >> 8)
            | (value ? MsixCapability.ControlEnable >> 8 : 0));
    }

    /// <summary>As the host's firmware and kernel hand the function over: BARs answer, DMA is off.</summary>
    public void Reset()
    {
        Array.Clear(_bytes);
        Span<byte> bytes = _bytes;
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[NvmePci.VendorOffset..], _description.VendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[(NvmePci.VendorOffset + 2)..], _description.DeviceId);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[NvmePci.CommandOffset..], NvmePci.CommandInitial);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[NvmePci.StatusOffset..], NvmePci.StatusCapabilities);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[NvmePci.RevisionOffset..], NvmePci.ClassCode << 8 | 1);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[NvmePci.Bar0Offset..], NvmePci.Bar64Bit);
        if (_description.ControllerMemory)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(
                bytes[(NvmePci.Bar0Offset + (4 * (int)NvmeBar.ControllerMemoryRegion))..], NvmePci.Bar64Bit);
        }

        BinaryPrimitives.WriteUInt16LittleEndian(bytes[NvmePci.SubsystemOffset..], _description.VendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[(NvmePci.SubsystemOffset + 2)..], _description.DeviceId);
        bytes[NvmePci.CapabilitiesOffset] = MsixOffset;
        bytes[NvmePci.InterruptPinOffset] = NvmePci.InterruptPinA;
        Span<byte> msix = bytes[MsixOffset..];
        msix[0] = MsixCapability.Id;
        msix[1] = ExpressOffset;
        BinaryPrimitives.WriteUInt16LittleEndian(msix[MsixCapability.ControlOffset..], (ushort)(_vectors - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(msix[MsixCapability.TableOffset..], (uint)NvmeBar.MsixTable);
        BinaryPrimitives.WriteUInt32LittleEndian(msix[MsixCapability.PendingOffset..], (uint)NvmeBar.MsixPending);
        Span<byte> express = bytes[ExpressOffset..];
        express[0] = ExpressCapability.Id;
        BinaryPrimitives.WriteUInt16LittleEndian(
            express[ExpressCapability.FlagsOffset..], ExpressCapability.IntegratedEndpoint);
        BinaryPrimitives.WriteUInt32LittleEndian(
            express[ExpressCapability.CapabilitiesOffset..],
            ExpressCapability.RoleBasedErrors | (_description.Resettable ? ExpressCapability.FunctionReset : 0));
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
            int free = _writable[index] | (index == MsixSwitch ? MsixCapability.ControlEnable >> 8 : 0);
            if (((other[index] ^ _bytes[index]) & ~free & 0xff) != 0)
                return false;
        }

        return true;
    }

    /// <summary>Takes another side's space; MSI-X stays as this host has it.</summary>
    public void Load(ReadOnlySpan<byte> other)
    {
        bool enabled = MsixEnabled;
        other.CopyTo(_bytes);
        MsixEnabled = enabled;
    }

    /// <summary>All address bits above the BAR's size, which is a power of two, in both halves.</summary>
    private void LetWriteBar(uint bar, ulong byteLength) => BinaryPrimitives.WriteUInt64LittleEndian(
        _writable.AsSpan(NvmePci.Bar0Offset + (4 * (int)bar)), ~(byteLength - 1));
}

/// <summary>
/// What lies where in BAR0, and the controller memory buffer in a BAR of its own: it is plain memory and may be mapped.
/// BAR0 may not, because nobody in this process can trap a store to a doorbell.
/// </summary>
internal static class NvmeBar
{
    public const ulong ByteLength = 0x4000;
    public const ulong Doorbells = 0x1000;
    public const ulong MsixTable = 0x2000;
    public const ulong MsixPending = 0x3000;
    public const uint ControllerMemoryRegion = 2;
    public const ulong ControllerMemoryByteLength = 0x4000;
}
