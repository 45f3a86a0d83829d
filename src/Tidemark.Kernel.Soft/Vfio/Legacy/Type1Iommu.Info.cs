using System.Buffers.Binary;
using Tidemark.Abi;

namespace Tidemark.Kernel.Soft.Vfio.Legacy;

/// <summary>GET_INFO.</summary>
/// <remarks>
/// <code>
/// 0      argsz flags iova_pgsizes cap_offset pad
/// 24     MIGRATION  (32)  next = 56
/// 56     DMA_AVAIL  (16)  next = 72, or 0 when it is the last
/// 72     IOVA_RANGE (16 + 16 for each range)  next = 0; left out when there is no range
/// </code>
/// All of the chain or none of it: without room the answer is how much room it takes.
/// </remarks>
internal sealed partial class Type1Iommu
{
    private const int InfoLength = (int)VfioIommuType1Info.StructSize;
    private const int MigrationLength = 32;
    private const int AvailableLength = 16;
    private const int RangesHeader = 16;
    private const int RangeLength = 16;

    private Errno GetInfo(Span<byte> argument)
    {
        const int Minimum = (int)VfioIommuType1Info.MinimumSize;
        if (!VfioArgument.TryRead(argument, Minimum, out VfioIommuType1Info info))
            return Errno.EFAULT;
        if (info.Argsz < Minimum)
            return Errno.EINVAL;
        int answered = (int)Math.Min(info.Argsz, InfoLength);
        byte[] chain;
        lock (_gate)
        {
            info.IovaPgsizes = _pageSizes;
            chain = BuildChain();
        }

        info.Flags = VfioIommuInfoFlags.Pgsizes | VfioIommuInfoFlags.Caps;
        info.CapOffset = 0;
        info.Pad = 0;
        if (info.Argsz < InfoLength + chain.Length)
        {
            info.Argsz = (uint)(InfoLength + chain.Length);
        }
        else
        {
            if (argument.Length < InfoLength + chain.Length)
                return Errno.EFAULT;
            chain.CopyTo(argument[InfoLength..]);
            info.CapOffset = InfoLength;
        }

        if (argument.Length < answered)
            return Errno.EFAULT;
        VfioArgument.Write(argument, info, answered);
        return Errno.Success;
    }

    private byte[] BuildChain()
    {
        IReadOnlyList<(ulong First, ulong Last)> ranges = _iovas.Ranges;
        int rangesLength = ranges.Count == 0 ? 0 : RangesHeader + (ranges.Count * RangeLength);
        byte[] chain = new byte[MigrationLength + AvailableLength + rangesLength];
        Span<byte> at = chain;
        const int AvailableAt = InfoLength + MigrationLength;
        const int RangesAt = AvailableAt + AvailableLength;
        WriteHeader(at, VfioIommuType1InfoCapId.Migration, AvailableAt);
        BinaryPrimitives.WriteUInt64LittleEndian(at[16..], PageSize);
        BinaryPrimitives.WriteUInt64LittleEndian(at[24..], LargestBitmap);
        at = at[MigrationLength..];
        WriteHeader(at, VfioIommuType1InfoCapId.DmaAvail, ranges.Count == 0 ? 0 : RangesAt);
        BinaryPrimitives.WriteUInt32LittleEndian(at[8..], MappingLimit - (uint)_mappings.Count);
        if (ranges.Count == 0)
            return chain;
        at = at[AvailableLength..];
        WriteHeader(at, VfioIommuType1InfoCapId.IovaRange, 0);
        BinaryPrimitives.WriteInt32LittleEndian(at[8..], ranges.Count);
        for (int index = 0; index < ranges.Count; index++)
        {
            Span<byte> range = at[(RangesHeader + (index * RangeLength))..];
            BinaryPrimitives.WriteUInt64LittleEndian(range, ranges[index].First);
            BinaryPrimitives.WriteUInt64LittleEndian(range[8..], ranges[index].Last);
        }

        return chain;
    }

    private static void WriteHeader(Span<byte> at, VfioIommuType1InfoCapId id, int next)
    {
        const ushort Version = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(at, (ushort)id);
        BinaryPrimitives.WriteUInt16LittleEndian(at[2..], Version);
        BinaryPrimitives.WriteInt32LittleEndian(at[4..], next);
    }
}
