using System.Buffers.Binary;
using System.Text;

namespace Tidemark.Kernel.Recording;

/// <summary>
/// What the names of the recorded process are called in this one: descriptors, addresses, device nodes.
/// </summary>
internal sealed class ReplayNames(IReadOnlyList<RecordedDevice> recorded, IReadOnlyList<RecordedDevice> here)
{
    /// <summary>Added to a descriptor that was not open in the recorded process: it must not be open here either.</summary>
    private const int NotOpen = 0x3FFF_0000;

    private readonly Dictionary<int, int> _descriptors = [];
    private readonly List<Region> _regions = [];

    /// <summary>What is open here because of the replay.</summary>
    public IReadOnlyCollection<int> Descriptors => _descriptors.Values;

    /// <summary>What is mapped here because of the replay.</summary>
    public IEnumerable<(ulong Address, ulong ByteLength)> Regions =>
        _regions.Select(region => (region.Here, region.ByteLength));

    public void Bind(int recordedFd, int fd) => _descriptors[recordedFd] = fd;

    public void Unbind(int recordedFd) => _descriptors.Remove(recordedFd);

    public int Descriptor(int recordedFd) => recordedFd < 0 ? recordedFd
        : _descriptors.TryGetValue(recordedFd, out int fd) ? fd : NotOpen | (recordedFd & 0xFFFF);

    public void Map(ulong recordedStart, ulong byteLength, ulong start) =>
        _regions.Add(new Region(recordedStart, byteLength, start));

    public void Unmap(ulong recordedStart, ulong byteLength)
    {
        ulong end = recordedStart + byteLength;
        foreach (Region region in _regions.FindAll(region => region.Recorded < end && region.End > recordedStart))
        {
            _regions.Remove(region);
            if (region.Recorded < recordedStart)
                _regions.Add(region with { ByteLength = recordedStart - region.Recorded });
            if (region.End > end)
                _regions.Add(new Region(end, region.End - end, region.Here + (end - region.Recorded)));
        }
    }

    /// <summary>The address here; one that is in no region stays what it is. The end of a region belongs to it.</summary>
    public ulong Address(ulong recordedAddress) => TryAddress(recordedAddress, out ulong address)
        ? address : recordedAddress;

    public bool TryAddress(ulong recordedAddress, out ulong address)
    {
        Region? best = null;
        foreach (Region region in _regions)
        {
            if (recordedAddress >= region.Recorded && recordedAddress < region.End)
                best = region;
            else if (recordedAddress == region.End)
                best ??= region;
        }

        address = best is null ? 0 : best.Here + (recordedAddress - best.Recorded);
        return best is not null;
    }

    /// <summary>Moves the aligned 64-bit words that are addresses.</summary>
    public byte[] Words(ReadOnlySpan<byte> recordedBytes)
    {
        byte[] bytes = recordedBytes.ToArray();
        for (int offset = 0; offset <= bytes.Length - sizeof(ulong); offset += sizeof(ulong))
        {
            ulong word = BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(offset));
            if (word != 0 && TryAddress(word, out ulong address))
                BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(offset), address);
        }

        return bytes;
    }

    /// <summary>
    /// The name of a device, as VFIO_GROUP_GET_DEVICE_FD takes it, options behind it: in place, where it is as long here.
    /// </summary>
    public void RenameDevice(Span<byte> name)
    {
        for (int index = 0; index < Math.Min(recorded.Count, here.Count); index++)
        {
            byte[] from = Encoding.ASCII.GetBytes(recorded[index].Address);
            byte[] to = Encoding.ASCII.GetBytes(here[index].Address);
            if (from.Length == to.Length && name.StartsWith(from))
            {
                to.CopyTo(name);
                return;
            }
        }
    }

    /// <summary>The path here: nodes are known by the order of their devices.</summary>
    public string Path(string recordedPath)
    {
        for (int index = 0; index < Math.Min(recorded.Count, here.Count); index++)
        {
            if (recordedPath == recorded[index].Node)
                return here[index].Node;
            if (recordedPath == recorded[index].Group)
                return here[index].Group;
        }

        return recordedPath;
    }

    private sealed record Region(ulong Recorded, ulong ByteLength, ulong Here)
    {
        public ulong End => Recorded + ByteLength;
    }
}
