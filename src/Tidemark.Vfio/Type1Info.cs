using System.Buffers.Binary;
using System.Numerics;
using Tidemark.Abi;
using Tidemark.Iommu;
using Tidemark.Memory;

namespace Tidemark.Vfio;

/// <summary>What a type1 container tells about itself (vfio.h, vfio_iommu_type1_info and its capabilities).</summary>
/// <param name="DirtyPageSize">Unit of its dirty bitmaps in bytes; 0: it has none.</param>
/// <param name="MaximumBitmapLength">The longest bitmap it takes, in bytes; 0: it has none.</param>
internal sealed record Type1Info(UsableIovas Usable, ulong DirtyPageSize, ulong MaximumBitmapLength)
{
    /// <summary>LIMIT: a chain is not followed further than this.</summary>
    private const int MaximumCapabilities = 64;

    private const int HeaderLength = 8;

    /// <summary>Never trusts an offset or a count: what does not fit is not there.</summary>
    public static Type1Info Parse(ReadOnlySpan<byte> bytes)
    {
        ulong pageSizes = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]);
        var ranges = new List<IovaRange>();
        ulong dirtyPageSize = 0, maximumBitmap = 0;
        uint at = BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]);
        for (int count = 0; at >= VfioIommuType1Info.StructSize && at <= bytes.Length - HeaderLength; count++)
        {
            if (count == MaximumCapabilities)
                break;
            ReadOnlySpan<byte> capability = bytes[(int)at..];
            var id = (VfioIommuType1InfoCapId)BinaryPrimitives.ReadUInt16LittleEndian(capability);
            if (id == VfioIommuType1InfoCapId.IovaRange && capability.Length >= 16)
                ranges.AddRange(ParseRanges(capability));
            if (id == VfioIommuType1InfoCapId.Migration && capability.Length >= 32)
            {
                // The smallest page of the bitmap's pages is the unit that GET_BITMAP takes.
                ulong sizes = BinaryPrimitives.ReadUInt64LittleEndian(capability[16..]);
                dirtyPageSize = LowestBit(sizes);
                maximumBitmap = BinaryPrimitives.ReadUInt64LittleEndian(capability[24..]);
            }

            at = BinaryPrimitives.ReadUInt32LittleEndian(capability[4..]);
        }

        // Without a list the kernel is older than 5.5: nothing is known to be reserved.
        if (ranges.Count == 0)
            ranges.Add(new IovaRange(new Iova(0), new Iova(ulong.MaxValue)));
        ulong alignment = pageSizes == 0 ? GuestPage.Size : LowestBit(pageSizes);
        return new Type1Info(new UsableIovas(ranges, alignment), dirtyPageSize, maximumBitmap);
    }

    private static ulong LowestBit(ulong bits) => bits == 0 ? 0 : 1UL << BitOperations.TrailingZeroCount(bits);

    private static List<IovaRange> ParseRanges(ReadOnlySpan<byte> capability)
    {
        const int First = 16, Length = 16;
        uint count = BinaryPrimitives.ReadUInt32LittleEndian(capability[HeaderLength..]);
        var ranges = new List<IovaRange>();
        for (int index = 0; index < count && First + ((index + 1) * Length) <= capability.Length; index++)
        {
            ulong start = BinaryPrimitives.ReadUInt64LittleEndian(capability[(First + (index * Length))..]);
            ulong end = BinaryPrimitives.ReadUInt64LittleEndian(capability[(First + (index * Length) + 8)..]);
            if (start <= end)
                ranges.Add(new IovaRange(new Iova(start), new Iova(end)));
        }

        return ranges;
    }
}
