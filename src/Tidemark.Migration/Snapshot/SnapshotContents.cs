using System.Buffers.Binary;
using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>A complete snapshot file: what it says of itself and of the machine, checked.</summary>
/// <remarks>
/// <see cref="Open"/> reads and checks header, trailer and description, a few KiB; tables, memory and state are checked
/// by <see cref="Verify"/> and, as they are used, by a restore.
/// </remarks>
public sealed class SnapshotContents
{
    private readonly ISnapshotFile _file;

    private SnapshotContents(
        ISnapshotFile file, SnapshotHeader header, SnapshotLayout layout, ReadOnlyMemory<byte> description,
        IReadOnlyList<SavedPart> parts)
    {
        _file = file;
        Header = header;
        Layout = layout;
        Description = description;
        Parts = parts;
    }

    /// <summary>What the machine was, as <see cref="ISourceMachine.Description"/>.</summary>
    public ReadOnlyMemory<byte> Description { get; }

    public IReadOnlyList<SavedPart> Parts { get; }

    /// <summary>Guest pages of each slot of memory.</summary>
    public IReadOnlyList<PageRun> Slots => Layout.Slots;

    public ulong MemoryBytes => Slots.Aggregate(0UL, (sum, slot) => sum + slot.Count * GuestPage.Size);

    public ulong PresentPages => Header.PresentPages;

    public ulong FileBytes => Header.FileBytes;

    public ulong StateBytes => Header.StateBytes;

    /// <summary>When the file was finished.</summary>
    public DateTimeOffset SavedAt => DateTimeOffset.FromUnixTimeMilliseconds((long)Header.SavedAt);

    internal SnapshotHeader Header { get; }

    internal SnapshotLayout Layout { get; }

    /// <exception cref="SnapshotFileException">It is no snapshot, no complete one, or damaged.</exception>
    /// <exception cref="IOException">It can not be read.</exception>
    public static SnapshotContents Open(ISnapshotFile file)
    {
        ArgumentNullException.ThrowIfNull(file);
        SnapshotHeader header = SnapshotHeader.Read(file);
        // LIMIT: the header's figures are checked, so this is at most 64 KiB + 16 KiB + 1 MiB.
        var place = new SnapshotLayout(header.DescriptionBytes, new PageRun[header.SlotCount], header.PartsBytes);
        var bytes = new byte[place.DescriptionSectionBytes];
        file.Read(bytes, SnapshotLayout.DescriptionOffset);
        var checksum = new SectionChecksum();
        for (int done = 0; done < bytes.Length; done += SectionChecksum.PieceBytes)
            checksum.Add(bytes.AsSpan(done, Math.Min(SectionChecksum.PieceBytes, bytes.Length - done)));
        if (checksum.Value != header.DescriptionChecksum)
            throw Bad(file, "its description of the machine does not match its checksum");
        PageRun[] slots = ReadSlots(file, bytes.AsSpan(place.SlotsAt, header.SlotCount * SnapshotLayout.SlotBytes));
        var layout = new SnapshotLayout(header.DescriptionBytes, slots, header.PartsBytes);
        if (layout.Pages != header.Pages)
            throw Bad(file, $"its slots have {layout.Pages} pages where its header says {header.Pages}");
        IReadOnlyList<SavedPart> parts = PartTable.Read(bytes.AsSpan(place.PartsAt, header.PartsBytes), header.PartCount)
            ?? throw Bad(file, "its table of parts can not be");
        if (header.SavedAt > (ulong)DateTimeOffset.MaxValue.ToUnixTimeMilliseconds())
            throw Bad(file, "it was saved after the end of time");
        return new SnapshotContents(file, header, layout, bytes.AsMemory(0, header.DescriptionBytes), parts);
    }

    /// <summary>Reads all of it and checks every checksum; nothing is kept.</summary>
    /// <exception cref="SnapshotFileException">Something is not as it was written.</exception>
    /// <exception cref="IOException">It can not be read.</exception>
    public void Verify(int threads, ISnapshotObserver observer, CancellationToken cancel)
    {
        using var gang = new SnapshotThreads(threads);
        var readers = new PageReaders(_file, this, gang);
        readers.Run(
            memory: null, touched: null,
            pages => Tell(observer, new SnapshotEvent.Progress(-1, pages, PresentPages)), cancel);
        new StateLogReader(_file, Header, Parts).ReadAll((_, _) => { }, cancel);
    }

    internal static SnapshotFileException Bad(ISnapshotFile file, string evidence) =>
        new(SnapshotHeader.Damaged(file, evidence));

    internal static void Tell(ISnapshotObserver observer, SnapshotEvent snapshotEvent)
    {
        try
        {
            observer.OnEvent(snapshotEvent);
        }
        catch (Exception)
        {
            // Somebody who only watches; what is done goes on.
        }
    }

    private static PageRun[] ReadSlots(ISnapshotFile file, ReadOnlySpan<byte> bytes)
    {
        // LIMIT: addresses of 52 bits, the most that x86-64 has.
        const ulong EndOfAddresses = 1UL << 40;
        var slots = new PageRun[bytes.Length / SnapshotLayout.SlotBytes];
        ulong floor = 0;
        for (int index = 0; index < slots.Length; index++)
        {
            ulong first = BinaryPrimitives.ReadUInt64LittleEndian(bytes[(index * SnapshotLayout.SlotBytes)..]);
            ulong count = BinaryPrimitives.ReadUInt64LittleEndian(bytes[(index * SnapshotLayout.SlotBytes + 8)..]);
            if (first < floor || first >= EndOfAddresses || count == 0 || count > SnapshotLayout.MaximumPages)
                throw Bad(file, $"its slot {index} of memory, {count} pages from page {first}, can not be");
            slots[index] = new PageRun(first, count);
            floor = first + count;
        }

        return slots;
    }
}
