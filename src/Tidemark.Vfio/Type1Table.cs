using System.Buffers.Binary;
using System.Numerics;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Kernel;
using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>
/// The dirty bitmaps of a type1 container (VFIO_IOMMU_DIRTY_PAGES): one for each mapping, for all devices together.
/// </summary>
/// <remarks>
/// UAPI: vfio.h. type1 uses no dirty bits of hardware. With any ordinary device in the container it reports every
/// mapped page at every read; with mediated devices only, the pages that their drivers have pinned or written. A read
/// must not cut a mapping, is written in words of 64 bits, and may be as large as the container says
/// (<see cref="MaximumReadLength"/>): so the container maps nothing longer.
/// </remarks>
public sealed class Type1Table : IDirtyTable
{
    private const int ArgumentLength = 48;

    private readonly KernelFd _container;

    internal Type1Table(KernelFd container, ulong maximumBitmapLength)
    {
        _container = container;
        // One bit for each page; what a kernel says beyond our own limit is of no use.
        ulong useful = Math.Min(maximumBitmapLength, DirtyBuffer.ChunkLength);
        MaximumReadLength = Math.Min(DirtyBuffer.ChunkLength, 1UL << BitOperations.Log2(useful * 8 * GuestPage.Size));
    }

    public string Name => "the type1 container";

    /// <inheritdoc/>
    public bool IsTracking { get; private set; }

    /// <summary>The longest range of IOVAs that one read covers, in bytes; a power of two.</summary>
    public ulong MaximumReadLength { get; }

    /// <inheritdoc/>
    public void SetDirtyTracking(bool on)
    {
        if (on == IsTracking)
            return;
        IsTracking = false;
        VfioIommuType1DirtyBitmap argument = VfioIommuType1DirtyBitmap.Create(
            on ? VfioIommuDirtyPagesFlags.Start : VfioIommuDirtyPagesFlags.Stop);
        SyscallResult result = _container.Kernel.Ioctl(_container, ref argument);
        StepEvents.Log.DirtyTrackingSet(Name, on, StepEvents.Outcome(result));
        result.ThrowIfFailed($"Switching dirty tracking of {Name} {(on ? "on" : "off")}");
        IsTracking = on;
    }

    /// <inheritdoc/>
    public void HarvestDirty(MappedArea area, DirtyBuffer buffer, PageBitmap pages) =>
        DirtyHarvester.Read(area, buffer, pages, Read, $"Reading dirty pages of {Name}");

    /// <summary>Unmaps one mapping and adds its dirty pages.</summary>
    /// <exception cref="KernelException">Refused; it is still mapped.</exception>
    internal void UnmapDirty(MappedArea area, DirtyBuffer buffer, PageBitmap pages) =>
        DirtyHarvester.Read(area, buffer, pages, UnmapAndRead, $"Unmapping from {Name} with its dirty pages");

    private SyscallResult Read(IovaRange chunk, HostAddress bitmap) => Ask(
        VfioRequests.IommuDirtyPages, (uint)VfioIommuDirtyPagesFlags.GetBitmap, chunk, bitmap);

    private SyscallResult UnmapAndRead(IovaRange chunk, HostAddress bitmap)
    {
        SyscallResult result = Ask(
            VfioRequests.IommuUnmapDma, (uint)VfioDmaUnmapFlags.GetDirtyBitmap, chunk, bitmap);
        StepEvents.Log.Type1Unmapped(chunk.First.Value, chunk.ByteLength, withBitmap: true, StepEvents.Outcome(result));
        return result;
    }

    /// <summary>
    /// Both arguments have one layout: vfio_iommu_type1_dirty_bitmap with its _get behind it, and
    /// vfio_iommu_type1_dma_unmap with a vfio_bitmap behind it.
    /// </summary>
    private SyscallResult Ask(IoctlRequest request, uint flags, IovaRange chunk, HostAddress bitmap)
    {
        Span<byte> argument = stackalloc byte[ArgumentLength];
        BinaryPrimitives.WriteUInt32LittleEndian(argument, ArgumentLength);
        BinaryPrimitives.WriteUInt32LittleEndian(argument[4..], flags);
        BinaryPrimitives.WriteUInt64LittleEndian(argument[8..], chunk.First.Value);
        BinaryPrimitives.WriteUInt64LittleEndian(argument[16..], chunk.ByteLength);
        BinaryPrimitives.WriteUInt64LittleEndian(argument[24..], GuestPage.Size);
        BinaryPrimitives.WriteUInt64LittleEndian(
            argument[32..], ((chunk.ByteLength >> GuestPage.Shift) + 63) / 64 * sizeof(ulong));
        BinaryPrimitives.WriteUInt64LittleEndian(argument[40..], bitmap.Value);
        return _container.Kernel.Ioctl(_container.Number, request.Value, argument);
    }
}
