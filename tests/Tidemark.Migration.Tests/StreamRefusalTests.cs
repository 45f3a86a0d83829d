using System.Buffers.Binary;
using System.Globalization;
using Tidemark.Memory;
using Tidemark.Migration.Stream;

namespace Tidemark.Migration.Tests;

/// <summary>What a receiver refuses, and that frames of an enemy make it hold no more than the limits.</summary>
public sealed class StreamRefusalTests
{
    private static readonly FrameType[] s_types = Enum.GetValues<FrameType>();

    public static TheoryData<string, int> WrongLengths()
    {
        var data = new TheoryData<string, int>();
        foreach (FrameType type in s_types)
        {
            // What a source sends on its control connection; words of an ending and pings have no form to break.
            if (type is FrameType.PassBegin or FrameType.AllSent or FrameType.HashRequest or FrameType.Commit)
            {
                data.Add(type.ToString(), -1);
                data.Add(type.ToString(), 1);
            }
        }

        return data;
    }

    [Fact]
    public void Every_frame_type_that_does_not_exist_is_refused_with_its_number()
    {
        for (int type = 0; type <= ushort.MaxValue; type++)
        {
            if (Array.IndexOf(s_types, (FrameType)type) >= 0)
                continue;
            Assert.Contains(
                $"frame type {type} does not exist in version 1", Refused(Header((FrameType)type, 0)).Message,
                StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Every_flag_that_a_type_does_not_have_is_refused_with_the_types_name()
    {
        foreach (FrameType type in s_types)
        {
            for (int bit = 0; bit < 16; bit++)
            {
                byte[] header = Header(type, 0, flags: (ushort)(1 << bit));
                if (type == FrameType.Pages && bit == 0)
                    FrameHeader.Parse(header, 0, 0, 0);
                else
                    AssertNamed(type, "it sets flags that version 1 does not have", header);
            }

            AssertNamed(type, "it sets flags that version 1 does not have", Header(type, 0, reserved: 1));
        }
    }

    [Fact]
    public void Every_length_above_a_types_limit_is_refused_with_the_types_name()
    {
        foreach (FrameType type in s_types)
        {
            int limit = FrameLimits.PayloadLimit(type);
            Assert.Equal(limit, FrameHeader.Parse(Header(type, (uint)limit), 0, 0, 0).PayloadLength);
            foreach (uint length in (uint[])[(uint)limit + 1, int.MaxValue, 0x8000_0000, uint.MaxValue])
                AssertNamed(type, $"is above the limit of 0x{limit:x}", Header(type, length));
        }
    }

    [Fact]
    public void A_frame_of_another_channel_or_out_of_turn_is_refused_with_its_name()
    {
        foreach (FrameType type in s_types)
        {
            AssertNamed(type, "it belongs to channel 2, this is channel 0", Header(type, 0, channel: 2));
            AssertNamed(type, "it has sequence number 1 where 0 is due", Header(type, 0, sequence: 1));
        }
    }

    [Fact]
    public void Reserved_fields_of_payloads_are_refused_with_the_types_name()
    {
        byte[] passEnd = StreamFormatTests.Encode(FrameType.PassEnd);
        passEnd[4] = 1;
        AssertBad(FrameType.PassEnd, () =>
            Messages.ReadPassEnd(new PayloadReader(passEnd, nameof(FrameType.PassEnd), 0)));
        using var memory = new FakeMemory((0, 60), (0x120, 16));
        byte[] table = StreamFormatTests.Encode(FrameType.ZeroPages);
        table[^8] = 1;
        Sign(table);
        AssertBad(FrameType.ZeroPages, () =>
            PageFrame.ReadHead(table, new PageRun[2], 7, memory.Guest, nameof(FrameType.ZeroPages), 0));
        byte[] hello = StreamFormatTests.Encode(FrameType.Hello);
        foreach (int at in (int[])[4, 36])
        {
            byte[] changed = [.. hello];
            changed[at] |= 4;
            AssertBad(FrameType.Hello, () =>
                Messages.ReadHello(new PayloadReader(changed, nameof(FrameType.Hello), 0)));
        }
    }

    [Theory]
    [InlineData(4U)]
    [InlineData(0x8000_0000U)]
    [InlineData(uint.MaxValue)]
    public void A_fate_that_does_not_exist_is_refused_with_its_number(uint fate)
    {
        byte[] payload = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(payload, fate);
        using var connection = new ByteConnection([.. Header(FrameType.Fate, 4, hash: Checksum.Crc32C(payload)), .. payload]);
        var frames = new FrameReader(connection, 0, TimeSpan.Zero, TimeProvider.System);
        Assert.True(frames.TryReadHeader(out FrameHeader header));
        Assert.Contains(
            $"there is no fate {fate}",
            Assert.Throws<MigrationStreamException>(() => Messages.ReadFate(frames, header)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(WrongLengths))]
    public void A_receiver_refuses_a_payload_of_a_wrong_length_with_the_types_name(string name, int by)
    {
        FrameType type = Enum.Parse<FrameType>(name);
        using var world = new World();
        Thread destination = world.StartDestination();
        using IConnection control = Introduce(world, PreambleRole.SourceControl, 0);
        var writer = new FrameWriter(control, 0);
        writer.Send(FrameType.Hello, Messages.WriteHello(new Hello(
            1, false, world.Source.Memory.SpanPages,
            [.. World.Slots.Select(slot => new PageRun(slot.FirstPage, slot.PageCount))],
            world.Source.Parts.Count, world.Source.Description)));
        using IConnection pages = Introduce(world, PreambleRole.SourcePages, 1);
        byte[] payload = StreamFormatTests.Encode(type);
        Array.Resize(ref payload, payload.Length + by);
        writer.Send(type, payload);
        world.Finish(destination, TimeSpan.FromSeconds(5));
        Assert.Equal(MigrationResult.Failed, world.DestinationOutcome.Result);
        Assert.Contains($"damaged in {type} at byte", world.DestinationOutcome.Cause, StringComparison.Ordinal);
        Assert.False(world.Destination.Runs);
    }

    [Fact]
    public void Whatever_a_frame_holds_it_is_taken_or_refused_in_one_sentence_and_takes_little_memory()
    {
        int seed = Setting("TIDEMARK_FUZZ_SEED") ?? Environment.TickCount & int.MaxValue;
        int seconds = Setting("TIDEMARK_FUZZ_SECONDS") ?? 2;
        TestContext.Current.TestOutputHelper!.WriteLine($"TIDEMARK_FUZZ_SEED={seed}");
        var random = new Random(seed);
        using var memory = new FakeMemory(World.Slots);
        long start = TimeProvider.System.GetTimestamp();
        long refused = 0;
        long rounds = 0;
        for (; TimeProvider.System.GetElapsedTime(start).TotalSeconds < seconds; rounds++)
        {
            byte[] bytes = Mutate(random);
            using var connection = new ByteConnection(bytes);
            long before = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                Take(connection, memory.Guest);
            }
            catch (Exception failure) when (failure is MigrationStreamException or IOException)
            {
                Assert.DoesNotContain('\n', failure.Message);
                refused++;
            }
            catch (Exception failure)
            {
                // Anything else is a frame that the decoder did not expect.
                throw new InvalidOperationException(
                    $"TIDEMARK_FUZZ_SEED={seed}, round {rounds}: {Convert.ToHexString(bytes)}", failure);
            }

            // A payload as long as its header says, if its type may be so long, whether or not it comes; the longest table
            // of slots or of runs; and an exception's words.
            long taken = GC.GetAllocatedBytesForCurrentThread() - before;
            long bound = (128 << 10) + StatedLength(bytes) + bytes.Length * 16;
            Assert.True(taken < bound, $"TIDEMARK_FUZZ_SEED={seed}, round {rounds}: {taken} of {bound} bytes");
        }

        Assert.InRange(refused, 1, rounds - 1);
    }

    /// <summary>One frame of any type with some of it changed; mostly its checksums fit again, so that what is behind
    /// them is reached.</summary>
    private static byte[] Mutate(Random random)
    {
        FrameType type = s_types[random.Next(s_types.Length)];
        byte[] payload = StreamFormatTests.Encode(type == FrameType.Pages ? FrameType.ZeroPages : type);
        if (random.Next(4) == 0)
            Array.Resize(ref payload, Math.Max(0, payload.Length + random.Next(-9, 9)));
        for (int change = random.Next(4); change > 0 && payload.Length > 0; change--)
        {
            int at = random.Next(payload.Length);
            if (random.Next(2) == 0 && at + 4 <= payload.Length)
                BinaryPrimitives.WriteUInt32LittleEndian(payload.AsSpan(at & ~3), uint.MaxValue >> random.Next(32));
            else
                payload[at] ^= (byte)(1 << random.Next(8));
        }

        if (type is FrameType.Pages or FrameType.ZeroPages && payload.Length >= 4 && random.Next(8) > 0)
            Sign(payload);
        byte[] frame = [.. Header(type, (uint)payload.Length, hash: Checksum.Crc32C(payload)), .. payload];
        if (random.Next(8) == 0)
        {
            frame[random.Next(frame.Length)] ^= (byte)(1 << random.Next(8));
            if (random.Next(2) == 0)
                Sign(frame.AsSpan(0, FrameHeader.Size));
        }

        return random.Next(16) == 0 ? frame[..random.Next(frame.Length)] : frame;
    }

    private static int StatedLength(byte[] frame)
    {
        if (frame.Length < FrameHeader.Size)
            return 0;
        int limit = FrameLimits.PayloadLimit((FrameType)BinaryPrimitives.ReadUInt16LittleEndian(frame));
        uint stated = BinaryPrimitives.ReadUInt32LittleEndian(frame.AsSpan(12));
        return stated <= limit ? (int)stated : 0;
    }

    /// <summary>As the engine's readers take a frame apart.</summary>
    private static void Take(ByteConnection connection, GuestMemory memory)
    {
        var frames = new FrameReader(connection, 0, TimeSpan.Zero, TimeProvider.System);
        if (!frames.TryReadHeader(out FrameHeader header))
            return;
        string section = header.Type.ToString();
        ulong offset = frames.Offset;
        if (header.Type is FrameType.Pages or FrameType.ZeroPages)
        {
            int most = header.Type == FrameType.Pages ? FrameLimits.ContentPages : FrameLimits.ZeroRuns;
            if (header.PayloadLength < PageFrame.HeadBytes(1))
                throw new MigrationStreamException(section, offset, "it has no table");
            byte[] head = new byte[PageFrame.HeadBytes(most)];
            frames.ReadRaw(head.AsSpan(0, 8), header.Type);
            int runs = PageFrame.PeekRunCount(head, header.PayloadLength, most, section, offset);
            int length = PageFrame.HeadBytes(runs);
            frames.ReadRaw(head.AsSpan(8, length - 8), header.Type);
            PageFrame.ReadHead(head.AsSpan(0, length), new PageRun[runs], 7, memory, section, offset);
            return;
        }

        if (header.Type == FrameType.Fate)
        {
            Messages.ReadFate(frames, header);
            return;
        }

        byte[] payload = new byte[header.PayloadLength];
        frames.ReadPayload(header, payload);
        var reader = new PayloadReader(payload, section, offset);
        switch (header.Type)
        {
            case FrameType.Hello:
                Messages.ReadHello(reader);
                break;
            case FrameType.Refuse:
                Messages.ReadReasons(reader);
                break;
            case FrameType.StateLoaded:
                Messages.ReadTimes(reader, 2);
                break;
            case FrameType.PassEnd:
                Messages.ReadPassEnd(reader);
                break;
            case FrameType.PassBegin or FrameType.AllSent or FrameType.Commit:
                Messages.ReadPair(reader);
                break;
            default:
                Messages.ReadReason(payload);
                break;
        }
    }

    private static IConnection Introduce(World world, PreambleRole role, int channel)
    {
        IConnection connection = world.Network.Connect(CancellationToken.None);
        var token = new Guid([.. Enumerable.Range(1, 16).Select(value => (byte)value)]);
        Preamble.Create(role, channel, token).Send(connection);
        Preamble.Receive(connection, TimeSpan.FromSeconds(5), TimeProvider.System);
        return connection;
    }

    private static byte[] Header(
        FrameType type, uint length, ushort flags = 0, uint reserved = 0, uint channel = 0, uint sequence = 0,
        ulong hash = 0)
    {
        byte[] bytes = new byte[FrameHeader.Size];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, (ushort)type);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(2), flags);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), channel);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), sequence);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(12), length);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(16), hash);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(24), reserved);
        Sign(bytes);
        return bytes;
    }

    /// <summary>The last four bytes become the checksum of those before.</summary>
    private static void Sign(Span<byte> bytes) =>
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[^4..], Checksum.Crc32C(bytes[..^4]));

    private static int? Setting(string name) => int.TryParse(
        Environment.GetEnvironmentVariable(name), NumberStyles.None, CultureInfo.InvariantCulture, out int value) ? value : null;

    private static MigrationStreamException Refused(byte[] header) =>
        Assert.Throws<MigrationStreamException>(() => FrameHeader.Parse(header, 0, 0, 0));

    private static void AssertNamed(FrameType type, string problem, byte[] header)
    {
        MigrationStreamException refused = Refused(header);
        Assert.Equal(type.ToString(), refused.Section);
        Assert.Contains(problem, refused.Message, StringComparison.Ordinal);
    }

    private static void AssertBad(FrameType type, Action read) =>
        Assert.Equal(type.ToString(), Assert.Throws<MigrationStreamException>(read).Section);
}
