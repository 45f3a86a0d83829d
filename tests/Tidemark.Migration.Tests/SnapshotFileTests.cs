using System.Buffers.Binary;
using Tidemark.Memory;
using Tidemark.Migration.Snapshot;

namespace Tidemark.Migration.Tests;

/// <summary>The format: its bytes, and what is wrong with a file that has others.</summary>
public sealed class SnapshotFileTests
{
    // As docs/reference/snapshot-format.md says, for 120 pages in two slots, two parts and 10 bytes of description.
    private const int Present = 8192;
    private const int Checksums = 12288;
    private const int MemoryStart = 1 << 20;
    private const int State = MemoryStart + 512 * 4096;

    private static readonly (string Name, int First, int Last)[] s_sections =
    [
        ("header", 0, 4095), ("description", 4096, 8191), ("present", Present, Present + 64), ("checksums", Checksums, Checksums + 300),
        ("memory of slot 0", MemoryStart, MemoryStart + 24 * 4096 - 1),
        ("memory of slot 1", MemoryStart + 256 * 4096, MemoryStart + 280 * 4096 - 1),
    ];

    [Fact]
    public void A_file_has_exactly_the_bytes_that_its_documentation_gives_it()
    {
        byte[] bytes = Make(world =>
        {
            // The usual content differs from process to process.
            var content = new byte[GuestPage.Size];
            foreach (ulong page in Enumerable.Range(0, 24).Concat(Enumerable.Range(100, 24)).Concat(Enumerable.Range(150, 10)).Select(page => (ulong)page))
            {
                for (int index = 0; index < content.Length; index++)
                    content[index] = (byte)((int)page * 31 + index * 7 + index / 256 + 1);
                world.Source.Memory.Write(new GuestPhysicalAddress(page << GuestPage.Shift), content);
            }
        });
        Assert.Equal(
            "54494445534e4150" + "01000000" + "00100000" + "0000000000000000" + "0000000000000000"
            + Hex64(bytes.Length) + Hex64(1_700_000_000_000) + "02000000" + "02000000" + Hex64(512) + Hex64(58)
            + "0a000000" + "21000000",
            Convert.ToHexStringLower(bytes.AsSpan(0, 80)));
        Assert.Equal(Hex64(MemoryStart) + Hex64(State), Convert.ToHexStringLower(bytes.AsSpan(104, 16)));
        Assert.Equal(PageHash.Compute(bytes.AsSpan(0, 4088)), Get(bytes, 4088));
        Assert.Equal("{\"fake\":1}"u8, bytes.AsSpan(4096, 10));
        Assert.Equal(
            Hex64(0) + Hex64(60) + Hex64(100) + Hex64(60) + Hex64(8000) + "0500" + "6e766d6530" + Hex64(500) + "0800"
            + "776f726b6c6f6164",
            Convert.ToHexStringLower(bytes.AsSpan(4096 + 16, 32 + 33)));
        Assert.Equal(
            Hex64(0x00ff_ffff) + Hex64(0) + Hex64(0) + Hex64(0) + Hex64(0x0ffc_0000_00ff_ffff),
            Convert.ToHexStringLower(bytes.AsSpan(Present, 40)));
        Assert.Equal(PageHash.Compute(bytes.AsSpan(MemoryStart + 4096, 4096)), Get(bytes, Checksums + 8));
        Assert.Equal(PageHash.Compute(bytes.AsSpan(MemoryStart + 256 * 4096, 4096)), Get(bytes, Checksums + 256 * 8));
        Assert.Equal("00000000" + "e8030000", Convert.ToHexStringLower(bytes.AsSpan(State + 8, 8)));
        Assert.Equal(PageHash.Compute(bytes.AsSpan(State + 8, 1008)), Get(bytes, State));
        // Eight chunks of the device, one of 500 bytes and 4 of zero.
        Assert.Equal(State + 8 * 1016 + 520 + 64, bytes.Length);
        Assert.Equal(
            "54494445444f4e45" + Hex64(bytes.Length) + Convert.ToHexStringLower(bytes.AsSpan(4088, 8)),
            Convert.ToHexStringLower(bytes.AsSpan(bytes.Length - 64, 24)));
        // Whatever is not named above: a file of today has the bytes of the first release.
        Assert.Equal(GoldenHash, PageHash.Compute(bytes));
    }

    private const ulong GoldenHash = 2040377351173651819;

    [Fact]
    public void A_file_that_was_cut_anywhere_is_told_in_one_sentence()
    {
        byte[] bytes = Make();
        var lengths = new SortedSet<int>(Enumerable.Range(0, 9000));
        lengths.UnionWith(Enumerable.Range(State - 10, bytes.Length - State + 10));
        for (int length = 0; length < bytes.Length; length += 4093)
            lengths.Add(length);
        foreach (int length in lengths)
        {
            var file = new FakeSnapshotFile(bytes) { VisibleLength = (ulong)length };
            AssertRefused(() => SnapshotContents.Open(file), $"cut at {length}");
        }
    }

    [Fact]
    public void A_file_that_goes_on_is_refused()
    {
        byte[] bytes = [.. Make(), 0];
        AssertRefused(() => SnapshotContents.Open(new FakeSnapshotFile(bytes)), "one byte more");
    }

    [Fact]
    public void A_flipped_bit_in_any_section_is_found()
    {
        byte[] bytes = Make();
        SnapshotWorld.Verify(new FakeSnapshotFile(bytes));
        var random = new Random(4);
        (string Name, int First, int Last)[] sections =
            [.. s_sections, ("state", State, bytes.Length - 65), ("trailer", bytes.Length - 64, bytes.Length - 1)];
        foreach ((string name, int first, int last) in sections)
        {
            IEnumerable<int> places = last - first < 5000
                ? Enumerable.Range(first, last - first + 1)
                : [first, last, .. Enumerable.Range(0, 60).Select(_ => random.Next(first, last))];
            foreach (int place in places)
            {
                bytes[place] ^= (byte)(1 << place % 8);
                AssertRefused(() => SnapshotWorld.Verify(new FakeSnapshotFile(bytes)), $"{name}, byte {place}");
                bytes[place] ^= (byte)(1 << place % 8);
            }
        }
    }

    [Fact]
    public void A_flipped_bit_is_found_by_a_restore_and_nothing_runs()
    {
        byte[] bytes = Make();
        foreach (int place in new[] { 100, 4100, Present, Checksums + 8, MemoryStart + 5000, State + 20, bytes.Length - 1 })
        {
            bytes[place] ^= 1;
            using var world = new SnapshotWorld { File = new FakeSnapshotFile(bytes) };
            SnapshotOutcome outcome = world.Restore();
            Assert.Equal(SnapshotResult.Failed, outcome.Result);
            Assert.EndsWith("Nothing runs.", outcome.Cause, StringComparison.Ordinal);
            Assert.False(world.Destination.Runs);
            bytes[place] ^= 1;
        }
    }

    [Theory]
    [InlineData(48, 4, ulong.MaxValue)]
    [InlineData(48, 4, 1025UL)]
    [InlineData(48, 4, 0UL)]
    [InlineData(52, 4, ulong.MaxValue)]
    [InlineData(56, 8, ulong.MaxValue)]
    [InlineData(56, 8, 1UL << 40)]
    [InlineData(56, 8, 1UL << 30)]
    [InlineData(56, 8, 511UL)]
    [InlineData(64, 8, ulong.MaxValue)]
    [InlineData(64, 8, 57UL)]
    [InlineData(72, 4, ulong.MaxValue)]
    [InlineData(76, 4, ulong.MaxValue)]
    [InlineData(76, 4, 32UL)]
    [InlineData(104, 8, ulong.MaxValue)]
    [InlineData(112, 8, 0UL)]
    [InlineData(120, 8, ulong.MaxValue)]
    [InlineData(120, 8, 0UL)]
    [InlineData(32, 8, ulong.MaxValue)]
    [InlineData(32, 8, 0UL)]
    [InlineData(40, 8, ulong.MaxValue)]
    [InlineData(16, 8, 1UL)]
    [InlineData(12, 4, 65536UL)]
    public void A_crafted_header_is_refused_and_nothing_is_allocated_by_it(int at, int length, ulong value)
    {
        byte[] bytes = Make();
        Span<byte> word = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(word, value);
        word[..length].CopyTo(bytes.AsSpan(at));
        Seal(bytes);
        var file = new FakeSnapshotFile(bytes);
        long before = GC.GetAllocatedBytesForCurrentThread();
        AssertRefused(() => SnapshotWorld.Verify(file), $"{value} at {at}");
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 3 << 20);
    }

    [Theory]
    [InlineData(4096 + 16, ulong.MaxValue)]
    [InlineData(4096 + 24, 0UL)]
    [InlineData(4096 + 24, ulong.MaxValue)]
    [InlineData(4096 + 24, 61UL)]
    [InlineData(4096 + 32, 59UL)]
    [InlineData(4096 + 32, 1UL << 63)]
    [InlineData(4096 + 48, ulong.MaxValue)]
    [InlineData(4096 + 56, ulong.MaxValue)]
    public void A_crafted_description_is_refused(int at, ulong value)
    {
        byte[] bytes = Make();
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(at), value);
        var checksum = new SectionChecksum();
        checksum.Add(bytes.AsSpan(4096, 4096));
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(80), checksum.Value);
        Seal(bytes);
        // 61 pages have the same place in the file as 60, so only a machine sees that one.
        using var world = new SnapshotWorld { File = new FakeSnapshotFile(bytes) };
        Assert.Equal(SnapshotResult.Failed, world.Restore().Result);
        Assert.False(world.Destination.Runs);
    }

    [Fact]
    public void A_chunk_of_state_that_can_not_be_is_refused()
    {
        foreach ((int at, uint value) in new[] { (8, 2U), (8, uint.MaxValue), (12, 0U), (12, uint.MaxValue), (12, 1U << 20) })
        {
            byte[] bytes = Make();
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(State + at), value);
            AssertRefused(() => SnapshotWorld.Verify(new FakeSnapshotFile(bytes)), $"{value} at {at}");
        }
    }

    [Fact]
    public void A_save_that_was_killed_at_any_write_leaves_a_file_that_is_told_unfinished()
    {
        int calls;
        using (var world = new SnapshotWorld())
        {
            world.Save();
            calls = world.File.Calls;
        }

        for (int killAt = 2; killAt < calls; killAt++)
        {
            using var world = new SnapshotWorld();
            byte[]? left = null;
            int at = killAt;
            world.File.OnCall = call =>
            {
                if (call == at)
                    left = [.. world.File.Bytes];
            };
            world.Save();
            // The last two calls, sync and name, follow a header that is written: then the file is whole.
            if (killAt >= calls - 1)
                SnapshotWorld.Verify(new FakeSnapshotFile(left!));
            else
                AssertRefused(() => SnapshotWorld.Verify(new FakeSnapshotFile(left!)), $"killed at call {at}");
        }
    }

    private static byte[] Make(Action<SnapshotWorld>? prepare = null)
    {
        using var world = new SnapshotWorld();
        prepare?.Invoke(world);
        SnapshotOutcome saved = world.Save();
        Assert.True(saved.Result == SnapshotResult.Completed, saved.Cause);
        return world.File.Bytes;
    }

    private static void AssertRefused(Action action, string what)
    {
        try
        {
            action();
        }
        catch (SnapshotFileException failure)
        {
            Assert.StartsWith("machine.tms ", failure.Message, StringComparison.Ordinal);
            Assert.DoesNotContain('\n', failure.Message);
            return;
        }

        Assert.Fail($"Not found: {what}.");
    }

    /// <summary>Header and trailer match again, as a crafted file's would.</summary>
    private static void Seal(byte[] bytes)
    {
        ulong checksum = PageHash.Compute(bytes.AsSpan(0, 4088));
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(4088), checksum);
        Span<byte> trailer = bytes.AsSpan(bytes.Length - 64);
        bytes.AsSpan(32, 8).CopyTo(trailer[8..]);
        BinaryPrimitives.WriteUInt64LittleEndian(trailer[16..], checksum);
        BinaryPrimitives.WriteUInt64LittleEndian(trailer[56..], PageHash.Compute(trailer[..56]));
    }

    private static ulong Get(byte[] bytes, int at) => BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(at));

    private static string Hex64(long value) => Hex64((ulong)value);

    private static string Hex64(ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return Convert.ToHexStringLower(bytes);
    }
}
