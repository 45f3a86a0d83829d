using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Vfio;

/// <summary>Reads the capability chain behind a region's information. Everything in it came from outside:
/// checked.</summary>
internal static class RegionCapabilities
{
    private const int CapOffsetField = 12;
    private const int HeaderLength = 8;
    private const int SparseHeaderLength = 16;
    private const int AreaLength = 16;

    /// <summary>The mappable parts, or null when the chain says nothing about them (then the whole region
    /// is).</summary>
    public static IReadOnlyList<RegionArea>? FindSparseAreas(ReadOnlySpan<byte> info, ulong regionLength)
    {
        uint offset = BinaryPrimitives.ReadUInt32LittleEndian(info[CapOffsetField..]);
        // LIMIT: a chain visits each byte at most once, so it has fewer links than the buffer has headers.
        for (int links = info.Length / HeaderLength; links > 0 && offset != 0; links--)
        {
            if (offset > (uint)(info.Length - HeaderLength))
                return null;
            ReadOnlySpan<byte> capability = info[(int)offset..];
            if (BinaryPrimitives.ReadUInt16LittleEndian(capability) == (ushort)VfioRegionInfoCapId.SparseMmap)
                return ReadAreas(capability, regionLength);
            offset = BinaryPrimitives.ReadUInt32LittleEndian(capability[4..]);
        }

        return null;
    }

    private static List<RegionArea> ReadAreas(ReadOnlySpan<byte> capability, ulong regionLength)
    {
        var areas = new List<RegionArea>();
        if (capability.Length < SparseHeaderLength)
            return areas;
        uint count = BinaryPrimitives.ReadUInt32LittleEndian(capability[HeaderLength..]);
        ReadOnlySpan<byte> rest = capability[SparseHeaderLength..];
        for (; count > 0 && rest.Length >= AreaLength; count--, rest = rest[AreaLength..])
        {
            ulong offset = BinaryPrimitives.ReadUInt64LittleEndian(rest);
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(rest[8..]);
            if (length != 0 && offset <= regionLength && length <= regionLength - offset)
                areas.Add(new RegionArea(offset, length));
        }

        return areas;
    }
}
