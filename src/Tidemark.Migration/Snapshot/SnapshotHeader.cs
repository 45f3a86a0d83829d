using System.Buffers.Binary;
using System.Globalization;
using Tidemark.Memory;

namespace Tidemark.Migration.Snapshot;

/// <summary>The first page of a snapshot file, and the trailer that repeats its checksum at the very end.</summary>
/// <remarks>
/// <code>
///   0  8  magic "TIDESNAP"              64  8  present file pages
///   8  4  version, 1                    72  4  bytes of the description
///  12  4  page size, 4096               76  4  bytes of the table of parts
///  16  8  required features, 0          80  8  checksum of the description section
///  24  8  optional features             88  8  checksum of the present section
///  32  8  length of the file            96  8  checksum of the checksums section
///  40  8  saved at, ms since 1970      104  8  offset of the memory section
///  48  4  slots                        112  8  offset of the state section
///  52  4  parts                        120  8  bytes of the state section
///  56  8  file pages                   128  8  checksum of the state section
///                                     4088  8  XXH3 of bytes 0 to 4087
/// trailer:  0 8 "TIDEDONE"   8 8 length of the file   16 8 the header's last 8 bytes   56 8 XXH3 of bytes 0 to 55
/// </code>
/// A file whose first page is zero was never finished. Figures are believed only after they have been checked against
/// the limits, against each other and against the length of the file; nothing is allocated by them before.
/// </remarks>
internal sealed record SnapshotHeader
{
    public const uint Version = 1;

    private const int ChecksumAt = SnapshotLayout.HeaderBytes - 8;
    private const int TrailerChecksumAt = SnapshotLayout.TrailerBytes - 8;

    public static ReadOnlySpan<byte> Magic => "TIDESNAP"u8;

    private static ReadOnlySpan<byte> TrailerMagic => "TIDEDONE"u8;

    public required ulong FileBytes { get; init; }

    public required ulong SavedAt { get; init; }

    public required int SlotCount { get; init; }

    public required int PartCount { get; init; }

    public required ulong Pages { get; init; }

    public required ulong PresentPages { get; init; }

    public required int DescriptionBytes { get; init; }

    public required int PartsBytes { get; init; }

    public required ulong DescriptionChecksum { get; init; }

    public required ulong PresentChecksum { get; init; }

    public required ulong ChecksumsChecksum { get; init; }

    public required ulong MemoryOffset { get; init; }

    public required ulong StateOffset { get; init; }

    public required ulong StateBytes { get; init; }

    public required ulong StateChecksum { get; init; }

    /// <summary>The page and the trailer that belongs to it.</summary>
    public (byte[] Page, byte[] Trailer) Encode()
    {
        var page = new byte[SnapshotLayout.HeaderBytes];
        Magic.CopyTo(page);
        Put32(page, 8, Version);
        Put32(page, 12, SnapshotLayout.PageBytes);
        Put64(page, 32, FileBytes);
        Put64(page, 40, SavedAt);
        Put32(page, 48, (uint)SlotCount);
        Put32(page, 52, (uint)PartCount);
        Put64(page, 56, Pages);
        Put64(page, 64, PresentPages);
        Put32(page, 72, (uint)DescriptionBytes);
        Put32(page, 76, (uint)PartsBytes);
        Put64(page, 80, DescriptionChecksum);
        Put64(page, 88, PresentChecksum);
        Put64(page, 96, ChecksumsChecksum);
        Put64(page, 104, MemoryOffset);
        Put64(page, 112, StateOffset);
        Put64(page, 120, StateBytes);
        Put64(page, 128, StateChecksum);
        ulong checksum = PageHash.Compute(page.AsSpan(0, ChecksumAt));
        Put64(page, ChecksumAt, checksum);
        var trailer = new byte[SnapshotLayout.TrailerBytes];
        TrailerMagic.CopyTo(trailer);
        Put64(trailer, 8, FileBytes);
        Put64(trailer, 16, checksum);
        Put64(trailer, TrailerChecksumAt, PageHash.Compute(trailer.AsSpan(0, TrailerChecksumAt)));
        return (page, trailer);
    }

    /// <summary>Reads header and trailer and checks them as far as that goes without the slots.</summary>
    /// <exception cref="SnapshotFileException">The file is no complete snapshot of a version that is known.</exception>
    public static SnapshotHeader Read(ISnapshotFile file)
    {
        ulong length = file.ReadLength();
        if (length < SnapshotLayout.HeaderBytes + SnapshotLayout.TrailerBytes)
            throw new SnapshotFileException(DescribeShort(file, length));
        var page = new byte[SnapshotLayout.HeaderBytes];
        file.Read(page, 0);
        if (PageKernels.IsZero(page))
        {
            throw new SnapshotFileException(
                $"{file.Path} is the beginning of a snapshot that was never finished: its header, which is written last, "
                    + "is empty. Delete it, and save the machine again.");
        }

        if (!page.AsSpan().StartsWith(Magic))
            throw new SnapshotFileException($"{file.Path} is not a snapshot: it does not begin with TIDESNAP.");
        uint version = Get32(page, 8);
        if (version != Version)
        {
            throw new SnapshotFileException(
                $"{file.Path} is a snapshot of version {version}, and this release reads version {Version}: use the "
                    + "release that wrote it.");
        }

        if (Get64(page, ChecksumAt) != PageHash.Compute(page.AsSpan(0, ChecksumAt)))
            throw new SnapshotFileException(Damaged(file, "its header does not match its checksum"));
        ulong features = Get64(page, 16);
        if (features != 0)
        {
            string bits = features.ToString("x", CultureInfo.InvariantCulture);
            throw new SnapshotFileException(
                $"{file.Path} needs features 0x{bits} that this release does not have: use the release that wrote it.");
        }

        if (Get32(page, 12) != SnapshotLayout.PageBytes)
            throw new SnapshotFileException($"{file.Path} has pages of {Get32(page, 12)} bytes, and only 4096 are supported.");
        SnapshotHeader header = Parse(file, page);
        header.CheckFigures(file);
        if (length != header.FileBytes)
        {
            string what = length < header.FileBytes
                ? $"was cut short: it has {length} bytes, and {header.FileBytes} were written"
                : $"has {length} bytes where {header.FileBytes} were written: something was appended to it";
            throw new SnapshotFileException($"{file.Path} {what}. Copy it again, or use another copy.");
        }

        CheckTrailer(file, header, Get64(page, ChecksumAt));
        return header;
    }

    public static string Damaged(ISnapshotFile file, string evidence) =>
        $"{file.Path} is damaged: {evidence}. Use another copy of it.";

    private static SnapshotHeader Parse(ISnapshotFile file, byte[] page)
    {
        uint slots = Get32(page, 48);
        uint parts = Get32(page, 52);
        uint descriptionBytes = Get32(page, 72);
        uint partsBytes = Get32(page, 76);
        if (slots is 0 or > SnapshotLayout.MaximumSlots)
            throw Impossible(file, $"{slots} slots of memory");
        if (parts > SnapshotLayout.MaximumParts)
            throw Impossible(file, $"{parts} parts");
        if (descriptionBytes > SnapshotLayout.MaximumDescriptionBytes)
            throw Impossible(file, $"{descriptionBytes} bytes of description");
        if (partsBytes > SnapshotLayout.MaximumPartsBytes)
            throw Impossible(file, $"{partsBytes} bytes about its parts");
        return new SnapshotHeader
        {
            FileBytes = Get64(page, 32),
            SavedAt = Get64(page, 40),
            SlotCount = (int)slots,
            PartCount = (int)parts,
            Pages = Get64(page, 56),
            PresentPages = Get64(page, 64),
            DescriptionBytes = (int)descriptionBytes,
            PartsBytes = (int)partsBytes,
            DescriptionChecksum = Get64(page, 80),
            PresentChecksum = Get64(page, 88),
            ChecksumsChecksum = Get64(page, 96),
            MemoryOffset = Get64(page, 104),
            StateOffset = Get64(page, 112),
            StateBytes = Get64(page, 120),
            StateChecksum = Get64(page, 128),
        };
    }

    private void CheckFigures(ISnapshotFile file)
    {
        if (Pages is 0 or > SnapshotLayout.MaximumPages || Pages % SnapshotLayout.WindowPages != 0)
            throw Impossible(file, $"{Pages} pages");
        if (PresentPages > Pages)
            throw Impossible(file, $"{PresentPages} present pages of {Pages}");
        // One slot with all pages has the same layout as any other table of as many slots.
        var slots = new PageRun[SlotCount];
        slots[0] = new PageRun(0, Pages);
        var layout = new SnapshotLayout(DescriptionBytes, slots, PartsBytes);
        if (MemoryOffset != layout.MemoryOffset || StateOffset != layout.StateOffset)
            throw Impossible(file, $"memory at {MemoryOffset} and state at {StateOffset}");
        // StateOffset is bounded by now, so the difference is the only figure left to check.
        if (FileBytes < StateOffset + SnapshotLayout.TrailerBytes
            || FileBytes - StateOffset - SnapshotLayout.TrailerBytes != StateBytes || StateBytes % 8 != 0)
            throw Impossible(file, $"{StateBytes} bytes of state in {FileBytes} bytes");
    }

    private static void CheckTrailer(ISnapshotFile file, SnapshotHeader header, ulong headerChecksum)
    {
        Span<byte> trailer = stackalloc byte[SnapshotLayout.TrailerBytes];
        file.Read(trailer, header.FileBytes - SnapshotLayout.TrailerBytes);
        if (!trailer.StartsWith(TrailerMagic)
            || Get64(trailer, TrailerChecksumAt) != PageHash.Compute(trailer[..TrailerChecksumAt])
            || Get64(trailer, 8) != header.FileBytes || Get64(trailer, 16) != headerChecksum)
            throw new SnapshotFileException(Damaged(file, "it does not end with the trailer that belongs to its header"));
    }

    private static SnapshotFileException Impossible(ISnapshotFile file, string figure) =>
        new(Damaged(file, $"its header says {figure}, which can not be"));

    private static string DescribeShort(ISnapshotFile file, ulong length) => length == 0
        ? $"{file.Path} is empty: it is not a snapshot, or the beginning of one that was never finished."
        : $"{file.Path} is not a complete snapshot: it has {length} bytes, fewer than the shortest one.";

    private static void Put32(Span<byte> page, int at, uint value) =>
        BinaryPrimitives.WriteUInt32LittleEndian(page[at..], value);

    private static void Put64(Span<byte> page, int at, ulong value) =>
        BinaryPrimitives.WriteUInt64LittleEndian(page[at..], value);

    private static uint Get32(ReadOnlySpan<byte> page, int at) => BinaryPrimitives.ReadUInt32LittleEndian(page[at..]);

    private static ulong Get64(ReadOnlySpan<byte> page, int at) => BinaryPrimitives.ReadUInt64LittleEndian(page[at..]);
}
