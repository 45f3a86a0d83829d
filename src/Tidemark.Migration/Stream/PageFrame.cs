using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Stream;

/// <summary>
/// The table at the head of Pages and ZeroPages payloads. Little-endian:
/// <code>
///  0  u32 pass   4  u32 number of runs
///  8  runs, 16 bytes each: u64 first guest page, u64 number of pages
///  then u32 reserved (0), u32 CRC-32C of everything before
/// </code>
/// For Pages the contents follow in the order of the runs; the frame header's hash covers exactly them.
/// </summary>
internal static class PageFrame
{
    public const int RunBytes = 16;

    public static int HeadBytes(int runs) => 16 + runs * RunBytes;

    public static void WriteHead(Span<byte> into, uint pass, ReadOnlySpan<PageRun> runs)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(into, pass);
        BinaryPrimitives.WriteUInt32LittleEndian(into[4..], (uint)runs.Length);
        int at = 8;
        foreach (PageRun run in runs)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(into[at..], run.FirstPage);
            BinaryPrimitives.WriteUInt64LittleEndian(into[(at + 8)..], run.Count);
            at += RunBytes;
        }

        BinaryPrimitives.WriteUInt32LittleEndian(into[at..], 0);
        BinaryPrimitives.WriteUInt32LittleEndian(into[(at + 4)..], Checksum.Crc32C(into[..(at + 4)]));
    }

    /// <summary>The number of runs, from the first 8 bytes, which are not trusted yet.</summary>
    public static int PeekRunCount(ReadOnlySpan<byte> start, int payloadLength, int maximumRuns, string section, ulong offset)
    {
        uint count = BinaryPrimitives.ReadUInt32LittleEndian(start[4..]);
        if (count == 0 || count > (uint)maximumRuns || HeadBytes((int)count) > payloadLength)
            throw new MigrationStreamException(section, offset, $"its table of {count} runs does not fit into it");
        return (int)count;
    }

    /// <summary>Checks a whole table and yields its runs; each lies inside guest memory, in one slot.</summary>
    /// <returns>Pages in all runs.</returns>
    public static int ReadHead(
        ReadOnlySpan<byte> head, Span<PageRun> runs, uint expectedPass, GuestMemory memory, string section, ulong offset)
    {
        if (BinaryPrimitives.ReadUInt32LittleEndian(head[^4..]) != Checksum.Crc32C(head[..^4]))
            throw new MigrationStreamException(section, offset, "the checksum of its table does not fit");
        if (BinaryPrimitives.ReadUInt32LittleEndian(head[^8..]) != 0)
            throw new MigrationStreamException(section, offset, "its table sets bits that version 1 does not have");
        uint pass = BinaryPrimitives.ReadUInt32LittleEndian(head);
        if (pass != expectedPass)
            throw new MigrationStreamException(section, offset, $"it belongs to pass {pass} where pass "
                + $"{expectedPass} is due");
        ulong total = 0;
        for (int index = 0; index < runs.Length; index++)
        {
            ReadOnlySpan<byte> entry = head.Slice(8 + index * RunBytes, RunBytes);
            ulong first = BinaryPrimitives.ReadUInt64LittleEndian(entry);
            ulong count = BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]);
            if (count is 0 or > int.MaxValue || !Inside(memory, first, count))
                throw new MigrationStreamException(section, offset, $"guest memory has no {count} pages at page "
                    + $"0x{first:x}");
            runs[index] = new PageRun(first, count);
            total += count;
        }

        if (total > int.MaxValue)
            throw new MigrationStreamException(section, offset, "it names more pages than one frame can");
        return (int)total;
    }

    private static bool Inside(GuestMemory memory, ulong first, ulong count) =>
        first < memory.SpanPages && count <= memory.SpanPages
        && memory.FindSlot(new GuestPhysicalAddress(first << GuestPage.Shift), count << GuestPage.Shift) is not null;
}
