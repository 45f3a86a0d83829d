using System.Buffers.Binary;
using System.Text;
using System.Text.RegularExpressions;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Tests;

/// <summary>
/// The wire format as docs/reference/stream-format.md describes it. The bytes here were made from that description, by
/// a program that shares nothing with this repository.
/// </summary>
public sealed partial class StreamFormatTests
{
    private static readonly Guid s_token = new(Enumerable.Range(0x10, 16).Select(value => (byte)value).ToArray());

    public static TheoryData<string, string> Frames => new()
    {
        { nameof(FrameType.Ping), "010000000000000000000000000000000000000000000000000000005d4cdc55" },
        { nameof(FrameType.Hello), "0200000000000000000000004c000000e4896ded000000000000000016254ea5"
            + "0200000003000000a00000000000000002000000030000000400000005000000"
            + "983a00000000000000000000000000003c000000000000006400000000000000"
            + "3c000000000000007b61637d" },
        { nameof(FrameType.Accept), "03000000000000000000000000000000000000000000000000000000c42c1b14" },
        { nameof(FrameType.Refuse), "0400000000000000000000001000000081d64ba20000000000000000f9f500ac"
            + "01000000080000004e6f20726f6f6d2e" },
        { nameof(FrameType.Ready), "050000000000000000000000000000000000000000000000000000006f8d52d6" },
        { nameof(FrameType.PassBegin), "10000000000000000000000010000000bf1fb34e0000000000000000e69f14ee"
            + "0700000000000000e803000000000000" },
        { nameof(FrameType.ZeroPages), "12000000010000000000000030000000c74b6748000000000000000022dad85a"
            + "0700000002000000030000000000000002000000000000002301000000000000"
            + "0100000000000000000000007c0617c2" },
        { nameof(FrameType.PassEnd), "13000000010000000000000020000000521d22710000000000000000755b719f"
            + "0700000000000000020000000000000002000000000000000300000000000000" },
        { nameof(FrameType.Ack), "140000000100000000000000180000005757e31b0000000000000000c04ffaae"
            + "070000000100000003000000000000000200000000000000" },
        { nameof(FrameType.Mark), "15000000010000000000000000000000000000000000000000000000cba6fe69" },
        { nameof(FrameType.PartState), "200000000100000000000000130000005198bee30000000000000000ad425b82"
            + "01000000040000006700000000000000616263" },
        { nameof(FrameType.PartEnd), "210000000100000000000000100000004bb893a90000000000000000245a7949"
            + "01000000050000006700000000000000" },
        { nameof(FrameType.SwitchoverBegin), "3000000000000000000000000000000000000000000000000000000017fcedf9" },
        { nameof(FrameType.AllSent), "31000000000000000000000010000000a432d1100000000000000000fac142ca"
            + "08000000000000000300000000000000" },
        { nameof(FrameType.StateLoaded), "3200000000000000000000001400000090db517200000000000000001f7cefb9"
            + "020000001027000000000000204e000000000000" },
        { nameof(FrameType.HashRequest), "33000000000000000000000008000000f0b59ff60000000000000000b0bd28c4"
            + "0040000000000000" },
        { nameof(FrameType.Hashes), "34000000000000000000000020000000b761f81e000000000000000057a66e11"
            + "6400000000000000020000000000000008070605040302011817161514131211" },
        { nameof(FrameType.SwitchoverRequest), "3500000000000000000000000000000000000000000000000000000011b676d8" },
        { nameof(FrameType.SwitchoverReady), "36000000000000000000000000000000000000000000000000000000bc5da43b" },
        { nameof(FrameType.Commit), "40000000000000000000000010000000cdb595cb0000000000000000dfcd3828"
            + "08000000000000000000000000000000" },
        { nameof(FrameType.Committed), "410000000000000000000000180000007f37cbe400000000000000005791049c"
            + "08000000000000001027000000000000204e000000000000" },
        { nameof(FrameType.Done), "42000000000000000000000000000000000000000000000000000000580381a1" },
        { nameof(FrameType.Fate), "43000000000000000000000004000000466800f700000000000000003d66744d"
            + "02000000" },
        { nameof(FrameType.Abort), "500000000000000000000000080000006e247d100000000000000000f7dd1b8b"
            + "4e6f20726f6f6d2e" },
        { nameof(FrameType.Cancel), "510000000000000000000000080000006e247d100000000000000000c3560e29"
            + "4e6f20726f6f6d2e" },
    };

    [Fact]
    public void The_preamble_has_the_bytes_of_its_description()
    {
        byte[] golden = Convert.FromHexString(
            "544944454d41524b010001000100000001000000000000001011121314151617"
            + "18191a1b1c1d1e1f0000000036034979");
        using var connection = new ByteConnection(golden);
        Preamble preamble = Preamble.Create(PreambleRole.SourceControl, 0, s_token, Preamble.Resumes);
        preamble.Send(connection);
        Assert.Equal(golden, connection.Sent);
        Assert.Equal(preamble, Receive(golden));
        Assert.Equal(new Introduction(s_token, IntroductionKind.Control), Introduction.Read(golden));
    }

    [Fact]
    public void A_peer_of_an_overlapping_version_is_taken_and_any_other_is_refused_with_both_versions()
    {
        // 1 to 2, and 2 to 3.
        byte[] next = Convert.FromHexString(
            "544944454d41524b010002000100000000000000000000001011121314151617"
            + "18191a1b1c1d1e1f0000000071144158");
        byte[] later = Convert.FromHexString(
            "544944454d41524b020003000100000000000000000000001011121314151617"
            + "18191a1b1c1d1e1f000000006453e072");
        Assert.True(Receive(next).SpeaksOurVersion);
        Assert.False(Receive(later).SpeaksOurVersion);

        using var world = new World();
        Thread destination = world.StartDestination();
        using IConnection connection = world.Network.Connect(CancellationToken.None);
        connection.Send(later);
        Preamble answer = Preamble.Receive(connection, TimeSpan.FromSeconds(5), TimeProvider.System);
        Assert.Equal((1, 1, PreambleRole.Destination), (answer.OldestVersion, answer.NewestVersion, answer.Role));
        Assert.Equal(s_token, answer.Token);
        world.Finish(destination, TimeSpan.FromSeconds(5));
        Assert.Contains("speaks version 2 to 3 of", world.DestinationOutcome.Cause, StringComparison.Ordinal);
        Assert.Contains("this destination version 1;", world.DestinationOutcome.Cause, StringComparison.Ordinal);
    }

    [Fact]
    public void A_source_refuses_a_destination_of_another_version_and_names_both()
    {
        using var world = new World();
        var later = new Thread(() =>
        {
            using IConnection connection = world.Network.Accept(CancellationToken.None);
            Preamble asked = Preamble.Receive(connection, TimeSpan.FromSeconds(5), TimeProvider.System);
            (asked with { OldestVersion = 2, NewestVersion = 3, Role = PreambleRole.Destination }).Send(connection);
            Assert.Equal(0, connection.Receive(new byte[1]));
        });
        later.Start();
        MigrationOutcome outcome = new MigrationSource(
            world.Source, world.Network, world.Options, world, TimeProvider.System).Run(CancellationToken.None);
        Assert.True(later.Join(TimeSpan.FromSeconds(10)));
        Assert.Contains("speaks version 2 to 3 of", outcome.Cause, StringComparison.Ordinal);
        Assert.Contains("this source version 1;", outcome.Cause, StringComparison.Ordinal);
        Assert.True(world.Source.Runs);
    }

    [Theory]
    [MemberData(nameof(Frames))]
    public void A_frame_has_the_bytes_of_its_description(string name, string hex)
    {
        byte[] golden = Convert.FromHexString(hex);
        FrameType type = Enum.Parse<FrameType>(name);
        uint channel = BinaryPrimitives.ReadUInt32LittleEndian(golden.AsSpan(4));
        using var connection = new ByteConnection(golden);
        new FrameWriter(connection, channel).Send(type, Encode(type));
        Assert.Equal(hex, Convert.ToHexStringLower(connection.Sent));

        var reader = new FrameReader(connection, channel, TimeSpan.Zero, TimeProvider.System);
        Assert.True(reader.TryReadHeader(out FrameHeader header));
        Assert.Equal(type, header.Type);
        byte[] payload = new byte[header.PayloadLength];
        reader.ReadPayload(header, payload);
        Assert.Equal((ulong)golden.Length, reader.Offset);
        Decode(type, payload);
        Assert.False(reader.TryReadHeader(out _));
    }

    [Theory]
    [InlineData(false,
        "11000000010000000000000020200000a9319852c01658720000000062b69c78"
        + "07000000010000000300000000000000020000000000000000000000df9ffd16")]
    [InlineData(true,
        "11000100010000000000000025000000a9319852c016587200000000145f37a8"
        + "07000000010000000300000000000000020000000000000000000000df9ffd16")]
    public void A_frame_of_pages_has_the_bytes_of_its_description(bool compressed, string hex)
    {
        using var memory = new FakeMemory((0, 60));
        PageRun[] runs = [new(3, 2)];
        ulong[] hashes = new ulong[2];
        for (int page = 0; page < 2; page++)
        {
            Span<byte> content = memory.Guest.PagesSpan(3 + (ulong)page, 1);
            for (int index = 0; index < content.Length; index++)
                content[index] = (byte)(page == 0 ? index * 7 + 1 : index * 11 + 2);
            hashes[page] = PageHash.Compute(content);
        }

        byte[] head = new byte[PageFrame.HeadBytes(1)];
        PageFrame.WriteHead(head, 7, runs);
        // What a codec makes of pages is the codec's affair; five bytes stand for it.
        byte[] sent = compressed ? "zstd!"u8.ToArray() : memory.Guest.PagesSpan(3, 2).ToArray();
        byte[] golden = [.. Convert.FromHexString(hex), .. sent];
        using var connection = new ByteConnection(golden);
        var writer = new FrameWriter(connection, 1);
        if (compressed)
            writer.SendContent(head, sent, FrameFlags.Compressed, PageHash.Combine(hashes));
        else
            writer.SendPages(head, memory.Guest, runs, sent.Length, PageHash.Combine(hashes));
        Assert.Equal(Convert.ToHexStringLower(golden), Convert.ToHexStringLower(connection.Sent));

        var reader = new FrameReader(connection, 1, TimeSpan.Zero, TimeProvider.System);
        Assert.True(reader.TryReadHeader(out FrameHeader header));
        Assert.Equal(compressed ? FrameFlags.Compressed : FrameFlags.None, header.Flags);
        byte[] table = new byte[PageFrame.HeadBytes(1)];
        reader.ReadRaw(table, FrameType.Pages);
        var read = new PageRun[1];
        Assert.Equal(2, PageFrame.ReadHead(table, read, 7, memory.Guest, nameof(FrameType.Pages), 0));
        Assert.Equal(runs, read);
    }

    [Fact]
    public void The_documents_table_of_frames_is_the_codes()
    {
        string document = File.ReadAllText(Path.Combine(Root, "docs", "reference", "stream-format.md"));
        var documented = FrameRow().Matches(document)
            .Select(row => $"{row.Groups[2].Value} {row.Groups[1].Value} {row.Groups[3].Value}")
            .Order(StringComparer.Ordinal);
        var existing = Enum.GetValues<FrameType>()
            .Select(type => $"{type} {(ushort)type} {FrameLimits.PayloadLimit(type)}").Order(StringComparer.Ordinal);
        Assert.Equal(existing, documented);
        foreach (FrameType type in Enum.GetValues<FrameType>())
            Assert.Contains($"**{type}**", document, StringComparison.Ordinal);
    }

    internal static string Root { get; } = FindRoot();

    private static Preamble Receive(byte[] bytes)
    {
        using var connection = new ByteConnection(bytes);
        return Preamble.Receive(connection, TimeSpan.FromSeconds(5), TimeProvider.System);
    }

    /// <summary>The payloads that the golden bytes were made of, by the engine's own code.</summary>
    internal static byte[] Encode(FrameType type)
    {
        byte[] buffer = new byte[64];
        var writer = new PayloadWriter(buffer);
        switch (type)
        {
            case FrameType.Hello:
                return Messages.WriteHello(new Hello(2, true, 160, [new(0, 60), new(100, 60)], 3, "{ac}"u8.ToArray())
                {
                    Compresses = true, FirstPass = 5, RetryFor = TimeSpan.FromSeconds(15),
                });
            case FrameType.Refuse:
                return Messages.WriteReasons(["No room."]);
            case FrameType.Abort or FrameType.Cancel:
                return Messages.WriteReason("No room.");
            case FrameType.StateLoaded:
                return Messages.WriteTimes([TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(2)]);
            case FrameType.Fate:
                Messages.WriteFate(buffer, MachineFate.NeverThere);
                return buffer[..4];
            case FrameType.PassBegin:
                Messages.WritePair(buffer, 7, 1000);
                return buffer[..16];
            case FrameType.AllSent:
                Messages.WritePair(buffer, 8, 3);
                return buffer[..16];
            case FrameType.Commit:
                Messages.WritePair(buffer, 8, 0);
                return buffer[..16];
            case FrameType.PassEnd:
                Messages.WritePassEnd(ref writer, new PassTotals(7, 2, 2, 3));
                break;
            case FrameType.ZeroPages:
                PageFrame.WriteHead(buffer, 7, [new(3, 2), new(0x123, 1)]);
                return buffer[..PageFrame.HeadBytes(2)];
            // The rest the engine writes field by field where it is sent; so does this.
            case FrameType.Ack:
                writer.U32(7);
                writer.U32(1);
                writer.U64(3);
                writer.U64(2);
                break;
            case FrameType.PartState or FrameType.PartEnd:
                writer.U32(1);
                writer.U32(type == FrameType.PartState ? 4u : 5u);
                writer.U64(103);
                writer.Bytes(type == FrameType.PartState ? "abc"u8 : default);
                break;
            case FrameType.HashRequest:
                writer.U64(FrameLimits.HashesPerFrame);
                break;
            case FrameType.Hashes:
                writer.U64(100);
                writer.U64(2);
                writer.U64(0x0102030405060708);
                writer.U64(0x1112131415161718);
                break;
            case FrameType.Committed:
                writer.U64(8);
                writer.U64(10_000);
                writer.U64(20_000);
                break;
            default:
                break;
        }

        return writer.Written.ToArray();
    }

    private static void Decode(FrameType type, byte[] payload)
    {
        var reader = new PayloadReader(payload, type.ToString(), 0);
        switch (type)
        {
            case FrameType.Hello:
                Hello hello = Messages.ReadHello(reader);
                Assert.Equal((2, true, true), (hello.Channels, hello.Verify, hello.Compresses));
                Assert.Equal((160UL, 3), (hello.SpanPages, hello.PartCount));
                Assert.Equal([new PageRun(0, 60), new PageRun(100, 60)], hello.Slots);
                Assert.Equal("{ac}", Encoding.UTF8.GetString(hello.Description.Span));
                Assert.Equal((5U, TimeSpan.FromSeconds(15)), (hello.FirstPass, hello.RetryFor));
                break;
            case FrameType.Refuse:
                Assert.Equal(["No room."], Messages.ReadReasons(reader));
                break;
            case FrameType.Abort or FrameType.Cancel:
                Assert.Equal("No room.", Messages.ReadReason(payload));
                break;
            case FrameType.StateLoaded:
                Assert.Equal(
                    [TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(2)], Messages.ReadTimes(reader, 2));
                break;
            case FrameType.PassBegin:
                Assert.Equal((7UL, 1000UL), Messages.ReadPair(reader));
                break;
            case FrameType.AllSent:
                Assert.Equal((8UL, 3UL), Messages.ReadPair(reader));
                break;
            case FrameType.Commit:
                Assert.Equal((8UL, 0UL), Messages.ReadPair(reader));
                break;
            case FrameType.PassEnd:
                Assert.Equal(new PassTotals(7, 2, 2, 3), Messages.ReadPassEnd(reader));
                break;
            case FrameType.ZeroPages:
                using (var memory = new FakeMemory((0, 60), (0x120, 16)))
                {
                    var runs = new PageRun[2];
                    Assert.Equal(3, PageFrame.ReadHead(payload, runs, 7, memory.Guest, nameof(FrameType.ZeroPages), 0));
                    Assert.Equal([new PageRun(3, 2), new PageRun(0x123, 1)], runs);
                }

                break;
            default:
                Assert.Equal(Encode(type), payload);
                break;
        }
    }

    private static string FindRoot()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Tidemark.slnx")))
            folder = Path.GetDirectoryName(folder);
        return folder ?? throw new InvalidOperationException("The tests do not lie in the repository.");
    }

    [GeneratedRegex(@"^\| (\d+) \| `(\w+)` \|[^|]*\|[^|]*\| (\d+) \|", RegexOptions.Multiline)]
    private static partial Regex FrameRow();
}
