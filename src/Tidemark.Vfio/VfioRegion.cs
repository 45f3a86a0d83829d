using System.Buffers.Binary;
using Tidemark.Abi;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>A part of a region that may be mapped, from the start of the region, in bytes.</summary>
public readonly record struct RegionArea(ulong Offset, ulong ByteLength);

/// <summary>
/// One region of a device: a BAR, the configuration space, ... A region of length 0 is not implemented by the device.
/// </summary>
/// <remarks>
/// Not every part can be mapped, and what can not (a doorbell page that somebody must see) is reached by calls. Each
/// call is one access to the device if it is 1, 2, 4 or 8 bytes and aligned.
/// </remarks>
public sealed class VfioRegion
{
    /// <summary>LIMIT: room for a region's capability chain; a device that needs more is refused.</summary>
    private const uint MaximumInfoLength = 1 << 20;

    private readonly VfioDevice _device;
    private readonly ulong _fileOffset;

    private VfioRegion(VfioDevice device, VfioRegionInfo info, IReadOnlyList<RegionArea> mapAreas)
    {
        _device = device;
        _fileOffset = info.Offset;
        Index = info.Index;
        ByteLength = info.Size;
        CanRead = (info.Flags & VfioRegionInfoFlags.Read) != 0;
        CanWrite = (info.Flags & VfioRegionInfoFlags.Write) != 0;
        MapAreas = mapAreas;
    }

    public uint Index { get; }

    /// <summary>Length in bytes; 0 when the device has no such region.</summary>
    public ulong ByteLength { get; }

    public bool CanRead { get; }

    public bool CanWrite { get; }

    /// <summary>The parts that can be mapped; empty when none can.</summary>
    public IReadOnlyList<RegionArea> MapAreas { get; }

    /// <summary>Reads bytes of the region.</summary>
    /// <exception cref="KernelException">The device refused, or gave fewer bytes.</exception>
    public void Read(ulong offset, Span<byte> into)
    {
        CheckRange(offset, (ulong)into.Length);
        SyscallResult result = _device.Kernel.Pread(_device.Fd.Number, into, _fileOffset + offset);
        CheckResult(result, into.Length, "Reading", offset);
    }

    /// <summary>Writes bytes of the region.</summary>
    /// <exception cref="KernelException">The device refused, or took fewer bytes.</exception>
    public void Write(ulong offset, ReadOnlySpan<byte> from)
    {
        CheckRange(offset, (ulong)from.Length);
        SyscallResult result = _device.Kernel.Pwrite(_device.Fd.Number, from, _fileOffset + offset);
        CheckResult(result, from.Length, "Writing", offset);
    }

    public uint Read32(ulong offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        Read(offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    public ulong Read64(ulong offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        Read(offset, bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    public void Write32(ulong offset, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Write(offset, bytes);
    }

    public void Write64(ulong offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Write(offset, bytes);
    }

    /// <summary>Maps one of <see cref="MapAreas"/>, or whole pages inside one.</summary>
    /// <exception cref="ArgumentException">The area is not inside one that can be mapped.</exception>
    /// <exception cref="KernelException">The kernel refused.</exception>
    public Mapping MapArea(RegionArea area)
    {
        bool inside = area.ByteLength != 0 && MapAreas.Any(part => area.Offset >= part.Offset
            && area.Offset - part.Offset <= part.ByteLength
            && area.ByteLength <= part.ByteLength - (area.Offset - part.Offset));
        if (!inside || area.Offset % GuestPage.Size != 0 || area.ByteLength % GuestPage.Size != 0)
        {
            throw new ArgumentException(
                $"0x{area.ByteLength:x} bytes at 0x{area.Offset:x} of region {Index} of {_device.Name} "
                + "can not be mapped.",
                nameof(area));
        }

        MemoryProtection protection = (CanRead ? MemoryProtection.Read : MemoryProtection.None)
            | (CanWrite ? MemoryProtection.Write : MemoryProtection.None);
        return Mapping.CreateShared(_device.Fd, area.ByteLength, _fileOffset + area.Offset, protection);
    }

    internal static VfioRegion Query(VfioDevice device, uint index)
    {
        string operation = $"Asking {device.Name} about region {index}";
        VfioRegionInfo first = VfioRegionInfo.Create(index);
        device.Kernel.Ioctl(device.Fd, ref first).ThrowIfFailed(operation);
        if (StepEvents.Log.IsEnabled())
            StepEvents.Log.RegionDescribed(device.Name, index, first.Size, first.Offset, first.Flags.ToString());
        IReadOnlyList<RegionArea> areas = [];
        if ((first.Flags & VfioRegionInfoFlags.Mmap) != 0 && first.Size != 0)
            areas = [new RegionArea(0, first.Size)];
        if ((first.Flags & VfioRegionInfoFlags.Caps) == 0 || first.Argsz <= VfioRegionInfo.StructSize)
            return new VfioRegion(device, first, areas);

        if (first.Argsz > MaximumInfoLength)
            throw new KernelException($"{operation} ({first.Argsz} bytes of capabilities)", Errno.E2BIG);
        byte[] argument = new byte[first.Argsz];
        BinaryPrimitives.WriteUInt32LittleEndian(argument, first.Argsz);
        BinaryPrimitives.WriteUInt32LittleEndian(argument.AsSpan(8), index);
        device.Kernel.Ioctl(device.Fd.Number, VfioRegionInfo.Request.Value, argument).ThrowIfFailed(operation);
        return new VfioRegion(device, first, RegionCapabilities.FindSparseAreas(argument, first.Size) ?? areas);
    }

    private void CheckRange(ulong offset, ulong byteLength)
    {
        if (offset > ByteLength || byteLength > ByteLength - offset)
        {
            throw new ArgumentOutOfRangeException(
                nameof(offset),
                $"Region {Index} of {_device.Name} has 0x{ByteLength:x} bytes, not 0x{byteLength:x} at 0x{offset:x}.");
        }
    }

    private void CheckResult(SyscallResult result, int wanted, string verb, ulong offset)
    {
        // The sentence is made only for a failure: this is the doorbell's path.
        if (result.Succeeded && result.Value == wanted)
            return;
        string operation = $"{verb} {wanted} bytes at 0x{offset:x} of region {Index} of {_device.Name}";
        result.ThrowIfFailed(operation);
        throw new KernelException($"{operation} (only {result.Value} done)", Errno.EIO);
    }
}
